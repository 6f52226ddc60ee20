"""Sessions: frames that only the other side can read, each once, for a limited time."""

import uuid
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from example_app.sage.errors import ExpiredSession, ReplayedFrame, TooManySessions, Undecryptable, UnknownSession
from example_app.sage.handshake import Secrets
from example_app.sage.keys import KeyType

__all__ = ["CIPHER", "Session", "Sessions", "new_session_id"]

Role = Literal["client", "server"]
CIPHER = "chacha20-poly1305"
"""What frames are encrypted with."""
COUNTER_BYTES = 8
WINDOW = 1024
"""How many frames may overtake one another."""
ENDED_KNOWN = 1_000
"""How many ids of sessions are remembered after their end."""


def new_session_id() -> str:
    """Mint an id that nobody can guess."""
    return uuid.uuid4().hex


@dataclass(slots=True)
class Session:
    """One end of a session."""

    id: str
    role: Role
    client_did: str
    server_did: str
    key_type: KeyType
    """Of the key that the client has proven itself with."""
    secrets: Secrets = field(repr=False)
    created_at: float
    expires_at: float
    peer_id: str = ""
    """What the other end is called over there, where that is known."""
    _sent: int = 0
    _highest: int = -1
    _window: set[int] = field(default_factory=set, repr=False)

    def encrypt(self, plaintext: bytes) -> bytes:
        """Encrypt with ChaCha20-Poly1305; a frame is the counter, the text and the tag."""
        counter = self._sent.to_bytes(COUNTER_BYTES)
        self._sent += 1
        return counter + self._cipher(own=True).encrypt(_nonce(counter), plaintext, self.secrets.binding)

    def decrypt(self, frame: bytes) -> bytes:
        """Decrypt a frame of the other side; `Undecryptable` if it was changed, `ReplayedFrame` if it was here before."""
        counter, sealed = frame[:COUNTER_BYTES], frame[COUNTER_BYTES:]
        if len(counter) < COUNTER_BYTES:
            raise Undecryptable("too short for a frame")
        try:
            plaintext = self._cipher(own=False).decrypt(_nonce(counter), sealed, self.secrets.binding)
        except InvalidTag:
            raise Undecryptable("not a frame of this session") from None
        # Only now: who does not have the key must not be able to use counters up.
        self._see(int.from_bytes(counter))
        return plaintext

    def _cipher(self, *, own: bool) -> ChaCha20Poly1305:
        is_client = (self.role == "client") == own
        return ChaCha20Poly1305(self.secrets.client_key if is_client else self.secrets.server_key)

    def _see(self, counter: int) -> None:
        if counter <= self._highest - WINDOW or counter in self._window:
            raise ReplayedFrame("this frame was here before")
        self._window.add(counter)
        if counter > self._highest:
            self._highest = counter
            self._window = {seen for seen in self._window if seen > counter - WINDOW}


def _nonce(counter: bytes) -> bytes:
    """Fill up to 96 bits; each direction has a key of its own, so that no counter meets a key twice."""
    return counter.rjust(12, b"\0")


class Sessions:
    """The sessions of one process."""

    def __init__(self, lifetime_seconds: float, clock: Callable[[], float], most: int) -> None:
        self.lifetime_seconds = lifetime_seconds
        self._clock = clock
        self._most = most
        self._open: OrderedDict[str, Session] = OrderedDict()
        self._ended: OrderedDict[str, None] = OrderedDict()

    def __len__(self) -> int:
        """Count what is open."""
        return len(self._open)

    def add(self, session: Session) -> Session:
        """Keep a session until it is closed or expires."""
        if len(self._open) >= self._most:
            raise TooManySessions("too many sessions are open")
        self._open[session.id] = session
        return session

    def get(self, session_id: str) -> Session:
        """Find a session that is alive."""
        session = self._open.get(session_id)
        if session is not None and session.expires_at > self._clock():
            return session
        if session is not None or session_id in self._ended:
            raise ExpiredSession("the session is over")
        raise UnknownSession("no such session")

    def close(self, session_id: str) -> Session:
        """End a session that is alive."""
        session = self.get(session_id)
        self._end(session)
        return session

    def sweep(self) -> list[Session]:
        """End those that have expired, and return them."""
        now = self._clock()
        expired = [session for session in self._open.values() if session.expires_at <= now]
        for session in expired:
            self._end(session)
        return expired

    def _end(self, session: Session) -> None:
        del self._open[session.id]
        self._ended[session.id] = None
        while len(self._ended) > ENDED_KNOWN:
            self._ended.popitem(last=False)

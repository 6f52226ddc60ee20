"""The handshake: an offer sealed to the server, an answer signed by it, and from both the keys of a session.

The client seals the public half of a key it has just made, and a secret, with HPKE (RFC 9180) to the key in the server's
document: only that server can go on. Both then agree with keys made for this handshake alone (X25519), so that what is said
stays secret when the long-lived keys are lost. The session's keys come from all of this and from what was said
(HKDF-SHA256): who has changed a word of it gets other keys.
"""

import hashlib
import os
from dataclasses import dataclass, field
from typing import NamedTuple, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from pydantic import BaseModel, ConfigDict, Field

from example_app.sage.did import DID_PATTERN
from example_app.sage.errors import BadHandshake
from example_app.sage.keys import SigningKey, VerifyKey

__all__ = ["VERSION", "Accepted", "Answer", "Offer", "Opening", "Secrets", "accept"]

VERSION = "1.0"
KEY_BYTES = 32
_SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.CHACHA20_POLY1305)


class Secrets(NamedTuple):
    """What both sides hold in the end."""

    client_key: bytes
    """For what the client encrypts."""
    server_key: bytes
    """For what the server encrypts."""
    binding: bytes
    """The hash of all that was said; frames are bound to it."""


class _Spoken(BaseModel):
    """What goes over the wire: JSON, with bytes in base64url."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_bytes="base64", val_json_bytes="base64")


class Offer(_Spoken):
    """What a client says first."""

    client_did: str = Field(pattern=DID_PATTERN)
    server_did: str = Field(pattern=DID_PATTERN)
    sealed: bytes = Field(default=b"", max_length=1_000)

    @property
    def info(self) -> bytes:
        """What the sealed part is bound to."""
        return _joined(b"sage offer", VERSION.encode(), self.client_did.encode(), self.server_did.encode())


class Answer(_Spoken):
    """What a server says to an offer it has accepted."""

    session_id: str = Field(max_length=100)
    expires_at: float
    """Unix time in seconds."""
    ephemeral: bytes = Field(max_length=100)
    signature: bytes = Field(default=b"", max_length=100)

    def binding(self, offer: Offer) -> bytes:
        """Hash all that was said."""
        life = f"{self.expires_at:.3f}".encode()
        return hashlib.sha256(_joined(offer.info, offer.sealed, self.session_id.encode(), life, self.ephemeral)).digest()

    def signed(self, offer: Offer, key: SigningKey) -> Self:
        """Return this answer with its signature."""
        return self.model_copy(update={"signature": key.sign(self.binding(offer))})

    def verify(self, offer: Offer, key: VerifyKey) -> None:
        """Raise `BadSignature` unless the key's owner has given this answer to the offer."""
        key.verify(self.signature, self.binding(offer))


class Accepted(NamedTuple):
    """An offer that was opened, the answer to it, and what follows."""

    answer: Answer
    """Not signed yet."""
    secrets: Secrets


@dataclass(slots=True)
class Opening:
    """The client's side of a handshake, between its offer and the answer."""

    client_did: str
    server_did: str
    server_key: X25519PublicKey
    ephemeral: X25519PrivateKey = field(repr=False)
    """Made for this handshake."""
    offer: Offer = field(init=False)
    _secret: bytes = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._secret = os.urandom(KEY_BYTES)
        bare = Offer(client_did=self.client_did, server_did=self.server_did)
        inside = self.ephemeral.public_key().public_bytes_raw() + self._secret
        self.offer = bare.model_copy(update={"sealed": _SUITE.encrypt(inside, self.server_key, bare.info)})

    def finish(self, answer: Answer) -> Secrets:
        """Derive the secrets from an answer that was verified; `BadHandshake` if nothing can be derived."""
        return _derive(self.ephemeral, answer.ephemeral, self._secret, answer.binding(self.offer))


def accept(offer: Offer, agrees: X25519PrivateKey, session_id: str, expires_at: float) -> Accepted:
    """Open an offer and answer it; `BadHandshake` if it is not for this server, or was changed."""
    try:
        inside = _SUITE.decrypt(offer.sealed, agrees, offer.info)
    except (InvalidTag, ValueError):
        raise BadHandshake("the offer cannot be opened") from None
    if len(inside) != 2 * KEY_BYTES:
        raise BadHandshake("the offer holds something else")
    ephemeral = X25519PrivateKey.generate()
    answer = Answer(session_id=session_id, expires_at=expires_at, ephemeral=ephemeral.public_key().public_bytes_raw())
    return Accepted(answer, _derive(ephemeral, inside[:KEY_BYTES], inside[KEY_BYTES:], answer.binding(offer)))


def _derive(own: X25519PrivateKey, other: bytes, secret: bytes, binding: bytes) -> Secrets:
    try:
        shared = own.exchange(X25519PublicKey.from_public_bytes(other))
    except ValueError:
        raise BadHandshake("a key that nothing can be agreed with") from None
    keys = HKDF(hashes.SHA256(), 2 * KEY_BYTES, salt=secret, info=b"sage session" + binding).derive(shared)
    return Secrets(keys[:KEY_BYTES], keys[KEY_BYTES:], binding)


def _joined(*parts: bytes) -> bytes:
    """Join parts so that no other parts give the same bytes."""
    return b"".join(len(part).to_bytes(4) + part for part in parts)

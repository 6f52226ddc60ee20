"""An agent: its keys, its sessions, and what it does with the registry and with other agents."""

import asyncio
import time
import uuid
from collections.abc import Callable, Mapping, Sequence

import httpx
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from pydantic import ValidationError

from example_app.sage.calls import ask
from example_app.sage.did import Chain, DidDocument, Operation, Transaction, did_of_key_id
from example_app.sage.errors import BadHandshake, BadSignature, DidError, ExpiredSession, PeerRefused
from example_app.sage.handshake import Answer, Offer, Opening, Secrets, accept
from example_app.sage.keys import KeyType, SigningKey
from example_app.sage.messages import Message
from example_app.sage.nonces import Nonces
from example_app.sage.resolver import Resolver
from example_app.sage.sessions import Role, Session, Sessions, new_session_id
from example_app.sage.signatures import COVERED, IN_SESSION, Envelope, key_id_of, sign, verify

__all__ = ["Agent"]


class Agent:
    """One agent, with keys of its own."""

    def __init__(
        self,
        resolver: Resolver,
        *,
        chain: Chain = "ethereum",
        key_type: KeyType = "secp256k1",
        session_seconds: float = 300.0,
        nonce_seconds: float = 60.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Make the keys. `clock`: Unix time in seconds."""
        self._resolver = resolver
        self._clock = clock
        self._signs = SigningKey.generate(key_type)
        self._agrees = X25519PrivateKey.generate()
        self._nonces = Nonces(nonce_seconds, clock)
        self._publishing = asyncio.Lock()
        self._published = False
        self._sequence = 0
        self._chain = chain
        self.document = DidDocument.of(chain, self._signs.verify_key, self._agrees.public_key())
        self.sessions = Sessions(session_seconds, clock)

    @property
    def did(self) -> str:
        """What others know this agent by."""
        return self.document.id

    async def publish(self) -> None:
        """Register the own document, once."""
        async with self._publishing:
            if not self._published:
                await self.submit(self.transaction("register"))
                self._published = True

    def transaction(self, operation: Operation) -> Transaction:
        """Write down a change of what is known of this agent."""
        self._sequence += 1
        return Transaction.signed(operation, self.document, self._sequence, self._signs)

    def rotate(self) -> None:
        """Take another key to agree on secrets with; others learn of it from an update."""
        self._agrees = X25519PrivateKey.generate()
        self.document = DidDocument.of(self._chain, self._signs.verify_key, self._agrees.public_key())

    async def submit(self, transaction: Transaction) -> None:
        """Publish a change of some agent's document."""
        await self._resolver.submit(transaction)

    async def resolve(self, did: str) -> DidDocument:
        """Find an agent's document."""
        return await self._resolver.resolve(did)

    def signed(
        self, method: str, url: str, body: bytes, headers: Mapping[str, str] | None = None, covered: Sequence[str] = COVERED
    ) -> dict[str, str]:
        """Sign a request to another agent; returns its headers."""
        envelope = Envelope(method, url, headers or {})
        nonce = uuid.uuid4().hex
        return sign(envelope, body, self._signs, self.document.key_id, nonce=nonce, created=self._clock(), covered=covered)

    async def verify(self, envelope: Envelope, body: bytes, covered: Sequence[str] = COVERED) -> DidDocument:
        """Find out who has signed a request; an error unless it is just now, for the first time, and nothing was changed."""
        try:
            document = await self.resolve(did_of_key_id(key_id_of(envelope)))
        except DidError as error:
            raise BadSignature(f"signed by nobody: {error}") from error
        signed = verify(envelope, body, document.verify_key(), covered=covered)
        self._nonces.use(signed.key_id, signed.nonce, signed.created)
        return document

    async def shake(self, peer: httpx.AsyncClient, server_did: str) -> Session:
        """Shake hands with the agent that answers at the client's base URL."""
        server = await self.resolve(server_did)
        opening = Opening(self.did, server_did, server.agreement_key())
        url = str(peer.base_url.join("handshake"))
        body = opening.offer.model_dump_json().encode()
        reply = await ask(peer, "POST", url, body, self.signed("POST", url, body, {"Content-Type": "application/json"}))
        if reply.is_error:
            raise PeerRefused(f"the other agent answers {reply.status_code}")
        try:
            answer = Answer.model_validate_json(reply.content)
        except ValidationError:
            raise BadHandshake("the answer cannot be read") from None
        secrets = opening.finish(answer, server.verify_key())
        return self._keep("client", opening.offer, answer, self._signs.key_type, secrets=secrets)

    async def accept(self, envelope: Envelope, body: bytes) -> tuple[Answer, Session]:
        """Answer another agent's offer; the session is the own end of it."""
        try:
            offer = Offer.model_validate_json(body)
        except ValidationError:
            raise BadHandshake("the offer cannot be read") from None
        client = await self.verify(envelope, body)
        if client.id != offer.client_did:
            raise BadSignature("signed by somebody else")
        expires_at = self._clock() + self.sessions.lifetime_seconds
        answer, secrets = accept(offer, self._agrees, self._signs, new_session_id(), expires_at)
        return answer, self._keep("server", offer, answer, client.verify_key().key_type, secrets=secrets)

    def encrypt(self, session_id: str, message: Message) -> bytes:
        """Encrypt a message for the other end."""
        return self._session(session_id).encrypt(message.to_bytes())

    def decrypt(self, session_id: str, frame: bytes) -> Message:
        """Decrypt and check what the other end has sent."""
        return Message.from_bytes(self._session(session_id).decrypt(frame))

    async def receive(self, envelope: Envelope, body: bytes, session_id: str) -> Message:
        """Read a message whose sender has also signed the request it came in."""
        sender = await self.verify(envelope, body, IN_SESSION)
        if self._session(session_id).client_did != sender.id:
            raise BadSignature("signed by somebody else")
        return self.decrypt(session_id, body)

    def close(self, session_id: str) -> Session:
        """End a session."""
        self._session(session_id)
        return self.sessions.close(session_id)

    def sweep(self) -> None:
        """End the sessions whose time is over."""
        self.sessions.sweep()

    def _session(self, session_id: str) -> Session:
        try:
            return self.sessions.get(session_id)
        except ExpiredSession:
            self.sweep()
            raise

    def _keep(self, role: Role, offer: Offer, answer: Answer, key_type: KeyType, *, secrets: Secrets) -> Session:
        # Each end has an id of its own: an agent may well talk to itself.
        own_id = answer.session_id if role == "server" else new_session_id()
        session = Session(
            id=own_id,
            role=role,
            client_did=offer.client_did,
            server_did=offer.server_did,
            key_type=key_type,
            secrets=secrets,
            created_at=self._clock(),
            expires_at=answer.expires_at,
            peer_id=answer.session_id if role == "client" else "",
        )
        return self.sessions.add(session)

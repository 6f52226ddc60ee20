"""An agent: its keys, its sessions, and what it does with the registry and with other agents."""

import asyncio
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import httpx
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from pydantic import ValidationError

from example_app.sage.calls import ask
from example_app.sage.did import Chain, DidDocument, Operation, Transaction, chain_of, did_of_key_id
from example_app.sage.errors import (
    BadHandshake,
    BadSignature,
    DidError,
    ExpiredNonce,
    ExpiredSession,
    PeerRefused,
    ReplayedFrame,
    ReplayedNonce,
)
from example_app.sage.handshake import VERSION, Accepted, Answer, Offer, Opening, Secrets, accept
from example_app.sage.keys import KeyType, SigningKey, VerifyKey
from example_app.sage.messages import Message, type_of
from example_app.sage.nonces import Nonces
from example_app.sage.resolver import Resolver
from example_app.sage.sessions import Role, Session, Sessions, new_session_id
from example_app.sage.signatures import COVERED, IN_SESSION, Envelope, Signed, key_id_of, sign, verify
from sage_fastapi_obs import bind
from sage_fastapi_obs.logs.application_fields import FIELD_CLIENT_DID
from sage_fastapi_obs.packs.sage import (
    decryption,
    did_resolution,
    encryption,
    handshake,
    key_derivation,
    observe_crypto,
    observe_handshake,
    observe_message,
    record_blockchain_transaction,
    record_did_registration,
    record_nonce,
    record_replay_attack,
    session_closed,
    session_creation,
    sessions_expired,
    signature,
    signature_verification,
    trace_handshake,
    trace_handshake_verification,
    trace_key_generation,
    trace_signature_verification,
)
from sage_fastapi_obs.packs.security import security_event

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
        most_sessions: int = 20_000,
        cipher_seconds: float = 0.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Make the keys. `cipher_seconds`: that each encryption takes longer. `clock`: Unix time in seconds."""
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
        self.sessions = Sessions(session_seconds, clock, most_sessions)
        self._cipher_seconds = cipher_seconds

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
        chain = chain_of(transaction.document.id)
        status: Literal["success", "failure"] = "failure"
        try:
            await self._resolver.submit(transaction)
            status = "success"
        finally:
            record_blockchain_transaction(chain, transaction.operation, status)
            if transaction.operation == "register":
                record_did_registration(chain, status)

    async def resolve(self, did: str) -> DidDocument:
        """Find an agent's document."""
        chain = chain_of(did)
        with did_resolution(chain):
            return await self._resolver.resolve(did)

    def signed(
        self, method: str, url: str, body: bytes, headers: Mapping[str, str] | None = None, covered: Sequence[str] = COVERED
    ) -> dict[str, str]:
        """Sign a request to another agent; returns its headers."""
        envelope = Envelope(method, url, headers or {})
        nonce, key_type = uuid.uuid4().hex, self._signs.key_type
        with signature(key_type, "rfc9421"):
            return sign(envelope, body, self._signs, self.document.key_id, nonce=nonce, created=self._clock(), covered=covered)

    async def verify(self, envelope: Envelope, body: bytes, covered: Sequence[str] = COVERED) -> DidDocument:
        """Find out who has signed a request; an error unless it is just now, for the first time, and nothing was changed."""
        try:
            document = await self.resolve(did_of_key_id(key_id_of(envelope)))
        except DidError as error:
            raise BadSignature(f"signed by nobody: {error}") from error
        # Who says to have sent this; whether it is true shows in what becomes of it.
        bind(**{FIELD_CLIENT_DID: document.id})
        key = document.verify_key()
        # The span ends with the check of the nonce, and the time of cryptography before it: so these are not one step.
        with trace_signature_verification(key.key_type):
            with observe_crypto("verify", key.key_type):
                signed = verify(envelope, body, key, covered=covered)
            self._use_nonce(signed)
        return document

    def _use_nonce(self, signed: Signed) -> None:
        try:
            self._nonces.use(signed.key_id, signed.nonce, signed.created)
        except ExpiredNonce:
            record_nonce("expired")
            raise
        except ReplayedNonce:
            record_nonce("invalid")
            _count_replay()
            raise
        record_nonce("valid", signed.nonce)

    async def shake(self, peer: httpx.AsyncClient, server_did: str) -> Session:
        """Shake hands with the agent that answers at the client's base URL."""
        key_type = self._signs.key_type
        with handshake("client", self.did, server_did, key_type=key_type, version=VERSION) as step:
            with step.stage("init"):
                server = await self.resolve(server_did)
                opening = self._open(server)
                url, body = str(peer.base_url.join("handshake")), opening.offer.model_dump_json().encode()
                headers = self.signed("POST", url, body, {"Content-Type": "application/json"})
            with step.stage("process"):
                answer = _read_answer(await ask(peer, "POST", url, body, headers))
            with step.stage("finalize"):
                self._check(answer, opening.offer, server.verify_key())
                with key_derivation("hpke"):
                    secrets = opening.finish(answer)
                return self._keep("client", opening.offer, answer, key_type, secrets)

    async def accept(self, envelope: Envelope, body: bytes) -> tuple[Answer, Session]:
        """Answer another agent's offer; the session is the own end of it."""
        # Who the client says to be is in the offer: the span begins when that has been read.
        with observe_handshake("server") as step:
            with step.stage("init"):
                offer = _read_offer(body)
            with trace_handshake(offer.client_did, offer.server_did, version=VERSION):
                with step.stage("process"), trace_handshake_verification(offer.client_did):
                    client = await self.verify(envelope, body)
                    if client.id != offer.client_did:
                        raise BadSignature("signed by somebody else")
                    step.key_type = key_type = client.verify_key().key_type
                with step.stage("finalize"):
                    answer, secrets = self._accept(offer)
                    return answer, self._keep("server", offer, answer, key_type, secrets)

    def _open(self, server: DidDocument) -> Opening:
        with trace_key_generation("x25519"):
            ephemeral = X25519PrivateKey.generate()
        with observe_crypto("encrypt", "hpke"):
            return Opening(self.did, server.id, server.agreement_key(), ephemeral)

    def _accept(self, offer: Offer) -> Accepted:
        if offer.server_did != self.did:
            raise BadHandshake("the offer is for somebody else")
        expires_at = self._clock() + self.sessions.lifetime_seconds
        with key_derivation("hpke"):
            answer, secrets = accept(offer, self._agrees, new_session_id(), expires_at)
        key_type = self._signs.key_type
        with signature(key_type, key_type):
            return Accepted(answer.signed(offer, self._signs), secrets)

    def _check(self, answer: Answer, offer: Offer, key: VerifyKey) -> None:
        with signature_verification(key.key_type):
            answer.verify(offer, key)

    def encrypt(self, session_id: str, message: Message) -> bytes:
        """Encrypt a message for the other end."""
        plaintext = message.to_bytes()
        session = self._session(session_id)
        with encryption(session_id, len(plaintext)):
            time.sleep(self._cipher_seconds)
            return session.encrypt(plaintext)

    def decrypt(self, session_id: str, frame: bytes, key_id: str | None = None) -> Message:
        """Decrypt and check what the other end has sent; `key_id` says whose signature was on it, if any was."""
        session = self._session(session_id)
        with decryption(session_id, len(frame), key_id=key_id) as step:
            try:
                plaintext = session.decrypt(frame)
            except ReplayedFrame:
                _count_replay()
                raise
            step.size = len(plaintext)
        with observe_message(type_of(plaintext), len(plaintext)):
            return Message.from_bytes(plaintext)

    async def receive(self, envelope: Envelope, body: bytes, session_id: str) -> Message:
        """Read a message whose sender has also signed the request it came in."""
        sender = await self.verify(envelope, body, IN_SESSION)
        if self._session(session_id).client_did != sender.id:
            raise BadSignature("signed by somebody else")
        return self.decrypt(session_id, body, sender.key_id)

    def close(self, session_id: str) -> Session:
        """End a session."""
        session = self._session(session_id)
        self.sessions.close(session_id)
        session_closed(self._clock() - session.created_at)
        return session

    def sweep(self) -> None:
        """End the sessions whose time is over."""
        expired = self.sessions.sweep()
        sessions_expired(len(expired), [session.expires_at - session.created_at for session in expired])

    def _session(self, session_id: str) -> Session:
        try:
            return self.sessions.get(session_id)
        except ExpiredSession:
            self.sweep()
            raise

    def _keep(self, role: Role, offer: Offer, answer: Answer, key_type: KeyType, secrets: Secrets) -> Session:
        # Each end has an id of its own: an agent may well talk to itself.
        own_id = answer.session_id if role == "server" else new_session_id()
        with session_creation(own_id):
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


def _read_offer(body: bytes) -> Offer:
    try:
        return Offer.model_validate_json(body)
    except ValidationError:
        raise BadHandshake("the offer cannot be read") from None


def _read_answer(reply: httpx.Response) -> Answer:
    if reply.is_error:
        raise PeerRefused(f"the other agent answers {reply.status_code}")
    try:
        return Answer.model_validate_json(reply.content)
    except ValidationError:
        raise BadHandshake("the answer cannot be read") from None


def _count_replay() -> None:
    record_replay_attack()
    security_event("replay")

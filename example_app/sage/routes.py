"""What agents can ask of the service."""

import base64
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from example_app.sage import errors
from example_app.sage.agent import Agent
from example_app.sage.did import DID_PATTERN, DidDocument, Transaction
from example_app.sage.handshake import Answer
from example_app.sage.messages import Message, MessageType
from example_app.sage.sessions import CIPHER, Session
from example_app.sage.signatures import Envelope
from sage_fastapi_obs import RequestLogger, bind
from sage_fastapi_obs.logs.application_fields import FIELD_CLIENT_DID, FIELD_KEY_TYPE, FIELD_SERVER_DID, FIELD_SESSION_ID
from sage_fastapi_obs.packs.sage import trace_request

__all__ = ["answer_error", "api"]

api = APIRouter(tags=["sage"])
STATUS: dict[type[errors.SageError], int] = {
    errors.BadHandshake: 400,
    errors.BadSignature: 401,
    errors.ExpiredNonce: 401,
    errors.ExpiredSession: 410,
    errors.InvalidDocument: 422,
    errors.InvalidMessage: 422,
    errors.PeerRefused: 502,
    errors.ReplayedFrame: 409,
    errors.ReplayedNonce: 409,
    errors.RevokedDid: 410,
    errors.TookTooLong: 504,
    errors.TooManySessions: 503,
    errors.TransactionRefused: 409,
    errors.Undecryptable: 400,
    errors.UnknownDid: 404,
    errors.UnknownSession: 404,
    errors.Unreachable: 503,
}


async def answer_error(_: Request, error: Exception) -> JSONResponse:
    """Answer a `SageError`; who signs badly learns no more than that."""
    assert isinstance(error, errors.SageError)
    bind(reason=type(error).__name__)
    detail = "signature verify failed" if isinstance(error, errors.BadSignature) else str(error)
    return JSONResponse({"detail": detail}, STATUS[type(error)])


def _agent(request: Request) -> Agent:
    agent: Agent = request.app.state.agent
    return agent


CurrentAgent = Annotated[Agent, Depends(_agent)]


def _envelope(request: Request) -> Envelope:
    return Envelope(request.method, str(request.url), request.headers)


class About(BaseModel):
    did: str


class Opened(BaseModel):
    session_id: str
    peer_session_id: str
    client_did: str
    server_did: str
    expires_at: float


class Peer(BaseModel):
    did: str = Field(default="", pattern=rf"{DID_PATTERN}|^$")
    """Whom to talk to; by default the service itself."""


class Plain(BaseModel):
    type: MessageType = "text"
    content: str
    """A text, or base64."""

    def to_message(self) -> Message:
        try:
            return Message(
                self.type, self.content.encode() if self.type == "text" else base64.b64decode(self.content, validate=True)
            )
        except ValueError:
            raise errors.InvalidMessage("not base64") from None

    @classmethod
    def of(cls, message: Message) -> "Plain":
        content = message.content.decode() if message.type == "text" else base64.b64encode(message.content).decode()
        return cls(type=message.type, content=content)


class Frame(BaseModel):
    frame: str
    """Base64."""

    def to_bytes(self) -> bytes:
        try:
            return base64.b64decode(self.frame, validate=True)
        except ValueError:
            raise errors.Undecryptable("not base64") from None

    @classmethod
    def of(cls, frame: bytes) -> "Frame":
        return cls(frame=base64.b64encode(frame).decode())


@api.get("/agent")
async def read_agent(agent: CurrentAgent) -> About:
    """Tell who answers here."""
    await agent.publish()
    return About(did=agent.did)


@api.post("/did/resolve")
async def resolve(wanted: Peer, agent: CurrentAgent) -> DidDocument:
    """Find the document of an agent."""
    if not wanted.did:
        await agent.publish()
    return await agent.resolve(wanted.did or agent.did)


@api.post("/did/transactions", status_code=201)
async def publish(transaction: Transaction, agent: CurrentAgent) -> DidDocument:
    """Publish a change of the sender's document; its proof is the registry's to check."""
    await agent.submit(transaction)
    return transaction.document


@api.post("/handshake", status_code=201)
async def shake(request: Request, agent: CurrentAgent, log: RequestLogger) -> Answer:
    """Answer an agent's signed offer."""
    log.bind(operation="handshake")
    answer, session = await agent.accept(_envelope(request), await request.body())
    log.bind(**_known(session)).info("handshake completed", encrypted=True, cipher=CIPHER)
    return answer


@api.post("/sessions", status_code=201)
async def open_session(peer: Peer, request: Request, agent: CurrentAgent, log: RequestLogger) -> Opened:
    """Shake hands with another agent: this service is the client."""
    log.bind(operation="handshake")
    await agent.publish()
    session = await agent.shake(request.app.state.peer, peer.did or agent.did)
    log.bind(**_known(session)).info("session opened", encrypted=True, cipher=CIPHER)
    return Opened(
        session_id=session.id,
        peer_session_id=session.peer_id,
        client_did=session.client_did,
        server_did=session.server_did,
        expires_at=session.expires_at,
    )


@api.post("/sessions/{session_id}/encrypt")
async def encrypt(session_id: str, plain: Plain, agent: CurrentAgent, log: RequestLogger) -> Frame:
    """Encrypt for the other end."""
    log.bind(operation="encrypt", session_id=session_id)
    return Frame.of(agent.encrypt(session_id, plain.to_message()))


@api.post("/sessions/{session_id}/decrypt")
async def decrypt(session_id: str, sent: Frame, agent: CurrentAgent, log: RequestLogger) -> Plain:
    """Decrypt what the other end has sent."""
    log.bind(operation="decrypt", session_id=session_id)
    return Plain.of(agent.decrypt(session_id, sent.to_bytes()))


@api.delete("/sessions/{session_id}", status_code=204)
async def close_session(session_id: str, agent: CurrentAgent, log: RequestLogger) -> None:
    """End a session."""
    log.bind(operation="close", session_id=session_id)
    log.bind(**_known(agent.close(session_id)))


@api.post("/protected")
async def protected(
    request: Request, agent: CurrentAgent, log: RequestLogger, sage_session: Annotated[str, Header(max_length=100)]
) -> Frame:
    """Take an encrypted message in a request that its sender has signed."""
    log.bind(operation="verify", session_id=sage_session)
    with trace_request("protected_endpoint"):
        message = await agent.receive(_envelope(request), await request.body(), sage_session)
        answer = Message("text", f"{len(message.content)} bytes arrived".encode())
        return Frame.of(agent.encrypt(sage_session, answer))


def _known(session: Session) -> dict[str, str]:
    """Name what lines about a session have."""
    return {
        FIELD_SESSION_ID: session.id,
        FIELD_CLIENT_DID: session.client_did,
        FIELD_SERVER_DID: session.server_did,
        FIELD_KEY_TYPE: session.key_type,
    }

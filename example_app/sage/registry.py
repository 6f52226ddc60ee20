"""The registry of DIDs: a small service of its own, which stands in for the nodes of two chains."""

import asyncio
import time
from collections.abc import Callable
from typing import Literal

from fastapi import FastAPI, HTTPException
from pydantic import BaseModel, Field

from example_app.sage.did import Chain, DidDocument, Transaction
from example_app.sage.errors import BadSignature, InvalidDocument, RevokedDid, SageError, TransactionRefused, UnknownDid

__all__ = ["Ledger", "create_app"]

MOST_DOCUMENTS = 10_000


class Ledger:
    """What is published on one chain."""

    def __init__(self) -> None:
        self._last: dict[str, Transaction] = {}

    def find(self, did: str) -> DidDocument:
        """Look a document up; `UnknownDid` or `RevokedDid` if there is none."""
        last = self._last.get(did)
        if last is None:
            raise UnknownDid("nobody has registered this DID")
        if last.operation == "revoke":
            raise RevokedDid("this DID was revoked")
        return last.document

    def apply(self, transaction: Transaction) -> None:
        """Publish a change; `TransactionRefused` or `BadSignature` if that cannot be."""
        transaction.verify()
        did = transaction.document.id
        last = self._last.get(did)
        if (last is None) != (transaction.operation == "register"):
            raise TransactionRefused("register once, then update or revoke")
        if last is not None and (last.operation == "revoke" or transaction.sequence <= last.sequence):
            raise TransactionRefused("too late")
        if last is None and len(self._last) >= MOST_DOCUMENTS:
            raise TransactionRefused("the ledger is full")
        self._last[did] = transaction


class Outage(BaseModel):
    """How a node fails for a while, for those who want to watch that."""

    kind: Literal["down", "slow"]
    seconds: float = Field(gt=0, le=60)


class _Node:
    """The way to a ledger, which may be blocked."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.ledger = Ledger()
        self._clock = clock
        self._kind = ""
        self._until = 0.0

    def fail(self, outage: Outage) -> None:
        self._kind, self._until = outage.kind, self._clock() + outage.seconds

    async def reach(self) -> Ledger:
        left = self._until - self._clock()
        if left > 0 and self._kind == "down":
            raise HTTPException(503, "the node is down")
        if left > 0:
            await asyncio.sleep(left)
        return self.ledger


_STATUS: dict[type[SageError], int] = {
    UnknownDid: 404,
    RevokedDid: 410,
    TransactionRefused: 409,
    BadSignature: 401,
    InvalidDocument: 422,
}


def create_app(clock: Callable[[], float] = time.monotonic) -> FastAPI:
    """Build the registry. `clock`: monotonic seconds."""
    app = FastAPI(title="DID registry")
    nodes: dict[Chain, _Node] = {"ethereum": _Node(clock), "solana": _Node(clock)}

    @app.get("/{chain}/documents/{did}")
    async def read_document(chain: Chain, did: str) -> DidDocument:
        ledger = await nodes[chain].reach()
        try:
            return ledger.find(did)
        except SageError as error:
            raise HTTPException(_STATUS[type(error)], str(error)) from None

    @app.post("/{chain}/transactions", status_code=201)
    async def apply(chain: Chain, transaction: Transaction) -> DidDocument:
        ledger = await nodes[chain].reach()
        try:
            ledger.apply(transaction)
        except SageError as error:
            raise HTTPException(_STATUS[type(error)], str(error)) from None
        return transaction.document

    @app.post("/{chain}/outage", status_code=204)
    async def fail(chain: Chain, outage: Outage) -> None:
        nodes[chain].fail(outage)

    return app

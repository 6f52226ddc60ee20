"""Asks the registry over HTTP."""

import httpx
from pydantic import ValidationError

from example_app.sage.calls import ask
from example_app.sage.did import DidDocument, Transaction, chain_of
from example_app.sage.errors import InvalidDocument, RevokedDid, TransactionRefused, UnknownDid

__all__ = ["Resolver"]


class Resolver:
    """Finds the documents of DIDs, and publishes them."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        """`client`: its base URL is the registry's, its timeout how long an answer may take."""
        self._client = client

    async def resolve(self, did: str) -> DidDocument:
        """Find a document; a `DidError`, or what `ask` raises, if that cannot be."""
        answer = await ask(self._client, "GET", f"{chain_of(did)}/documents/{did}")
        match answer.status_code:
            case 404:
                raise UnknownDid("nobody has registered this DID")
            case 410:
                raise RevokedDid("this DID was revoked")
        try:
            document = DidDocument.model_validate_json(answer.content)
        except ValidationError:
            raise InvalidDocument("the registry's answer is no document") from None
        if document.id != did:
            raise InvalidDocument("the registry's answer is about somebody else")
        # The registry is not believed: the DID says which key is the agent's.
        document.verify_key()
        return document

    async def submit(self, transaction: Transaction) -> None:
        """Publish a change; `TransactionRefused`, or what `ask` raises, if that cannot be."""
        path = f"{chain_of(transaction.document.id)}/transactions"
        answer = await ask(self._client, "POST", path, transaction.model_dump_json().encode())
        if answer.is_error:
            raise TransactionRefused(f"the registry answers {answer.status_code}")

"""Asks the registry over HTTP."""

import httpx
from opentelemetry import propagate
from pydantic import ValidationError

from example_app.sage.did import DidDocument, Transaction, chain_of
from example_app.sage.errors import (
    InvalidDocument,
    RegistryTimeout,
    RegistryUnreachable,
    RevokedDid,
    TransactionRefused,
    UnknownDid,
)

__all__ = ["Resolver"]


class Resolver:
    """Finds the documents of DIDs, and publishes them."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        """`client`: its base URL is the registry's, its timeout how long an answer may take."""
        self._client = client

    async def resolve(self, did: str) -> DidDocument:
        """Find a document; one of the `DidError`s or `RegistryError`s if that cannot be."""
        answer = await self._ask("GET", f"/{chain_of(did)}/documents/{did}")
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
        """Publish a change; `TransactionRefused` or one of the `RegistryError`s if that cannot be."""
        path = f"/{chain_of(transaction.document.id)}/transactions"
        answer = await self._ask("POST", path, transaction.model_dump_json())
        if answer.is_error:
            raise TransactionRefused(f"the registry answers {answer.status_code}")

    async def _ask(self, method: str, path: str, body: str | None = None) -> httpx.Response:
        headers = {"Content-Type": "application/json"} if body else {}
        propagate.inject(headers)
        try:
            answer = await self._client.request(method, path, content=body, headers=headers)
        except httpx.TimeoutException:
            raise RegistryTimeout("the registry takes too long") from None
        except httpx.TransportError:
            raise RegistryUnreachable("the registry cannot be reached") from None
        if answer.is_server_error:
            raise RegistryUnreachable("the registry is down")
        return answer

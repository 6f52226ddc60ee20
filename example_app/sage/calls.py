"""Asks somebody over HTTP, and tells apart why there is no answer."""

from collections.abc import Mapping

import httpx
from opentelemetry import propagate

from example_app.sage.errors import TookTooLong, Unreachable

__all__ = ["ask"]


async def ask(
    client: httpx.AsyncClient, method: str, url: str, content: bytes | None = None, headers: Mapping[str, str] | None = None
) -> httpx.Response:
    """Send a request, with the trace it belongs to; `Unreachable` or `TookTooLong` unless somebody answers who is well."""
    sent = dict(headers or {"Content-Type": "application/json"})
    propagate.inject(sent)
    try:
        answer = await client.request(method, url, content=content, headers=sent)
    except httpx.TimeoutException:
        raise TookTooLong("no answer in time") from None
    except httpx.TransportError:
        raise Unreachable("nobody answers") from None
    if answer.status_code == httpx.codes.GATEWAY_TIMEOUT:
        raise TookTooLong("the other side waits itself")
    if answer.is_server_error:
        raise Unreachable("the other side is down")
    return answer

"""What routes inject, besides the logger: `async def read(request_id: RequestId, span: CurrentSpan): ...`."""

from typing import Annotated, Any

from fastapi import Depends
from opentelemetry.trace import INVALID_SPAN, Span
from starlette.requests import HTTPConnection

from sage_fastapi_obs.request.current_span import span_inside
from sage_fastapi_obs.request.exchange import current_exchange, exchange_of

__all__ = ["CorrelationId", "CurrentSpan", "RequestId", "bind"]


def bind(**fields: Any) -> None:
    """Add fields to the current request, from anywhere in it; outside a request this does nothing."""
    exchange = current_exchange.get()
    if exchange is not None:
        exchange.fields.update(fields)


async def _request_id(connection: HTTPConnection) -> str:
    exchange = exchange_of(connection.scope)
    return exchange.request_id if exchange is not None else ""


async def _correlation_id(connection: HTTPConnection) -> str:
    exchange = exchange_of(connection.scope)
    return exchange.correlation_id if exchange is not None else ""


async def _span(connection: HTTPConnection) -> Span:
    exchange = exchange_of(connection.scope)
    return INVALID_SPAN if exchange is None else span_inside(exchange) or exchange.span


RequestId = Annotated[str, Depends(_request_id)]
"""The id of this hop; empty where the middleware is not installed."""
CorrelationId = Annotated[str, Depends(_correlation_id)]
"""The id shared by all hops; empty where the middleware is not installed."""
CurrentSpan = Annotated[Span, Depends(_span)]
"""The server span of the request, ours or another library's; a no-op span without tracing."""

"""What routes inject: `async def read(log: RequestLogger, request_id: RequestId): ...`."""

from typing import Annotated, Any, Self

import loguru
from fastapi import Depends
from opentelemetry.trace import INVALID_SPAN, Span
from starlette.requests import HTTPConnection

from sage_fastapi_obs.request.exchange import Exchange, current_exchange, exchange_of

__all__ = ["BoundLogger", "CorrelationId", "CurrentSpan", "RequestId", "RequestLogger", "bind"]


class BoundLogger:
    """A logger that knows its request.

    Every line carries the request's ids. `bind` adds fields to all later lines of the request, whoever writes them, and to
    its canonical line; fields of a single call stay on that line.
    """

    __slots__ = ("_exchange",)

    def __init__(self, exchange: Exchange | None) -> None:
        self._exchange = exchange

    def bind(self, **fields: Any) -> Self:
        """Add fields to the request; visible at once everywhere, also when called in a sync dependency."""
        if self._exchange is not None:
            self._exchange.fields.update(fields)
        return self

    def debug(self, message: str, **fields: Any) -> None:
        """Write a line of level debug."""
        self._write("DEBUG", message, fields)

    def info(self, message: str, **fields: Any) -> None:
        """Write a line of level info."""
        self._write("INFO", message, fields)

    def warning(self, message: str, **fields: Any) -> None:
        """Write a line of level warn."""
        self._write("WARNING", message, fields)

    warn = warning

    def error(self, message: str, exc: BaseException | None = None, **fields: Any) -> None:
        """Write a line of level error, with the exception's type, message and stack if given."""
        self._write("ERROR", message, fields, exc)

    def critical(self, message: str, exc: BaseException | None = None, **fields: Any) -> None:
        """Write a line of level critical, with the exception's type, message and stack if given."""
        self._write("CRITICAL", message, fields, exc)

    def _write(self, level: str, message: str, fields: dict[str, Any], exc: BaseException | None = None) -> None:
        # A thread of the application's own has no context, and this logger has the exchange.
        token = current_exchange.set(self._exchange) if self._exchange is not None else None
        try:
            # The text is never a template: loguru formats a message only when it is given arguments.
            loguru.logger.opt(depth=2, exception=exc).bind(**fields).log(level, message)
        finally:
            if token is not None:
                current_exchange.reset(token)


def bind(**fields: Any) -> None:
    """Add fields to the current request, from anywhere in it; outside a request this does nothing."""
    exchange = current_exchange.get()
    if exchange is not None:
        exchange.fields.update(fields)


async def _logger(connection: HTTPConnection) -> BoundLogger:
    return BoundLogger(exchange_of(connection.scope))


async def _request_id(connection: HTTPConnection) -> str:
    exchange = exchange_of(connection.scope)
    return exchange.request_id if exchange is not None else ""


async def _correlation_id(connection: HTTPConnection) -> str:
    exchange = exchange_of(connection.scope)
    return exchange.correlation_id if exchange is not None else ""


async def _span(connection: HTTPConnection) -> Span:
    exchange = exchange_of(connection.scope)
    return exchange.span if exchange is not None else INVALID_SPAN


RequestLogger = Annotated[BoundLogger, Depends(_logger)]
"""A `BoundLogger` for the request."""
RequestId = Annotated[str, Depends(_request_id)]
"""The id of this hop; empty where the middleware is not installed."""
CorrelationId = Annotated[str, Depends(_correlation_id)]
"""The id shared by all hops; empty where the middleware is not installed."""
CurrentSpan = Annotated[Span, Depends(_span)]
"""The request's server span, ours or an adopted one; a no-op span without tracing."""

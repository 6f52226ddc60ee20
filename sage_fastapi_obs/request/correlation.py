"""The correlation id of the running code: the id of a block of code, or of its request."""

from contextvars import ContextVar
from typing import NamedTuple

from sage_fastapi_obs.request.exchange import Exchange, current_exchange


class _CorrelationBlock(NamedTuple):
    """A block of code with an id of its own, inside of others."""

    owner: object
    exchange: Exchange | None
    correlation_id: str
    outer: "_CorrelationBlock | None"


_innermost: ContextVar[_CorrelationBlock | None] = ContextVar("sage_fastapi_obs.correlation", default=None)


def current_correlation_id() -> str | None:
    """Return the id of the innermost block or, where that is further in, of the request; None outside both."""
    exchange = current_exchange.get()
    block = _innermost.get()
    # A service that calls itself in process does so in a block of its own, which is not the inner request's.
    if block is not None and block.exchange is exchange:
        return block.correlation_id
    return None if exchange is None else exchange.correlation_id


def push_correlation_id(owner: object, correlation_id: str) -> None:
    """Start a block; `owner` identifies it."""
    exchange = current_exchange.get()
    _innermost.set(_CorrelationBlock(owner, exchange, correlation_id, _around(exchange, _innermost.get())))


def pop_correlation_id(owner: object) -> None:
    """End a block, in any order; does nothing in a context in which the block was not started.

    A token could be reset only in the context that it came from, and generators are resumed in others.
    """
    _innermost.set(_without(_innermost.get(), owner))


def _around(exchange: Exchange | None, block: _CorrelationBlock | None) -> _CorrelationBlock | None:
    """Return a block if it was started in an exchange or around it; a server may have kept one of another exchange."""
    while block is not None and exchange is not None and block.exchange is not exchange:
        exchange = exchange.parent
    return block if block is None or block.exchange is exchange else None


def _without(block: _CorrelationBlock | None, owner: object) -> _CorrelationBlock | None:
    if block is None or block.owner is owner:
        return None if block is None else block.outer
    outer = _without(block.outer, owner)
    return block if outer is block.outer else block._replace(outer=outer)

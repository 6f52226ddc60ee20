"""The correlation id of the code that runs: one that was chosen for a block of it, or that of its request."""

from contextvars import ContextVar
from typing import NamedTuple

from sage_fastapi_obs.request.exchange import Exchange, current_exchange

__all__ = ["choose", "current_correlation_id", "unchoose"]


class _Choice(NamedTuple):
    """One of the nested blocks; the inner ones know the outer ones, and none knows what runs inside it."""

    owner: object
    exchange: Exchange | None
    correlation_id: str
    outer: "_Choice | None"


_chosen: ContextVar[_Choice | None] = ContextVar("sage_fastapi_obs.correlation", default=None)


def current_correlation_id() -> str | None:
    """Return the id of the innermost block or, where that is further in, of the request; None outside both."""
    exchange = current_exchange.get()
    choice = _chosen.get()
    # What was chosen around a request, by a service that calls itself in process, is not the request's own.
    if choice is not None and choice.exchange is exchange:
        return choice.correlation_id
    return None if exchange is None else exchange.correlation_id


def choose(owner: object, correlation_id: str) -> None:
    """Begin a block with an id of its own."""
    _chosen.set(_Choice(owner, current_exchange.get(), correlation_id, _chosen.get()))


def unchoose(owner: object) -> None:
    """End a block, in whatever order blocks end; where this context has not seen it begin, there is nothing to end.

    A token would have to be given back in the context it came from, and generators are resumed in others.
    """
    _chosen.set(_without(_chosen.get(), owner))


def _without(choice: _Choice | None, owner: object) -> _Choice | None:
    if choice is None or choice.owner is owner:
        return None if choice is None else choice.outer
    outer = _without(choice.outer, owner)
    return choice if outer is choice.outer else choice._replace(outer=outer)

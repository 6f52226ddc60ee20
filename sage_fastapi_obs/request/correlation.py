"""The correlation id of the code that runs: one that was chosen for a block of it, or that of its request."""

from contextvars import ContextVar
from typing import NamedTuple, Protocol
from weakref import WeakSet

from sage_fastapi_obs.request.exchange import Exchange, current_exchange

__all__ = ["HeaderListener", "chosen_header", "current_correlation_id", "pop_correlation_id", "push_correlation_id"]


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


def push_correlation_id(owner: object, correlation_id: str) -> None:
    """Begin a block with an id of its own."""
    exchange = current_exchange.get()
    _chosen.set(_Choice(owner, exchange, correlation_id, _around(exchange, _chosen.get())))


def pop_correlation_id(owner: object) -> None:
    """End a block, in whatever order blocks end; where this context has not seen it begin, there is nothing to end.

    A token would have to be given back in the context it came from, and generators are resumed in others.
    """
    _chosen.set(_without(_chosen.get(), owner))


def _around(exchange: Exchange | None, choice: _Choice | None) -> _Choice | None:
    """Return a choice if it was made in an exchange, or around it; a server may have kept one that another exchange made."""
    while choice is not None and exchange is not None and choice.exchange is not exchange:
        exchange = exchange.parent
    return choice if choice is None or choice.exchange is exchange else None


def _without(choice: _Choice | None, owner: object) -> _Choice | None:
    if choice is None or choice.owner is owner:
        return None if choice is None else choice.outer
    outer = _without(choice.outer, owner)
    return choice if outer is choice.outer else choice._replace(outer=outer)


class HeaderListener(Protocol):
    """What goes by the header that was chosen."""

    def follow_header(self, chosen: str | None) -> None:
        """Go by this header, or by that of the settings."""
        ...


class _ChosenHeader:
    """The header of correlation ids in this whole process, where one was chosen beside the settings."""

    def __init__(self) -> None:
        self.name: str | None = None
        self._followers: WeakSet[HeaderListener] = WeakSet()

    def choose(self, name: str | None) -> None:
        """Choose a header; None goes back to what the settings say."""
        self.name = name
        for follower in [*self._followers]:
            follower.follow_header(name)

    def tell(self, follower: HeaderListener) -> None:
        """Tell somebody what was chosen, and what will be."""
        self._followers.add(follower)
        follower.follow_header(self.name)


chosen_header = _ChosenHeader()

"""What observers note on a request while it runs."""

from typing import Any

from sage_fastapi_obs.insight.raised_error import RaisedError
from sage_fastapi_obs.request.exchange import Exchange, current_exchange


class Facts:
    """Notes on one request; each observer has an attribute of its own, None until it notes something."""

    __slots__ = ("not_valid", "raised")

    raised: RaisedError | None
    """The last exception that a handler of the app was looked for."""
    not_valid: RaisedError | None
    """The last of them that says what was not valid."""

    def __init__(self) -> None:
        self.raised = self.not_valid = None


def facts_of(exchange: Exchange) -> Facts:
    """Return the notes on a request, to add to."""
    if exchange.facts is None:
        exchange.facts = Facts()
    facts: Facts = exchange.facts
    return facts


def current_facts() -> Facts | None:
    """Return the notes on the request that the calling code runs for; None where there is none, or nobody looks at them."""
    exchange = current_exchange.get()
    if exchange is None or exchange.excluded or exchange.finished or not _is_explained(exchange.observer):
        return None
    return facts_of(exchange)


def _is_explained(observer: Any) -> bool:
    return getattr(observer, "insight", None) is not None

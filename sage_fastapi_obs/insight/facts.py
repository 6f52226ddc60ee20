"""What observers note on a request while it runs."""

from typing import Any

from sage_fastapi_obs.insight.busy_time import BusyTime
from sage_fastapi_obs.insight.call_notes import CallNotes
from sage_fastapi_obs.insight.held_loop import HeldLoop
from sage_fastapi_obs.insight.raised_error import RaisedError
from sage_fastapi_obs.insight.request_phases import Marks
from sage_fastapi_obs.insight.thread_waits import ThreadWaits
from sage_fastapi_obs.request.exchange import Exchange, current_exchange


class Facts:
    """Notes on one request; each observer has an attribute of its own, None until it notes something."""

    __slots__ = ("calls", "connection_waits", "held_loop", "marks", "not_valid", "raised", "thread_waits")

    calls: CallNotes | None
    """Queries and calls of other services."""
    connection_waits: dict[str, BusyTime] | None
    """Waits for a connection of a pool, by what was waited for: `a connection held by GET /report`."""
    held_loop: HeldLoop | None
    """How long it kept the event loop from anything else."""
    marks: Marks | None
    """When FastAPI's parts of the request began and ended."""
    not_valid: RaisedError | None
    """The last exception, of those that handlers were looked for, that says what was not valid."""
    raised: RaisedError | None
    """The last exception that a handler of the app was looked for."""
    thread_waits: ThreadWaits | None
    """How long it waited for a thread, and for whom."""

    def __init__(self) -> None:
        self.calls = self.connection_waits = self.held_loop = self.marks = self.thread_waits = self.raised = self.not_valid = (
            None
        )


def facts_of(exchange: Exchange) -> Facts:
    """Return the notes on a request, to add to."""
    if exchange.facts is None:
        exchange.facts = Facts()
    facts: Facts = exchange.facts
    return facts


def current_facts() -> Facts | None:
    """Return the notes on the request that the calling code runs for; None where there is none, or nobody looks at them."""
    exchange = current_exchange.get()
    if exchange is None or exchange.excluded or not _is_explained(exchange.observer):
        return None
    if exchange.finished or exchange.duration_us:
        # The client has its answer: what happens now costs the request nothing.
        return None
    return facts_of(exchange)


def _is_explained(observer: Any) -> bool:
    return getattr(observer, "insight", None) is not None

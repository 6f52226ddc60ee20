"""Calls that a request waits for: queries, the same query again and again, and other services."""

import sys
from typing import Any

from sage_fastapi_obs.active import count_internal_error
from sage_fastapi_obs.insight.application_code import ApplicationCode
from sage_fastapi_obs.insight.call_notes import Callee, CalleeTimes, CallNotes
from sage_fastapi_obs.insight.facts import current_facts
from sage_fastapi_obs.insight.observer import CauseObserver
from sage_fastapi_obs.insight.pool_use import last_wait
from sage_fastapi_obs.privacy.printable import printable
from sage_fastapi_obs.request.exchange import Exchange, current_exchange
from sage_fastapi_obs.request.explanation import LEAST_LOST_US, Explanation, Finding, readable_time

REPETITIONS = 10
"""A statement that one request sends so often is worth a word, and a look at who sends it."""


def note_call(callee: Callee, started_ns: int, duration_us: int) -> None:
    """Note a call that has ended on the request that it was made for.

    To be called with the frames of who has called on the stack. It never raises.
    """
    try:
        _note(callee, started_ns, duration_us)
    except Exception as error:
        count_internal_error("Insight", error)


def _note(callee: Callee, started_ns: int, duration_us: int) -> None:
    facts = current_facts()
    if facts is None:
        return
    notes = facts.calls
    if notes is None:
        notes = facts.calls = CallNotes()
    ended_ns = started_ns + duration_us * 1_000
    waited = last_wait.get()
    if waited is not None and waited[0] >= started_ns:
        # For a connection, inside of the call: that is another cause.
        started_ns = min(ended_ns, started_ns + waited[1] - waited[0])
    times = notes.add(callee, started_ns, ended_ns)
    if times.count == REPETITIONS:
        notes.has_repetitions = notes.has_repetitions or callee.kind == "database"
        times.line = _line_of_application()


def _line_of_application() -> str | None:
    exchange: Any = current_exchange.get()
    code: ApplicationCode = exchange.observer.insight.code
    line = code.line(sys._getframe())  # noqa: SLF001 - the public way is far slower
    greenlets = sys.modules.get("greenlet")
    # SQLAlchemy runs in another greenlet than the coroutine that waits for it.
    outer = None if line is not None or greenlets is None else greenlets.getcurrent().parent
    while line is None and outer is not None:
        line, outer = code.line(outer.gr_frame), outer.parent
    return line


class SlowCalls(CauseObserver):
    """Tells of queries and of other calls that took long."""

    def concerns(self, exchange: Exchange) -> bool:
        """Tell whether one query was repeated, and took long altogether."""
        notes = _notes(exchange)
        if notes is None or not notes.has_repetitions:
            return False
        return any(_is_repeated(*one) and one[1].busy.us >= LEAST_LOST_US for one in notes.by_callee.copy().items())

    def explain(self, exchange: Exchange, explanation: Explanation) -> None:
        """Tell what was called, and how long that took."""
        notes = _notes(exchange)
        if notes is None:
            return
        duration_us = exchange.duration_us
        explanation.findings += [*_other_calls(notes, duration_us), *_queries(notes, duration_us)]
        busy = (("database", notes.busy_us("database")), ("calls", notes.busy_us("call")))
        timings = {name: min(busy_us, duration_us) for name, busy_us in busy if busy_us}
        explanation.timings = {**(explanation.timings or {}), **timings}


def _notes(exchange: Exchange) -> CallNotes | None:
    return None if exchange.facts is None else exchange.facts.calls


def _is_repeated(callee: Callee, times: CalleeTimes) -> bool:
    return callee.kind == "database" and bool(callee.shape) and times.count >= REPETITIONS


def _other_calls(notes: CallNotes, duration_us: int) -> list[Finding]:
    called = [(callee.name, times) for callee, times in notes.by_callee.copy().items() if callee.kind == "call"]
    return [Finding("call", _took(name, times), min(times.busy.us, duration_us)) for name, times in called]


def _took(name: str, times: CalleeTimes) -> str:
    number = f" in {times.count} calls" if times.count > 1 else ""
    return f"{printable(name)} took {readable_time(times.busy.us)}{number}{_place(times)}"


def _place(times: CalleeTimes) -> str:
    return f" at {times.line}" if times.line else ""


def _queries(notes: CallNotes, duration_us: int) -> list[Finding]:
    """Tell of each repeated query, and of the others together."""
    found, others, left_us = [], [], min(notes.busy_us("database"), duration_us)
    for callee, times in notes.by_callee.copy().items():
        if _is_repeated(callee, times):
            lost_us = min(times.busy.us, duration_us)
            found.append(Finding("repeated_query", _repeated(callee, times, lost_us), lost_us))
            left_us -= lost_us
        elif callee.kind == "database":
            others.append((callee, times))
    return [*found, _remaining(others, left_us)] if others and left_us > 0 else found


def _repeated(callee: Callee, times: CalleeTimes, lost_us: int) -> str:
    return f"the same query {times.count} times{_place(times)}, {readable_time(lost_us)}: {printable(callee.name)}"


def _remaining(others: list[tuple[Callee, CalleeTimes]], lost_us: int) -> Finding:
    number = sum(times.count for _, times in others)
    queries = f" in {number} queries" if number > 1 else ""
    slowest, _ = max(others, key=lambda other: other[1].busy.us)
    return Finding("database", f"the database took {readable_time(lost_us)}{queries}: {printable(slowest.name)}", lost_us)

"""Observes how long FastAPI's parts of a request take: solving dependencies, the endpoint, serialization."""

import sys
from collections.abc import Iterator
from types import CodeType

from sage_fastapi_obs.insight.code_events import CodeEvent, CodeEvents
from sage_fastapi_obs.insight.facts import current_facts
from sage_fastapi_obs.insight.observer import CauseObserver
from sage_fastapi_obs.insight.request_phases import (
    BODY_CODE,
    DEPENDENCIES,
    PHASE_CODES,
    SERIALIZATION,
    SLOW_NS,
    Marks,
    RequestPhases,
    note_dependency,
)
from sage_fastapi_obs.insight.thread_pool import thread_events
from sage_fastapi_obs.request.exchange import Exchange, current_exchange
from sage_fastapi_obs.request.explanation import LEAST_LOST_US, Evidence, Explanation, Finding, readable_time

_current = current_exchange.get
_MOST_MARKS = 2_000
"""Of a request, two for each start or return: an endpoint may call apps of its own without end."""


class TimeSplit(CauseObserver):
    """Says how long each part took, and names those that took long.

    Exact where the interpreter tells when a function starts and returns; elsewhere the times are those of samples, if somebody
    takes some.
    """

    def start(self) -> None:
        """Let the interpreter tell of FastAPI's functions, and of tasks that wait for a thread."""
        _events.start(self)

    def stop(self) -> None:
        """Let it tell no more."""
        _events.stop(self)

    def timings(self, exchange: Exchange) -> dict[str, int]:
        """Return the microseconds of each part that the interpreter has told of."""
        phases = _phases_of(exchange)
        return {} if phases is None else {name: spent_ns // 1_000 for name, spent_ns in phases.spent_ns.items()}

    def explain(self, exchange: Exchange, explanation: Explanation) -> None:
        """Add the parts that took long."""
        explanation.findings += _findings(explanation.timings or {}, _phases_of(exchange))


def _phases_of(exchange: Exchange) -> RequestPhases | None:
    marks = None if exchange.facts is None else exchange.facts.marks
    if marks is None:
        return None
    answered_ns = exchange.started_ns + exchange.answered_us * 1_000
    return RequestPhases(marks, answered_ns if exchange.finished else exchange.observer.clock())


def _findings(timings: dict[str, int], phases: RequestPhases | None) -> Iterator[Finding]:
    evidence: Evidence = "inferred" if phases is None else "observed"
    if (us := timings.get(DEPENDENCIES, 0)) >= LEAST_LOST_US:
        text = f"dependency solving took {readable_time(us)}" + _slowest(us, phases)
        yield Finding("dependencies", text, us, evidence)
    if (us := timings.get(SERIALIZATION, 0)) >= LEAST_LOST_US:
        yield Finding("serialization", f"serialization took {readable_time(us)}", us, evidence)


def _slowest(all_us: int, phases: RequestPhases | None) -> str:
    """Name the dependency that took most of the time; empty where none is known to have."""
    if phases is None or phases.slow_dependency is None or phases.slow_dependency_ns < all_us * 500:
        return ""
    return f", mostly {phases.slow_dependency}"


def _started(code: CodeType, _offset: int) -> None:
    """Note it. Here and below all is written out, as every request runs it several times."""
    exchange = _current()
    if exchange is None or (facts := exchange.facts or current_facts()) is None:
        return
    try:
        now_ns = exchange.observer.clock()
        marks: Marks | None = facts.marks
        if marks is None:
            facts.marks = [code, now_ns]
        elif len(marks) < _MOST_MARKS:
            if now_ns - abs(marks[-1]) >= SLOW_NS:
                # The frame is that of the function that starts.
                note_dependency(marks, now_ns, code, sys._getframe(1), returns=False)  # noqa: SLF001
            marks += (code, now_ns)
    except Exception as error:
        exchange.observer.internal_errors.count("Insight", error)


def _returned(code: CodeType, _offset: int, _value: object) -> None:
    exchange = _current()
    if exchange is None or (facts := exchange.facts) is None:
        return
    try:
        now_ns = exchange.observer.clock()
        marks: Marks | None = facts.marks
        if marks is not None and len(marks) < _MOST_MARKS:
            if now_ns - abs(marks[-1]) >= SLOW_NS:
                note_dependency(marks, now_ns, code, sys._getframe(1), returns=True)  # noqa: SLF001 - of the one that returns
            marks += (code, ~now_ns)
    except Exception as error:
        exchange.observer.internal_errors.count("Insight", error)


def _all_events() -> tuple[CodeEvent, ...]:
    starts = (*PHASE_CODES, *(() if BODY_CODE is None else (BODY_CODE,)))
    return (CodeEvent("PY_START", _started, starts), CodeEvent("PY_RETURN", _returned, PHASE_CODES), *thread_events())


_events = CodeEvents(_all_events)

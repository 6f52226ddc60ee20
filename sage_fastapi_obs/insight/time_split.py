"""Observes how long FastAPI's parts of a request take: solving dependencies, the endpoint, serialization."""

import sys
from collections.abc import Iterator
from types import CodeType

from sage_fastapi_obs.insight.code_events import CodeEvent, CodeEvents
from sage_fastapi_obs.insight.facts import current_facts
from sage_fastapi_obs.insight.observer import CauseObserver
from sage_fastapi_obs.insight.request_phases import BODY_CODE, DEPENDENCIES, PHASE_CODES, SERIALIZATION, RequestPhases
from sage_fastapi_obs.insight.thread_pool import thread_events
from sage_fastapi_obs.request.exchange import Exchange, current_exchange
from sage_fastapi_obs.request.explanation import LEAST_LOST_US, Evidence, Explanation, Finding, readable_time

_current = current_exchange.get


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
        if phases is None:
            return {}
        now_ns = exchange.started_ns + exchange.answered_us * 1_000 if exchange.finished else exchange.observer.clock()
        return {name: spent_ns // 1_000 for name, spent_ns in phases.spent_until(now_ns).items()}

    def explain(self, exchange: Exchange, explanation: Explanation) -> None:
        """Add the parts that took long."""
        explanation.findings += _findings(explanation.timings or {}, _phases_of(exchange))


def _phases_of(exchange: Exchange) -> RequestPhases | None:
    phases: RequestPhases | None = None if exchange.facts is None else exchange.facts.phases
    return phases


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
    exchange = _current()
    if exchange is None or (facts := exchange.facts or current_facts()) is None:
        return
    try:
        if facts.phases is None:
            facts.phases = RequestPhases()
        if facts.phases.enter(code, exchange.observer.clock()):
            facts.phases.name_dependency(code, sys._getframe(1), returns=False)  # noqa: SLF001 - of the function that starts
    except Exception as error:
        exchange.observer.internal_errors.count("Insight", error)


def _returned(code: CodeType, _offset: int, _value: object) -> None:
    exchange = _current()
    if exchange is None or exchange.facts is None or (phases := exchange.facts.phases) is None:
        return
    try:
        if phases.leave(code, exchange.observer.clock()):
            phases.name_dependency(code, sys._getframe(1), returns=True)  # noqa: SLF001 - of the function that returns
    except Exception as error:
        exchange.observer.internal_errors.count("Insight", error)


def _all_events() -> tuple[CodeEvent, ...]:
    starts = (*PHASE_CODES, *(() if BODY_CODE is None else (BODY_CODE,)))
    return (CodeEvent("PY_START", _started, starts), CodeEvent("PY_RETURN", _returned, PHASE_CODES), *thread_events())


_events = CodeEvents(_all_events)

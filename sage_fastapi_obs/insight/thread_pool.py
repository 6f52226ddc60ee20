"""Observes requests that wait for a thread, as others hold all threads of the pool."""

import sys
from contextlib import suppress
from functools import partial
from types import CodeType, FrameType
from typing import Any

from anyio.to_thread import current_default_thread_limiter

from sage_fastapi_obs.insight.code_events import CodeEvent
from sage_fastapi_obs.insight.facts import current_facts, facts_of
from sage_fastapi_obs.insight.observer import CauseObserver
from sage_fastapi_obs.insight.request_phases import Marks
from sage_fastapi_obs.insight.thread_waits import ThreadWaits, thread_wait_codes
from sage_fastapi_obs.request.exchange import Exchange, current_exchange
from sage_fastapi_obs.request.explanation import LEAST_LOST_US, Evidence, Explanation, Finding, readable_time

THREAD_WAIT = "thread_wait"
_MOST_CALLERS = 5
"""Between a limiter and the function of anyio's that runs something in a thread."""


class ThreadPool(CauseObserver):
    """Says how long a request waited for a thread, and which route held most of them.

    The time is exact where the interpreter tells of waits; elsewhere `SlowWaits` tells what it has seen.
    """

    def __init__(self) -> None:
        self._limiter: Any = None

    def start(self) -> None:
        """Find the limiter of the pool, which is that of the running event loop."""
        with suppress(Exception):
            self._limiter = current_default_thread_limiter()

    def look_at_holders(self, waits: ThreadWaits) -> None:
        """Note who holds threads; from any thread."""
        # They may change meanwhile.
        with suppress(RuntimeError):
            if self._limiter is not None:
                waits.look_at(self._limiter)

    def timings(self, exchange: Exchange) -> dict[str, int]:
        """Return the microseconds that it waited, if the interpreter has told of it."""
        waited_us = self._waited_us(exchange)
        return {THREAD_WAIT: waited_us} if waited_us else {}

    def concerns(self, exchange: Exchange) -> bool:
        """Tell whether it waited long."""
        facts = exchange.facts
        return (
            facts is not None and facts.thread_waits is not None and self.timings(exchange).get(THREAD_WAIT, 0) >= LEAST_LOST_US
        )

    def _waited_us(self, exchange: Exchange) -> int:
        waits = _noted(exchange)
        return 0 if waits is None else waits.waited_until(exchange.observer.clock()) // 1_000

    def explain(self, exchange: Exchange, explanation: Explanation) -> None:
        """Add how long it waited, and for whom."""
        waited_us = (explanation.timings or {}).get(THREAD_WAIT, 0)
        if waited_us < LEAST_LOST_US:
            return
        explanation.findings.append(waited_for_thread(exchange, waited_us, _noted(exchange)))


def waited_for_thread(
    exchange: Exchange, waited_us: int, waits: ThreadWaits | None, evidence: Evidence = "observed", share: float = 1.0
) -> Finding:
    """Say how long a request waited for a thread, and for whom."""
    holder = None if waits is None else waits.holder(exchange)
    text = f"waited {readable_time(waited_us)} for a thread" + (f", held by {holder}" if holder else "")
    return Finding("thread_wait", text, waited_us, evidence, share)


def _noted(exchange: Exchange) -> ThreadWaits | None:
    waits: ThreadWaits | None = None if exchange.facts is None else exchange.facts.thread_waits
    return waits


def _waits_of(exchange: Exchange) -> ThreadWaits:
    facts = facts_of(exchange)
    if facts.thread_waits is None:
        facts.thread_waits = ThreadWaits()
    return facts.thread_waits


def _task_waits(_code: CodeType, _offset: int, awaited: Any) -> None:
    """Note that a task waits at a limiter. `awaited`: None where it only lets others run, as it got what it wants."""
    if awaited is None or current_facts() is None or (exchange := current_exchange.get()) is None:
        return
    try:
        frame = sys._getframe(1)  # noqa: SLF001 - of the function that waits
        if _is_for_a_thread(frame):
            _begin(exchange, frame.f_locals["self"], awaited)
    except Exception as error:
        exchange.observer.internal_errors.count("Insight", error)


def _is_for_a_thread(frame: FrameType | None) -> bool:
    """Tell whether a limiter is asked for a thread; applications have limiters for other things."""
    run = thread_wait_codes()[1]
    for _ in range(_MOST_CALLERS):
        if frame is None or frame.f_code is run:
            break
        frame = frame.f_back
    return frame is not None and frame.f_code is run


def _begin(exchange: Exchange, limiter: Any, awaited: Any) -> None:
    waits = _waits_of(exchange)
    waits.begin(exchange.observer.clock())
    # Also called when the task is cancelled, of which the interpreter would not tell.
    awaited.add_done_callback(partial(_end, exchange, waits, exchange.facts.marks, limiter))
    waits.look_at(limiter)


def _end(exchange: Exchange, waits: ThreadWaits, marks: Marks | None, limiter: Any, _: object) -> None:
    waited_ns = waits.end(exchange.observer.clock())
    if marks is not None and waited_ns:
        # No part of the request is to blame for it.
        marks += (None, waited_ns)
    if waited_ns >= LEAST_LOST_US * 1_000:
        waits.look_at(limiter)


def thread_events() -> tuple[CodeEvent, ...]:
    """Return what to watch: all that is exact about waits for a thread."""
    return (CodeEvent("PY_YIELD", _task_waits, thread_wait_codes()[:1]),)

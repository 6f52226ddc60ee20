"""Tells of requests that could have gone on while other threads kept the interpreter busy, each time for a moment only."""

import asyncio
from itertools import islice

from sage_fastapi_obs.insight.loop_thread import LoopThread
from sage_fastapi_obs.insight.observer import CauseObserver
from sage_fastapi_obs.insight.thread_frames import SHOWS_THREADS, collector_off, context_of, exchange_in, is_ready, running_task
from sage_fastapi_obs.insight.troubled_time import TroubledTime
from sage_fastapi_obs.insight.watch_thread import WatchThread
from sage_fastapi_obs.request.exchange import Exchange
from sage_fastapi_obs.request.explanation import LEAST_LOST_US, Explanation, Finding, readable_time
from sage_fastapi_obs.request.watch import in_flight

_MOST_TASKS = 500


class BusyThreads(CauseObserver):
    """Looks at each tick of the watch thread which requests have nothing to wait for but the interpreter.

    Where threads stop the loop for long at once, `BlockedLoop` tells of it; many short stops are no block.
    """

    def __init__(self, watch: WatchThread, troubled: TroubledTime) -> None:
        self._watch, self._troubled = watch, troubled
        self._lost_ns: dict[Exchange, int] = {}
        """Of requests in flight; changed by the watch thread only."""
        watch.ticked.append(self._tick)

    def concerns(self, exchange: Exchange) -> bool:
        """Tell whether it lost much time."""
        return self._lost_us(exchange) >= LEAST_LOST_US

    def explain(self, exchange: Exchange, explanation: Explanation) -> None:
        """Tell how long it could not go on, unless long stops explain more of it."""
        lost_us, others = self._lost_us(exchange), [one for one in explanation.findings if one.cause != "busy_threads"]
        told_us = sum(one.lost_us for one in explanation.findings if one.cause == "busy_threads")
        if lost_us >= LEAST_LOST_US and lost_us > told_us:
            explanation.findings[:] = [*others, busy_interpreter(lost_us)]

    def _lost_us(self, exchange: Exchange) -> int:
        return min(self._lost_ns.get(exchange, 0) // 1_000, exchange.duration_us) if self._lost_ns else 0

    def _tick(self, loop_thread: LoopThread) -> None:
        lost_ns = loop_thread.starved_ns if SHOWS_THREADS else 0
        if not lost_ns and not self._lost_ns:
            return
        current = {watch.exchange for watch in in_flight(self._watch.in_progress)}
        lost = {exchange: ns for exchange, ns in self._lost_ns.items() if exchange in current}
        for exchange in _ready(loop_thread.loop) & current if lost_ns else ():
            lost[exchange] = lost.get(exchange, 0) + lost_ns
            self._troubled.extend(loop_thread.last_at)
        self._lost_ns = lost


def busy_interpreter(us: int) -> Finding:
    """Say that threads kept the interpreter from the event loop."""
    text = f"other threads kept the interpreter busy for up to {readable_time(us)}"
    return Finding("busy_threads", text, us, "inferred")


def _ready(loop: asyncio.AbstractEventLoop) -> set[Exchange]:
    """Find the requests that have a task which only waits for its turn."""
    with collector_off():
        if running_task(loop) is not None:
            # It is in the middle of a step, that may wait for anything.
            return set()
        tasks = filter(is_ready, islice(asyncio.all_tasks(loop), _MOST_TASKS))
        return {exchange for task in tasks if (exchange := exchange_in(context_of(task))) is not None}

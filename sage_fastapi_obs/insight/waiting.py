"""Where requests wait that take long: at which line of the application."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from sage_fastapi_obs.insight.application_code import ApplicationCode
from sage_fastapi_obs.insight.await_chain import WaitPlace, wait_place
from sage_fastapi_obs.insight.code_events import IS_EXACT
from sage_fastapi_obs.insight.loop_thread import LoopThread
from sage_fastapi_obs.insight.observer import CauseObserver
from sage_fastapi_obs.insight.thread_frames import collector_off, context_of, frames_of_pools
from sage_fastapi_obs.insight.thread_pool import THREAD_WAIT, ThreadPool, waited_for_thread
from sage_fastapi_obs.insight.thread_waits import ThreadWaits
from sage_fastapi_obs.insight.troubled_time import TroubledTime
from sage_fastapi_obs.insight.watch_thread import WatchThread
from sage_fastapi_obs.request.exchange import Exchange, current_exchange
from sage_fastapi_obs.request.explanation import LEAST_LOST_US, Explanation, Finding, readable_time
from sage_fastapi_obs.request.watch import in_flight

_OLD_NS = 100_000_000
"""Younger requests are left alone."""
_MOST_A_TICK = 20
_MOST_TASKS = 500
"""Looked through for those that a request has started."""
_MOST_PLACES = 16
_LEAST_SHARE = 0.3
"""Of what was seen of a request: less often seen is a guess."""
_USUAL = 1.25
"""A request that takes so many times the median of its route is no slower than others."""
_GROWTH = 1.25
"""A request is looked at less and less often: each time once it is older by a quarter."""
_NOT_WAITS = frozenset({"waiting", "dependencies", "serialization"})
_FOR_CLIENT = "for the client"


class _Seen:
    """What was seen of one request."""

    __slots__ = ("due_ns", "places", "queued_times", "thread_waits", "times")

    def __init__(self) -> None:
        self.places: Counter[str] = Counter()
        self.thread_waits = ThreadWaits()
        self.times = self.queued_times = self.due_ns = 0
        """Looks; of them those at a request that waited for a thread; and when the next look is due."""

    def add(self, wait: WaitPlace) -> None:
        """Count a look. What others tell of is no place."""
        self.times += 1
        place = wait.place or (_FOR_CLIENT if wait.is_for_client else None)
        if (
            place is not None
            and not wait.is_watched
            and not wait.is_for_thread
            and (place in self.places or len(self.places) < _MOST_PLACES)
        ):
            self.places[place] += 1


class SlowWaits(CauseObserver):
    """Looks at each tick of the watch thread at some of the requests that have taken long so far."""

    def __init__(
        self,
        watch: WatchThread,
        code: ApplicationCode,
        pool: ThreadPool,
        troubled: TroubledTime,
        median_us: Callable[[str | None], int],
    ) -> None:
        """`median_us`: what half of a route's requests take at most."""
        self._pool, self._troubled = pool, troubled
        self._watch = watch
        self._median_us = median_us
        self._code = code
        self._seen: dict[Exchange, _Seen] = {}
        """Of requests in flight; changed by the watch thread only."""
        watch.ticked.append(self._tick)

    def concerns(self, exchange: Exchange) -> bool:
        """Tell whether it was seen to wait for a thread."""
        seen = self._seen.get(exchange) if self._seen else None
        return seen is not None and seen.queued_times > 0

    def explain(self, exchange: Exchange, explanation: Explanation) -> None:
        """Tell where the request waited: for a thread, if that is not known exactly, and at which line most."""
        seen = self._seen.get(exchange)
        if seen is None:
            return
        if seen.queued_times:
            self._add_thread_wait(exchange, explanation, seen)
        if seen.places:
            self._add_place(exchange, explanation, seen)

    def _add_thread_wait(self, exchange: Exchange, explanation: Explanation, seen: _Seen) -> None:
        share = seen.queued_times / seen.times
        waited_us = int(share * exchange.duration_us)
        explanation.timings = {**(explanation.timings or {}), THREAD_WAIT: waited_us}
        explanation.findings.append(waited_for_thread(exchange, waited_us, seen.thread_waits, "inferred", share))

    def _add_place(self, exchange: Exchange, explanation: Explanation, seen: _Seen) -> None:
        """Tell where the request waited most, without the time that others can tell more of.

        Where that is why it took longer than usual, what it always waits for is not.
        """
        place, times = seen.places.most_common(1)[0]
        share = times / seen.times
        known_us = sum(finding.lost_us for finding in explanation.findings if finding.cause not in _NOT_WAITS)
        rest_us = exchange.duration_us - known_us
        lost_us = min(int(share * exchange.duration_us), rest_us)
        is_usual = known_us >= LEAST_LOST_US and rest_us <= _USUAL * self._median_us(exchange.route)
        if share >= _LEAST_SHARE and lost_us > 0 and not is_usual:
            where = place if place == _FOR_CLIENT else f"at {place}"
            explanation.findings.append(
                Finding("waiting", f"waited {readable_time(lost_us)} {where}", lost_us, "inferred", share)
            )

    def _tick(self, loop_thread: LoopThread) -> None:
        now_ns = time.perf_counter_ns()
        current = [watch.exchange for watch in in_flight(self._watch.in_progress)]
        due = [exchange for exchange in current if self._is_due(exchange, now_ns)]
        # The dictionary keeps nothing of requests that have ended.
        self._seen = {exchange: seen for exchange in current if (seen := self._seen.get(exchange)) is not None}
        due.sort(key=self._due_ns)
        running = asyncio.current_task(loop_thread.loop)
        for exchange in due[:_MOST_A_TICK]:
            if running is None or not _runs_for(running, exchange):
                self._look_at(exchange, loop_thread, now_ns)

    def _is_due(self, exchange: Exchange, now_ns: int) -> bool:
        if exchange.finished or exchange.socket is not None or exchange.first_byte_us is not None or exchange.task is None:
            return False
        return now_ns - exchange.started_ns >= _OLD_NS and now_ns >= self._due_ns(exchange)

    def _due_ns(self, exchange: Exchange) -> int:
        seen = self._seen.get(exchange)
        return 0 if seen is None else seen.due_ns

    def _look_at(self, exchange: Exchange, loop_thread: LoopThread, now_ns: int) -> None:
        task = exchange.task
        if task is None:
            return
        seen = self._seen.setdefault(exchange, _Seen())
        seen.due_ns = exchange.started_ns + int((now_ns - exchange.started_ns) * _GROWTH)
        found = self._place(task, exchange, loop_thread.loop)
        seen.add(found)
        if found.is_for_thread and not IS_EXACT:
            seen.queued_times += 1
            self._troubled.extend(now_ns)
            self._pool.look_at_holders(seen.thread_waits)

    def _place(self, task: "asyncio.Task[Any]", exchange: Exchange, loop: asyncio.AbstractEventLoop) -> WaitPlace:
        with collector_off():
            found = wait_place(task, self._code)
            if found.has_children:
                children = (wait_place(child, self._code) for child in _children(task, exchange, loop))
                found = next((one for one in children if one.is_innermost), found)
            if found.is_in_thread and not found.is_for_thread:
                found = found._replace(place=self._code.line(frames_of_pools().get(exchange)))
        return found


def _children(
    parent: "asyncio.Task[Any]", exchange: Exchange, loop: asyncio.AbstractEventLoop
) -> "Iterator[asyncio.Task[Any]]":
    """Yield tasks that run for a request, as middlewares with `call_next` and task groups start them."""
    for number, task in enumerate(asyncio.all_tasks(loop)):
        if number >= _MOST_TASKS:
            return
        if task is not parent and _runs_for(task, exchange):
            yield task


def _runs_for(task: "asyncio.Task[Any]", exchange: Exchange) -> bool:
    context = context_of(task)
    return task is exchange.task or (context is not None and context.get(current_exchange) is exchange)

"""Where requests wait that take long: at which line of the application."""

import asyncio
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from operator import itemgetter
from typing import Any

from sage_fastapi_obs.insight.application_code import ApplicationCode
from sage_fastapi_obs.insight.await_chain import WaitPlace, wait_place
from sage_fastapi_obs.insight.code_events import IS_EXACT
from sage_fastapi_obs.insight.loop_thread import LoopThread
from sage_fastapi_obs.insight.observer import CauseObserver
from sage_fastapi_obs.insight.thread_frames import (
    collector_off,
    context_of,
    exchange_in,
    frames_of_pools,
    is_ready,
    running_task,
)
from sage_fastapi_obs.insight.thread_pool import THREAD_WAIT, ThreadPool, waited_for_thread
from sage_fastapi_obs.insight.thread_waits import ThreadWaits
from sage_fastapi_obs.insight.troubled_time import TroubledTime
from sage_fastapi_obs.insight.watch_thread import WatchThread
from sage_fastapi_obs.request.exchange import Exchange
from sage_fastapi_obs.request.explanation import LEAST_LOST_US, Explanation, Finding, readable_time
from sage_fastapi_obs.request.watch import in_flight

_OLD_NS = 100_000_000
"""Younger requests are left alone."""
_MOST_WALKS = 4
"""At each tick; all other looks find that a task waits for the same as before."""
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
    """What was seen of one request. Each look stands for the time since the one before."""

    __slots__ = ("_found", "_waiter", "due_ns", "in_threads", "ns", "places", "queued_ns", "seen_ns", "thread_waits")

    def __init__(self, exchange: Exchange) -> None:
        self.places: Counter[str] = Counter()
        """Nanoseconds at each line."""
        self.in_threads = set[str]()
        """Those lines that a thread was at: it may have computed there, or waited."""
        self.thread_waits = ThreadWaits()
        self.ns = self.queued_ns = 0
        """The time that was looked at; of it, that in which the request waited for a thread."""
        self.due_ns = exchange.started_ns + _OLD_NS
        """When the next look is due."""
        self.seen_ns = exchange.started_ns
        """When the last look was."""
        self._found: WaitPlace | None = None
        self._waiter: weakref.ref[Any] | None = None

    def plan(self, exchange: Exchange, now_ns: int) -> int:
        """Note that there is a look now; return the time that it stands for."""
        since_ns, self.seen_ns = now_ns - self.seen_ns, now_ns
        self.due_ns = exchange.started_ns + int((now_ns - exchange.started_ns) * _GROWTH)
        return since_ns

    def known(self, waiter: object) -> WaitPlace | None:
        """Return what was found in the last look, if the task still waits for the very same."""
        return self._found if self._waiter is not None and self._waiter() is waiter else None

    def remember(self, waiter: object, found: WaitPlace) -> None:
        """Remember what was found. Of a task that waits for others, they may go on meanwhile."""
        self._found = found
        is_all = type(waiter) is asyncio.Future and not found.has_children
        self._waiter = weakref.ref(waiter) if is_all else None

    def add(self, wait: WaitPlace, ns: int) -> None:
        """Count a look. What others tell of is no place."""
        self.ns += ns
        place = wait.place or (_FOR_CLIENT if wait.is_for_client else None)
        if (
            place is not None
            and not wait.is_watched
            and not wait.is_for_thread
            and (place in self.places or len(self.places) < _MOST_PLACES)
        ):
            self.places[place] += ns
            if wait.is_in_thread:
                self.in_threads.add(place)


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
        self._scan_ns = 0
        """When to find out next which are in flight."""
        watch.ticked.append(self._tick)

    def concerns(self, exchange: Exchange) -> bool:
        """Tell whether it was seen to wait for a thread."""
        seen = self._seen.get(exchange) if self._seen else None
        return seen is not None and seen.queued_ns > 0

    def explain(self, exchange: Exchange, explanation: Explanation) -> None:
        """Tell where the request waited: for a thread, if that is not known exactly, and at which line most."""
        seen = self._seen.get(exchange)
        if seen is None:
            return
        if seen.queued_ns:
            self._add_thread_wait(exchange, explanation, seen)
        if seen.places:
            self._add_place(exchange, explanation, seen)

    def _add_thread_wait(self, exchange: Exchange, explanation: Explanation, seen: _Seen) -> None:
        share = seen.queued_ns / seen.ns
        waited_us = int(share * exchange.duration_us)
        explanation.timings = {**(explanation.timings or {}), THREAD_WAIT: waited_us}
        explanation.findings.append(waited_for_thread(exchange, waited_us, seen.thread_waits, "inferred", share))

    def _add_place(self, exchange: Exchange, explanation: Explanation, seen: _Seen) -> None:
        """Tell where the request waited most, without the time that others can tell more of.

        Where that is why it took longer than usual, what it always waits for is not.
        """
        place, ns = seen.places.most_common(1)[0]
        share = ns / seen.ns
        known_us = sum(finding.lost_us for finding in explanation.findings if finding.cause not in _NOT_WAITS)
        rest_us = exchange.duration_us - known_us
        lost_us = min(int(share * exchange.duration_us), rest_us)
        is_usual = known_us >= LEAST_LOST_US and rest_us <= _USUAL * self._median_us(exchange.route)
        if share >= _LEAST_SHARE and lost_us > 0 and not is_usual:
            where = place if place == _FOR_CLIENT else f"at {place}"
            verb = "spent" if place in seen.in_threads else "waited"
            explanation.findings.append(
                Finding("waiting", f"{verb} {readable_time(lost_us)} {where}", lost_us, "inferred", share)
            )

    def _tick(self, loop_thread: LoopThread) -> None:
        now_ns = time.perf_counter_ns()
        if now_ns >= self._scan_ns:
            # Who begins after this is found before its first look is due.
            self._scan_ns = now_ns + _OLD_NS
            self._scan()
        due = [
            (seen.due_ns, exchange)
            for exchange, seen in self._seen.items()
            if seen.due_ns <= now_ns and _is_on_its_way(exchange)
        ]
        if due:
            self._look_at(sorted(due, key=itemgetter(0)), loop_thread, now_ns)

    def _scan(self) -> None:
        """Find those that are in flight; nothing is kept of requests that have ended."""
        current = [watch.exchange for watch in in_flight(self._watch.in_progress)]
        known = self._seen
        self._seen = {
            exchange: known.get(exchange) or _Seen(exchange)
            for exchange in current
            if exchange in known or _is_on_its_way(exchange)
        }

    def _look_at(self, due: list[tuple[int, Exchange]], loop_thread: LoopThread, now_ns: int) -> None:
        look = _Look(loop_thread, self._code)
        for _, exchange in due:
            if look.walks >= _MOST_WALKS:
                # The others are the first ones at the next tick.
                return
            seen = self._seen[exchange]
            since_ns = seen.plan(exchange, now_ns)
            if (found := look.at(exchange, seen)) is None:
                continue
            seen.add(found, since_ns)
            if found.is_for_thread and not IS_EXACT:
                seen.queued_ns += since_ns
                self._troubled.extend(now_ns)
                self._pool.look_at_holders(seen.thread_waits)


def _is_on_its_way(exchange: Exchange) -> bool:
    """Tell whether a request is to be looked at: one that has no answer yet."""
    if exchange.finished or exchange.socket is not None or exchange.first_byte_us is not None:
        return False
    return exchange.task is not None


class _Look:
    """One look at several requests."""

    def __init__(self, loop_thread: LoopThread, code: ApplicationCode) -> None:
        self._loop, self._code = loop_thread.loop, code
        self._is_starved = loop_thread.starved_ns > 0
        self._running = running_task(self._loop)
        self._running_for = None if self._running is None else exchange_in(context_of(self._running))
        self.walks = 0
        """How many tasks have been followed."""
        self._of_pools: dict[Exchange, str | None] | None = None

    def at(self, exchange: Exchange, seen: _Seen) -> WaitPlace | None:
        """Find out what a request waits for; None for one that runs or has just ended."""
        task = exchange.task
        if task is None or task is self._running or self._running_for is exchange:
            return None
        waiter = getattr(task, "_fut_waiter", None)
        found = seen.known(waiter)
        if found is None:
            found = self._walk(task, exchange)
            seen.remember(waiter, found)
        if self._is_starved and is_ready(task):
            # It waits for the interpreter, and not where it is.
            return found._replace(place=None, is_for_client=False)
        if found.is_in_thread and not found.is_for_thread:
            return found._replace(place=self._place_in_thread(exchange))
        return found

    def _walk(self, task: "asyncio.Task[Any]", exchange: Exchange) -> WaitPlace:
        self.walks += 1
        with collector_off():
            found = wait_place(task, self._code)
            if found.has_children:
                children = (wait_place(child, self._code) for child in _children(task, exchange, self._loop))
                # It still has children that may go on.
                found = next((one._replace(has_children=True) for one in children if one.is_innermost), found)
            return found

    def _place_in_thread(self, exchange: Exchange) -> str | None:
        with collector_off():
            if self._of_pools is None:
                self._of_pools = {one: self._code.line(frame) for one, frame in frames_of_pools().items()}
            return self._of_pools.get(exchange)


def _children(
    parent: "asyncio.Task[Any]", exchange: Exchange, loop: asyncio.AbstractEventLoop
) -> "Iterator[asyncio.Task[Any]]":
    """Yield tasks that run for a request, as middlewares with `call_next` and task groups start them."""
    for number, task in enumerate(asyncio.all_tasks(loop)):
        if number >= _MOST_TASKS:
            return
        if task is not parent and exchange_in(context_of(task)) is exchange:
            yield task

"""Looks at an event loop that does not turn: what it runs, and for which request."""

import asyncio
from typing import Any

from sage_fastapi_obs.insight.application_code import ApplicationCode
from sage_fastapi_obs.insight.loop_block import Sample, who_held, without
from sage_fastapi_obs.insight.loop_thread import TICK_NS, ClockReading, LoopThread
from sage_fastapi_obs.insight.thread_frames import SHOWS_THREADS, collector_off, context_of, running_task
from sage_fastapi_obs.insight.troubled_time import TroubledTime
from sage_fastapi_obs.insight.watch_thread import WatchThread
from sage_fastapi_obs.request.exchange import Exchange, current_exchange
from sage_fastapi_obs.request.watch import in_flight

_MOST_SAMPLES = 1_200
"""Of one block: a minute. Then only the last one grows."""
_MUTE_NS = 75_000_000
"""A watch thread that slept so long over its time sees that the loop has not turned, if it has given no sign of life since."""
_MOST_TAIL_NS = 75_000_000
"""What was seen last may have gone on for so long after it."""


class LoopSampler:
    """Notes at each tick of the watch thread what the loop runs, while it gives no sign of life."""

    def __init__(self, watch: WatchThread, code: ApplicationCode, observer: Any, troubled: TroubledTime) -> None:
        """`observer`: the `Observability` whose requests may be named."""
        self._troubled = troubled
        self._watch = watch
        self._code = code
        self._observer = observer
        self._waited_before = 0
        """How long the loop's thread had waited for a processor before the block, in all."""
        self.samples: list[Sample] = []
        """Of the block that goes on."""

    def tick(self, loop_thread: LoopThread) -> None:
        """Take a sample if the loop should have turned since the last tick, and has not."""
        before, now = loop_thread.before, loop_thread.now
        if before is None or now is None or not loop_thread.loop.is_running():
            return
        late_ns = now.at - before.at - TICK_NS
        mute_ns = now.at - max(self._watch.sign_ns, before.at)
        if late_ns > -TICK_NS / 2 and (self._watch.is_asked or mute_ns > _MUTE_NS):
            self._add(loop_thread, before, now, late_ns)

    def take(self, now_ns: int, ending: Exchange | None) -> list[Sample]:
        """Return the samples of the block that ends now, in the loop's thread. `ending`: the request that has just ended."""
        samples, self.samples, self._troubled.is_now = self.samples, [], False
        last = samples[-1]
        tail_ns = now_ns - last.end_ns
        if last.who in ("observed", "inferred") and (tail_ns <= _MOST_TAIL_NS or last.exchange is ending is not None):
            samples.append(last._replace(start_ns=last.end_ns, end_ns=now_ns, own_ns=tail_ns))
        # What the loop's thread has waited for a processor is known only once it has got one: now.
        loop_thread = self._watch.loop_thread
        waited_ns = 0 if loop_thread is None else loop_thread.loop_waited - self._waited_before
        return without(samples, waited_ns)

    def _add(self, loop_thread: LoopThread, before: ClockReading, now: ClockReading, late_ns: int) -> None:
        exchange, place = self._look(loop_thread)
        last = self.samples[-1] if self.samples else None
        if last is None:
            self._waited_before = before.loop_waited
        start_ns = self._start_ns(before, exchange) if last is None else last.end_ns
        is_same = last is not None and last.holder == (place if exchange is None else exchange)
        # Code of no request is nobody's fault but its own.
        is_last = exchange is None or exchange.started_ns == self._watch.sign_ns
        who = who_held(before, now, late_ns, is_same=is_same, is_last=is_last) if SHOWS_THREADS else "nobody"
        if who == "inferred" and exchange is None and place is None:
            # What has held the loop has ended, and the loop goes on by itself.
            who = "nobody"
        own_ns = max(0, now.at - start_ns - now.loop_waited + before.loop_waited)
        if last is not None and len(self.samples) >= _MOST_SAMPLES:
            self.samples[-1] = last._replace(end_ns=now.at, own_ns=last.own_ns + own_ns)
        else:
            self.samples.append(Sample(start_ns, now.at, own_ns, who, exchange, place))
            self._troubled.is_now = True

    def _start_ns(self, before: ClockReading, exchange: Exchange | None) -> int:
        """Tell when the block began: between the last sign of life and the question that has no answer."""
        sign_ns = self._watch.sign_ns
        asked_ns = self._watch.asked_ns if self._watch.is_asked else before.at
        if sign_ns >= asked_ns or (exchange is not None and exchange.started_ns == sign_ns):
            return sign_ns
        return (max(sign_ns, asked_ns - TICK_NS) + asked_ns) // 2

    def _look(self, loop_thread: LoopThread) -> tuple[Exchange | None, str | None]:
        """Return for which request the loop runs code, and at which line of the application."""
        with collector_off():
            task = running_task(loop_thread.loop)
            exchange = None if task is None else self._exchange_of(task)
            return exchange, self._code.innermost(loop_thread.called())

    def _exchange_of(self, task: "asyncio.Task[Any]") -> Exchange | None:
        context = context_of(task)
        exchange = None if context is None else context.get(current_exchange)
        if exchange is None:
            # While the server sends the end of the response, it is nobody's.
            exchange = next(
                (watch.exchange for watch in in_flight(self._watch.in_progress) if watch.exchange.task is task), None
            )
        # What it has started, and what goes on after its end, is not it.
        is_blamed = exchange is not None and not exchange.has_returned and exchange.observer is self._observer
        return exchange if is_blamed else None

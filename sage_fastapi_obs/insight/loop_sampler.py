"""Looks at an event loop that does not turn: what it runs, and for which request."""

import asyncio
from types import FrameType
from typing import Any, NamedTuple

from sage_fastapi_obs.insight.application_code import ApplicationCode
from sage_fastapi_obs.insight.loop_alarm import is_looking
from sage_fastapi_obs.insight.loop_block import Sample, Who, who_computed, who_held, without
from sage_fastapi_obs.insight.loop_thread import TICK_NS, ClockReading, LoopThread
from sage_fastapi_obs.insight.thread_frames import SHOWS_THREADS, collector_off, context_of, running_task, without_new
from sage_fastapi_obs.insight.troubled_time import TroubledTime
from sage_fastapi_obs.insight.watch_thread import WatchThread
from sage_fastapi_obs.request.exchange import Exchange, current_exchange
from sage_fastapi_obs.request.watch import in_flight

_MOST_SAMPLES = 1_200
"""Of one block: a minute. Then only the last one grows."""
_MUTE_NS = 75_000_000
"""A watch thread that slept so long over its time sees that the loop has not turned, if it has given no sign of life since."""
_LEAST_NS = 20_000_000
"""Between two looks of a thread at itself."""
_ALARM_FRAMES = 8
"""So many frames of its own an alarm has at most."""
_MOST_TAIL_NS = 75_000_000
"""What was seen last may have gone on for so long after it."""


class _SeenCode(NamedTuple):
    """What the loop runs."""

    exchange: Exchange | None
    place: str | None
    is_code: bool
    """Whether it runs any code at all."""

    @property
    def holder(self) -> "Exchange | str | None":
        """As of a sample."""
        return self.place if self.exchange is None else self.exchange


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
        self._looked: ClockReading | None = None
        """The clocks when the loop's thread has looked at itself last."""
        self.samples: list[Sample] = []
        """Of the block that goes on."""

    def tick(self, loop_thread: LoopThread) -> None:
        """Take a sample if the loop should have turned since the last tick, and has not."""
        before, now = self._later(loop_thread.before), loop_thread.now
        if before is None or now is None or not loop_thread.loop.is_running():
            return
        late_ns = now.at - before.at - TICK_NS
        if late_ns <= -TICK_NS / 2 or not self._is_mute(before, now):
            return
        with collector_off():
            frames = loop_thread.called()
            below = _below_alarm(frames)
            seen = self._see(loop_thread, frames if below is None else below)
        is_same = bool(self.samples) and self.samples[-1].holder == seen.holder
        if below is None:
            self._add(before, now, seen, who_held(before, now, late_ns, is_same=is_same))
        else:
            self._add_itself(before, now, seen)

    def interrupted(self, loop_thread: LoopThread, frame: FrameType) -> None:
        """Take a sample in the loop's own thread, as the watch thread cannot."""
        before, now = self._later(loop_thread.now), loop_thread.measure()
        if before is not None and now.at - before.at >= _LEAST_NS and self._is_mute(before, now):
            self._add_itself(before, now, self._see(loop_thread, without_new(loop_thread.called(frame))))
            self._looked = now

    def _later(self, reading: ClockReading | None) -> ClockReading | None:
        """Return the reading of the last look, whichever thread has looked."""
        return self._looked if reading is not None and self._looked is not None and self._looked.at > reading.at else reading

    def _is_mute(self, before: ClockReading, now: ClockReading) -> bool:
        """Tell whether the loop should have given a sign of life."""
        sign_ns = self._watch.sign_ns
        goes_on = bool(self.samples) and sign_ns <= self.samples[-1].end_ns
        return self._watch.is_asked or goes_on or now.at - max(sign_ns, before.at) > _MUTE_NS

    def take(self, now_ns: int, ending: Exchange | None) -> list[Sample]:
        """Return the samples of the block that ends now, in the loop's thread. `ending`: the request that has just ended."""
        samples, self.samples, self._troubled.is_now = self.samples, [], False
        last = samples[-1]
        tail_ns = now_ns - last.end_ns
        if last.who == "observed" and (tail_ns <= _MOST_TAIL_NS or last.exchange is ending is not None):
            samples.append(last._replace(start_ns=last.end_ns, end_ns=now_ns, own_ns=tail_ns))
        # What the loop's thread has waited for a processor is known only once it has got one: now.
        loop_thread = self._watch.loop_thread
        waited_ns = 0 if loop_thread is None else loop_thread.loop_waited - self._waited_before
        return without(samples, waited_ns)

    def _add_itself(self, before: ClockReading, now: ClockReading, seen: _SeenCode) -> None:
        """Add what the loop's thread has seen of itself: that has not gone on since it was to look."""
        start_ns = self.samples[-1].end_ns if self.samples else self._start_ns(before, seen.exchange)
        self._add(before, now, seen, who_computed(before, now, start_ns) if seen.is_code else "nobody")

    def _add(self, before: ClockReading, now: ClockReading, seen: _SeenCode, who: Who) -> None:
        last = self.samples[-1] if self.samples else None
        if last is None:
            self._waited_before = before.loop_waited
        start_ns = self._start_ns(before, seen.exchange) if last is None else last.end_ns
        own_ns = max(0, now.at - start_ns - now.loop_waited + before.loop_waited)
        if last is not None and len(self.samples) >= _MOST_SAMPLES:
            self.samples[-1] = last._replace(end_ns=now.at, own_ns=last.own_ns + own_ns)
        else:
            who = who if SHOWS_THREADS else "nobody"
            self.samples.append(Sample(start_ns, now.at, own_ns, who, seen.exchange, seen.place))
            self._troubled.is_now = True

    def _start_ns(self, before: ClockReading, exchange: Exchange | None) -> int:
        """Tell when the block began: between the last sign of life and the question that has no answer."""
        sign_ns = self._watch.sign_ns
        asked_ns = self._watch.asked_ns if self._watch.is_asked else before.at
        if sign_ns >= asked_ns or (exchange is not None and exchange.started_ns == sign_ns):
            return sign_ns
        return (max(sign_ns, asked_ns - TICK_NS) + asked_ns) // 2

    def _see(self, loop_thread: LoopThread, frames: list[FrameType]) -> _SeenCode:
        """Find out for which request the loop runs code, and at which line of the application."""
        task = running_task(loop_thread.loop)
        exchange = None if task is None else self._exchange_of(task)
        return _SeenCode(exchange, self._code.innermost(frames), bool(frames))

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


def _below_alarm(frames: list[FrameType]) -> list[FrameType] | None:
    """Return the frames below those of an alarm; None where there is none."""
    at = next((number for number, frame in enumerate(frames[:_ALARM_FRAMES]) if is_looking(frame.f_code)), None)
    return None if at is None else without_new(frames[at + 1 :])

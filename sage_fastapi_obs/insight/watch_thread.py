"""The one thread that looks at the event loop and at the requests in flight: each 50 ms while there are any."""

import asyncio
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from types import FrameType

from sage_fastapi_obs.insight.loop_alarm import LoopAlarm, make_alarm
from sage_fastapi_obs.insight.loop_thread import TICK_NS, LoopThread
from sage_fastapi_obs.internal_errors import InternalErrors
from sage_fastapi_obs.processes import at_fork
from sage_fastapi_obs.request.watch import Watch
from sage_fastapi_obs.threads import Threads

_LINGER_NS = 1_000_000_000
"""It goes on for so long after the last request: to be woken costs a request more than a tick costs."""
_FRESH_NS = 5_000_000
"""A loop that has started or ended a request so lately need not be asked whether it turns."""


class WatchThread:
    """Ticks while requests are in flight, and asks the loop for an answer where it has given no sign of life."""

    component = "WatchThread"

    def __init__(
        self,
        in_progress: set[Watch],
        internal_errors: InternalErrors,
        clock: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        """`clock`: by which requests are timed; nothing is watched by another one than the thread's own."""
        self._is_comparable = clock is time.perf_counter_ns
        self.in_progress = in_progress
        self.internal_errors = internal_errors
        self.ticked: list[Callable[[LoopThread], None]] = []
        """Called at each tick, in the thread."""
        self.answered: list[Callable[[], None]] = []
        """Called when the loop answers, in its own thread."""
        self.interrupted: list[Callable[[LoopThread, FrameType], None]] = []
        """Called in the loop's own thread, with what it runs, while this one cannot look; where that can be done."""
        self.sign_ns = 0
        """When the loop has last started or ended a request, or has answered."""
        self.asked_ns = 0
        """When it was asked last."""
        self.is_asked = False
        """Whether it has not answered yet."""
        self.is_awake = False
        """Whether the thread ticks; a request that finds it asleep calls `wake`."""
        self.loop_thread: LoopThread | None = None
        self._alarm: LoopAlarm | None = None
        self._is_looking = False
        self._busy_until_ns = 0
        self._bell = _Bell()
        """Ends the pause of the thread, which is another one's or ends as soon as this is another bell."""
        self._thread: threading.Thread | None = None
        self._threads = Threads("sage-obs-watch", partial(internal_errors.count, self.component))
        at_fork(in_child=self._forget)

    def wake(self) -> None:
        """Let the thread tick for the loop that the caller runs in; start it if there is none, as after a fork."""
        if not self._is_comparable:
            return
        loop = asyncio.get_running_loop()
        if self.loop_thread is None or self.loop_thread.loop is not loop or self.loop_thread.ident != threading.get_ident():
            self.loop_thread = LoopThread(loop)
            self.is_asked = False
            self._set_alarm()
        self._busy_until_ns = time.perf_counter_ns() + _LINGER_NS
        if self._thread is None:
            # The thread is no reason to live for a service that nobody closes.
            self._thread = self._threads.start(partial(_run, weakref.ref(self), self._bell))
            weakref.finalize(self, self._bell.ring)
            self._aim_alarm(self._thread)
        self.is_awake = self._thread is not None
        if self._alarm is not None:
            self._alarm.put_off()
        self._bell.ring()

    def stop(self) -> None:
        """End the thread."""
        bell, thread, alarm = self._bell, self._thread, self._alarm
        self._alarm = None
        self._forget()
        bell.ring()
        if thread is not None:
            thread.join(1.0)
        if alarm is not None:
            alarm.close()

    def _set_alarm(self) -> None:
        if self._alarm is not None:
            self._alarm.close()
        self._alarm = make_alarm(partial(_interrupt, weakref.ref(self)))
        self._aim_alarm(self._thread)

    def _aim_alarm(self, thread: threading.Thread | None) -> None:
        if self._alarm is not None and thread is not None and thread.native_id is not None:
            with suppress(OSError):
                self._alarm.aim(thread.native_id)

    def _forget(self) -> None:
        if self._alarm is not None:
            self._alarm.forget()
        self._alarm = None
        self._bell = _Bell()
        self._thread = self.loop_thread = None
        self.is_awake = self.is_asked = False

    def pause_seconds(self, bell: "_Bell") -> float:
        """Return how long the thread of a bell rests, -1 for until it rings; raises `LookupError` once it is to end."""
        if self._bell is not bell:
            raise LookupError
        return TICK_NS / 1_000_000_000 if self.is_awake else -1

    def tick(self) -> None:
        """Look once."""
        if self.loop_thread is not None:
            self._tick(self.loop_thread)

    def interrupt(self, frame: FrameType) -> None:
        """Let the loop's thread look at itself."""
        if self.loop_thread is None or self._is_looking or self.loop_thread.ident != threading.get_ident():
            return
        for interrupted in self.interrupted:
            try:
                interrupted(self.loop_thread, frame)
            except Exception as error:
                self.internal_errors.count(self.component, error)

    def _tick(self, loop_thread: LoopThread) -> None:
        if self._alarm is not None:
            self._alarm.put_off()
        self._is_looking = True
        loop_thread.read()
        for ticked in self.ticked:
            try:
                ticked(loop_thread)
            except Exception as error:
                self.internal_errors.count(self.component, error)
        # From here on the loop's thread may look at itself: to ask lets it run.
        self._is_looking = False
        self._ask(loop_thread)
        self._sleep_if_idle()

    def _ask(self, loop_thread: LoopThread) -> None:
        """Ask the loop for an answer, unless it has just shown that it turns, or is seen to wait."""
        now = time.perf_counter_ns()
        if self.is_asked or now - self.sign_ns < _FRESH_NS:
            return
        if loop_thread.is_idle():
            # To be woken costs the loop more than to be looked at.
            self.sign_ns = now
            return
        self.asked_ns, self.is_asked = now, True
        try:
            loop_thread.loop.call_soon_threadsafe(self._answer, loop_thread.loop)
        except RuntimeError:
            # The loop has been closed.
            self.is_asked = self.is_awake = False

    def _answer(self, loop: asyncio.AbstractEventLoop) -> None:
        if self.loop_thread is None or self.loop_thread.loop is not loop:
            return
        if not self.loop_thread.depth:
            self.loop_thread.note_depth()
        for answered in self.answered:
            try:
                answered()
            except Exception as error:
                self.internal_errors.count(self.component, error)
        self.sign_ns, self.is_asked = time.perf_counter_ns(), False

    def _sleep_if_idle(self) -> None:
        now, sign_ns = time.perf_counter_ns(), self.sign_ns
        if self.in_progress:
            self._busy_until_ns = now + _LINGER_NS
        elif now >= self._busy_until_ns:
            self.is_awake = False
            if self._alarm is not None:
                self._alarm.rest()
            # A request may have begun just before that.
            self.is_awake = self.sign_ns != sign_ns


class _Bell:
    """What an `Event` is that is cleared by whom it wakes; to rest costs half."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()
        self.rest = self._lock.acquire

    def ring(self) -> None:
        """End the rest, or the next one."""
        # Another thread may ring, too.
        with suppress(RuntimeError):
            self._lock.release()


def _interrupt(owner: "weakref.ref[WatchThread]", frame: FrameType) -> None:
    if (watch := owner()) is not None:
        watch.interrupt(frame)


def _run(owner: "weakref.ref[WatchThread]", bell: _Bell) -> None:
    """Tick for a watch thread as long as it lives, and has this bell."""
    while (watch := owner()) is not None:
        try:
            seconds = watch.pause_seconds(bell)
        except LookupError:
            return
        del watch
        if not bell.rest(timeout=seconds) and (watch := owner()) is not None:
            watch.tick()
            del watch

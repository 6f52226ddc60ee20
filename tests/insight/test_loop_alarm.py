"""A thread that looks at itself, as no other one can: while a call holds the interpreter."""

import asyncio
import operator
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from types import FrameType

import pytest
from support import Watched, drive, http_scope, until

from sage_fastapi_obs import ObservabilityMiddleware
from sage_fastapi_obs.insight.loop_alarm import LoopAlarm, make_alarm
from sage_fastapi_obs.insight.thread_frames import outward, without_new

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the system has no such timers")
NUMBERS = [random.random() for _ in range(1_000_000)]
"""Take longer to be sorted than an alarm waits."""
SIGNAL = signal.SIGRTMAX - 3 if sys.platform == "linux" else 0


class Looks(list[tuple[str, int]]):
    """Notes functions and lines."""

    def __call__(self, frame: FrameType) -> None:
        self.append((frame.f_code.co_name, frame.f_lineno))


@pytest.fixture
def looks() -> Looks:
    """Return what the alarm has seen."""
    return Looks()


@contextmanager
def wanted(threads: int) -> Iterator[list[threading.Thread]]:
    """Let so many threads want the interpreter: only then it looks for signals that another thread has got."""
    ended = threading.Event()

    def want() -> None:
        while not ended.wait(0.001):
            pass

    started = [threading.Thread(target=want) for _ in range(threads)]
    for thread in started:
        thread.start()
    yield started
    ended.set()
    for thread in started:
        thread.join()


@pytest.fixture
def alarm(looks: Looks) -> Iterator[LoopAlarm]:
    """Set an alarm, which another thread would put off."""
    made = make_alarm(looks)
    assert made is not None
    with wanted(1) as (thread,):
        made.aim(thread.native_id)
        yield made
    made.close()


def hold_interpreter() -> int:
    """Hold the interpreter; return the line that does."""
    sorted(NUMBERS)
    return sys._getframe().f_lineno - 1


def test_a_call_that_holds_the_interpreter_is_seen_by_its_own_thread(alarm: LoopAlarm, looks: Looks) -> None:
    """A look shows the call that went on when the time was over, though no other thread could run."""

    def seen() -> bool:
        # Where the machine is busy, the system may be late, and another line is seen.
        alarm.put_off()
        return ("hold_interpreter", hold_interpreter()) in looks

    until(seen)


def test_who_is_put_off_in_time_does_not_look(alarm: LoopAlarm, looks: Looks) -> None:
    """Nothing is seen as long as the time begins anew, and once the alarm rests."""
    # On a loaded machine this thread may not run in time.
    for _ in range(20):
        looks.clear()
        ends = time.perf_counter() + 0.3
        while time.perf_counter() < ends:
            alarm.put_off()
        if not looks:
            break
    assert not looks
    alarm.rest()
    time.sleep(0.2)
    assert not looks


def test_the_signal_is_given_back(looks: Looks) -> None:
    """The handler is there as long as any alarm is."""
    first, second = make_alarm(looks), make_alarm(looks)
    assert callable(signal.getsignal(SIGNAL))
    first.close()
    assert callable(signal.getsignal(SIGNAL))
    second.close()
    assert signal.getsignal(SIGNAL) is signal.SIG_DFL
    second.close()
    second.put_off()


def test_a_handler_of_the_application_is_left_alone(looks: Looks) -> None:
    """Where the signal is used, and in other threads than the main one, there is no alarm."""
    found: list[object] = []
    thread = threading.Thread(target=lambda: found.append(make_alarm(looks)))
    thread.start()
    thread.join()
    assert found == [None]
    signal.signal(SIGNAL, signal.SIG_IGN)
    try:
        assert make_alarm(looks) is None
        assert signal.getsignal(SIGNAL) is signal.SIG_IGN
    finally:
        signal.signal(SIGNAL, signal.SIG_DFL)


@pytest.mark.parametrize("ending", ["", "os._exit(0)", "os.execv('/bin/true', ['true'])", "os.fork() and os.wait()"])
def test_a_process_that_ends_with_an_alarm_set_ends_well(ending: str) -> None:
    """However a process ends while the time runs, the interpreter is not told of it afterwards."""
    source = f"""
import atexit, os, threading, time
from sage_fastapi_obs.insight.loop_alarm import LoopAlarm
alarm = LoopAlarm(lambda frame: None)
atexit.register(time.sleep, 0.1)
thread = threading.Thread(target=threading.Event().wait, daemon=True)
thread.start()
alarm.aim(thread.native_id)
alarm.put_off()
time.sleep(0.075)
{ending}
"""
    done = [
        subprocess.run([sys.executable, "-W", "ignore", "-c", source], capture_output=True, text=True, check=False)
        for _ in range(3)
    ]
    assert [(one.returncode, one.stderr) for one in done] == [(0, "")] * 3


def blocking(watched: Watched, crowd: int) -> dict[str, object]:
    """Let a request hold the interpreter, while so many threads want it, and others wait; return its line."""

    async def app(scope, receive, send) -> None:
        await asyncio.sleep(0)
        if scope["path"] == "/numbers":
            hold_interpreter()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def serve() -> None:
        served = ObservabilityMiddleware(app, observability=watched.obs)
        async with watched.obs:
            # The watch thread has looked at the loop before.
            await asyncio.sleep(0.2)
            blocker = asyncio.create_task(drive(served, http_scope("/numbers")))
            await asyncio.gather(blocker, *(drive(served, http_scope("/fine")) for _ in range(20)))

    before = len(watched.access)
    with wanted(crowd):
        asyncio.run(serve())
    named = [line for line in watched.access[before:] if "blocked_loop_ms" in line]
    assert len(named) <= 1
    return named[0] if named else {}


@pytest.mark.parametrize("crowd", [0, 6])
def test_among_many_that_want_the_interpreter_the_right_one_is_named(crowd: int, tmp_path) -> None:
    """The request that held it is named, with its line, and none of those that began just after it."""

    def named() -> dict[str, object]:
        return blocking(watched, crowd)

    watched = Watched(tmp_path, tracing={"slow_seconds": 0.05})

    line = until(named, "blocker")
    assert "test_loop_alarm.py" in line["blocked_loop_at"]
    assert line["path"] == "/numbers"


def test_what_only_comes_after_a_callback_in_c_is_not_blamed(tmp_path) -> None:
    """A callback without code of Python holds the interpreter; the request that the loop goes on with has not."""
    watched = Watched(tmp_path, tracing={"slow_seconds": 0.05})

    async def app(scope, receive, send) -> None:
        if scope["path"] == "/first":
            asyncio.get_running_loop().call_soon(sorted, NUMBERS)
        for _ in range(5):
            await asyncio.sleep(0)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def serve() -> None:
        served = ObservabilityMiddleware(app, observability=watched.obs)
        async with watched.obs:
            await asyncio.sleep(0.2)
            await asyncio.gather(*(drive(served, http_scope(path)) for path in ("/first", "/second", "/third")))

    asyncio.run(serve())
    assert len(watched.access) == 3
    assert not any("blocked_loop_ms" in line for line in watched.access)


def test_a_look_is_not_looked_at() -> None:
    """A signal that comes meanwhile is too late: it would see this package at work."""
    seen: list[str] = []

    def look(frame: FrameType) -> None:
        seen.append(frame.f_code.co_name)
        if len(seen) < 3:
            signal.raise_signal(SIGNAL)

    made = make_alarm(look)
    assert made is not None
    for _ in range(2):
        signal.raise_signal(SIGNAL)
    made.close()
    assert seen == ["test_a_look_is_not_looked_at"] * 2


def test_a_function_that_was_only_just_entered_has_done_nothing() -> None:
    """What is entered after a call that held the interpreter is left out of what is seen."""
    seen: list[str] = []

    def look(frame: FrameType) -> None:
        seen.append(without_new(outward(frame))[0].f_code.co_name)

    def entered() -> None:
        seen.append("entered")

    def run() -> bool:
        """Sort and go on, without an instruction between."""
        seen.clear()
        made.put_off()
        [*map(operator.call, (partial(sorted, NUMBERS), entered))]
        return seen[0] != "entered"

    made = make_alarm(look)
    assert made is not None
    with wanted(1) as (thread,):
        made.aim(thread.native_id)
        until(run, "look")
    made.close()
    assert seen[0] == "run"

"""The thread that watches the event loop: its life, and what it survives."""

import asyncio
import gc
import os
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
from support import PATIENCE_SECONDS, TOO_LARGE, Watched, drive, eventually, http_scope, times, until

from sage_fastapi_obs import ObservabilityMiddleware
from sage_fastapi_obs.insight.loop_thread import LoopThread
from sage_fastapi_obs.insight.thread_frames import collector_off
from sage_fastapi_obs.insight.watch_thread import WatchThread
from sage_fastapi_obs.internal_errors import InternalErrors
from sage_fastapi_obs.metrics.collector_pauses import CollectorPauses

OTHERS: set[threading.Thread] = set()
"""Threads that tests before this one have left, and that may end at any time."""


@pytest.fixture(autouse=True)
def others() -> None:
    """Note which threads are not of the test."""
    OTHERS.clear()
    OTHERS.update(threading.enumerate())


def watch_threads() -> list[threading.Thread]:
    """Return those of the test that live."""
    return [thread for thread in threading.enumerate() if thread.name == "sage-obs-watch" and thread not in OTHERS]


def switches(status: Path) -> str:
    """Tell how often a thread has slept."""
    return status.read_text().partition("\nvoluntary_ctxt_switches:")[2].split()[0]


async def test_frames_are_read_without_harm() -> None:
    """While the collector runs, objects are finalized and threads start, nothing crashes, hangs or names a wrong line."""
    program = Path(__file__).with_name("watched_stress.py")
    command = [sys.executable, str(program), str(times(4_000, 300_000))]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = await asyncio.to_thread(subprocess.run, command, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "fine\n"), done.stderr


async def test_the_thread_lives_from_start_to_stop() -> None:
    """It is started and ended with the service, also more than once."""
    watch = WatchThread(set(), InternalErrors())
    for _ in range(3):
        watch.wake()
        assert len(watch_threads()) == 1
        watch.stop()
        assert watch_threads() == []


async def test_it_sleeps_when_nothing_is_in_flight_and_wakes_with_the_next_request() -> None:
    """Without requests it stops ticking; `wake` starts that again."""
    watch = WatchThread(set(), InternalErrors())
    ticks: list[int] = []
    watch.ticked.append(lambda _: ticks.append(1))
    watch.wake()
    await eventually(lambda: ticks and not watch.is_awake, "sleep")
    status = Path(f"/proc/self/task/{watch_threads()[0].native_id}/status")
    if sys.platform == "linux":
        # Its last tick may not have ended; then nothing wakes it.
        await asyncio.sleep(0.2)
        before = switches(status)
        await asyncio.sleep(0.5)
        assert switches(status) == before
    ticks.clear()
    watch.wake()
    await eventually(lambda: ticks, "tick")
    watch.stop()


async def test_without_threads_requests_are_served_and_it_is_tried_again(tmp_path: Path) -> None:
    """Where the system starts no thread, requests go on; the failure is counted, and a later request starts it."""
    errors = InternalErrors()
    watch = WatchThread(set(), errors)
    before = threading.stack_size()
    threading.stack_size(TOO_LARGE)
    try:
        watch.wake()
        assert not watch.is_awake
    finally:
        threading.stack_size(before)

    def wakes() -> bool:
        watch.wake()
        return watch.is_awake

    await eventually(wakes, "thread")
    watch.stop()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_starts_its_own() -> None:
    """After a fork nothing of the parent's thread is assumed: the child has none until it serves."""
    watch = WatchThread(set(), InternalErrors())

    async def wakes() -> bool:
        watch.wake()
        return watch.is_awake and len(watch_threads()) == 1

    assert asyncio.run(wakes())
    child = os.fork()
    if not child:
        is_right = False
        with suppress(BaseException):
            is_right = not watch.is_awake and watch.loop_thread is None and asyncio.run(wakes())
        os._exit(0 if is_right else 1)
    _, status = os.waitpid(child, 0)
    watch.stop()
    assert os.waitstatus_to_exitcode(status) == 0


def test_a_loop_that_is_closed_is_left_and_another_one_watched(tmp_path: Path) -> None:
    """A second event loop in the same process is watched as the first one was."""
    watched = Watched(tmp_path, tracing={"slow_seconds": 0.05})

    async def app(scope, receive, send) -> None:
        time.sleep(0.3)  # noqa: ASYNC251 - that blocks the loop
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def serve() -> None:
        async with watched.obs:
            await drive(ObservabilityMiddleware(app, observability=watched.obs), http_scope())

    for _ in range(2):
        asyncio.run(serve())
    assert watch_threads() == []
    assert [line["cause"] for line in watched.access] == ["blocked_loop", "blocked_loop"]


async def test_many_requests_while_it_starts_and_stops(tmp_path: Path) -> None:
    """A hundred requests at a time get their answers while everything starts and stops around them."""
    watched = Watched(tmp_path)

    async def app(scope, receive, send) -> None:
        await asyncio.sleep(0.001)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    served = ObservabilityMiddleware(app, observability=watched.obs)
    for _ in range(5):
        requests = [asyncio.create_task(drive(served, http_scope())) for _ in range(100)]
        for _ in range(5):
            watched.obs.insight.start()
            await asyncio.sleep(0.001)
            watched.obs.insight.stop()
        await asyncio.gather(*requests)
    await watched.obs.close()
    assert not watched.obs.internal_errors.counts
    assert watch_threads() == []


def test_nothing_runs_where_insight_is_off(tmp_path: Path) -> None:
    """Without the section there is no thread, and nothing listens to the collector."""
    watched = Watched(tmp_path, insight={"enabled": False}, metrics={"packs": ["http"]})
    before = len(gc.callbacks)

    async def serve() -> None:
        async with watched.obs:
            assert watch_threads() == []
            assert len(gc.callbacks) == before

    asyncio.run(serve())


def test_requests_of_another_clock_are_not_watched(tmp_path: Path) -> None:
    """Where a test sets the clock, a request that blocks the loop is not said to have done so since that clock's beginning."""
    watched = Watched(tmp_path, tracing={"slow_seconds": 0.05}, clock=iter(range(0, 10**15, 10**9)).__next__)

    async def app(scope, receive, send) -> None:
        time.sleep(0.3)  # noqa: ASYNC251 - that blocks the loop
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def serve() -> None:
        async with watched.obs:
            await drive(ObservabilityMiddleware(app, observability=watched.obs), http_scope())

    asyncio.run(serve())
    assert not any("blocked" in why for line in watched.access for why in line["why"])
    assert watch_threads() == []


def test_clocks_tell_who_computes() -> None:
    """The clocks of the loop's thread go on while it computes, and those of the process while another thread does."""
    loop = asyncio.new_event_loop()
    here = LoopThread(loop)
    loop.close()
    here.read()
    loop_cpu = here.now.loop_cpu
    until(lambda: sum(range(100_000)) and time.thread_time_ns() > loop_cpu + 20_000_000)
    here.read()
    before, after = here.before, here.now
    assert before.loop_cpu == loop_cpu
    assert after.loop_cpu - before.loop_cpu >= 15_000_000
    assert after.process_cpu >= after.loop_cpu


async def test_a_loop_that_is_seen_to_wait_is_not_woken() -> None:
    """A loop that waits in its selector turns, so it is not asked; one that computes is asked, and answers afterwards."""
    watch = WatchThread({object()}, InternalErrors())  # type: ignore[arg-type]
    answers: list[int] = []
    ticks: list[int] = []
    watch.ticked.append(lambda _: ticks.append(1))
    watch.answered.append(lambda: answers.append(1))
    watch.wake()
    # The first ticks have nothing to compare their clocks with.
    await asyncio.sleep(0.2)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while len(ticks) < 5 or answers:
        assert time.monotonic() < deadline, "a loop that waits was asked each time"
        answers.clear()
        ticks.clear()
        await asyncio.sleep(0.5)
    assert watch.sign_ns > time.perf_counter_ns() - 400_000_000
    until(lambda: watch.is_asked, "question")
    await eventually(lambda: answers, "answer")
    watch.stop()


async def test_a_loop_that_waits_again_after_a_block_says_that_it_is_over() -> None:
    """A watch thread that is late asks, also where the loop is seen to wait: only the answer ends a block."""
    loop_thread = LoopThread(asyncio.get_running_loop())
    idle: list[bool] = []

    def look(seconds: float) -> None:
        loop_thread.read()
        time.sleep(seconds)
        loop_thread.read()
        idle.append(loop_thread.is_idle())

    for _ in range(times(100)):
        await asyncio.to_thread(look, 0.01)
        if idle[-1]:
            break
    assert idle[-1]
    await asyncio.to_thread(look, 0.1)
    assert not idle[-1]


@pytest.mark.parametrize("kind", ["asyncio", "uvloop"])
def test_what_the_loop_has_called_is_told_from_what_runs_it(kind: str) -> None:
    """Nothing is called while the loop waits; the line that runs the loop is never what it runs."""
    loop = asyncio.new_event_loop() if kind == "asyncio" else pytest.importorskip("uvloop").new_event_loop()
    watch = WatchThread({object()}, InternalErrors())  # type: ignore[arg-type]
    seen: list[list[str]] = []

    def look() -> None:
        with collector_off():
            seen.append([frame.f_code.co_name for frame in watch.loop_thread.called()])

    async def serve() -> None:
        watch.wake()
        await eventually(lambda: watch.loop_thread.depth, "answer")
        looking = threading.Thread(target=lambda: (time.sleep(0.2), look()))
        looking.start()
        await asyncio.sleep(0.5)
        looking.join()
        look()

    loop.run_until_complete(serve())
    loop.close()
    watch.stop()
    assert [names[-2:] for names in seen] == [[], ["look", "serve"]]


def test_pauses_of_the_collector_count_for_all_that_they_overlap() -> None:
    """A time has the part of each pause that lies in it."""
    now = iter([1_000, 50_001_000, 90_000_000, 190_000_000])
    pauses = CollectorPauses(lambda: next(now))
    for _ in range(2):
        pauses._collected("start", {"generation": 2})
        pauses._collected("stop", {"generation": 2})
    assert pauses.between(0, 10**9) == 150_000_000
    assert pauses.between(0, 100_000_000) == 60_000_000
    assert pauses.between(150_000_000, 160_000_000) == 10_000_000
    assert pauses.between(60_000_000, 80_000_000) == 0
    assert pauses.last_long_ns == 190_000_000


def test_a_pause_counts_while_it_goes_on() -> None:
    """Who asks before the thread that collects has said that it has ended, as that waits for the interpreter, knows of it."""
    pauses = CollectorPauses()
    began = time.perf_counter_ns()
    seen: list[int] = []

    def ask(phase: str, _: object) -> None:
        if phase == "start":
            time.sleep(0.01)
            seen.append(pauses.between(began, time.perf_counter_ns()))

    pauses.start()
    gc.callbacks.append(ask)
    try:
        gc.collect()
    finally:
        gc.callbacks.remove(ask)
        pauses.stop()
    assert seen[0] >= 10_000_000
    assert pauses.between(time.perf_counter_ns(), time.perf_counter_ns() + 10**9) == 0


async def test_a_request_names_the_collector(tmp_path: Path) -> None:
    """A request in which the collector took long says so, and is not blamed for a block."""
    watched = Watched(tmp_path, tracing={"slow_seconds": 0.05})
    garbage = [[number] for number in range(2_000_000)]

    async def app(scope, receive, send) -> None:
        enough = gc.get_stats()[2]["collections"] + 3
        # While another thread collects, this returns at once.
        while gc.get_stats()[2]["collections"] < enough:
            gc.collect()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async with watched.obs:
        await drive(ObservabilityMiddleware(app, observability=watched.obs), http_scope())
    line = watched.access[0]
    assert len(garbage) == 2_000_000
    assert line["cause"] == "garbage_collection"
    assert line["why"][0].startswith("the garbage collector took ")
    assert "blocked_loop_ms" not in line


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="the collector does no harm there")
def test_the_collector_stays_off_while_anybody_reads() -> None:
    """Of two threads that read frames, the first to end does not switch it on for the other; then it is on again."""
    inside, over = threading.Event(), threading.Event()
    seen: list[bool] = []

    def read() -> None:
        inside.set()
        with collector_off():
            seen.append(gc.isenabled())
        over.set()

    with collector_off():
        other = threading.Thread(target=read)
        other.start()
        inside.wait()
        assert not over.wait(0.1)
        assert not gc.isenabled()
    other.join()
    assert (seen, gc.isenabled()) == ([False], True)

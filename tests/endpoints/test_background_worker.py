"""Work in a thread beside an event loop: both get on, whatever the other does."""

import asyncio
import threading
import time

import anyio
import anyio.lowlevel
import pytest
from support import PATIENCE_SECONDS, eventually

from sage_fastapi_obs.endpoints import background_worker
from sage_fastapi_obs.endpoints.background_worker import GilPacer, OneAtATime

PORTIONS = 50


def busy(pace: GilPacer) -> None:
    """Work for so many milliseconds, without ever waiting for anything but the interpreter."""
    end = time.thread_time() + PORTIONS / 1000
    while time.thread_time() < end:
        pace()


def test_work_is_cut_into_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whenever its time is up, the thread rests, and then has time again."""
    rests: list[float] = []
    now = [0.0]
    monkeypatch.setattr(time, "sleep", rests.append)
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    pause = GilPacer()
    counted = []
    for at in (0.0, 0.0009, 0.0011, 0.0012, 0.0022, 0.0023):
        now[0] = at
        pause()
        counted.append(len(rests))
    assert counted == [0, 0, 1, 1, 2, 2]
    assert set(rests) == {background_worker.REST_SECONDS}


async def test_a_busy_loop_and_busy_work_share_the_interpreter():
    """The loop comes round for each portion of the work, and not hundreds of times before the next one."""
    passes, running = 0, asyncio.ensure_future(OneAtATime().run(busy))
    while not running.done():
        passes += 1
        sum(range(10_000))
        await asyncio.sleep(0)
    await running
    # On several cores a loop that only ever hands the interpreter out and takes it back makes tens of thousands.
    assert PORTIONS < passes < 40 * PORTIONS


async def test_the_loop_stands_still_ever_more_seldom_for_work_that_waits_for_something_else():
    """And as often as before when it works again."""

    class Counted(threading.Event):
        waits = 0

        def wait(self, timeout: float | None = None) -> bool:
            self.waits += 1
            return super().wait(timeout)

    pace = GilPacer()
    counted = pace._rests = Counted()
    lending = asyncio.create_task(pace.let_worker_run())
    began = time.monotonic()
    await eventually(lambda: counted.waits >= 8)
    # With a wait that doubles from a millisecond to 64, however slow the machine is.
    assert time.monotonic() - began >= 0.18
    counted.clear = lambda: None  # type: ignore[method-assign]
    counted.set()
    await eventually(lambda: counted.waits >= 40)
    lending.cancel()


async def test_the_loop_does_not_stand_still_for_work_that_is_over():
    """The last portion ends without a rest."""
    pace = GilPacer()
    lending = asyncio.create_task(pace.let_worker_run())
    pace._rests.wait = lambda _: pytest.fail("stood still")  # type: ignore[method-assign]
    pace.end()
    await asyncio.wait_for(lending, PATIENCE_SECONDS)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_what_the_work_raises_comes_out_as_it_is(backend: str):
    """Not within a group, which nobody would catch; and the work is over."""
    paces: list[GilPacer] = []

    def fails(pace: GilPacer) -> None:
        paces.append(pace)
        raise OSError("no disk")

    async def run() -> None:
        with pytest.raises(OSError, match="no disk"):
            await OneAtATime().run(fails)

    anyio.run(run, backend=backend)
    assert paces[0].has_ended


async def test_work_that_nobody_waits_for_any_more_keeps_its_share():
    """A client that goes away does not leave a scrape behind that holds the next one up."""
    taking, began = OneAtATime(), threading.Event()
    ended: list[float] = []

    def work(pace: GilPacer) -> None:
        began.set()
        busy(pace)
        ended.append(time.monotonic())

    passes = 0
    with anyio.move_on_after(60) as scope:
        async with anyio.create_task_group() as group:
            group.start_soon(taking.run, work)
            await anyio.to_thread.run_sync(began.wait)
            group.cancel_scope.cancel()
            with anyio.CancelScope(shield=True):
                while not ended:
                    passes += 1
                    sum(range(10_000))
                    await anyio.lowlevel.checkpoint()
    assert not scope.cancelled_caught
    assert PORTIONS < passes < 40 * PORTIONS

"""Checks: time limits, memory, one run at a time, and no word of what went wrong that could be a secret."""

import asyncio
import threading

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from support import PATIENCE_SECONDS

from sage_fastapi_obs import SettingsError
from sage_fastapi_obs.health.readiness import Health

BACKENDS = ["asyncio", "trio"]


def run(test, backend: str):
    """Run an async function on a backend."""
    return anyio.run(test, backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_checks_find(backend):
    """Sync or async, False and exceptions fail, everything else passes, a hanging one is timed out."""
    health = Health()

    async def fine() -> None:
        await anyio.lowlevel.checkpoint()

    async def hangs() -> None:
        await anyio.sleep_forever()

    def raises() -> None:
        raise ConnectionError("postgres://user:secret@db")

    class Callable:
        async def __call__(self) -> bool:
            return True

    health.add("fine", fine, timeout_seconds=PATIENCE_SECONDS)
    health.add("sync", lambda: 0, timeout_seconds=PATIENCE_SECONDS)
    health.add("object", Callable(), timeout_seconds=PATIENCE_SECONDS)
    health.add("coroutine from a lambda", lambda: fine(), timeout_seconds=PATIENCE_SECONDS)
    health.add("false", lambda: False, critical=False, timeout_seconds=PATIENCE_SECONDS)
    health.add("raises", raises, timeout_seconds=PATIENCE_SECONDS)
    health.add("hangs", hangs, timeout_seconds=0.01)
    results = {result.name: result for result in run(health.results, backend)}
    statuses = {name: result.status for name, result in results.items()}
    assert statuses == {
        "fine": "pass",
        "sync": "pass",
        "object": "pass",
        "coroutine from a lambda": "pass",
        "false": "fail",
        "raises": "fail",
        "hangs": "timeout",
    }
    assert results["raises"].error == "ConnectionError"
    assert "secret" not in repr(results)
    assert not results["false"].critical


@pytest.mark.parametrize("backend", BACKENDS)
def test_two_hundred_probes_share_one_run(backend):
    """However many ask at once, the check runs once."""
    ran = []
    health = Health()

    @health.check("database", timeout_seconds=PATIENCE_SECONDS, cache_seconds=PATIENCE_SECONDS)
    async def database() -> None:
        ran.append(1)
        await anyio.sleep(0.01)

    async def probe() -> None:
        async with anyio.create_task_group() as probes:
            for _ in range(200):
                probes.start_soon(health.results)

    run(probe, backend)
    assert len(ran) == 1


@pytest.mark.parametrize("is_async", [True, False])
def test_two_event_loops_share_one_run(is_async: bool):
    """A probe waits for a check that the event loop of another thread runs."""
    health, runs = Health(), []
    begun, release = threading.Event(), threading.Event()

    def blocks() -> None:
        runs.append(1)
        begun.set()
        release.wait(PATIENCE_SECONDS)

    async def waits() -> None:
        await anyio.to_thread.run_sync(blocks)

    health.add("slow", waits if is_async else blocks, timeout_seconds=PATIENCE_SECONDS, cache_seconds=PATIENCE_SECONDS)
    statuses: list[str] = []

    async def probe() -> None:
        with anyio.fail_after(PATIENCE_SECONDS):
            statuses.extend(result.status for result in await health.results())

    async def second() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(probe)
            # The probe has found the run of the first loop by then.
            await anyio.lowlevel.checkpoint()
            await anyio.lowlevel.checkpoint()
            release.set()

    first = threading.Thread(target=anyio.run, args=(probe,))
    first.start()
    assert begun.wait(PATIENCE_SECONDS)
    anyio.run(second)
    first.join()
    assert statuses == ["pass", "pass"]
    assert len(runs) == 1


def test_results_are_kept_for_a_moment():
    """Within `cache_seconds` nobody is asked again."""
    now = [0.0]
    ran = []
    health = Health(clock=lambda: now[0])
    health.add("database", lambda: ran.append(1), cache_seconds=5.0)
    for at, runs in ((0.0, 1), (4.9, 1), (5.1, 2)):
        now[0] = at
        run(health.results, "asyncio")
        assert len(ran) == runs


def test_a_check_that_blocks_its_thread_takes_one_thread():
    """Probes go on being answered, and no second thread hangs beside the first."""
    release, entered = threading.Event(), []
    health = Health()

    def blocks() -> None:
        entered.append(1)
        release.wait(PATIENCE_SECONDS)

    health.add("blocks", blocks, timeout_seconds=0.02, cache_seconds=0.0)

    async def probe() -> list[str]:
        while not entered:
            await health.results()
        found = [(await health.results())[0].status for _ in range(5)]
        release.set()
        return found

    assert run(probe, "asyncio") == ["timeout"] * 5
    assert len(entered) == 1


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_check_that_got_no_thread_in_time_is_run_again(backend):
    """A run that is given up while the application has all threads has left none hanging: the next one has its thread."""
    health = Health()
    health.add("sync", lambda: True, timeout_seconds=PATIENCE_SECONDS)

    async def probe() -> str:
        threads = anyio.to_thread.current_default_thread_limiter()
        threads.total_tokens = 1
        async with threads:
            with anyio.move_on_after(0.02):
                await health.results()
        return (await health.results())[0].status

    assert run(probe, backend) == "pass"


def test_a_cancelled_probe_leaves_nobody_waiting():
    """The probe that runs the check is gone; those that waited run it anew."""
    ran = []
    health = Health()

    async def slow() -> None:
        ran.append(1)
        if len(ran) == 1:
            await anyio.sleep_forever()

    health.add("slow", slow, timeout_seconds=PATIENCE_SECONDS)

    async def probe() -> str:
        async with anyio.create_task_group() as group:
            group.start_soon(health.results)
            while not ran:
                await anyio.lowlevel.checkpoint()
            group.cancel_scope.cancel()
        return (await health.results())[0].status

    assert run(probe, "asyncio") == "pass"
    assert len(ran) == 2


def test_a_check_that_is_added_during_a_probe_is_part_of_the_next():
    """The application may add checks at any time, as when it first opens what they are about."""
    health = Health()

    async def first() -> None:
        await anyio.lowlevel.checkpoint()
        health.add("second", lambda: True)

    health.add("first", first)
    assert [[result.name for result in run(health.results, "asyncio")] for _ in range(2)] == [["first"], ["first", "second"]]


def test_a_probe_that_was_under_way_says_that_the_shutdown_has_begun():
    """Its checks have passed, and the process is not ready all the same; from then on none is run."""
    ran = []
    health = Health()

    @health.check("slow", cache_seconds=0.0)
    async def slow() -> None:
        ran.append(1)
        await anyio.lowlevel.checkpoint()
        health.draining = True

    assert [run(health.report, "asyncio").status for _ in range(2)] == ["draining"] * 2
    assert (len(ran), health.has_started) == (1, False)


@pytest.mark.parametrize("options", [{"timeout_seconds": 0}, {"cache_seconds": -1}])
def test_impossible_limits_are_refused(options):
    """Said while building."""
    with pytest.raises(SettingsError, match="must be above 0"):
        Health().add("x", lambda: True, **options)


def test_two_checks_of_one_name_are_refused():
    """Said while building."""
    health = Health()
    health.add("x", lambda: True)
    with pytest.raises(SettingsError, match="another name"):
        health.add("x", lambda: True)


async def test_checks_asked_for_from_another_thread_run_on_the_loop_of_the_app():
    """Their connections belong to that loop; where it does not turn, they have all hung, and the answer comes all the same."""
    health, ran_on, held, release = Health(), [], threading.Event(), threading.Event()

    @health.check("database", cache_seconds=0)
    async def database() -> None:
        ran_on.append(asyncio.get_running_loop())

    def hold() -> None:
        held.set()
        release.wait(PATIENCE_SECONDS)

    app_loop = asyncio.new_event_loop()
    thread = threading.Thread(target=app_loop.run_forever)
    thread.start()
    try:
        assert (await health.report_of(app_loop)).status == "ready"
        assert ran_on == [app_loop]
        app_loop.call_soon_threadsafe(hold)
        await asyncio.to_thread(held.wait, PATIENCE_SECONDS)
        report = await health.report_of(app_loop)
        assert (report.status, [(one.name, one.status) for one in report.checks]) == ("not_ready", [("database", "timeout")])
    finally:
        release.set()
        # What was given up meanwhile ends first.
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(asyncio.sleep(0.01), app_loop))
        app_loop.call_soon_threadsafe(app_loop.stop)
        await asyncio.to_thread(thread.join, PATIENCE_SECONDS)
        app_loop.close()
    assert (await health.report_of(app_loop)).status == "ready"
    assert ran_on[-1] is asyncio.get_running_loop()

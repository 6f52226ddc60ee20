"""Health checks: each with a time limit, a short memory, and one run at a time however many ask."""

import asyncio
import inspect
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, TypeAlias

import anyio
import anyio.to_thread

from sage_fastapi_obs.errors import SettingsError
from sage_fastapi_obs.privacy.exception_name import class_name
from sage_fastapi_obs.processes import at_fork

Check = Callable[[], Awaitable[object] | object]
"""Healthy when it returns anything but False; unhealthy when it returns False or raises. Sync ones run in a thread."""
ProbeStatus: TypeAlias = Literal["ready", "degraded", "not_ready", "draining"]
_OTHER_LOOP_SECONDS = 0.01
"""How often a probe looks whether the event loop of another thread has run a check."""
_OTHER_LOOP_MOST_SECONDS = 1.0
"""For so long that loop may do something else first."""


@dataclass(frozen=True, slots=True)
class CheckResult:
    """Result of one health check."""

    name: str
    status: Literal["pass", "fail", "timeout"]
    critical: bool
    duration_ms: float
    error: str | None = None
    """The exception's class; its message could carry credentials."""


class HealthReport(NamedTuple):
    """All results together."""

    status: ProbeStatus
    checks: list[CheckResult]

    @property
    def accepts_traffic(self) -> bool:
        """Whether `/monitoring/health/ready` answers 200; else it answers 503."""
        return self.status in ("ready", "degraded")


class Health:
    """The registered checks, and whether this process should get traffic."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._checks: dict[str, _RegisteredCheck] = {}
        self.draining = False
        """True once the shutdown has begun: alive, and not ready."""
        self.has_started = False
        """True once it has been ready."""

    def add(
        self, name: str, check: Check, *, timeout_seconds: float = 2.0, cache_seconds: float = 1.0, critical: bool = True
    ) -> None:
        """Register a check. A critical one decides readiness; another only degrades."""
        if timeout_seconds <= 0 or cache_seconds < 0:
            raise SettingsError(f"check {name!r}: timeout_seconds must be above 0 and cache_seconds not below 0")
        if name in self._checks:
            raise SettingsError(f"there is a check {name!r} already: give this one another name")
        self._checks[name] = _RegisteredCheck(name, check, timeout_seconds, cache_seconds, critical, self._clock)

    def check(
        self, name: str, *, timeout_seconds: float = 2.0, cache_seconds: float = 1.0, critical: bool = True
    ) -> Callable[[Check], Check]:
        """Register the decorated function as a check."""

        def register(check: Check) -> Check:
            self.add(name, check, timeout_seconds=timeout_seconds, cache_seconds=cache_seconds, critical=critical)
            return check

        return register

    async def report(self) -> HealthReport:
        """Sum the checks up: `not_ready` when a critical one failed, `degraded` when another did, else `ready`."""
        results = [] if self.draining else await self.results()
        if self.draining:
            # Also if the shutdown has begun while checks ran.
            return HealthReport("draining", [])
        failed = [result for result in results if result.status != "pass"]
        if any(result.critical for result in failed):
            return HealthReport("not_ready", results)
        self.has_started = True
        return HealthReport("degraded" if failed else "ready", results)

    async def report_of(self, loop: asyncio.AbstractEventLoop | None) -> HealthReport:
        """Sum up from the thread of another loop what checks find on that of the application, whose connections they use.

        Where that loop does not turn for as long as they may take, all of them have hung.
        """
        if loop is None or loop.is_closed():
            return await self.report()
        running = asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self.report(), loop))
        try:
            return await asyncio.wait_for(running, _OTHER_LOOP_MOST_SECONDS + self._longest_seconds)
        except TimeoutError:
            return HealthReport("not_ready", [check.hung for check in self._checks.values()])

    @property
    def _longest_seconds(self) -> float:
        return max((check.timeout_seconds for check in self._checks.values()), default=0.0)

    async def results(self) -> list[CheckResult]:
        """Run all checks side by side; as long as the slowest time limit at most."""
        checks = [*self._checks.values()]
        found: dict[str, CheckResult] = {}

        async def run(check: "_RegisteredCheck") -> None:
            found[check.name] = await check.result()

        async with anyio.create_task_group() as tasks:
            for check in checks:
                tasks.start_soon(run, check)
        return [found[check.name] for check in checks]


class _RegisteredCheck:
    """One check, its last result, and the run in progress if there is one."""

    def __init__(
        self, name: str, check: Check, timeout_seconds: float, cache_seconds: float, critical: bool, clock: Callable[[], float]
    ) -> None:
        self.name = name
        self._check = check
        self.timeout_seconds = timeout_seconds
        self._cache_seconds = cache_seconds
        self._clock = clock
        self._unknown = CheckResult(name, "fail", critical, 0.0)
        self._last: tuple[float, CheckResult] | None = None
        self.restart()
        at_fork(in_child=self.restart)

    @property
    def hung(self) -> CheckResult:
        """The result of a run that has not ended in time."""
        return replace(self._unknown, status="timeout")

    def restart(self) -> None:
        """Forget the run of another process."""
        self._running: tuple[int, anyio.Event] | None = None
        """The thread whose event loop runs it, and what tells those who wait in that loop."""
        self._threads_in_use = 0

    async def result(self) -> CheckResult:
        """Return a result no older than the cache allows."""
        while True:
            if self._last is not None and self._clock() - self._last[0] < self._cache_seconds:
                return self._last[1]
            running = self._running
            if running is None:
                return await self._run()
            thread, done = running
            if thread == threading.get_ident():
                await done.wait()
            else:
                # An event wakes up only its own loop.
                await anyio.sleep(_OTHER_LOOP_SECONDS)

    async def _run(self) -> CheckResult:
        done = anyio.Event()
        self._running = threading.get_ident(), done
        started = self._clock()
        result = self.hung
        try:
            with anyio.move_on_after(self.timeout_seconds):
                result = await self._outcome()
            result = replace(result, duration_ms=round((self._clock() - started) * 1_000, 3))
            self._last = (self._clock(), result)
        finally:
            self._running = None
            done.set()
        return result

    async def _outcome(self) -> CheckResult:
        try:
            healthy = await self._call()
        except anyio.get_cancelled_exc_class():
            raise
        except BaseException as error:
            # Also what would end the process: a probe is not the place to do so.
            return replace(self._unknown, error=class_name(error))
        return replace(self._unknown, status="fail" if healthy is False else "pass")

    async def _call(self) -> object:
        if inspect.iscoroutinefunction(self._check) or inspect.iscoroutinefunction(type(self._check).__call__):
            return await self._check()  # type: ignore[misc]
        if self._threads_in_use:
            # The last run still hangs in its thread. Further runs would hang beside it, until the pool has no thread left.
            await anyio.sleep(self.timeout_seconds)
        (returned,) = await anyio.to_thread.run_sync(self._in_thread, abandon_on_cancel=True)
        return await returned if inspect.isawaitable(returned) else returned

    def _in_thread(self) -> tuple[object]:
        # Counted in the thread: a run that is given up while it waits for a thread never gets here.
        self._threads_in_use += 1
        try:
            # In a tuple, as a lambda may return a coroutine, and trio refuses a bare one from a thread.
            return (self._check(),)
        finally:
            self._threads_in_use -= 1

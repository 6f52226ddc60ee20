"""Simulated traffic: the same instruments are read by the windows and written out for a real Prometheus, tick by tick."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.samples import Sample

from sage_fastapi_obs.alerting.service_status import ServiceStatus
from sage_fastapi_obs.catalog import REQUEST_METRICS
from sage_fastapi_obs.health.readiness import Health
from sage_fastapi_obs.internal_errors import InternalErrors
from sage_fastapi_obs.metrics.http_series import HttpRequestSeries
from sage_fastapi_obs.metrics.registry_reader import RegistryReader
from sage_fastapi_obs.settings import Settings
from sage_fastapi_obs.store.history import History

INTERVAL = 15
LATENCIES = (0.01, 0.05, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0)


class World:
    """A service with HTTP requests, operations with results, and a circuit breaker, under a clock of its own."""

    def __init__(self, *, begin: bool = True, from_zero: bool = False, history: History | None = None, **settings: Any) -> None:
        self.now = 0.0
        self.wall = 1_767_225_600.0
        self.random = random.Random(7)
        self.registry = CollectorRegistry()
        self.requests = HttpRequestSeries(*REQUEST_METRICS)
        self.registry.register(self.requests)
        self.success = Counter("result_success_total", "s", ["operation"], registry=self.registry)
        self.failure = Counter("result_failure_total", "f", ["operation"], registry=self.registry)
        self.duration = Histogram("result_duration_seconds", "d", ["operation"], registry=self.registry, buckets=LATENCIES)
        self.breaker = Gauge("circuit_breaker_status", "c", ["name"], registry=self.registry)
        self.load = Gauge("load_ratio", "l", registry=self.registry)
        self.internal_errors = InternalErrors()
        self.said: list[tuple[str, str, dict[str, Any]]] = []
        self.status = ServiceStatus(
            Settings(**settings),
            RegistryReader(self.registry, self.internal_errors),
            Health(),
            self.internal_errors,
            lambda *line: self.said.append(line),
            from_zero=from_zero,
            history=history,
            clock=lambda: self.now,
            wall_clock=lambda: self.wall,
        )
        if begin:
            for status in ("200", "500"):
                self.request(status=status)
            for operation in ("pay", "lookup"):
                self.result(operation, times=0)

    def request(self, route: str = "/", status: str = "200", seconds: float = 0.03, times: int = 1) -> None:
        """Serve requests."""
        series = self.requests.with_values("GET", route, status)
        series.pending.extend([(round(seconds * 1_000_000), 10, 100, None, None)] * times)

    def result(self, operation: str = "pay", *, ok: bool = True, seconds: float = 0.03, times: int = 1) -> None:
        """Carry operations out."""
        for counter in (self.success, self.failure):
            counter.labels(operation)
        (self.success if ok else self.failure).labels(operation).inc(times)
        child = self.duration.labels(operation)
        for _ in range(times):
            child.observe(seconds)

    def restart(self) -> None:
        """Begin the results anew, as a restarted process does."""
        for instrument in (self.success, self.failure, self.duration):
            instrument.clear()
        for operation in ("pay", "lookup"):
            self.result(operation, times=0)

    def successor(self) -> "World":
        """Return the process that follows this one: it knows nothing, and judges what it counts from now on."""
        new = World(from_zero=True)
        new.now, new.wall, new.random = self.now, self.wall, self.random
        return new

    def tick(self, seconds: float = INTERVAL) -> None:
        """Let time pass."""
        self.now += seconds
        self.wall += seconds

    def samples(self) -> Iterator[Sample]:
        """Show what a scrape would see now, and that it was answered."""
        yield Sample("up", {}, 1.0)
        for family in self.registry.collect():
            yield from (sample for sample in family.samples if not sample.name.endswith("_created"))


@dataclass
class Story:
    """Traffic over some time."""

    name: str
    act: Callable[[World, int], None]
    ticks: int = 120
    late: bool = False
    """Whether series appear that a `rate` of Prometheus does not see begin."""
    cut: bool = False
    """Whether series end, or begin twice in a window: there Prometheus extrapolates."""
    begin: bool = True
    restart: int | None = None
    """When another process takes its place, which fills its windows from then on."""
    firing: tuple[str, ...] = ()
    """Rules that fire at some time."""


def _steady(world: World, tick: int) -> None:
    """Traffic of every day."""
    world.request(times=30)
    world.request(seconds=0.3, times=3)
    world.result(times=20)


def _errors(world: World, tick: int) -> None:
    _steady(world, tick)
    if 20 <= tick < 65:
        world.request(status="500", times=8)


def _slow(world: World, tick: int) -> None:
    world.request(seconds=1.7 if 20 <= tick < 90 else 0.04, times=10)


def _nothing(world: World, tick: int) -> None:
    pass


def _silence(world: World, tick: int) -> None:
    if tick < 40:
        _errors(world, tick)


def _restarts(world: World, tick: int) -> None:
    world.result(ok=False, times=world.random.randrange(1, 8))
    world.result(times=5, seconds=world.random.choice((0.02, 0.3, 3.0)))
    if tick in (33, 34, 70):
        world.restart()
        world.result(ok=False, times=2)


def _growth(world: World, tick: int) -> None:
    world.request(times=20)
    for _ in range(5):
        world.request(f"/new/{tick}", status="500" if 30 <= tick < 80 else "200")
    world.request(f"/new/{max(0, tick - 1)}", status="500" if 30 <= tick < 80 else "200", times=20)


def _failures(world: World, tick: int) -> None:
    world.result(times=30)
    if 20 <= tick < 30:
        world.result(ok=False, times=6)
    if 60 <= tick < 70:
        world.result(ok=False, times=11)


def _breaker(world: World, tick: int) -> None:
    world.breaker.labels("users").set(1 if 10 <= tick < 20 or 50 <= tick < 51 else 0)
    world.breaker.labels("orders").set(2)


def _flapping(world: World, tick: int) -> None:
    world.request(times=10)
    world.request(status="500", times=1 if tick // 8 % 2 else 0)


def _slow_results(world: World, tick: int) -> None:
    world.result(seconds=8.0 if 30 <= tick < 60 else 0.2, times=4)
    world.result("lookup", seconds=0.02, times=1)


def _ramp(world: World, tick: int) -> None:
    world.request(times=40)
    world.request(status="500", times=min(10, tick // 40))


def _late_errors(world: World, tick: int) -> None:
    world.request(times=10)
    if 30 <= tick < 70:
        world.request(status="503", times=5)
        world.result(ok=False, times=10)


def _extremes(world: World, tick: int) -> None:
    world.request(seconds=42.0 if tick % 2 else 0.0001, times=3)
    world.result(seconds=42.0, times=1)


def _rare(world: World, tick: int) -> None:
    if tick % 27 == 5:
        world.request(status="500")
        world.result(ok=False)


def _load(world: World, tick: int) -> None:
    _steady(world, tick)
    world.load.set(0.95 if 20 <= tick < 50 else 0.85 if 50 <= tick < 70 else 0.2)


def _new_failures(world: World, tick: int) -> None:
    """Operations that nobody has seen before fail all at once, and then never run again."""
    if tick in (30, 60):
        world.result(f"import {tick}", ok=False, times=60 if tick == 30 else 110)


def _one_slow(world: World, tick: int) -> None:
    """Run one operation a thousand times, fast, and another a few times, slow, in each case all at once."""
    world.result(seconds=0.02, times=50)
    if tick == 40:
        world.result("report", seconds=7.0, times=3)
        world.result("lookup", seconds=0.02, times=1_000)


def _born_and_reset(world: World, tick: int) -> None:
    """Let a new operation fail, and go on failing while the process begins anew within the window."""
    if 30 <= tick < 60:
        world.result("import", ok=False, times=4)
    if tick in (36, 40, 44):
        for instrument in (world.success, world.failure, world.duration):
            instrument.clear()


def _vanished(world: World, tick: int) -> None:
    """Series go one by one, while their rules fire or are about to, and some come back."""
    world.result(times=20, seconds=0.02)
    if tick < 50:
        world.result("job", times=0 if 20 <= tick < 35 else 10)
        world.result("lookup", ok=False, times=4, seconds=7.0)
        world.breaker.labels("users").set(1)
        world.breaker.labels("orders").set(1)
    if 30 <= tick < 70:
        world.load.set(0.95)
    if tick == 50:
        for instrument in (world.success, world.failure, world.duration):
            instrument.remove("lookup")
            instrument.remove("job")
        world.breaker.remove("users")
    if tick == 70:
        world.registry.unregister(world.load)
        world.registry.unregister(world.breaker)
    if tick == 90:
        world.registry.register(world.breaker)


def _all_kinds(world: World, tick: int) -> None:
    """Fail and be slow in every way, before a restart and after it."""
    world.request(times=20)
    world.request(status="500", seconds=2.0, times=3)
    world.result(ok=False, times=4)
    world.result("lookup", seconds=7.0, times=2)
    world.breaker.labels("users").set(1)


STORIES = [
    Story("steady", _steady),
    Story("errors", _errors, firing=("HighErrorRate", "by_route", "fast_burn", "sla_violation", "wavering")),
    Story("slow", _slow, firing=("HighResponseTime", "nobody_pays", "sla_violation", "slow_mean")),
    Story("nothing", _nothing, firing=("no_traffic", "nobody_pays")),
    Story(
        "silence",
        _silence,
        firing=("HighErrorRate", "by_route", "fast_burn", "no_traffic", "nobody_pays", "sla_violation", "wavering"),
    ),
    Story("restarts", _restarts, firing=("by_operation", "high_error_rate", "no_traffic")),
    Story(
        "growth",
        _growth,
        late=True,
        firing=("HighErrorRate", "by_route", "fast_burn", "nobody_pays", "sla_violation", "wavering"),
    ),
    Story("failures", _failures, firing=("critical_system_failure", "high_error_rate", "no_traffic")),
    Story("breaker", _breaker, firing=("circuit_breaker_activated", "no_traffic", "nobody_pays")),
    Story("flapping", _flapping, firing=("nobody_pays", "sla_violation", "wavering")),
    Story("slow results", _slow_results, firing=("by_operation", "no_traffic", "slow_api_response")),
    Story(
        "ramp", _ramp, ticks=320, firing=("HighErrorRate", "by_route", "fast_burn", "nobody_pays", "sla_violation", "wavering")
    ),
    Story(
        "late errors",
        _late_errors,
        late=True,
        begin=False,
        firing=(
            "HighErrorRate",
            "by_route",
            "critical_system_failure",
            "fast_burn",
            "high_error_rate",
            "nobody_pays",
            "sla_violation",
            "wavering",
        ),
    ),
    Story(
        "extremes", _extremes, firing=("HighResponseTime", "by_operation", "sla_violation", "slow_api_response", "slow_mean")
    ),
    Story("rare", _rare, firing=("fast_burn", "no_traffic", "nobody_pays", "sla_violation", "wavering")),
    Story("load", _load, firing=("overload",)),
    Story(
        "new failures",
        _new_failures,
        late=True,
        firing=("critical_system_failure", "high_error_rate", "no_traffic", "nobody_pays"),
    ),
    Story("one slow", _one_slow, late=True, firing=("by_operation", "no_traffic", "slow_api_response")),
    Story("born and reset", _born_and_reset, late=True, cut=True, firing=("high_error_rate", "no_traffic", "nobody_pays")),
    Story(
        "vanished",
        _vanished,
        cut=True,
        firing=(
            "by_operation",
            "circuit_breaker_activated",
            "high_error_rate",
            "idle_job",
            "no_traffic",
            "overload",
            "slow_api_response",
        ),
    ),
    Story(
        "another process",
        _all_kinds,
        ticks=160,
        restart=60,
        firing=(
            "HighErrorRate",
            "HighResponseTime",
            "by_operation",
            "circuit_breaker_activated",
            "fast_burn",
            "high_error_rate",
            "sla_violation",
            "slow_api_response",
            "wavering",
        ),
    ),
]

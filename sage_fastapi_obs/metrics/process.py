"""What the process and its interpreter use: memory, CPU, tasks, threads, pauses of the garbage collector, lag of the loop.

Most of it is read at a scrape. Only two things are measured all the time: a timer measures twice a second how late the event
loop is, and a callback of the garbage collector measures its pauses.
"""

import asyncio
import os
import threading
import time
import tracemalloc
from bisect import bisect_left
from collections.abc import Callable, Iterator
from itertools import accumulate
from pathlib import Path

import anyio.to_thread
from anyio import CapacityLimiter
from prometheus_client.core import Metric as Family
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample
from prometheus_client.utils import floatToGoString

from sage_fastapi_obs.catalog import RUNTIME_METRICS, Metric
from sage_fastapi_obs.internal_errors import InternalErrors
from sage_fastapi_obs.metrics.collector_pauses import CollectorPauses

TICK_SECONDS = 0.5
"""How often the lag of the event loop is measured: each time costs some ten microseconds."""
_SHORTEST_SAMPLE_SECONDS = 1.0
"""Minimum interval over which CPU usage is averaged."""
_GENERATIONS = 3
_STATUS = Path("/proc/self/status")
_QUOTA = Path("/sys/fs/cgroup/cpu.max")


class Runtime(Collector):
    """Watches the process from `start` to `stop`."""

    def __init__(self, internal_errors: InternalErrors, clock: Callable[[], int] = time.perf_counter_ns) -> None:
        self._internal_errors = internal_errors
        metrics = {metric.name: metric for metric in RUNTIME_METRICS}
        self._cpu = _CpuShare()
        self._pauses = [_Times(metrics["python_gc_pause_seconds"].buckets) for _ in range(_GENERATIONS)]
        self._lag = _Times(metrics["python_event_loop_lag_seconds"].buckets)
        self._collector = CollectorPauses(clock, self._collected)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tick: asyncio.TimerHandle | None = None
        self._due = 0.0
        self._limiter: CapacityLimiter | None = None
        self._read: dict[str, Callable[[Metric], Iterator[Sample]]] = {
            "process_cpu_usage_ratio": lambda metric: _value(metric, self._cpu()),
            "process_anonymous_memory_bytes": lambda metric: _value(metric, _anonymous_bytes()),
            "python_traced_memory_bytes": lambda metric: _value(metric, _traced_bytes()),
            "python_asyncio_tasks": lambda metric: _value(metric, self._tasks()),
            "python_threads": lambda metric: _value(metric, threading.active_count()),
            "python_gc_pause_seconds": self._pause_samples,
            "python_event_loop_lag_seconds": lambda metric: self._lag.samples(metric, {}),
            "python_threadpool_threads_busy": lambda metric: _value(metric, self._pool("borrowed_tokens")),
            "python_threadpool_threads_max": lambda metric: _value(metric, self._pool("total_tokens")),
            "python_threadpool_tasks_waiting": lambda metric: _value(metric, self._pool("tasks_waiting")),
        }

    def start(self) -> None:
        """Start; in an event loop also for that loop and its pool of threads."""
        self._collector.start()
        try:
            self._limiter = anyio.to_thread.current_default_thread_limiter()
            self._loop = asyncio.get_running_loop()
        except RuntimeError:
            # Outside of an event loop there is neither. Trio has a pool, and no clock to compare with.
            return
        self._wait()

    def stop(self) -> None:
        """Stop; in the thread of the event loop, if it was started there."""
        self._collector.stop()
        tick, self._tick, self._loop, self._limiter = self._tick, None, None, None
        if tick is not None:
            tick.cancel()

    def collect(self) -> Iterator[Family]:
        """Yield all families; empty where the system or the loop does not have the number."""
        for metric in RUNTIME_METRICS:
            family = _family(metric)
            try:
                family.samples = [*self._read[metric.name](metric)]
            except Exception as error:
                self._internal_errors.count("Runtime", error)
            yield family

    def describe(self) -> Iterator[Family]:
        """Yield all families without samples."""
        return map(_family, RUNTIME_METRICS)

    def _wait(self) -> None:
        assert self._loop is not None
        self._due = self._loop.time() + TICK_SECONDS
        self._tick = self._loop.call_at(self._due, self._ticked)

    def _ticked(self) -> None:
        if self._loop is None:
            return
        self._lag.add(max(0.0, self._loop.time() - self._due))
        self._wait()

    def _collected(self, generation: int, pause_ns: int) -> None:
        self._pauses[generation].add(pause_ns / 1_000_000_000)

    def _pause_samples(self, metric: Metric) -> Iterator[Sample]:
        for generation, pauses in enumerate(self._pauses):
            yield from pauses.samples(metric, {"generation": str(generation)})

    def _tasks(self) -> int | None:
        if self._loop is None:
            return None
        try:
            return len(asyncio.all_tasks(self._loop))
        except RuntimeError:
            # In another thread, the set of tasks may change all the time.
            return None

    def _pool(self, what: str) -> float | None:
        return None if self._limiter is None else float(getattr(self._limiter.statistics(), what))


class _Times:
    """A histogram for one writing thread at a time: a tenth of the cost of one with a lock."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._seconds = 0.0

    def add(self, seconds: float) -> None:
        self._counts[bisect_left(self._bounds, seconds)] += 1
        self._seconds += seconds

    def samples(self, metric: Metric, labels: dict[str, str]) -> Iterator[Sample]:
        counts = [*accumulate(self._counts)]
        for bound, count in zip((*map(floatToGoString, self._bounds), "+Inf"), counts, strict=True):
            yield Sample(f"{metric.name}_bucket", {**labels, "le": bound}, float(count))
        yield Sample(f"{metric.name}_count", labels, float(counts[-1]))
        yield Sample(f"{metric.name}_sum", labels, self._seconds)


class _CpuShare:
    """CPU seconds per second and available core, since the previous reading."""

    def __init__(self) -> None:
        self._cores = _cores()
        self._cpu, self._at = time.process_time(), time.monotonic()
        self._share = 0.0

    def __call__(self) -> float:
        cpu, at = time.process_time(), time.monotonic()
        elapsed = at - self._at
        if elapsed >= _SHORTEST_SAMPLE_SECONDS:
            self._share = min(1.0, (cpu - self._cpu) / elapsed / self._cores)
            self._cpu, self._at = cpu, at
        return self._share


def _cores() -> float:
    """Count the cores that this process may use: a container's quota may be below the cores of the machine."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = float(len(affinity(0)) if affinity else os.cpu_count() or 1)
    try:
        quota, period = _QUOTA.read_text().split()
        return min(cores, int(quota) / int(period))
    except (OSError, ValueError):
        return cores


def _anonymous_bytes() -> int | None:
    try:
        status = _STATUS.read_text()
    except OSError:
        return None
    _, found, rest = status.partition("RssAnon:")
    return int(rest.split(maxsplit=1)[0]) * 1024 if found else None


def _traced_bytes() -> int | None:
    return tracemalloc.get_traced_memory()[0] if tracemalloc.is_tracing() else None


def _value(metric: Metric, value: float | None) -> Iterator[Sample]:
    if value is not None:
        yield Sample(metric.name, {}, float(value))


def _family(metric: Metric) -> Family:
    return Family(metric.name, metric.help, metric.type, metric.unit)

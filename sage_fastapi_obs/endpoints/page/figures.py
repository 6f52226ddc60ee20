"""The figures of the overview: what each is computed from, over a window and step by step.

A figure that cannot be computed says why; one without a value and a reason has no data yet. None is made up.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

from pydantic import BaseModel

from sage_fastapi_obs.alerting.label_matchers import Where
from sage_fastapi_obs.alerting.service_status import ServiceStatus
from sage_fastapi_obs.alerting.window import Window
from sage_fastapi_obs.privacy.exception_name import class_name
from sage_fastapi_obs.settings import MetricsSettings

MOST_STEPS = 60
_MOST_LENGTHS = 8
_DIGITS = 4
_FAILED: Where = {"status": "=~5.."}

Compute: TypeAlias = Callable[[Window], float | None]
Step: TypeAlias = dict[str, float | None]


class Figure(BaseModel):
    """A figure: a value; no data yet, where both are null; or why it cannot be read."""

    value: float | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class _Source:
    """Where a figure comes from."""

    pack: str
    """Without this pack of metrics it is not measured."""
    compute: Compute
    is_newest: bool = False
    """Whether it is of the end of a window, however long."""


def _increase(window: Window, where: Where | None = None) -> float | None:
    """Count requests; None until there is a second sample."""
    if not window.covered_seconds:
        return None
    return sum(one.increase for one in window.counter("http_requests_total", where).values())


def _per_second(window: Window, where: Where | None = None) -> float | None:
    """Divide by the time that was watched: a service that has just started has no rate of five minutes."""
    count = _increase(window, where)
    return None if count is None else count / window.covered_seconds


def _error_share(window: Window) -> float | None:
    count, failed = _increase(window), _increase(window, _FAILED)
    return failed / count if count and failed is not None else None


def _milliseconds(window: Window, metric: str, quantile: str) -> float | None:
    stats = window.histogram(metric).get(())
    seconds = None if stats is None else stats.figure(quantile)
    return None if seconds is None else seconds * 1000


def _total(window: Window, metric: str) -> float | None:
    stats = window.gauge(metric).get(())
    return None if stats is None else stats.total


def _pool_use(window: Window) -> float | None:
    """Return the share of connections in use of the pool that is fullest; None where none has a limit."""
    limits = window.gauge("db_client_connection_max", by=["pool"])
    used = window.gauge("db_client_connection_count", {"state": "used"}, ["pool"])
    shares = (stats.total / limits[pool].total for pool, stats in used.items() if pool in limits and limits[pool].total)
    return max(shares, default=None)


def _latency(quantile: str) -> _Source:
    return _Source("http", partial(_milliseconds, metric="http_request_duration_seconds", quantile=quantile))


def _newest(pack: str, metric: str) -> _Source:
    return _Source(pack, partial(_total, metric=metric), is_newest=True)


_SOURCES = {
    "requests_per_second": _Source("http", _per_second),
    "errors_per_second": _Source("http", partial(_per_second, where=_FAILED)),
    "error_share": _Source("http", _error_share),
    "p50_ms": _latency("p50"),
    "p95_ms": _latency("p95"),
    "p99_ms": _latency("p99"),
    "in_flight": _newest("http", "http_requests_in_flight"),
    "loop_lag_ms": _Source("runtime", partial(_milliseconds, metric="python_event_loop_lag_seconds", quantile="p99")),
    "cpu_share": _newest("runtime", "process_cpu_usage_ratio"),
    "memory_bytes": _newest("runtime", "process_resident_memory_bytes"),
    "threads_busy": _newest("runtime", "python_threadpool_threads_busy"),
    "threads_limit": _newest("runtime", "python_threadpool_threads_max"),
    "pool_use": _Source("dependencies", _pool_use, is_newest=True),
}
"""By name. Shares are 0 to 1; of several workers all together."""
_OPTIONAL = frozenset({"dependencies"})
"""A service without one of these packs lacks nothing."""


class Figures:
    """Computes the figures of one service."""

    def __init__(self, status: ServiceStatus, settings: MetricsSettings) -> None:
        self._status = status
        self._settings = settings
        self._steps: dict[float, dict[tuple[float, float], Step]] = {}
        """By the length of a window, what was computed of its past; by end and length of each step."""

    def over(self, seconds: float) -> dict[str, Figure]:
        """Compute all of them over the last seconds before the last sample."""
        window, newest = self._status.view(seconds), self._status.view(self._status.interval_seconds)
        return {name: self._figure(source, newest if source.is_newest else window) for name, source in _SOURCES.items()}

    def series(self, seconds: float) -> dict[str, list[float | None]]:
        """Compute them step by step, with the Unix time of the end of each step as `time`; steps that stay are remembered."""
        known = self._steps.pop(seconds, {})
        windows = {(window.ended_at, window.seconds): window for window in self._status.windows.steps(seconds, MOST_STEPS)}
        steps = {key: known.get(key) or self._step(window) for key, window in windows.items()}
        self._steps[seconds] = steps
        if len(self._steps) > _MOST_LENGTHS:
            del self._steps[next(iter(self._steps))]
        values = {name: [step[name] for step in steps.values()] for name in _SOURCES}
        return {"time": [round(ended_at, 1) for ended_at, _ in steps], **values}

    def unreadable(self, reason: str) -> dict[str, Figure]:
        """Say of all of them why they cannot be read."""
        return dict.fromkeys(_SOURCES, Figure(reason=reason))

    def _figure(self, source: _Source, window: Window) -> Figure:
        if (reason := self._lack(source.pack)) is not None:
            return Figure(reason=reason)
        try:
            return Figure(value=_rounded(source.compute(window)))
        except Exception as error:
            return Figure(reason=f"it could not be computed: {class_name(error)}")

    def _step(self, window: Window) -> Step:
        return {name: self._figure(source, window).value for name, source in _SOURCES.items()}

    def _lack(self, pack: str) -> str | None:
        if not self._settings.enabled:
            return "metrics are switched off: metrics.enabled"
        if pack in self._settings.packs or pack in _OPTIONAL:
            return None
        return f"not measured: metrics.packs lacks {pack}"


def _rounded(value: float | None) -> float | None:
    """Keep what people can see: the document is sent often."""
    return None if value is None else float(f"{value:.{_DIGITS}g}")

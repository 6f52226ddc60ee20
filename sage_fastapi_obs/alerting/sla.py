"""Service levels: what was promised, whether it is kept, and how much of the error budget is left."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from sage_fastapi_obs.alerting.window_stats import HistogramStats
from sage_fastapi_obs.alerting.windows import Where, Window
from sage_fastapi_obs.settings import SlaSettings

__all__ = ["HTTP", "RESULTS", "Compliance", "ServiceLevels", "Source", "Traffic"]


@dataclass(frozen=True, slots=True)
class Source:
    """Where the traffic of a service is counted and timed."""

    total: tuple[tuple[str, Where], ...]
    """Counters of everything, with what labels must be."""
    failed: tuple[tuple[str, Where], ...]
    """Counters of what failed."""
    duration: str
    """Histogram of durations in seconds."""


HTTP = Source((("http_requests_total", {}),), (("http_requests_total", {"status": "=~5.."}),), "http_request_duration_seconds")
"""HTTP requests; those that are answered 5xx have failed."""
RESULTS = Source(
    (("result_success_total", {}), ("result_failure_total", {})), (("result_failure_total", {}),), "result_duration_seconds"
)
"""Operations that return a `Result`."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """What a service did over a window."""

    total: float
    failed: float
    durations: HistogramStats | None

    @property
    def error_ratio(self) -> float:
        """Share of what failed, 0 to 1; 0 without traffic."""
        return self.failed / self.total if self.total else 0.0


@dataclass(frozen=True, slots=True)
class Compliance:
    """Targets held against a window. Shares are percentages, times milliseconds."""

    minutes: float
    compliant: bool
    violations: tuple[str, ...]
    """What is not kept, in words."""
    targets: Mapping[str, float]
    actual: Mapping[str, float | None]
    """By the name of the target; None where nothing was measured."""
    error_budget_left: float | None
    """Share of the failures allowed in this window that is left, in percent; below 0 when more failed; None without any."""
    burn_rate: float | None
    """How many times faster than allowed the budget is used up."""


class ServiceLevels:
    """The targets of a service, and how it does."""

    def __init__(self, settings: SlaSettings, view: Callable[[float], Window]) -> None:
        """`view`: returns the window of so many seconds."""
        self._view = view
        self.targets: dict[str, float] = {name: target for name, target in settings if target is not None}
        """Availability and error rate in percent, response times in milliseconds, time to recover in minutes."""

    def traffic(self, minutes: float, source: Source = HTTP) -> Traffic:
        """Return what the service did over the last minutes."""
        window = self._view(minutes * 60)

        def risen(counters: tuple[tuple[str, Where], ...]) -> float:
            return sum(one.increase for name, where in counters for one in window.counted(name, where).values())

        return Traffic(risen(source.total), risen(source.failed), window.observed(source.duration).get(()))

    def compliance(self, minutes: float = 60, source: Source = HTTP, targets: Mapping[str, float] | None = None) -> Compliance:
        """Hold targets, by default those of the settings, against the last minutes; without traffic all are kept."""
        wanted = self.targets if targets is None else targets
        traffic = self.traffic(minutes, source)
        measured = _measured(traffic)
        violations = [
            f"{name} is {found:.4g} {unit}, {'below' if at_least else 'above'} {wanted[name]:g} {unit}"
            for name, (unit, at_least) in _JUDGED.items()
            if name in wanted and (found := measured[name]) is not None and _is_violated(found, wanted[name], at_least=at_least)
        ]
        burn_rate = _burn_rate(traffic, wanted)
        return Compliance(
            minutes=minutes,
            compliant=not violations,
            violations=tuple(violations),
            targets=dict(wanted),
            actual=measured,
            error_budget_left=None if burn_rate is None else round((1 - burn_rate) * 100, 6),
            burn_rate=burn_rate,
        )


_JUDGED = {
    "availability": ("%", True),
    "error_rate": ("%", False),
    "response_time_p95_ms": ("ms", False),
    "response_time_mean_ms": ("ms", False),
}
"""Targets that can be violated, with their units, and whether they are the least or the most."""


def _measured(traffic: Traffic) -> dict[str, float | None]:
    durations = traffic.durations
    seconds = (None, None, None) if durations is None else (durations.quantile(0.95), durations.mean, durations.max)
    p95, mean, longest = (None if one is None else round(one * 1000, 6) for one in seconds)
    failed = round(traffic.error_ratio * 100, 9) if traffic.total else None
    return {
        "availability": None if failed is None else 100 - failed,
        "error_rate": failed,
        "response_time_p95_ms": p95,
        "response_time_mean_ms": mean,
        "max_response_ms": longest,
    }


def _is_violated(found: float, target: float, *, at_least: bool) -> bool:
    return found < target if at_least else found > target


def _burn_rate(traffic: Traffic, targets: Mapping[str, float]) -> float | None:
    """Hold the share of failures against what the strictest target allows; None where no failure is allowed, or all are."""
    shares = [targets[name] if name == "error_rate" else 100 - targets[name] for name in _BUDGETS if name in targets]
    allowed = min(shares, default=0.0) / 100
    return traffic.error_ratio / allowed if allowed > 0 else None


_BUDGETS = ("availability", "error_rate")

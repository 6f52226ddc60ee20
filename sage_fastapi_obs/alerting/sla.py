"""Service levels: the targets of a service, whether they are met, and how much of the error budget is left."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from sage_fastapi_obs.alerting.label_matchers import Where
from sage_fastapi_obs.alerting.window import Window
from sage_fastapi_obs.alerting.window_stats import HistogramStats
from sage_fastapi_obs.settings import SlaSettings


@dataclass(frozen=True, slots=True)
class TrafficSource:
    """Where the traffic of a service is counted and timed."""

    total: tuple[tuple[str, Where], ...]
    """Counters of everything, with matchers of their labels."""
    failed: tuple[tuple[str, Where], ...]
    """Counters of failures."""
    duration: str
    """Histogram of durations in seconds."""


HTTP = TrafficSource(
    (("http_requests_total", {}),), (("http_requests_total", {"status": "=~5.."}),), "http_request_duration_seconds"
)
"""HTTP requests; those answered 5xx have failed."""
RESULTS = TrafficSource(
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
        """Share of failures, 0 to 1; 0 without traffic."""
        return self.failed / self.total if self.total else 0.0


@dataclass(frozen=True, slots=True)
class Compliance:
    """A window compared to targets. Shares are percentages, times milliseconds."""

    minutes: float
    compliant: bool
    violations: tuple[str, ...]
    """Targets that are not met, in words."""
    targets: Mapping[str, float]
    actual: Mapping[str, float | None]
    """By the name of the target; None where nothing was measured."""
    error_budget_left: float | None
    """Percentage left of the failures allowed in this window; below 0 when more failed; None where none is allowed."""
    burn_rate: float | None
    """How many times faster than allowed the budget is used up."""


class ServiceLevels:
    """The targets of a service, compared to its windows."""

    def __init__(self, settings: SlaSettings, view: Callable[[float], Window]) -> None:
        """`view`: returns the window of so many seconds."""
        self._settings = settings
        self._view = view
        self.targets: dict[str, float] = {name: target for name, target in settings if target is not None}
        """Availability and error rate in percent, response times in milliseconds, time to recover in minutes."""

    def with_view(self, view: Callable[[float], Window]) -> "ServiceLevels":
        """Return the same targets, compared to other windows."""
        return ServiceLevels(self._settings, view)

    def traffic(self, minutes: float, source: TrafficSource = HTTP) -> Traffic:
        """Return what the service did over the last minutes."""
        window = self._view(minutes * 60)

        def increase(counters: tuple[tuple[str, Where], ...]) -> float:
            return sum(one.increase for name, where in counters for one in window.counter(name, where).values())

        return Traffic(increase(source.total), increase(source.failed), window.histogram(source.duration).get(()))

    def compliance(
        self,
        minutes: float = 60,
        source: TrafficSource = HTTP,
        targets: Mapping[str, float] | None = None,
        *,
        as_prometheus: bool = False,
    ) -> Compliance:
        """Compare the last minutes to targets, by default those of the settings; without traffic all are met.

        `as_prometheus`: estimate the quantile from the buckets alone, as a rule does; else it keeps within the true extremes.
        """
        wanted = dict(self.targets if targets is None else targets)
        traffic = self.traffic(minutes, source)
        actual = _measured(traffic, as_prometheus)
        burn_rate = _burn_rate(traffic, wanted)
        violations = tuple(_violations(actual, wanted))
        return Compliance(
            minutes=minutes,
            compliant=not violations,
            violations=violations,
            targets=wanted,
            actual=actual,
            error_budget_left=None if burn_rate is None else round((1 - burn_rate) * 100, 6),
            burn_rate=burn_rate,
        )


_UNITS = {"availability": "%", "error_rate": "%", "response_time_p95_ms": "ms", "response_time_mean_ms": "ms"}
"""Targets that can be violated. Availability is a minimum, the others are maxima."""


def _measured(traffic: Traffic, as_prometheus: bool) -> dict[str, float | None]:
    durations = traffic.durations
    seconds: tuple[float | None, ...] = (None, None, None)
    if durations is not None:
        seconds = (durations.quantile(0.95) if as_prometheus else durations.figure("p95"), durations.mean, durations.max)
    p95, mean, longest = (None if one is None else round(one * 1000, 6) for one in seconds)
    failed = round(traffic.error_ratio * 100, 9) if traffic.total else None
    return {
        "availability": None if failed is None else 100 - failed,
        "error_rate": failed,
        "response_time_p95_ms": p95,
        "response_time_mean_ms": mean,
        "max_response_ms": longest,
    }


def _violations(actual: Mapping[str, float | None], targets: Mapping[str, float]) -> Iterator[str]:
    for name, unit in _UNITS.items():
        value, target = actual[name], targets.get(name)
        if value is None or target is None:
            continue
        side, violated = ("below", value < target) if name == "availability" else ("above", value > target)
        if violated:
            yield f"{name} is {value:.4g} {unit}, {side} {target:g} {unit}"


def _burn_rate(traffic: Traffic, targets: Mapping[str, float]) -> float | None:
    """Divide the share of failures by what the strictest target allows; None where it allows none, or there is no target."""
    allowed = [100 - targets["availability"]] if "availability" in targets else []
    allowed += [targets["error_rate"]] if "error_rate" in targets else []
    share = min(allowed, default=0.0) / 100
    return traffic.error_ratio / share if share > 0 else None

"""What the routes of a service did in the last seconds: all of them side by side, and one of them in detail.

A route is told by its method and template. Both may come from a question, so they are compared, and never read as patterns.
"""

from collections.abc import Callable

from pydantic import BaseModel

from sage_fastapi_obs.alerting.service_status import ServiceStatus
from sage_fastapi_obs.alerting.summary import RouteFigures, busiest_routes
from sage_fastapi_obs.alerting.window import Group, Window
from sage_fastapi_obs.alerting.window_stats import HistogramStats

MOST_ROUTES = 200
MOST_STEPS = 60
_MOST_SPARKS = 30
_DURATION = "http_request_duration_seconds"
_REQUESTS = "http_requests_total"
_ROUTE = ("method", "route")

Series = list[float | None]


class RouteRow(RouteFigures):
    """One route beside others."""

    requests: Series
    """Requests per second from one sample to the next."""


class RoutesReport(BaseModel):
    """The routes with most requests."""

    seconds: float
    covered_seconds: float
    """How much of them the service has been watched for: `rate` is per second of all, a true rate per second of this."""
    routes: list[RouteRow]
    routes_total: int
    """How many there are."""


class InvalidPlace(BaseModel):
    """A place in requests, or responses, that was not valid."""

    location: str
    kind: str
    count: float


class RouteDetail(BaseModel):
    """One route; series are from one sample to the next."""

    seconds: float
    covered_seconds: float
    route: RouteFigures | None
    """Null if it had no requests."""
    time: list[float]
    """Unix times of the ends of all steps."""
    series: dict[str, Series]
    """Requests per second, and p50, p95 and p99 in milliseconds."""
    bounds_ms: list[float]
    """Upper bounds of the buckets of durations; the last bucket has none."""
    counts: list[list[float]]
    """By step, requests of each bucket, one more than bounds."""
    statuses: dict[str, float]
    """Requests by status."""
    causes: dict[str, float]
    """Slow requests of the route, by what cost them most; of all methods."""
    invalid: list[InvalidPlace]
    """What of its requests was not valid; of all methods."""


class RouteReports:
    """Describes the routes of one service."""

    def __init__(self, status: ServiceStatus) -> None:
        self._status = status

    def list(self, seconds: float) -> RoutesReport:
        """Describe the routes with most requests."""
        window = self._status.view(seconds)
        total, routes = busiest_routes(window, MOST_ROUTES)
        rates = [_rates(step) for step in self._status.windows.steps(seconds, _MOST_SPARKS)]
        rows = [RouteRow(**dict(route), requests=[step.get((route.method, route.route)) for step in rates]) for route in routes]
        return RoutesReport(seconds=seconds, covered_seconds=window.covered_seconds, routes=rows, routes_total=total)

    def detail(self, method: str, route: str, seconds: float) -> RouteDetail:
        """Describe one route."""
        window, group = self._status.view(seconds), (method, route)
        steps = [(step.ended_at, _durations(step, group)) for step in self._status.windows.steps(seconds, MOST_STEPS)]
        bounds = next((stats.bounds for _, stats in steps if stats is not None), ())
        return RouteDetail(
            seconds=seconds,
            covered_seconds=window.covered_seconds,
            route=next((one for one in busiest_routes(window, None)[1] if (one.method, one.route) == group), None),
            time=[ended_at for ended_at, _ in steps],
            series={name: [_of(stats, read) for _, stats in steps] for name, read in _SERIES.items()},
            bounds_ms=[bound * 1000 for bound in bounds],
            counts=[[*stats.counts] if stats is not None else [] for _, stats in steps],
            statuses=_counts(window, _REQUESTS, "status", group),
            causes=_counts(window, "http_slow_requests_total", "cause", (route,)),
            invalid=_invalid(window, route),
        )


def _quantile(name: str) -> Callable[[HistogramStats], float | None]:
    def milliseconds(stats: HistogramStats) -> float | None:
        seconds = stats.figure(name)
        return None if seconds is None else seconds * 1000

    return milliseconds


_SERIES: dict[str, Callable[[HistogramStats], float | None]] = {
    "requests_per_second": lambda stats: stats.rate,
    **{f"{name}_ms": _quantile(name) for name in ("p50", "p95", "p99")},
}


def _of(stats: HistogramStats | None, read: Callable[[HistogramStats], float | None]) -> float | None:
    return None if stats is None else read(stats)


def _rates(step: Window) -> dict[Group, float]:
    return {group: stats.rate for group, stats in step.counter(_REQUESTS, by=_ROUTE).items()}


def _durations(step: Window, group: Group) -> HistogramStats | None:
    return step.histogram(_DURATION, by=_ROUTE, only=[group]).get(group)


def _counts(window: Window, name: str, by: str, group: Group) -> dict[str, float]:
    """Count by one label what belongs to a route; `group`: its method and template, or its template."""
    labels = _ROUTE[-len(group) :]
    found = window.counter(name, by=(*labels, by)).items()
    return {value: one.increase for (*of, value), one in found if tuple(of) == group and one.increase}


def _invalid(window: Window, route: str) -> list[InvalidPlace]:
    found = window.counter("http_validation_errors_total", by=("route", "location", "kind")).items()
    places = [
        InvalidPlace(location=location, kind=kind, count=one.increase)
        for (of, location, kind), one in found
        if of == route and one.increase
    ]
    return sorted(places, key=lambda place: -place.count)

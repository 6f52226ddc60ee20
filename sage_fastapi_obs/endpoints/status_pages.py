"""How the service is doing, for people and programs: health, alerts, service levels, summaries."""

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, RootModel
from starlette.requests import Request
from starlette.responses import Response

from sage_fastapi_obs.alerting.alert_states import State
from sage_fastapi_obs.alerting.alerts import AlertSummary, timestamp
from sage_fastapi_obs.alerting.rfs_summary import DashboardData, MetricsSummary, dashboard_data, rfs_summary, rule_summaries
from sage_fastapi_obs.alerting.service_status import ServiceStatus
from sage_fastapi_obs.alerting.sla import HTTP, RESULTS
from sage_fastapi_obs.alerting.summary import (
    RuleSummary,
    SlowOperation,
    Summary,
    slow_operations,
    summary_of,
)
from sage_fastapi_obs.endpoints.access import Access
from sage_fastapi_obs.endpoints.background_worker import in_page_thread
from sage_fastapi_obs.endpoints.json_page import Handler, JsonPage, PageQuery, ResponseCache, json_response
from sage_fastapi_obs.health.readiness import CheckResult, HealthReport, ProbeStatus
from sage_fastapi_obs.workers.other_workers import Sibling, Workers

_MOST_MINUTES = 7 * 24 * 60
PROBLEMS = {
    401: "A bearer token is needed.",
    403: "Not open to this client.",
    404: "Served on a port of its own.",
    503: "Too many are waiting.",
}


Report: TypeAlias = Callable[[], Awaitable[HealthReport]]


class StrictQuery(PageQuery):
    """Whether a service that is not well is an error."""

    strict: bool = False
    """Answer 503 when degraded."""


class MinutesQuery(PageQuery):
    """A window in minutes."""

    minutes: int = Field(default=60, ge=1, le=_MOST_MINUTES)
    """Length of the window."""


class HoursQuery(PageQuery):
    """A window in hours."""

    hours: int = Field(default=1, ge=1, le=168)
    """Length of the window."""


class SlaQuery(MinutesQuery):
    """A window, and the source of its traffic: HTTP or results."""

    source: Literal["http", "result"] = "http"
    """HTTP requests, or operations that return a result."""


class SlowQuery(MinutesQuery):
    """A window, and what is slow."""

    threshold_ms: float = Field(default=5000.0, ge=0.0, le=86_400_000.0, allow_inf_nan=False)
    """Least 95th percentile, in milliseconds."""


class LiveResponse(BaseModel):
    """The process answers."""

    status: Literal["alive"]


class ReadyResponse(BaseModel):
    """Whether the process should get traffic."""

    status: ProbeStatus
    checks: list[CheckResult] | None = None
    """Only for those who may see request data."""


class StartupResponse(BaseModel):
    """Whether the process has been ready once."""

    status: Literal["started", "starting"]


class WorkersHealth(BaseModel):
    """How many workers there are, and which of them do not work."""

    running: int
    hanging: list[int]
    """Those whose event loop does not turn."""
    stopped: list[int]
    """Those of which no thread runs."""


class HealthResponse(BaseModel):
    """Whether all is well: checks pass, no alert fires, the rules are judged, and all workers work."""

    status: Literal["healthy", "degraded"]
    active_alerts: int
    timestamp: str
    checks: list[CheckResult]
    workers: WorkersHealth | None = None
    """Only where there are several."""


class AlertsResponse(BaseModel):
    """Alerts that are pending, firing or just over, and all rules."""

    active_alerts: list[AlertSummary]
    pending_alerts: list[AlertSummary]
    resolved_alerts: list[AlertSummary]
    alert_rules: list[RuleSummary]
    notifications: dict[str, int]
    """What became of notifications since the start."""


class MetricsResponse(RootModel[MetricsSummary]):
    """What `get_metrics_summary()` returns."""


class DashboardResponse(RootModel[DashboardData]):
    """What `get_dashboard_data()` returns."""


class SlaResponse(BaseModel):
    """Whether the promises are kept; shares in percent, times in milliseconds."""

    model_config = ConfigDict(from_attributes=True)

    sla_compliant: bool = Field(validation_alias="compliant")
    violations: list[str]
    targets: dict[str, float]
    actual: dict[str, float | None]
    error_budget_left: float | None
    burn_rate: float | None
    minutes: float
    covered_seconds: float = 0.0
    """How much of the window this process has been watched for."""


class SlowResponse(BaseModel):
    """Slow operations, slowest first."""

    operations: list[SlowOperation]


class StatusPages:
    """Answers for one service."""

    def __init__(self, access: Access, status: ServiceStatus, workers: Workers, report: Report, *, judged: bool) -> None:
        """`report`: runs the health checks.

        `judged`: rules are expected to be judged, so that the service is degraded when they are not.
        """
        self._access = access
        self._status = status
        self._workers = workers
        self._report = report
        self._judged = judged
        self._cache = ResponseCache(status.clock)

    def pages(self) -> list[JsonPage]:
        """List the pages; probes are open to everyone."""
        probe = partial(JsonPage, other_statuses={503: "Not now."})
        guarded = partial(JsonPage, guard=self._access.rejection, problems=PROBLEMS)
        health = partial(guarded, other_statuses={503: "Degraded."})
        cached = self._cached
        summary, metrics = cached(self._summary), cached(self._metrics)
        return [
            JsonPage("/health/live", "live", "Whether the process answers", self._live, LiveResponse),
            probe("/health/ready", "ready", "Whether to send traffic", self._ready, ReadyResponse),
            probe("/health/startup", "startup", "Whether it has been ready", self._startup, StartupResponse),
            health("/health", "health", "Whether all is well", self._health, HealthResponse, StrictQuery),
            guarded("/summary", "summary", "What happened in the last minutes", summary, Summary, MinutesQuery),
            guarded("/metrics", "metrics_summary", "What happened in some hours", metrics, MetricsResponse, HoursQuery),
            guarded("/dashboard", "dashboard", "All that a dashboard shows", cached(self._dashboard), DashboardResponse),
            guarded("/alerts", "alerts", "Alerts and rules", cached(self._alerts), AlertsResponse),
            guarded("/sla", "sla", "Whether promises are kept", cached(self._sla), SlaResponse, SlaQuery),
            guarded("/operations/slow", "slow", "Slow operations", cached(self._slow), SlowResponse, SlowQuery),
        ]

    async def _live(self, _query: PageQuery, _request: Request) -> Response:
        """Alive as long as it answers: a dependency that is down must not restart the process."""
        return json_response(LiveResponse(status="alive"))

    async def _ready(self, _query: PageQuery, request: Request) -> Response:
        health = await self._report()
        checks = health.checks if self._access.rejection(request) is None else None
        return json_response(ReadyResponse(status=health.status, checks=checks), 200 if health.accepts_traffic else 503)

    async def _startup(self, _query: PageQuery, _request: Request) -> Response:
        health = self._status.health
        if not health.has_started:
            await self._report()
        if health.has_started:
            return json_response(StartupResponse(status="started"))
        return json_response(StartupResponse(status="starting"), 503)

    async def _health(self, query: StrictQuery, _request: Request) -> Response:
        response = await self.health()
        return json_response(response, 503 if query.strict and response.status == "degraded" else 200)

    async def health(self) -> HealthResponse:
        """Tell whether all is well."""
        health = await self._report()
        firing = len(self._status.alerts.alerts("firing"))
        # In a thread, as there may be many of them.
        found = await in_page_thread(self._workers.find)
        workers = _health_of(found, self._workers.clock())
        is_judged = self._status.is_active or not self._judged
        healthy = health.status == "ready" and not firing and is_judged and not (workers.hanging or workers.stopped)
        return HealthResponse(
            status="healthy" if healthy else "degraded",
            active_alerts=firing,
            timestamp=timestamp(self._status.wall_clock()),
            checks=health.checks,
            workers=workers if len(found) > 1 else None,
        )

    def _cached(self, make: Callable[[Any], BaseModel]) -> Handler:
        """Build the handler of a page that is made of windows and alerts as they are now."""

        async def handler(query: PageQuery, _request: Request) -> Response:
            def make_now() -> BaseModel:
                self._status.refresh(most_seconds=1.0)
                return make(query)

            return await self._cache.response((make, query), make_now)

        return handler

    def _summary(self, query: MinutesQuery) -> Summary:
        return summary_of(self._status.view(query.minutes * 60))

    def _metrics(self, query: HoursQuery) -> MetricsResponse:
        return MetricsResponse(rfs_summary(self._status, query.hours * 3600))

    def _dashboard(self, _query: PageQuery) -> DashboardResponse:
        return DashboardResponse(dashboard_data(self._status))

    def _alerts(self, _query: PageQuery) -> AlertsResponse:
        return AlertsResponse(
            active_alerts=self._alerts_that_are("firing"),
            pending_alerts=self._alerts_that_are("pending"),
            resolved_alerts=self._alerts_that_are("resolved"),
            alert_rules=rule_summaries(self._status),
            notifications={**self._status.notifications.counts},
        )

    def _sla(self, query: SlaQuery) -> SlaResponse:
        compliance = self._status.sla.compliance(query.minutes, HTTP if query.source == "http" else RESULTS)
        covered = self._status.view(query.minutes * 60).covered_seconds
        return SlaResponse.model_validate(compliance).model_copy(update={"covered_seconds": covered})

    def _slow(self, query: SlowQuery) -> SlowResponse:
        return SlowResponse(operations=slow_operations(self._status.view(query.minutes * 60), query.threshold_ms))

    def _alerts_that_are(self, state: State) -> list[AlertSummary]:
        return [alert.summary() for alert in self._status.alerts.alerts(state)]


def _health_of(workers: Sequence[Sibling], now: float) -> WorkersHealth:
    states = [(worker.state(now), worker.number) for worker in workers]
    found = {state: [number for its, number in states if its == state] for state in ("running", "hanging", "stopped")}
    return WorkersHealth(running=len(found["running"]), hanging=found["hanging"], stopped=found["stopped"])

"""How the service is doing, for people and programs: health, alerts, service levels, summaries."""

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response

from sage_fastapi_obs.alerting.alerts import timestamp
from sage_fastapi_obs.alerting.service_status import ServiceStatus
from sage_fastapi_obs.alerting.sla import HTTP, RESULTS
from sage_fastapi_obs.alerting.summary import (
    ActiveAlert,
    RuleShown,
    SlowOperation,
    Summary,
    shown_alert,
    shown_rule,
    slow_operations,
    summary_of,
)
from sage_fastapi_obs.endpoints.access import Access
from sage_fastapi_obs.endpoints.pages import UNCACHED, Answer, Page, Query, Shared
from sage_fastapi_obs.health.health import HealthResult, ProbeStatus

__all__ = ["StatusPages"]

MOST_MINUTES = 7 * 24 * 60
_REFUSED = {401: "A bearer token is needed.", 403: "Not open to this client.", 404: "Served on a port of its own."}
_BUSY = {503: "Too many are waiting."}


class StrictQuery(Query):
    """Whether a service that is not well is an error."""

    strict: bool = False
    """Answer 503 when degraded."""


class HoursQuery(Query):
    """A window in hours."""

    hours: int = Field(default=1, ge=1, le=168)
    """Length of the window."""


class MinutesQuery(Query):
    """A window in minutes."""

    minutes: int = Field(default=60, ge=1, le=MOST_MINUTES)
    """Length of the window."""


class SlaQuery(MinutesQuery):
    """A window, and whose traffic is meant."""

    source: Literal["http", "result"] = "http"
    """HTTP requests, or operations that return a result."""


class SlowQuery(MinutesQuery):
    """A window, and what is slow."""

    threshold_ms: float = Field(default=5000.0, ge=0.0, le=86_400_000.0, allow_inf_nan=False)
    """Least 95th percentile, in milliseconds."""


class CheckShown(BaseModel):
    """What a health check found."""

    name: str
    status: Literal["pass", "fail", "timeout"]
    critical: bool
    duration_ms: float
    error: str | None = None


class HealthShown(BaseModel):
    """Whether all is well: checks pass, no alert fires, and the rules are judged."""

    status: Literal["healthy", "degraded"]
    active_alerts: int
    timestamp: str
    checks: list[CheckShown]


class LiveShown(BaseModel):
    """The process answers."""

    status: Literal["alive"]


class ProbeShown(BaseModel):
    """Whether the process should get traffic."""

    status: ProbeStatus
    checks: list[CheckShown] | None = None


class StartupShown(BaseModel):
    """Whether the process has been ready once."""

    status: Literal["started", "starting"]


class AlertsShown(BaseModel):
    """Alerts that are pending, firing or just over, and all rules."""

    active_alerts: list[ActiveAlert]
    pending_alerts: list[ActiveAlert]
    resolved_alerts: list[ActiveAlert]
    alert_rules: list[RuleShown]
    notifications: dict[str, int]
    """What became of notifications since the start."""


class SystemStatus(BaseModel):
    """About the monitoring itself."""

    monitoring_active: bool
    total_metrics: int
    """Series that are watched."""
    left_out_series: int
    """Series that there was no room for."""
    timestamp: str


class DashboardShown(BaseModel):
    """Everything that a dashboard shows."""

    metrics_summary: Summary
    active_alerts: list[ActiveAlert]
    alert_rules: list[RuleShown]
    system_status: SystemStatus


class SlaShown(BaseModel):
    """Whether the promises are kept; shares in percent, times in milliseconds."""

    sla_compliant: bool
    violations: list[str]
    targets: dict[str, float]
    actual: dict[str, float | None]
    error_budget_left: float | None
    burn_rate: float | None
    minutes: float


class SlowShown(BaseModel):
    """Slow operations, slowest first."""

    operations: list[SlowOperation]


class StatusPages:
    """Builds and answers the pages."""

    def __init__(self, prefix: str, access: Access, status: ServiceStatus, *, judged: bool) -> None:
        """`judged`: alerts are expected to be judged, so that it is a fault when they are not."""
        self._prefix = prefix
        self._access = access
        self._status = status
        self._judged = judged
        self._shared = Shared(status.clock)

    def pages(self) -> list[Page]:
        """Build the pages; probes are open to everyone."""
        slow = {503: "Degraded."}
        not_ready = {503: "Not now."}
        probes = [
            self._page("/health/live", "live", "Whether the process answers", self._live, LiveShown),
            self._page("/health/ready", "ready", "Whether to send traffic", self._ready, ProbeShown, also=not_ready),
            self._page("/health/startup", "startup", "Whether it has been ready", self._startup, StartupShown, also=not_ready),
        ]
        guarded = [
            self._page("/health", "health", "Whether all is well", self._health, HealthShown, StrictQuery, also=slow),
            self._page("/summary", "summary", "What happened in the last minutes", self._summary, Summary, MinutesQuery),
            self._page("/metrics", "metrics_summary", "What happened in the last hours", self._hours, Summary, HoursQuery),
            self._page("/dashboard", "dashboard", "All that a dashboard shows", self._dashboard, DashboardShown),
            self._page("/alerts", "alerts", "Alerts and rules", self._alerts, AlertsShown),
            self._page("/sla", "sla", "Whether promises are kept", self._sla, SlaShown, SlaQuery),
            self._page("/operations/slow", "slow", "Slow operations", self._slow, SlowShown, SlowQuery),
        ]
        return [*probes, *map(self._guarded, guarded)]

    def _page(
        self,
        path: str,
        name: str,
        summary: str,
        answer: Answer,
        model: type[BaseModel],
        query: type[Query] = Query,
        also: dict[int, str] | None = None,
    ) -> Page:
        return Page(f"{self._prefix}{path}", f"sage_obs_{name}", summary, answer, model, query, also=also or {})

    def _guarded(self, page: Page) -> Page:
        """Let only those see a page who may see request data."""
        return replace(page, guard=self._access.refusal, problems={**_REFUSED, **_BUSY})

    async def _live(self, _query: Query, _request: Request) -> Response:
        """Alive as long as it answers: a dependency that is down must not restart the process."""
        return _shown(LiveShown(status="alive"))

    async def _ready(self, _query: Query, request: Request) -> Response:
        status, results = await self._status.health.status()
        checks = [_check(result) for result in results] if self._access.refusal(request) is None else None
        return _shown(ProbeShown(status=status, checks=checks), 200 if status in ("ready", "degraded") else 503)

    async def _startup(self, _query: Query, _request: Request) -> Response:
        if not self._status.health.has_started:
            await self._status.health.status()
        if self._status.health.has_started:
            return _shown(StartupShown(status="started"))
        return _shown(StartupShown(status="starting"), 503)

    async def _health(self, query: StrictQuery, _request: Request) -> Response:
        status, results = await self._status.health.status()
        firing = len(self._status.alerts.alerts("firing"))
        healthy = status == "ready" and not firing and (self._status.is_active or not self._judged)
        shown = HealthShown(
            status="healthy" if healthy else "degraded",
            active_alerts=firing,
            timestamp=timestamp(self._status.wall_clock()),
            checks=[_check(result) for result in results],
        )
        return _shown(shown, 503 if query.strict and not healthy else 200)

    async def _summary(self, query: MinutesQuery, _request: Request) -> Response:
        return await self._over(query.minutes)

    async def _hours(self, query: HoursQuery, _request: Request) -> Response:
        return await self._over(query.hours * 60)

    async def _over(self, minutes: float) -> Response:
        return await self._made(("summary", minutes), lambda: summary_of(self._status.view(minutes * 60)))

    async def _dashboard(self, _query: Query, _request: Request) -> Response:
        return await self._made("dashboard", self._everything)

    def _everything(self) -> DashboardShown:
        status = self._status
        return DashboardShown(
            metrics_summary=summary_of(status.view(3600)),
            active_alerts=[shown_alert(alert) for alert in status.alerts.alerts("firing")],
            alert_rules=[shown_rule(rule) for rule in status.alerts.rules],
            system_status=SystemStatus(
                monitoring_active=status.is_active,
                total_metrics=status.windows.series,
                left_out_series=status.windows.left_out,
                timestamp=timestamp(status.wall_clock()),
            ),
        )

    async def _alerts(self, _query: Query, _request: Request) -> Response:
        alerts = self._status.alerts

        def make() -> AlertsShown:
            firing, pending, resolved = (
                [shown_alert(alert) for alert in found]
                for found in (alerts.alerts("firing"), alerts.alerts("pending"), alerts.alerts("resolved"))
            )
            return AlertsShown(
                active_alerts=firing,
                pending_alerts=pending,
                resolved_alerts=resolved,
                alert_rules=[shown_rule(rule) for rule in alerts.rules],
                notifications={**self._status.dispatch.counts},
            )

        return await self._made("alerts", make)

    async def _sla(self, query: SlaQuery, _request: Request) -> Response:
        def make() -> SlaShown:
            found = self._status.sla.compliance(query.minutes, HTTP if query.source == "http" else RESULTS)
            return SlaShown(
                sla_compliant=found.compliant,
                violations=[*found.violations],
                targets=dict(found.targets),
                actual=dict(found.actual),
                error_budget_left=found.error_budget_left,
                burn_rate=found.burn_rate,
                minutes=found.minutes,
            )

        return await self._made(("sla", query), make)

    async def _slow(self, query: SlowQuery, _request: Request) -> Response:
        def make() -> SlowShown:
            return SlowShown(operations=slow_operations(self._status.view(query.minutes * 60), query.threshold_ms))

        return await self._made(("slow", query), make)

    async def _made(self, key: object, make: Callable[[], BaseModel]) -> Response:
        def fresh() -> BaseModel:
            self._status.refresh(most_seconds=1.0)
            return make()

        return await self._shared.response(key, fresh)


def _shown(model: BaseModel, status: int = 200) -> Response:
    body = model.model_dump_json(exclude_none=True)
    return Response(body, status, {**UNCACHED, "Content-Type": "application/json"})


def _check(result: HealthResult) -> CheckShown:
    return CheckShown(
        name=result.name,
        status=result.status,
        critical=result.critical,
        duration_ms=result.duration_ms,
        error=result.error,
    )

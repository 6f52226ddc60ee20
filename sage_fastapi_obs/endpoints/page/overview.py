"""`/monitoring/overview`: what the first view of the live page shows, in one document, made once for all who look."""

import time
from collections.abc import Callable

from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response

from sage_fastapi_obs.active import count_internal_error
from sage_fastapi_obs.alerting.alerts import AlertSummary
from sage_fastapi_obs.alerting.service_status import ServiceStatus
from sage_fastapi_obs.alerting.sla import HTTP, RESULTS, Compliance
from sage_fastapi_obs.endpoints.access import Access
from sage_fastapi_obs.endpoints.background_worker import OneAtATime
from sage_fastapi_obs.endpoints.json_page import MOST_WAITING, UNCACHED, JsonPage, PageQuery, too_many_waiting
from sage_fastapi_obs.endpoints.page.figures import Figure, Figures
from sage_fastapi_obs.endpoints.status_pages import PROBLEMS, HealthResponse, StatusPages
from sage_fastapi_obs.privacy.exception_name import class_name
from sage_fastapi_obs.settings import Settings
from sage_fastapi_obs.workers.other_workers import Workers

_LEAST_REST_SECONDS = 1.0
_MOST_REST_SECONDS = 15.0
_REST_PER_CPU_SECOND = 50.0
"""Making documents takes a fiftieth of one core at most, however many look and however many series there are."""
_HEALTH_SECONDS = 5.0
_MOST_LENGTHS = 8
MOST_ALERTS = 50
_NO_VERSION = "0.0.0"


class OverviewQuery(PageQuery):
    """The time that is looked at."""

    seconds: int = Field(default=300, ge=60, le=7 * 86_400)
    """So much up to now."""


class Budget(BaseModel):
    """How much of the failures that are allowed is left; null where nothing was measured, or nothing is promised."""

    source: str
    """`http` or `result`."""
    error_budget_left: float | None
    """Percentage of this window's; below 0 when more failed than is allowed."""
    burn_rate: float | None
    compliant: bool | None
    violations: list[str]


class WorkerCount(BaseModel):
    """The processes of the service."""

    count: int
    leader: int | None
    """Number of the one that judges the rules."""


class OverviewResponse(BaseModel):
    """How the service is doing."""

    time: float
    """Unix time at which the metrics were read."""
    service: str
    version: str | None
    environment: str
    seconds: int
    """Length of the window."""
    covered_seconds: float
    """How much of it the service has been watched for: rates are per second of this."""
    interval_seconds: float
    """How often the metrics are read while nobody looks."""
    figures: dict[str, Figure]
    series: dict[str, list[float | None]]
    """The figures from one reading to the next, by name; `time` has the Unix times of their ends."""
    health: HealthResponse | None
    """Null where it cannot be read."""
    alerts: list[AlertSummary]
    """The first 50 of those that fire; `health.active_alerts` has their number."""
    budgets: list[Budget]
    workers: WorkerCount


class Overview:
    """Makes the document, at most once in a second, for all who look."""

    def __init__(
        self,
        settings: Settings,
        status: ServiceStatus,
        workers: Workers,
        health: StatusPages,
        cpu_clock: Callable[[], float] = time.thread_time,
    ) -> None:
        """`health`: has the answer of `/monitoring/health`. `cpu_clock`: CPU seconds of the calling thread."""
        self._service = settings.service
        self._status = status
        self._workers = workers
        self._figures = Figures(status, settings.metrics)
        self._health_page = health
        self._clock = status.clock
        self._cpu_clock = cpu_clock
        self._one_at_a_time = OneAtATime()
        self._bodies: dict[int, tuple[float, bytes]] = {}
        """By the length of the window: the newest document, and when it was made."""
        self._rests_until = 0.0
        """Until then, a document is new enough that would be too old otherwise."""
        self._health: tuple[float, HealthResponse | None] = (-_HEALTH_SECONDS, None)

    def page(self, access: Access) -> JsonPage:
        """Build the page."""

        async def answer(query: OverviewQuery, _request: Request) -> Response:
            if self._one_at_a_time.waiting >= MOST_WAITING:
                return too_many_waiting()
            return Response(await self.body(query.seconds), 200, {**UNCACHED, "Content-Type": "application/json"})

        return JsonPage(
            *("/overview", "overview", "What the first view shows", answer, OverviewResponse, OverviewQuery),
            guard=access.rejection,
            problems=PROBLEMS,
        )

    async def body(self, seconds: int) -> bytes:
        """Return the document as JSON; the first of those who ask has it made, in a thread."""
        if (body := self._fresh_body(seconds)) is not None:
            return body
        health = await self._health_now()
        return await self._one_at_a_time.run(lambda _: self._fresh_body(seconds) or self._new_body(seconds, health))

    def _fresh_body(self, seconds: int) -> bytes | None:
        made_at, body = self._bodies.get(seconds, (0.0, b""))
        now = self._clock()
        most = _MOST_REST_SECONDS if now < self._rests_until else _LEAST_REST_SECONDS
        return body if body and now - made_at < most else None

    async def _health_now(self) -> HealthResponse | None:
        """Have the checks run more rarely: they ask databases."""
        found_at, health = self._health
        if health is None or self._clock() - found_at >= _HEALTH_SECONDS:
            self._health = (self._clock(), await self._new_health())
        return self._health[1]

    async def _new_health(self) -> HealthResponse | None:
        try:
            return await self._health_page.health()
        except Exception as error:
            count_internal_error("Overview", error)
            return None

    def _new_body(self, seconds: int, health: HealthResponse | None) -> bytes:
        started = self._cpu_clock()
        body = self._document(seconds, health).model_dump_json().encode()
        now = self._clock()
        self._rests_until = now + (self._cpu_clock() - started) * _REST_PER_CPU_SECOND
        self._bodies.pop(seconds, None)
        self._bodies[seconds] = (now, body)
        if len(self._bodies) > _MOST_LENGTHS:
            del self._bodies[next(iter(self._bodies))]
        return body

    def _document(self, seconds: int, health: HealthResponse | None) -> OverviewResponse:
        unreadable = self._read_metrics()
        window = self._status.view(seconds)
        return OverviewResponse(
            time=round(window.ended_at, 3),
            service=self._service.name,
            version=None if self._service.version == _NO_VERSION else self._service.version,
            environment=self._service.environment,
            seconds=seconds,
            covered_seconds=round(window.covered_seconds, 1),
            interval_seconds=self._status.interval_seconds,
            figures=self._figures.over(seconds) if unreadable is None else self._figures.unreadable(unreadable),
            series=self._figures.series(seconds),
            health=health,
            alerts=[alert.summary() for alert in self._status.alerts.alerts("firing")[:MOST_ALERTS]],
            budgets=[] if unreadable else [_budget(*one) for one in self._compliances(seconds)],
            workers=self._worker_count(),
        )

    def _read_metrics(self) -> str | None:
        """Read the metrics anew; return why that was not possible."""
        try:
            self._status.refresh(most_seconds=_LEAST_REST_SECONDS)
        except Exception as error:
            count_internal_error("Overview", error)
            return f"the metrics cannot be read: {class_name(error)}"
        return None

    def _compliances(self, seconds: int) -> list[tuple[str, Compliance]]:
        sources = {"http": HTTP, "result": RESULTS}
        found = [(name, self._status.sla.compliance(seconds / 60, source)) for name, source in sources.items()]
        # A service without operations that return results promises nothing of them.
        return [(name, one) for name, one in found if name == "http" or _is_measured(one)]

    def _worker_count(self) -> WorkerCount:
        found = [worker for worker in self._workers.find() if worker.is_alive]
        return WorkerCount(count=len(found), leader=next((worker.number for worker in found if worker.is_leader), None))


def _is_measured(compliance: Compliance) -> bool:
    return any(value is not None for value in compliance.actual.values())


def _budget(source: str, compliance: Compliance) -> Budget:
    """Say nothing of a time in which nothing was measured."""
    measured = _is_measured(compliance)
    return Budget(
        source=source,
        error_budget_left=compliance.error_budget_left if measured else None,
        burn_rate=compliance.burn_rate if measured else None,
        compliant=compliance.compliant if measured else None,
        violations=[*compliance.violations],
    )

"""What people and programs ask of a service: which requests failed, which were slow and for what, how its routes do."""

import itertools
from collections.abc import Iterable
from typing import Any, TypeVar

from pydantic import BaseModel

from sage_fastapi_obs.alerting.alerts import AlertSummary
from sage_fastapi_obs.alerting.rule_report import RuleReport
from sage_fastapi_obs.alerting.summary import RouteFigures
from sage_fastapi_obs.causes import CAUSES, docs_anchor
from sage_fastapi_obs.cli.request_sources import Source, newest
from sage_fastapi_obs.endpoints.request_stories import KeptRequest, RequestList

NO_ROUTE = "(no route)"
MOST_NAMED = 1_000
"""Rows of a list of what has names, which are few."""
Row = TypeVar("Row")


class KeptRoute(BaseModel):
    """The kept requests of a route; times in milliseconds."""

    route: str
    kept: int
    failed: int
    p50_ms: float
    p95_ms: float
    max_ms: float

    @classmethod
    def of(cls, route: str, requests: list[KeptRequest]) -> "KeptRoute":
        """Compute them; there has to be a request."""
        taken = sorted(request.duration_ms for request in requests)
        p50, p95 = (taken[-(-len(taken) * percent // 100) - 1] for percent in (50, 95))
        failed = sum(request.failed for request in requests)
        return cls(route=route, kept=len(taken), failed=failed, p50_ms=p50, p95_ms=p95, max_ms=taken[-1])


class RouteList(BaseModel):
    """The routes of kept requests, those that failed most first."""

    routes: list[KeptRoute]
    is_complete: bool
    """False if there are older requests that were not looked at."""


class KeptCause(BaseModel):
    """Kept requests that one cause cost most of their time."""

    cause: str
    requests: int
    max_ms: float
    remedy: str
    """What to do."""
    docs: str
    """Page and anchor that explain it."""
    example: str
    """Key of the slowest."""
    why: str | None
    """What is known of that one: `blocked the event loop 540 ms at app/report.py:14`."""

    @classmethod
    def of(cls, cause: str, requests: list[KeptRequest]) -> "KeptCause":
        """Describe them; there has to be a request."""
        slowest = max(requests, key=lambda request: request.duration_ms)
        known = cause if cause in CAUSES else "unknown"
        return cls(
            cause=cause,
            requests=len(requests),
            max_ms=slowest.duration_ms,
            remedy=CAUSES[known].remedy,
            docs=docs_anchor(known),
            example=slowest.key,
            why=slowest.why,
        )


class SlowReport(BaseModel):
    """Why kept requests were slow."""

    causes: list[KeptCause]
    """Those of most requests first."""
    slowest: list[KeptRequest]
    is_complete: bool
    """False if there are older requests that were not looked at."""


class TrafficReport(BaseModel):
    """All requests of a service by route, kept or not; those of most requests first."""

    seconds: float
    covered_seconds: float
    """How much of them the service has been watched for."""
    routes: list[RouteFigures]
    routes_total: int


class AlertReport(BaseModel):
    """Alerts, and the rules that they are of."""

    alerts: list[AlertSummary]
    """Those that fire, then those that are pending or just over."""
    rules: list[RuleReport]
    """Rules in another state than `inactive`, and those that can never fire; all of them where that is asked for."""
    rules_total: int


def failing(source: Source, limit: int, **conditions: Any) -> RequestList:
    """Return the newest that failed."""
    requests, is_complete = newest(source, limit, failed=True, **conditions)
    return RequestList(requests=requests[:limit], next=None, is_complete=is_complete and len(requests) <= limit)


def slow(source: Source, limit: int, **conditions: Any) -> RequestList:
    """Return the slowest of the newest."""
    requests, is_complete = newest(source, **conditions)
    return RequestList(requests=_slowest(requests)[:limit], next=None, is_complete=is_complete)


def why_slow(source: Source, limit: int, **conditions: Any) -> SlowReport:
    """Tell what cost the newest requests their time, and return the slowest of them."""
    requests, is_complete = newest(source, **conditions)
    by_cause = _grouped((request.cause, request) for request in requests if _names_lost_time(request.cause))
    causes = sorted(itertools.starmap(KeptCause.of, by_cause.items()), key=lambda one: (-one.requests, -one.max_ms))
    return SlowReport(causes=causes[:limit], slowest=_slowest(requests)[:limit], is_complete=is_complete)


def kept_routes(source: Source, limit: int) -> RouteList:
    """Compute the figures of routes from the newest requests."""
    requests, is_complete = newest(source)
    by_route = _grouped((f"{request.method or request.kind} {request.route or NO_ROUTE}", request) for request in requests)
    routes = sorted(itertools.starmap(KeptRoute.of, by_route.items()), key=lambda one: (-one.failed, -one.kept, one.route))
    return RouteList(routes=routes[:limit], is_complete=is_complete)


def traffic(source: Source, limit: int, seconds: int = 300) -> TrafficReport:
    """Return the figures of routes in the last seconds."""
    found = source.traffic(seconds)
    routes = [RouteFigures(**dict(row)) for row in found.routes[:limit]]
    return TrafficReport(
        seconds=found.seconds, covered_seconds=found.covered_seconds, routes=routes, routes_total=found.routes_total
    )


def alerts(source: Source, *, all_rules: bool = False) -> AlertReport:
    """Return the alerts of now."""
    found, rules = source.alerts(), source.rules().rules
    return AlertReport(
        alerts=[*found.active_alerts, *found.pending_alerts, *found.resolved_alerts][:MOST_NAMED],
        rules=[rule for rule in rules if all_rules or rule.problem or rule.state != "inactive"][:MOST_NAMED],
        rules_total=len(rules),
    )


def _slowest(requests: list[KeptRequest]) -> list[KeptRequest]:
    return sorted(requests, key=lambda request: -request.duration_ms)


def _names_lost_time(cause: str | None) -> bool:
    """Tell whether a cause says where time went, and not why a request failed or was refused."""
    kind = CAUSES.get(cause)  # type: ignore[call-overload]
    return cause is not None and (kind is None or not kind.is_reason)


def _grouped(pairs: Iterable[tuple[Any, Row]]) -> dict[Any, list[Row]]:
    groups: dict[Any, list[Row]] = {}
    for name, row in pairs:
        groups.setdefault(name, []).append(row)
    return groups

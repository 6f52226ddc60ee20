"""customer-id: HTTP, gRPC, and what it depends on."""

from sage_fastapi_obs.export.grafana.boards import shared
from sage_fastapi_obs.export.grafana.layout import BAD, FINE, Board, Panel, Row, Variable, limits, numbers
from sage_fastapi_obs.export.grafana.promql import Queries
from sage_fastapi_obs.export.rules.http import CUSTOMER_ID

__all__ = ["CUSTOMER_BOARD", "customer_board"]

CUSTOMER_BOARD = "customer-id-monitoring"
SCOPE = f'service="{CUSTOMER_ID}", instance=~"$instance"'
ASK = Queries(SCOPE)
HTTP = "http_request_duration_seconds"
CALLS = (
    ("Redis", "redis_commands_total", "redis_latency_seconds", "command"),
    ("PostgreSQL", "pg_queries_total", "pg_query_duration_seconds", "operation"),
    ("Kafka", "kafka_messages_produced_total", "kafka_produce_latency_seconds", "topic"),
)


def customer_board() -> Board:
    """Show the service and its dependencies."""
    return Board(
        CUSTOMER_BOARD,
        "CustomerID Monitoring",
        "Requests over HTTP and gRPC, errors, the state of the service, and how fast Redis, PostgreSQL and Kafka answer.",
        (
            Row("What is wrong", _standing()),
            Row("Where: requests", _requests()),
            Row("Why: dependencies", tuple(panel for call in CALLS for panel in _dependency(*call))),
            Row("Why: lines", (shared.error_lines(),)),
        ),
        (Variable("service", "http_requests_total", f"/^{CUSTOMER_ID}$/", CUSTOMER_ID), _instances()),
        (CUSTOMER_ID,),
    )


def _instances() -> Variable:
    return Variable("instance", f'http_requests_total{{service="{CUSTOMER_ID}"}}')


def _standing() -> tuple[Panel, ...]:
    return (
        shared.firing(),
        shared.up(SCOPE),
        shared.stat(
            "Mean response time",
            ASK.mean(HTTP),
            "HighLatency fires from 1 s.",
            "s",
            limits(0.2, 1),
        ),
        shared.stat("Error share", _errors(), "Share of requests answered 5xx.", "percentunit", limits(0.01, 0.05)),
        Panel(
            "Service state",
            numbers((f"up{{{SCOPE}}}", "{{instance}}")),
            "CustomerIdServiceDown fires after a minute.",
            "states",
            width=8,
            height=4,
            words={"0": ("down", BAD), "1": ("up", FINE)},
        ),
    )


def _requests() -> tuple[Panel, ...]:
    http = numbers(
        (ASK.quantile(0.5, HTTP, "route"), "{{route}} p50"),
        (ASK.quantile(0.95, HTTP, "route"), "{{route}} p95"),
        (ASK.mean(HTTP, "route"), "{{route}} mean"),
    )
    grpc = ASK.quantile(0.95, "grpc_request_duration_seconds", "method")
    return (
        shared.latency("Request latency HTTP (p50, p95, mean)", http, "Mean above 1 s: HighLatency.", limits(0.2, 1), 12),
        shared.latency(
            "Request latency gRPC (p95)", numbers((grpc, "{{method}}")), "Calls that this service answers.", width=12
        ),
        Panel(
            "Error ratio",
            numbers((_errors(), "HTTP 5xx")),
            "Share of HTTP requests answered 5xx.",
            unit="percentunit",
            limits=limits(0.01, 0.05),
        ),
        Panel(
            "gRPC calls by status",
            numbers((ASK.rate("grpc_request_total", "method", "status"), "{{method}} {{status}}")),
            "Calls per second. UNAVAILABLE and DEADLINE_EXCEEDED are load; INTERNAL and UNKNOWN are defects.",
            unit="reqps",
            stacked=True,
        ),
        Panel(
            "Errors by kind",
            numbers((ASK.rate("request_errors_total", "protocol", "error_type"), "{{protocol}} {{error_type}}")),
            "Requests that failed, over both protocols.",
            unit="reqps",
            stacked=True,
        ),
    )


def _errors() -> str:
    return ASK.share("http_requests_total", status="=~5..")


def _dependency(name: str, calls: str, duration: str, label: str) -> tuple[Panel, ...]:
    failed = ASK.share(calls, label, status="failure")
    return (
        Panel(
            f"{name}: calls",
            numbers((ASK.rate(calls, label, "status"), f"{{{{{label}}}}} {{{{status}}}}")),
            "Calls per second, by outcome.",
            unit="ops",
        ),
        shared.latency(
            f"{name}: p95",
            numbers((ASK.quantile(0.95, duration), "all"), (ASK.quantile(0.95, duration, label), f"{{{{{label}}}}}")),
            "Slow here and slow above at the same time: this is why.",
        ),
        Panel(
            f"{name}: share that fails",
            numbers((failed, f"{{{{{label}}}}}")),
            "Calls that ended with an error.",
            unit="percentunit",
            limits=limits(0.01, 0.05),
        ),
    )

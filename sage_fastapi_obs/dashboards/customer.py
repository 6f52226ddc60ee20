"""customer-id: HTTP, gRPC, and what it depends on."""

from sage_fastapi_obs.catalog.services import CUSTOMER_ID, Services, service_name
from sage_fastapi_obs.dashboards import panels
from sage_fastapi_obs.dashboards.layout import BAD, FINE, Dashboard, Panel, Row, Variable, numbers
from sage_fastapi_obs.dashboards.panels import PanelBuilder

_SCOPE = f'service="{CUSTOMER_ID}", instance=~"$instance"'
panel = PanelBuilder(_SCOPE)
ask = panel.ask
HTTP = "http_request_duration_seconds"
_ERRORS = ask.share("http_requests_total", status="=~5..")

_WRONG = (
    panels.firing(),
    panels.up(_SCOPE),
    panels.stat("Mean response time", ask.mean(HTTP), "s", warn=0.2, bad=1).about("HighLatency fires from 1 s."),
    panels.stat("Error share", _ERRORS, "percentunit", warn=0.01, bad=0.05).about("Share of requests answered 5xx."),
    Panel(
        "Service state",
        numbers((f"up{{{_SCOPE}}}", "{{instance}}")),
        kind="states",
        height=4,
        mappings={"0": ("down", BAD), "1": ("up", FINE)},
    ).about("CustomerIdServiceDown fires after a minute."),
)
_REQUESTS = (
    Panel(
        "Request latency HTTP (p50, p95, mean)",
        numbers(
            (ask.quantile(0.5, HTTP, "route"), "{{route}} p50"),
            (ask.quantile(0.95, HTTP, "route"), "{{route}} p95"),
            (ask.mean(HTTP, "route"), "{{route}} mean"),
        ),
        unit="s",
        width=12,
        warn=0.2,
        bad=1,
    ).about("Mean above 1 s: HighLatency."),
    panel.p95("Request latency gRPC (p95)", "grpc_request_duration_seconds", ["method"], width=12).about(
        "Calls that this service answers."
    ),
    Panel("Error ratio", numbers((_ERRORS, "HTTP 5xx")), unit="percentunit", warn=0.01, bad=0.05).about(
        "Share of HTTP requests answered 5xx."
    ),
    panel.rate("gRPC calls by status", "grpc_request_total", ["method", "status"], unit="reqps", stacked=True).about(
        "Calls per second. UNAVAILABLE and DEADLINE_EXCEEDED are load; INTERNAL and UNKNOWN are defects."
    ),
    panel.rate("Errors by kind", "request_errors_total", ["protocol", "error_type"], unit="reqps", stacked=True).about(
        "Requests that failed, over both protocols."
    ),
)


def dashboards(services: Services) -> tuple[Dashboard, ...]:
    """Return the dashboard of a service called customer-id, where there is one."""
    if CUSTOMER_ID not in map(service_name, services):
        return ()
    rows = (
        Row("What is wrong", _WRONG),
        Row("Where: requests", _REQUESTS),
        Row(
            "Why: dependencies",
            (
                *_dependency("Redis", "redis_commands_total", "redis_latency_seconds", "command"),
                *_dependency("PostgreSQL", "pg_queries_total", "pg_query_duration_seconds", "operation"),
                *_dependency("Kafka", "kafka_messages_produced_total", "kafka_produce_latency_seconds", "topic"),
            ),
        ),
        Row("Why: lines", (panels.error_lines(),)),
    )
    choices = (
        Variable("service", "http_requests_total", f"/^{CUSTOMER_ID}$/", CUSTOMER_ID),
        Variable("instance", f'http_requests_total{{service="{CUSTOMER_ID}"}}'),
    )
    about = "Requests over HTTP and gRPC, errors, the state of the service, and how fast Redis, PostgreSQL and Kafka answer."
    return (Dashboard("customer-id-monitoring", "CustomerID Monitoring", about, rows, choices, (CUSTOMER_ID,)),)


def _dependency(name: str, calls: str, duration: str, label: str) -> tuple[Panel, ...]:
    times = numbers((ask.quantile(0.95, duration), "all"), (ask.quantile(0.95, duration, label), f"{{{{{label}}}}}"))
    return (
        panel.rate(f"{name}: calls", calls, [label, "status"]).about("Calls per second, by outcome."),
        Panel(f"{name}: p95", times, unit="s").about("Slow here and slow above at the same time: this is why."),
        panel.share(f"{name}: share that fails", calls, [label], where={"status": "failure"}, warn=0.01, bad=0.05).about(
            "Calls that ended with an error."
        ),
    )

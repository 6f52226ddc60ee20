"""Any service: rate, errors and duration, what was promised, and what may be behind it."""

from collections.abc import Iterable, Mapping

from sage_fastapi_obs.catalog import Metric
from sage_fastapi_obs.export.grafana.boards import shared
from sage_fastapi_obs.export.grafana.boards.pack import pack_row
from sage_fastapi_obs.export.grafana.layout import BAD, FINE, WARN, Board, Limit, Panel, Row, limits, numbers
from sage_fastapi_obs.export.grafana.promql import RANGE, Queries
from sage_fastapi_obs.settings import SlaSettings

__all__ = ["red", "service_board", "unified_board"]

DURATION = "http_request_duration_seconds"
FAILED = "=~5.."


def service_board(sla: SlaSettings, packs: Mapping[str, Iterable[Metric]]) -> Board:
    """Show one service, or several beside each other, from what is wrong to why; `packs`: titles and metrics of rows."""
    ask = Queries(shared.SCOPE)
    return Board(
        "service",
        "Service",
        "Rate, errors and duration of a service, its error budget, and what may be behind them. From the top: what is wrong, "
        "where, and why.",
        (
            Row("What is wrong", (*_standing(ask, sla), *red(ask, sla, "service"))),
            *_promises(ask, sla),
            Row("Where", _where(ask, sla)),
            shared.logs_row(),
            Row("Why: operations and background work", _work(ask), folded=True),
            Row("Why: streams and WebSockets", _connections(ask), folded=True),
            shared.runtime_row(ask),
            Row("The observability itself", _itself(ask), folded=True),
            *(pack_row(f"Why: {title}", tuple(metrics), shared.SCOPE) for title, metrics in packs.items()),
        ),
        shared.choices("http_requests_total"),
        ("http",),
    )


def unified_board(sla: SlaSettings) -> Board:
    """Show all services beside each other."""
    ask = Queries(shared.SCOPE)
    return Board(
        "unified",
        "Unified view",
        "All services beside each other: rate, errors and duration, then their processes, lines and traces. The dashboard "
        "Service says more about one of them.",
        (
            Row("What is wrong", (*_standing(ask, sla), *red(ask, sla, "service"))),
            Row("Where: state of the services", (_states(), shared.slowest(ask))),
            shared.runtime_row(ask, folded=False),
            shared.logs_row(),
        ),
        shared.choices("http_requests_total"),
        ("http",),
    )


def red(ask: Queries, sla: SlaSettings, *by: str) -> tuple[Panel, ...]:
    """Draw rate, errors and duration."""
    legend = " ".join(f"{{{{{label}}}}}" for label in by)
    p95 = ask.quantile(0.95, DURATION, *by)
    return (
        Panel(
            "Request rate",
            numbers((ask.rate("http_requests_total", *by), legend)),
            "Requests answered per second. A sudden fall is as bad as errors: clients do not get here any more.",
            unit="reqps",
        ),
        Panel(
            "Error share",
            numbers((ask.share("http_requests_total", *by, status=FAILED), legend)),
            "Share of requests answered 5xx. The line is what the service promises at most.",
            unit="percentunit",
            limits=_promised(sla.error_rate),
        ),
        shared.latency(
            "Response time p95 and mean",
            numbers((p95, f"{legend} p95"), (ask.mean(DURATION, *by), f"{legend} mean")),
            "Up to the last byte, without streams. Lines: the mean and the p95 that are promised. Points are exemplars: each "
            "is one request, and leads to its trace.",
            limits(shared.seconds(sla.response_time_mean_ms), shared.seconds(sla.response_time_p95_ms)),
        ),
    )


def _standing(ask: Queries, sla: SlaSettings) -> tuple[Panel, ...]:
    share = ask.share("http_requests_total", status=FAILED)
    return (
        shared.firing(),
        shared.up(),
        shared.stat("Requests per second", ask.rate("http_requests_total"), "All routes together.", "reqps"),
        shared.stat("Error share now", share, "Share of requests answered 5xx.", "percentunit", _promised(sla.error_rate)),
        shared.stat(
            "p95 now",
            ask.quantile(0.95, DURATION),
            "19 of 20 requests are faster than this.",
            "s",
            limits(shared.seconds(sla.response_time_mean_ms), shared.seconds(sla.response_time_p95_ms)),
        ),
        shared.stat("In flight", ask.value("http_requests_in_flight"), "Requests being handled now. Only rising: they hang."),
    )


def _promises(ask: Queries, sla: SlaSettings) -> tuple[Row, ...]:
    """Show the error budget, where one is promised."""
    if sla.availability is None or sla.availability >= 100:
        return ()
    budget = round(1 - sla.availability / 100, 10)
    over = ask.share("http_requests_total", window=RANGE, status=FAILED)
    burn = [(ask.share("http_requests_total", window=window, status=FAILED), window) for window in ("5m", "1h", "6h")]
    return (
        Row(
            "What was promised",
            (
                shared.stat(
                    "Availability",
                    f"1 - ({over})",
                    f"Share of requests over the time shown that were not answered 5xx; promised: {sla.availability:g} %.",
                    "percentunit",
                    (Limit(BAD), Limit(FINE, 1 - budget)),
                ).sized(4, 8),
                shared.stat(
                    "Error budget left",
                    f"1 - ({over}) / {budget:g}",
                    "Of the errors that the promise allows over the time shown. Choose 30 days for the month.",
                    "percentunit",
                    (Limit(BAD), Limit(WARN, 0.1), Limit(FINE, 0.5)),
                ).sized(4, 8),
                Panel(
                    "Burn rate of the error budget",
                    numbers(*((f"({share}) / {budget:g}", window) for share, window in burn)),
                    "1: the budget of 30 days lasts 30 days. 14.4 for an hour: 2 % of it are gone in that hour, and "
                    "ErrorBudgetBurnFast fires.",
                    width=16,
                    height=8,
                    limits=limits(1, 14.4),
                ),
            ),
        ),
    )


def _where(ask: Queries, sla: SlaSettings) -> tuple[Panel, ...]:
    return (
        Panel(
            "Errors by route and kind",
            numbers((ask.rate("request_errors_total", "method", "route", "error_type"), "{{method}} {{route}} {{error_type}}")),
            "Requests that failed: 5xx, exceptions, half a response, and exceptions in background tasks.",
            unit="reqps",
            width=12,
            stacked=True,
        ),
        Panel(
            "Answers by status",
            numbers((ask.rate("http_requests_total", "status"), "{{status}}")),
            "A wave of 4xx is often a client's release, or somebody who tries doors.",
            unit="reqps",
            width=12,
            stacked=True,
        ),
        Panel(
            "Busiest routes",
            numbers((f"topk(10, {ask.rate('http_requests_total', 'method', 'route')})", "{{method}} {{route}}")),
            "Requests per second by route.",
            unit="reqps",
            width=12,
        ),
        shared.latency(
            "Slowest routes: p95",
            numbers((f"topk(10, {ask.quantile(0.95, DURATION, 'method', 'route')})", "{{method}} {{route}}")),
            "The line is the p95 that is promised. Points are exemplars.",
            limits(None, shared.seconds(sla.response_time_p95_ms)),
            12,
        ),
        shared.slowest(ask),
        Panel(
            "Size of bodies: p95",
            numbers(
                (ask.quantile(0.95, "http_request_size_bytes", "route"), "{{route}} in"),
                (ask.quantile(0.95, "http_response_size_bytes", "route"), "{{route}} out"),
            ),
            "Slow and big go together: serialization blocks the event loop.",
            unit="bytes",
            width=12,
        ),
    )


def _work(ask: Queries) -> tuple[Panel, ...]:
    return (
        Panel(
            "Operations by outcome",
            numbers((ask.rate("operations_total", "operation", "status"), "{{operation}} {{status}}")),
            "Named pieces of work; a cancelled one neither succeeded nor failed.",
            unit="ops",
        ),
        shared.latency(
            "Operations: p95",
            numbers((ask.quantile(0.95, "operation_duration_seconds", "operation"), "{{operation}}")),
            "Which part of a request takes the time.",
        ),
        shared.latency(
            "Background tasks: p95",
            numbers((ask.quantile(0.95, "http_background_duration_seconds", "route"), "{{route}}")),
            "Work after the last byte. It occupies the worker, though no client waits.",
        ),
    )


def _connections(ask: Queries) -> tuple[Panel, ...]:
    return (
        shared.latency(
            "Streams: first byte, p95",
            numbers((ask.quantile(0.95, "http_stream_first_byte_seconds", "route"), "{{route}}")),
            "What a client waits for before anything arrives.",
        ),
        shared.latency(
            "Streams: whole duration, p95",
            numbers((ask.quantile(0.95, "http_stream_duration_seconds", "route"), "{{route}}")),
            "Long is normal here.",
        ),
        Panel(
            "WebSockets open",
            numbers((ask.value("websocket_connections_open", "instance"), "{{instance}}")),
            "Connections that are open now.",
        ),
        Panel(
            "WebSockets ended, by close code",
            numbers((ask.rate("websocket_connections_total", "route", "close_code"), "{{route}} {{close_code}}")),
            "1000 and 1001 are normal; 1006 is a lost connection, 1011 an error of ours.",
            unit="cps",
        ),
        Panel(
            "WebSocket messages",
            numbers((ask.rate("websocket_messages_total", "route", "direction"), "{{route}} {{direction}}")),
            "Messages per second.",
            unit="mps",
        ),
        shared.latency(
            "Life of WebSockets: p50",
            numbers((ask.quantile(0.5, "websocket_connection_duration_seconds", "route"), "{{route}}")),
            "Suddenly short: something between here and the client cuts them.",
        ),
    )


def _itself(ask: Queries) -> tuple[Panel, ...]:
    return (
        Panel(
            "Internal errors",
            numbers((ask.increase("observability_internal_errors_total", "component"), "{{component}}")),
            "Failures of the observability, which requests never see. Anything here is a defect to report.",
            limits=limits(None, 1),
        ),
        Panel(
            "Log lines dropped",
            numbers((ask.rate("observability_log_lines_dropped_total", "output", "cause"), "{{output}} {{cause}}")),
            "full: more lines than the output takes; failed and refused: its server; shutdown: time was up.",
            unit="cps",
            limits=limits(None, 0.1),
        ),
        Panel(
            "Spans dropped",
            numbers((ask.rate("observability_spans_dropped_total", "cause"), "{{cause}}")),
            "full: the collector is away or too slow; refused: it took them not; shutdown: time was up.",
            unit="cps",
            limits=limits(None, 0.1),
        ),
        Panel(
            "Trace headers dropped",
            numbers((ask.rate("observability_propagation_headers_dropped_total", "header"), "{{header}}")),
            "Malformed or too long: a client with a defect, or somebody who tries what happens.",
            unit="cps",
        ),
        Panel(
            "Labels with too many values",
            numbers((ask.increase("observability_label_overflow_total", "label"), "{{label}}")),
            "Counted as other. A label that is an id in disguise, or metrics.max_label_values is too small.",
        ),
        shared.latency(
            "Time of the last scrape",
            numbers((ask.value("observability_scrape_duration_seconds", "instance", how="max"), "{{instance}}")),
            "Writing /metrics, in a thread.",
        ),
        Panel(
            "Size of the last scrape",
            numbers((ask.value("observability_scrape_size_bytes", "instance", how="max"), "{{instance}}")),
            "Before compression. It grows with the number of label values.",
            unit="bytes",
        ),
        Panel(
            "Alerts of the process itself",
            numbers((ask.value("observability_alerts_firing", "severity", how="max"), "{{severity}}")),
            "Rules that the service judges without Prometheus.",
        ),
        Panel(
            "Notifications of the process itself",
            numbers((ask.increase("observability_alert_notifications_total", "outcome"), "{{outcome}}")),
            "Anything but sent and suppressed: somebody was not told.",
        ),
        Panel(
            "Held log lines",
            numbers((ask.rate("observability_held_lines_total", "outcome"), "{{outcome}}")),
            "Lines below the level that requests held: released as the request went wrong, discarded, or dropped for room.",
            unit="cps",
        ),
    )


def _states() -> Panel:
    return Panel(
        "Services",
        numbers((f"max by (service, instance) (up{{{shared.SCOPE}}})", "{{service}} {{instance}}")),
        "Which instance answered scrapes, and when not.",
        "states",
        width=12,
        words={"0": ("down", BAD), "1": ("up", FINE)},
    )


def _promised(percent: float | None) -> tuple[Limit, ...]:
    """Draw a promise as a line; with a warning at half of it."""
    return () if percent is None else limits(percent / 100 / 2, percent / 100)

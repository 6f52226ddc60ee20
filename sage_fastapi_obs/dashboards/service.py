"""Any service, and all services beside each other: rate, errors and duration, what was promised, and what may be behind it."""

from collections.abc import Iterable, Mapping

from sage_fastapi_obs.catalog import Metric
from sage_fastapi_obs.dashboards import panels
from sage_fastapi_obs.dashboards.layout import BAD, FINE, WARN, Dashboard, Limit, Panel, Row, limits, numbers
from sage_fastapi_obs.dashboards.pack_row import pack_row
from sage_fastapi_obs.dashboards.panels import PanelBuilder
from sage_fastapi_obs.dashboards.promql import RANGE
from sage_fastapi_obs.settings import SlaSettings

__all__ = ["red", "service_dashboard", "unified_dashboard"]

panel = PanelBuilder()
ask = panel.ask
DURATION = "http_request_duration_seconds"
FAILED = "=~5.."

WORK = (
    panel.rate(
        "Operations by outcome",
        "Named pieces of work; a cancelled one neither succeeded nor failed.",
        "operations_total",
        ["operation", "status"],
    ),
    panel.p95("Operations: p95", "Which part of a request takes the time.", "operation_duration_seconds", ["operation"]),
    panel.p95(
        "Background tasks: p95",
        "Work after the last byte. It occupies the worker, though no client waits.",
        "http_background_duration_seconds",
        ["route"],
    ),
)
CONNECTIONS = (
    panel.p95(
        "Streams: first byte, p95",
        "What a client waits for before anything arrives.",
        "http_stream_first_byte_seconds",
        ["route"],
    ),
    panel.p95("Streams: whole duration, p95", "Long is normal here.", "http_stream_duration_seconds", ["route"]),
    panel.gauge("WebSockets open", "Connections that are open now.", "websocket_connections_open", ["instance"]),
    panel.rate(
        "WebSockets ended, by close code",
        "1000 and 1001 are normal; 1006 is a lost connection, 1011 an error of ours.",
        "websocket_connections_total",
        ["route", "close_code"],
        unit="cps",
    ),
    panel.rate("WebSocket messages", "Messages per second.", "websocket_messages_total", ["route", "direction"], unit="mps"),
    panel.p95(
        "Life of WebSockets: p50",
        "Suddenly short: something between here and the client cuts them.",
        "websocket_connection_duration_seconds",
        ["route"],
        q=0.5,
    ),
)
OBSERVABILITY = (
    panel.increase(
        "Internal errors",
        "Failures of the observability, which requests never see. Anything here is a defect to report.",
        "observability_internal_errors_total",
        ["component"],
        limits=limits(None, 1),
    ),
    panel.rate(
        "Log lines dropped",
        "full: more lines than the output takes; failed and refused: its server; shutdown: time was up.",
        "observability_log_lines_dropped_total",
        ["output", "cause"],
        unit="cps",
        limits=limits(None, 0.1),
    ),
    panel.rate(
        "Spans dropped",
        "full: the collector is away or too slow; refused: it took them not; shutdown: time was up.",
        "observability_spans_dropped_total",
        ["cause"],
        unit="cps",
        limits=limits(None, 0.1),
    ),
    panel.rate(
        "Trace headers dropped",
        "Malformed or too long: a client with a defect, or somebody who tries what happens.",
        "observability_propagation_headers_dropped_total",
        ["header"],
        unit="cps",
    ),
    panel.increase(
        "Labels with too many values",
        "Counted as other. A label that is an id in disguise, or metrics.max_label_values is too small.",
        "observability_label_overflow_total",
        ["label"],
    ),
    panel.gauge(
        "Time of the last scrape",
        "Writing /metrics, in a thread.",
        "observability_scrape_duration_seconds",
        ["instance"],
        how="max",
        unit="s",
    ),
    panel.gauge(
        "Size of the last scrape",
        "Before compression. It grows with the number of label values.",
        "observability_scrape_size_bytes",
        ["instance"],
        how="max",
        unit="bytes",
    ),
    panel.gauge(
        "Alerts of the process itself",
        "Rules that the service judges without Prometheus.",
        "observability_alerts_firing",
        ["severity"],
        how="max",
    ),
    panel.increase(
        "Notifications of the process itself",
        "Anything but sent and suppressed: somebody was not told.",
        "observability_alert_notifications_total",
        ["outcome"],
    ),
    panel.rate(
        "Held log lines",
        "Lines below the level that requests held: released as the request went wrong, discarded, or dropped for room.",
        "observability_held_lines_total",
        ["outcome"],
        unit="cps",
    ),
)
STATES = Panel(
    "Services",
    numbers((f"max by (service, instance) (up{{{panels.SCOPE}}})", "{{service}} {{instance}}")),
    "Which instance answered scrapes, and when not.",
    "states",
    width=12,
    words={"0": ("down", BAD), "1": ("up", FINE)},
)


def service_dashboard(sla: SlaSettings, packs: Mapping[str, Iterable[Metric]]) -> Dashboard:
    """Show one service, or several beside each other, from what is wrong to why; `packs`: titles and metrics of rows."""
    return Dashboard(
        "service",
        "Service",
        "Rate, errors and duration of a service, its error budget, and what may be behind them. From the top: what is wrong, "
        "where, and why.",
        (
            Row("What is wrong", (*_wrong(sla), *red(panel, sla, "service"))),
            *_promises(sla),
            Row("Where", _where(sla)),
            panels.logs_row(),
            Row("Why: operations and background work", WORK, folded=True),
            Row("Why: streams and WebSockets", CONNECTIONS, folded=True),
            panels.runtime_row(panel),
            Row("The observability itself", OBSERVABILITY, folded=True),
            *(pack_row(f"Why: {title}", tuple(metrics)) for title, metrics in packs.items()),
        ),
        panels.choices("http_requests_total"),
        ("http",),
    )


def unified_dashboard(sla: SlaSettings) -> Dashboard:
    """Show all services beside each other."""
    return Dashboard(
        "unified",
        "Unified view",
        "All services beside each other: rate, errors and duration, then their processes, lines and traces. The dashboard "
        "Service says more about one of them.",
        (
            Row("What is wrong", (*_wrong(sla), *red(panel, sla, "service"))),
            Row("Where: state of the services", (STATES, panels.slowest(ask))),
            panels.runtime_row(panel, folded=False),
            panels.logs_row(),
        ),
        panels.choices("http_requests_total"),
        ("http",),
    )


def red(panel: PanelBuilder, sla: SlaSettings, by: str) -> tuple[Panel, ...]:
    """Show rate, errors and duration by a label."""
    p95, mean = panel.ask.quantile(0.95, DURATION, by), panel.ask.mean(DURATION, by)
    return (
        panel.rate(
            "Request rate",
            "Requests answered per second. A sudden fall is as bad as errors: clients do not get here any more.",
            "http_requests_total",
            [by],
            unit="reqps",
        ),
        panel.share(
            "Error share",
            "Share of requests answered 5xx. The line is what the service promises at most.",
            "http_requests_total",
            [by],
            where={"status": FAILED},
            limits=_promised(sla.error_rate),
        ),
        Panel(
            "Response time p95 and mean",
            numbers((p95, f"{{{{{by}}}}} p95"), (mean, f"{{{{{by}}}}} mean")),
            "Up to the last byte, without streams. Lines: the mean and the p95 that are promised. Points are exemplars: each "
            "is one request, and leads to its trace.",
            unit="s",
            limits=_promised_times(sla),
        ),
    )


def _wrong(sla: SlaSettings) -> tuple[Panel, ...]:
    share = ask.share("http_requests_total", status=FAILED)
    return (
        panels.firing(),
        panels.up(),
        panels.stat("Requests per second", ask.rate("http_requests_total"), "All routes together.", "reqps"),
        panels.stat("Error share now", share, "Share of requests answered 5xx.", "percentunit", _promised(sla.error_rate)),
        panels.stat(
            "p95 now", ask.quantile(0.95, DURATION), "19 of 20 requests are faster than this.", "s", _promised_times(sla)
        ),
        panels.stat("In flight", ask.value("http_requests_in_flight"), "Requests being handled now. Only rising: they hang."),
    )


def _promises(sla: SlaSettings) -> tuple[Row, ...]:
    """Show the error budget, where one is promised."""
    if sla.availability is None or sla.availability >= 100:
        return ()
    budget = round(1 - sla.availability / 100, 10)
    over = ask.share("http_requests_total", window=RANGE, status=FAILED)
    burn = [(ask.share("http_requests_total", window=window, status=FAILED), window) for window in ("5m", "1h", "6h")]
    availability = panels.stat(
        "Availability",
        f"1 - ({over})",
        f"Share of requests over the time shown that were not answered 5xx; promised: {sla.availability:g} %.",
        "percentunit",
        (Limit(BAD), Limit(FINE, 1 - budget)),
    )
    left = panels.stat(
        "Error budget left",
        f"1 - ({over}) / {budget:g}",
        "Of the errors that the promise allows over the time shown. Choose 30 days for the month.",
        "percentunit",
        (Limit(BAD), Limit(WARN, 0.1), Limit(FINE, 0.5)),
    )
    rate = Panel(
        "Burn rate of the error budget",
        numbers(*((f"({share}) / {budget:g}", window) for share, window in burn)),
        "1: the budget of 30 days lasts 30 days. 14.4 for an hour: 2 % of it are gone in that hour, and "
        "ErrorBudgetBurnFast fires.",
        width=16,
        limits=limits(1, 14.4),
    )
    return (Row("What was promised", (availability.sized(4, 8), left.sized(4, 8), rate)),)


def _where(sla: SlaSettings) -> tuple[Panel, ...]:
    return (
        panel.rate(
            "Errors by route and kind",
            "Requests that failed: 5xx, exceptions, half a response, and exceptions in background tasks.",
            "request_errors_total",
            ["method", "route", "error_type"],
            unit="reqps",
            width=12,
            stacked=True,
        ),
        panel.rate(
            "Answers by status",
            "A wave of 4xx is often a client's release, or somebody who tries doors.",
            "http_requests_total",
            ["status"],
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
        Panel(
            "Slowest routes: p95",
            numbers((f"topk(10, {ask.quantile(0.95, DURATION, 'method', 'route')})", "{{method}} {{route}}")),
            "The line is the p95 that is promised. Points are exemplars.",
            unit="s",
            width=12,
            limits=limits(None, panels.seconds(sla.response_time_p95_ms)),
        ),
        panels.slowest(ask),
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


def _promised(percent: float | None) -> tuple[Limit, ...]:
    """Draw a promise as a line; with a warning at half of it."""
    return () if percent is None else limits(percent / 100 / 2, percent / 100)


def _promised_times(sla: SlaSettings) -> tuple[Limit, ...]:
    return limits(panels.seconds(sla.response_time_mean_ms), panels.seconds(sla.response_time_p95_ms))

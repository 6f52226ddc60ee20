"""Any service, and all services beside each other: rate, errors and duration, what was promised, and what may be behind it."""

from collections.abc import Iterable, Mapping
from typing import Any

from sage_fastapi_obs.catalog import Metric
from sage_fastapi_obs.dashboards import panels
from sage_fastapi_obs.dashboards.layout import BAD, FINE, WARN, Dashboard, Panel, Row, Threshold, numbers
from sage_fastapi_obs.dashboards.pack_row import pack_row
from sage_fastapi_obs.dashboards.panels import PanelBuilder
from sage_fastapi_obs.dashboards.promql import RANGE
from sage_fastapi_obs.settings import SlaSettings

panel = PanelBuilder()
ask = panel.ask
_DURATION = "http_request_duration_seconds"
FAILED = "=~5.."

_WORK = (
    panel.rate("Operations by outcome", "operations_total", ["operation", "status"]).about(
        "Named pieces of work; a cancelled one neither succeeded nor failed."
    ),
    panel.p95("Operations: p95", "operation_duration_seconds", ["operation"]).about("Which part of a request takes the time."),
    panel.p95("Background tasks: p95", "http_background_duration_seconds", ["route"]).about(
        "Work after the last byte. It occupies the worker, though no client waits."
    ),
)
_CONNECTIONS = (
    panel.p95("Streams: first byte, p95", "http_stream_first_byte_seconds", ["route"]).about(
        "What a client waits for before anything arrives."
    ),
    panel.p95("Streams: whole duration, p95", "http_stream_duration_seconds", ["route"]).about("Long is normal here."),
    panel.gauge("WebSockets open", "websocket_connections_open", ["instance"]).about("Connections that are open now."),
    panel.rate("WebSockets ended, by close code", "websocket_connections_total", ["route", "close_code"], unit="cps").about(
        "1000 and 1001 are normal; 1006 is a lost connection, 1011 an error of ours."
    ),
    panel.rate("WebSocket messages", "websocket_messages_total", ["route", "direction"], unit="mps").about(
        "Messages per second."
    ),
    panel.p95("Life of WebSockets: p50", "websocket_connection_duration_seconds", ["route"], q=0.5).about(
        "Suddenly short: something between here and the client cuts them."
    ),
)
_WORKERS = (
    panel.increase("Workers that died", "worker_deaths_total", ["reason"], bad=1, width=12).about(
        "oom: out of memory; blocked: its loop hung; crash: the interpreter or a library. Lines say at which request and line."
    ),
    panel.increase("Requests that died with them", "requests_lost_total", ["route"], bad=1, width=12).about(
        "Each has an error line with its id. A route that is always among them is the one that kills."
    ),
)
_OBSERVABILITY = (
    panel.increase("Internal errors", "observability_internal_errors_total", ["component"], bad=1).about(
        "Failures of the observability, which requests never see. Anything here is a defect to report."
    ),
    panel.rate("Log lines dropped", "observability_log_lines_dropped_total", ["output", "cause"], unit="cps", bad=0.1).about(
        "full: more lines than the output takes; failed and refused: its server; shutdown: time was up."
    ),
    panel.rate("Spans dropped", "observability_spans_dropped_total", ["cause"], unit="cps", bad=0.1).about(
        "full: the collector is away or too slow; refused: it took them not; shutdown: time was up."
    ),
    panel.increase("Pushes of metrics dropped", "observability_metric_pushes_dropped_total", ["cause"]).about(
        "refused: the collector did not take all points; shutdown: time was up."
    ),
    panel.increase("Kept requests lost by the store", "observability_store_dropped_total", ["cause"]).about(
        "evicted: older ones made room, as they should. Anything else: the disk, or more requests than it takes."
    ),
    panel.increase("Requests not kept for their number", "observability_requests_not_kept_total", ["reason"]).about(
        "More of a kind in one second than are kept: an outage, or many at once that are slow."
    ),
    panel.increase("Requests not recorded", "observability_excluded_requests_total").about(
        "Of probes, scrapes and the service's own pages, and what settings exclude: no line, no span, in no other panel."
    ),
    panel.rate("Trace headers dropped", "observability_propagation_headers_dropped_total", ["header"], unit="cps").about(
        "Malformed or too long: a client with a defect, or somebody who tries what happens."
    ),
    panel.increase("Labels with too many values", "observability_label_overflow_total", ["label"]).about(
        "Counted as other. A label that is an id in disguise, or metrics.max_label_values is too small."
    ),
    panel.gauge("Time of the last scrape", "observability_scrape_duration_seconds", ["instance"], how="max", unit="s").about(
        "Writing /metrics, in a thread."
    ),
    panel.gauge("Size of the last scrape", "observability_scrape_size_bytes", ["instance"], how="max", unit="bytes").about(
        "Before compression. It grows with the number of label values."
    ),
    panel.gauge("Alerts of the process itself", "observability_alerts_firing", ["severity"], how="max").about(
        "Rules that the service judges without Prometheus."
    ),
    panel.gauge("Rules that cannot fire", "observability_rules_without_data", ["instance"], how="max").about(
        "Their metric does not exist, or has no such statistic; /monitoring/alerts says which."
    ),
    panel.increase("Notifications of the process itself", "observability_alert_notifications_total", ["outcome"]).about(
        "Anything but sent and suppressed: somebody was not told."
    ),
    panel.rate("Held log lines", "observability_held_lines_total", ["outcome"], unit="cps").about(
        "Lines below the level that requests held: released as the request went wrong, discarded, or dropped for room."
    ),
)
_STATES = Panel(
    "Services",
    numbers((f"max by (service, instance) (up{{{panels.SCOPE}}})", "{{service}} {{instance}}")),
    kind="states",
    width=12,
    mappings={"0": ("down", BAD), "1": ("up", FINE)},
).about("Which instance answered scrapes, and when not.")


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
            Row("Why: operations and background work", _WORK, collapsed=True),
            Row("Why: streams and WebSockets", _CONNECTIONS, collapsed=True),
            Row("Why: workers that died", _WORKERS, collapsed=True),
            panels.runtime_row(panel),
            Row("The observability itself", _OBSERVABILITY, collapsed=True),
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
            Row("Where: state of the services", (_STATES, panels.slowest(ask))),
            panels.runtime_row(panel, collapsed=False),
            panels.logs_row(),
        ),
        panels.choices("http_requests_total"),
        ("http",),
    )


def red(panel: PanelBuilder, sla: SlaSettings, by: str) -> tuple[Panel, ...]:
    """Show rate, errors and duration by a label."""
    p95, mean = panel.ask.quantile(0.95, _DURATION, by), panel.ask.mean(_DURATION, by)
    return (
        panel.rate("Request rate", "http_requests_total", [by], unit="reqps").about(
            "Requests answered per second. A sudden fall is as bad as errors: clients do not get here any more."
        ),
        panel.share("Error share", "http_requests_total", [by], where={"status": FAILED}, **_promised(sla.error_rate)).about(
            "Share of requests answered 5xx. The line is what the service promises at most."
        ),
        Panel(
            "Response time p95 and mean",
            numbers((p95, f"{{{{{by}}}}} p95"), (mean, f"{{{{{by}}}}} mean")),
            unit="s",
            **_promised_times(sla),
        ).about(
            "Up to the last byte, without streams. Lines: the mean and the p95 that are promised. Points are exemplars: each "
            "is one request, and leads to its trace."
        ),
    )


def _wrong(sla: SlaSettings) -> tuple[Panel, ...]:
    share = ask.share("http_requests_total", status=FAILED)
    return (
        panels.firing(),
        panels.up(),
        panels.stat("Requests per second", ask.rate("http_requests_total"), "reqps").about("All routes together."),
        panels.stat("Error share now", share, "percentunit", **_promised(sla.error_rate)).about(
            "Share of requests answered 5xx."
        ),
        panels.stat("p95 now", ask.quantile(0.95, _DURATION), "s", **_promised_times(sla)).about(
            "19 of 20 requests are faster than this."
        ),
        panels.stat("In flight", ask.value("http_requests_in_flight")).about(
            "Requests being handled now. Only rising: they hang."
        ),
    )


def _promises(sla: SlaSettings) -> tuple[Row, ...]:
    """Show the error budget, where one is promised."""
    if sla.availability is None or sla.availability >= 100:
        return ()
    budget = round(1 - sla.availability / 100, 10)
    over = ask.share("http_requests_total", window=RANGE, status=FAILED)
    burn = [(ask.share("http_requests_total", window=window, status=FAILED), window) for window in ("5m", "1h", "6h")]
    availability = panels.stat(
        "Availability", f"1 - ({over})", "percentunit", thresholds=(Threshold(BAD), Threshold(FINE, 1 - budget))
    ).about(f"Share of requests over the time shown that were not answered 5xx; promised: {sla.availability:g} %.")
    left = panels.stat(
        "Error budget left",
        f"1 - ({over}) / {budget:g}",
        "percentunit",
        thresholds=(Threshold(BAD), Threshold(WARN, 0.1), Threshold(FINE, 0.5)),
    ).about("Of the errors that the promise allows over the time shown. Choose 30 days for the month.")
    rate = Panel(
        "Burn rate of the error budget",
        numbers(*((f"({share}) / {budget:g}", window) for share, window in burn)),
        width=16,
        warn=1,
        bad=14.4,
    ).about(
        "1: the budget of 30 days lasts 30 days. 14.4 for an hour: 2 % of it are gone in that hour, and "
        "ErrorBudgetBurnFast fires."
    )
    return (Row("What was promised", (availability.sized(4, 8), left.sized(4, 8), rate)),)


def _where(sla: SlaSettings) -> tuple[Panel, ...]:
    return (
        panel.rate(
            "Errors by route and kind",
            "request_errors_total",
            ["method", "route", "error_type"],
            unit="reqps",
            width=12,
            stacked=True,
        ).about("Requests that failed: 5xx, exceptions, half a response, and exceptions in background tasks."),
        panel.rate("Answers by status", "http_requests_total", ["status"], unit="reqps", width=12, stacked=True).about(
            "A wave of 4xx is often a client's release, or somebody who tries doors."
        ),
        Panel(
            "Busiest routes",
            numbers((f"topk(10, {ask.rate('http_requests_total', 'method', 'route')})", "{{method}} {{route}}")),
            unit="reqps",
            width=12,
        ).about("Requests per second by route."),
        Panel(
            "Slowest routes: p95",
            numbers((f"topk(10, {ask.quantile(0.95, _DURATION, 'method', 'route')})", "{{method}} {{route}}")),
            unit="s",
            width=12,
            bad=panels.seconds(sla.response_time_p95_ms),
        ).about("The line is the p95 that is promised. Points are exemplars."),
        panels.slowest(ask),
        panel.rate(
            "Why requests were slow", "http_slow_requests_total", ["cause", "route"], unit="reqps", width=12, stacked=True
        ).about("What cost them most. Each has a line that says it in words; docs/why.md says what to do."),
        panel.rate(
            "Why requests were not valid",
            "http_validation_errors_total",
            ["location", "kind", "route"],
            unit="reqps",
            width=12,
            stacked=True,
        ).about("Where and how, by declared names. A new one after a release: a client does not know the new schema."),
        panel.p95("Way from the proxy: p95", "http_request_queue_seconds", ["route"], width=12).about(
            "Before the first sight of a request; needs insight.queue_header. It grows when workers are busy, or blocked."
        ),
        Panel(
            "Size of bodies: p95",
            numbers(
                (ask.quantile(0.95, "http_request_size_bytes", "route"), "{{route}} in"),
                (ask.quantile(0.95, "http_response_size_bytes", "route"), "{{route}} out"),
            ),
            unit="bytes",
            width=12,
        ).about("Slow and big go together: serialization blocks the event loop."),
    )


def _promised(percent: float | None) -> dict[str, Any]:
    """Draw a promise as a line; with a warning at half of it."""
    return {} if percent is None else {"warn": percent / 100 / 2, "bad": percent / 100}


def _promised_times(sla: SlaSettings) -> dict[str, Any]:
    return {"warn": panels.seconds(sla.response_time_mean_ms), "bad": panels.seconds(sla.response_time_p95_ms)}

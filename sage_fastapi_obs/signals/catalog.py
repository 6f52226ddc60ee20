"""Every metric as data: the single definition that instruments, rules, dashboards and documents are made from."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.registry import Collector

from sage_fastapi_obs.errors import DuplicateInstrumentError

__all__ = [
    "ALERT_METRICS",
    "CATALOG",
    "HELD_LINES",
    "HTTP_METRICS",
    "KNOWN_METHODS",
    "LOG_METRICS",
    "METHODS",
    "OTHER_METHOD",
    "OVERFLOW",
    "REQUEST_METRICS",
    "SCRAPE_METRICS",
    "SELF_METRICS",
    "UNMATCHED",
    "WEBSOCKET_METRICS",
    "Metric",
    "build",
    "known_method",
    "register",
]

KNOWN_METHODS = frozenset({"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE"})
"""Methods of the OpenTelemetry HTTP conventions."""
OTHER_METHOD = "_OTHER"
UNMATCHED = "unmatched"
OVERFLOW = "other"

LATENCY_BUCKETS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.0, 2.5, 5.0, 7.5, 10.0)
LONG_BUCKETS = (0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14400.0)
SIZE_BUCKETS = tuple(float(64 * 4**k) for k in range(10))


def known_method(method: str) -> str:
    """Return a method as the label has it: anybody may send any word as one."""
    return method if method in KNOWN_METHODS else OTHER_METHOD


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric. An open label (no values) is guarded against growth; a closed one lists all it may be."""

    name: str
    type: Literal["counter", "gauge", "histogram"]
    help: str
    labels: dict[str, tuple[str, ...]] = field(default_factory=dict)
    unit: str = ""
    buckets: tuple[float, ...] = ()

    def with_buckets(self, buckets: tuple[float, ...] | None) -> "Metric":
        """Return this metric with other bounds, if any are given."""
        return self if buckets is None else replace(self, buckets=buckets)


METHODS = (*sorted(KNOWN_METHODS), OTHER_METHOD)
"""All values of the label `method`."""
_RED: dict[str, tuple[str, ...]] = {"method": METHODS, "route": (), "status": ()}
_ROUTE: dict[str, tuple[str, ...]] = {"method": METHODS, "route": ()}

REQUEST_METRICS = (
    Metric("http_requests_total", "counter", "HTTP requests answered.", _RED),
    Metric(
        "http_request_duration_seconds",
        "histogram",
        "Time from the first sight of a request to the last byte of its response; streams are in http_stream_duration_seconds.",
        _RED,
        "seconds",
        LATENCY_BUCKETS,
    ),
    Metric("http_requests_in_flight", "gauge", "HTTP requests being handled now.", {"method": METHODS}),
    Metric("http_request_size_bytes", "histogram", "Bytes of request bodies as received.", _ROUTE, "bytes", SIZE_BUCKETS),
    Metric("http_response_size_bytes", "histogram", "Bytes of response bodies as sent.", _ROUTE, "bytes", SIZE_BUCKETS),
)
"""Those that every request changes, all at once."""
HTTP_METRICS = (
    Metric(
        "request_errors_total",
        "counter",
        "Requests that failed: a 5xx, an exception, half a response, or an exception in a background task.",
        {"protocol": ("http", "grpc", "websocket"), "method": METHODS, "route": (), "error_type": ()},
    ),
    Metric("http_stream_duration_seconds", "histogram", "Whole duration of streamed responses.", _RED, "seconds", LONG_BUCKETS),
    Metric(
        "http_stream_first_byte_seconds",
        "histogram",
        "Time to the first byte of streamed responses.",
        _ROUTE,
        "seconds",
        LATENCY_BUCKETS,
    ),
    Metric(
        "http_background_duration_seconds",
        "histogram",
        "Work after the last byte: background tasks.",
        _ROUTE,
        "seconds",
        LONG_BUCKETS,
    ),
)
WEBSOCKET_METRICS = (
    Metric("websocket_connections_open", "gauge", "WebSocket connections open now."),
    Metric(
        "websocket_connections_total",
        "counter",
        "WebSocket connections that ended, by status of the handshake and close code.",
        {"route": (), "status": (), "close_code": ()},
    ),
    Metric(
        "websocket_connection_duration_seconds",
        "histogram",
        "Life of WebSocket connections.",
        {"route": ()},
        "seconds",
        LONG_BUCKETS,
    ),
    Metric("websocket_messages_total", "counter", "WebSocket messages.", {"route": (), "direction": ("received", "sent")}),
)
SCRAPE_METRICS = (
    Metric(
        "observability_scrape_duration_seconds",
        "gauge",
        "Time that writing the last page of metrics took, in a thread, its rests included.",
        unit="seconds",
    ),
    Metric("observability_scrape_size_bytes", "gauge", "Size of the last page of metrics, before compression.", unit="bytes"),
)
HELD_LINES = Metric(
    "observability_held_lines_total",
    "counter",
    "Log lines below the level that requests held: written because the request went wrong, not needed, or without room.",
    {"outcome": ("released", "discarded", "dropped")},
)
SELF_METRICS = (
    Metric(
        "observability_internal_errors_total",
        "counter",
        "Failures of the observability itself, which requests never see.",
        {"component": ()},
    ),
    Metric(
        "observability_label_overflow_total",
        "counter",
        "Values counted as 'other' because a label had too many.",
        {"label": ("route", "status", "error_type", "close_code")},
    ),
    *SCRAPE_METRICS,
    HELD_LINES,
)
LOG_METRICS = (
    Metric(
        "observability_log_lines_dropped_total",
        "counter",
        "Log lines lost by an output: its queue was full, writes failed, its server refused them, or the shutdown came.",
        {
            "output": ("stdout", "stderr", "file", "elasticsearch", "otlp"),
            "cause": ("full", "failed", "refused", "shutdown"),
        },
    ),
)
ALERT_METRICS = (
    Metric(
        "observability_alerts_firing",
        "gauge",
        "Alerts of the rules judged in process that are firing now.",
        {"severity": ("critical", "warning", "info")},
    ),
    Metric(
        "observability_alert_notifications_total",
        "counter",
        "Notifications by what became of them: callbacks took them, failed, hung or were behind, or the last was not long ago.",
        {"outcome": ("sent", "failed", "timeout", "dropped", "suppressed")},
    ),
)

CATALOG = (*REQUEST_METRICS, *HTTP_METRICS, *WEBSOCKET_METRICS, *SELF_METRICS, *LOG_METRICS, *ALERT_METRICS)
"""All of them."""

_TYPES: dict[str, type[MetricWrapperBase]] = {"counter": Counter, "gauge": Gauge, "histogram": Histogram}


def build(metrics: Iterable[Metric], registry: CollectorRegistry) -> dict[str, MetricWrapperBase]:
    """Make the instruments of some metrics in a registry, by name.

    A metric with only closed labels starts at 0 for all their combinations of one label, so that its first event is a rise.
    """
    return {metric.name: _instrument(metric, registry) for metric in metrics}


def _instrument(metric: Metric, registry: CollectorRegistry) -> MetricWrapperBase:
    options = {"buckets": metric.buckets} if metric.buckets else {}
    try:
        instrument = _TYPES[metric.type](
            metric.name,
            metric.help,
            tuple(metric.labels),
            unit=metric.unit,
            registry=registry,
            **options,  # type: ignore[arg-type]
        )
    except ValueError as error:
        raise _duplicate(metric.name, error) from error
    closed = list(metric.labels.values())
    if len(closed) == 1 and closed[0]:
        for value in closed[0]:
            instrument.labels(value)
    return instrument


def register(collector: Collector, registry: CollectorRegistry) -> None:
    """Register a collector of our own."""
    try:
        registry.register(collector)
    except ValueError as error:
        raise _duplicate(type(collector).__name__, error) from error


def _duplicate(name: str, error: ValueError) -> DuplicateInstrumentError:
    return DuplicateInstrumentError(f"{name}: {error}; give each Observability a registry of its own")

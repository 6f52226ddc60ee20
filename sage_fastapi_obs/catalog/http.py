"""Metrics of HTTP requests and WebSockets, and the labels that are read from a request.

To add a label, add it to `REQUEST_LABELS`: what records and shows the metrics follows that list.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from sage_fastapi_obs.catalog.metric import LATENCY_BUCKETS, LONG_BUCKETS, Metric

__all__ = [
    "HTTP_METRICS",
    "KNOWN_METHODS",
    "METRICS",
    "OTHER_METHOD",
    "REQUEST_LABELS",
    "REQUEST_METRICS",
    "UNMATCHED",
    "WEBSOCKET_METRICS",
    "RequestLabel",
    "known_method",
]

KNOWN_METHODS = frozenset({"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE"})
"""Methods of the OpenTelemetry HTTP conventions."""
OTHER_METHOD = "_OTHER"
UNMATCHED = "unmatched"
SIZE_BUCKETS = tuple(float(64 * 4**k) for k in range(10))


def known_method(method: str) -> str:
    """Return a method as the label has it: anybody may send any word as one."""
    return method if method in KNOWN_METHODS else OTHER_METHOD


def _route_or_unmatched(route: str | None) -> str:
    return route or UNMATCHED


@dataclass(frozen=True, slots=True)
class RequestLabel:
    """A label, and where its value comes from."""

    name: str
    attribute: str
    """Attribute of the `Exchange` that it is read from."""
    to_text: Callable[[Any], str] = str
    """Returns the label's value for that of the attribute."""
    values: tuple[str, ...] = ()
    """All values that there are; an open label (none) is guarded against growth."""

    def of(self, exchange: object) -> str:
        """Return the value for an exchange."""
        return self.to_text(attrgetter(self.attribute)(exchange))


METHOD = RequestLabel("method", "method", known_method, (*sorted(KNOWN_METHODS), OTHER_METHOD))
ROUTE = RequestLabel("route", "route", _route_or_unmatched)
STATUS = RequestLabel("status", "status")
REQUEST_LABELS = (METHOD, ROUTE, STATUS)
"""Labels of the number of requests and of their durations."""


def _labels(labels: Iterable[RequestLabel]) -> dict[str, tuple[str, ...]]:
    return {label.name: label.values for label in labels}


_RED = _labels(REQUEST_LABELS)
_ROUTE = _labels((METHOD, ROUTE))

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
    Metric("http_requests_in_flight", "gauge", "HTTP requests being handled now.", _labels([METHOD])),
    Metric("http_request_size_bytes", "histogram", "Bytes of request bodies as received.", _ROUTE, "bytes", SIZE_BUCKETS),
    Metric("http_response_size_bytes", "histogram", "Bytes of response bodies as sent.", _ROUTE, "bytes", SIZE_BUCKETS),
)
"""Those that every request changes, all at once."""
HTTP_METRICS = (
    Metric(
        "request_errors_total",
        "counter",
        "Requests that failed: a 5xx, an exception, half a response, or an exception in a background task.",
        {"protocol": ("http", "grpc", "websocket"), **_labels([METHOD, ROUTE]), "error_type": ()},
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
METRICS = (*REQUEST_METRICS, *HTTP_METRICS, *WEBSOCKET_METRICS)

"""Metrics of HTTP requests and WebSockets, and the labels that are read from a request.

To add a label, add it to `REQUEST_LABELS`: what records and shows the metrics follows that list.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from sage_fastapi_obs.catalog.metric import LATENCY_BUCKETS, LONG_BUCKETS, counter, gauge, histogram
from sage_fastapi_obs.causes import ALL_CAUSES

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

    def value_of(self, exchange: object) -> str:
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
    counter("http_requests_total", "HTTP requests answered.", _RED),
    histogram(
        "http_request_duration_seconds",
        "Time from the first sight of a request to the last byte of its response; streams are in http_stream_duration_seconds.",
        LATENCY_BUCKETS,
        _RED,
    ),
    gauge("http_requests_in_flight", "HTTP requests being handled now.", _labels([METHOD])),
    histogram("http_request_size_bytes", "Bytes of request bodies as received.", SIZE_BUCKETS, _ROUTE),
    histogram("http_response_size_bytes", "Bytes of response bodies as sent.", SIZE_BUCKETS, _ROUTE),
)
"""Those that every request changes, all at once."""
HTTP_METRICS = (
    counter(
        "request_errors_total",
        "Requests that failed: a 5xx, an exception, half a response, or an exception in a background task.",
        {"protocol": ("http", "grpc", "websocket"), **_labels([METHOD, ROUTE]), "error_type": ()},
    ),
    histogram("http_stream_duration_seconds", "Whole duration of streamed responses.", LONG_BUCKETS, _RED),
    histogram("http_stream_first_byte_seconds", "Time to the first byte of streamed responses.", LATENCY_BUCKETS, _ROUTE),
    histogram("http_background_duration_seconds", "Work after the last byte: background tasks.", LONG_BUCKETS, _ROUTE),
)
SLOW_REQUESTS = counter(
    "http_slow_requests_total",
    "Requests that were slow for their route, or lost much time to a fault, by what cost them most.",
    {"route": (), "cause": ALL_CAUSES},
)
VALIDATION_ERRORS = counter(
    "http_validation_errors_total",
    "Requests and responses that were not valid, by where and how; each place of one counts once.",
    {"route": (), "location": (), "kind": ()},
)
REQUEST_QUEUE = histogram(
    "http_request_queue_seconds",
    "Time from the proxy to the first sight of a request, by the header of insight.queue_header.",
    LATENCY_BUCKETS,
    {"route": ()},
)
WEBSOCKET_METRICS = (
    gauge("websocket_connections_open", "WebSocket connections open now."),
    counter(
        "websocket_connections_total",
        "WebSocket connections that ended, by status of the handshake and close code.",
        {"route": (), "status": (), "close_code": ()},
    ),
    histogram("websocket_connection_duration_seconds", "Life of WebSocket connections.", LONG_BUCKETS, {"route": ()}),
    counter("websocket_messages_total", "WebSocket messages.", {"route": (), "direction": ("received", "sent")}),
)
METRICS = (*REQUEST_METRICS, *HTTP_METRICS, SLOW_REQUESTS, VALIDATION_ERRORS, REQUEST_QUEUE, *WEBSOCKET_METRICS)

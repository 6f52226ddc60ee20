"""RED metrics of HTTP, and what WebSockets have in their place."""

from functools import partial

from sage_fastapi_obs.catalog.metric import LATENCY_BUCKETS, LONG_BUCKETS, Metric

__all__ = [
    "HTTP_METRICS",
    "KNOWN_METHODS",
    "METHODS",
    "OTHER_METHOD",
    "REQUEST_METRICS",
    "UNMATCHED",
    "WEBSOCKET_METRICS",
    "known_method",
]

KNOWN_METHODS = frozenset({"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE"})
"""Methods of the OpenTelemetry HTTP conventions."""
OTHER_METHOD = "_OTHER"
UNMATCHED = "unmatched"

SIZE_BUCKETS = tuple(float(64 * 4**k) for k in range(10))
_http = partial(Metric, pack="http")


def known_method(method: str) -> str:
    """Return a method as the label has it: anybody may send any word as one."""
    return method if method in KNOWN_METHODS else OTHER_METHOD


METHODS = (*sorted(KNOWN_METHODS), OTHER_METHOD)
"""All values of the label `method`."""
_RED: dict[str, tuple[str, ...]] = {"method": METHODS, "route": (), "status": ()}
_ROUTE: dict[str, tuple[str, ...]] = {"method": METHODS, "route": ()}

REQUEST_METRICS = (
    _http("http_requests_total", "counter", "HTTP requests answered.", _RED),
    _http(
        "http_request_duration_seconds",
        "histogram",
        "Time from the first sight of a request to the last byte of its response; streams are in http_stream_duration_seconds.",
        _RED,
        "seconds",
        LATENCY_BUCKETS,
    ),
    _http("http_requests_in_flight", "gauge", "HTTP requests being handled now.", {"method": METHODS}),
    _http("http_request_size_bytes", "histogram", "Bytes of request bodies as received.", _ROUTE, "bytes", SIZE_BUCKETS),
    _http("http_response_size_bytes", "histogram", "Bytes of response bodies as sent.", _ROUTE, "bytes", SIZE_BUCKETS),
)
"""Those that every request changes, all at once."""
HTTP_METRICS = (
    _http(
        "request_errors_total",
        "counter",
        "Requests that failed: a 5xx, an exception, half a response, or an exception in a background task.",
        {"protocol": ("http", "grpc", "websocket"), "method": METHODS, "route": (), "error_type": ()},
    ),
    _http("http_stream_duration_seconds", "histogram", "Whole duration of streamed responses.", _RED, "seconds", LONG_BUCKETS),
    _http(
        "http_stream_first_byte_seconds",
        "histogram",
        "Time to the first byte of streamed responses.",
        _ROUTE,
        "seconds",
        LATENCY_BUCKETS,
    ),
    _http(
        "http_background_duration_seconds",
        "histogram",
        "Work after the last byte: background tasks.",
        _ROUTE,
        "seconds",
        LONG_BUCKETS,
    ),
)
WEBSOCKET_METRICS = (
    _http("websocket_connections_open", "gauge", "WebSocket connections open now."),
    _http(
        "websocket_connections_total",
        "counter",
        "WebSocket connections that ended, by status of the handshake and close code.",
        {"route": (), "status": (), "close_code": ()},
    ),
    _http(
        "websocket_connection_duration_seconds",
        "histogram",
        "Life of WebSocket connections.",
        {"route": ()},
        "seconds",
        LONG_BUCKETS,
    ),
    _http("websocket_messages_total", "counter", "WebSocket messages.", {"route": (), "direction": ("received", "sent")}),
)

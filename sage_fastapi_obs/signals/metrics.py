"""RED metrics of HTTP and WebSocket, on the registry of one `Observability`."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, cast

from prometheus_client import CollectorRegistry, Counter, Gauge, GCCollector, Histogram, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from sage_fastapi_obs.request.exchange import Exchange
from sage_fastapi_obs.request.recorder import Faults, Recorder
from sage_fastapi_obs.settings import MetricsSettings
from sage_fastapi_obs.signals.catalog import (
    HTTP_METRICS,
    KNOWN_METHODS,
    OTHER_METHOD,
    OVERFLOW,
    SELF_METRICS,
    UNMATCHED,
    WEBSOCKET_METRICS,
    build,
)

__all__ = ["Metrics"]


class Metrics(Recorder):
    """Counts and times every exchange; children are resolved once per method, route and status."""

    def __init__(self, settings: MetricsSettings, registry: CollectorRegistry, faults: Faults) -> None:
        self.registry = registry
        catalog = [
            metric.with_buckets(settings.duration_buckets if metric.name == "http_request_duration_seconds" else None)
            for metric in (*HTTP_METRICS, *WEBSOCKET_METRICS)
        ]
        instruments = cast("dict[str, Any]", build([*catalog, SELF_METRICS[1]], registry))
        self.requests: Counter = instruments["http_requests_total"]
        self.duration: Histogram = instruments["http_request_duration_seconds"]
        self._errors: Counter = instruments["request_errors_total"]
        self._in_flight: Gauge = instruments["http_requests_in_flight"]
        self.request_size: Histogram = instruments["http_request_size_bytes"]
        self.response_size: Histogram = instruments["http_response_size_bytes"]
        self.stream_duration: Histogram = instruments["http_stream_duration_seconds"]
        self.stream_first_byte: Histogram = instruments["http_stream_first_byte_seconds"]
        self._background: Histogram = instruments["http_background_duration_seconds"]
        self._sockets_open: Gauge = instruments["websocket_connections_open"]
        self._sockets: Counter = instruments["websocket_connections_total"]
        self._socket_duration: Histogram = instruments["websocket_connection_duration_seconds"]
        self._messages: Counter = instruments["websocket_messages_total"]
        self._exemplars = settings.exemplars
        overflow: Counter = instruments["observability_label_overflow_total"]
        self._guards = {
            label: _LabelGuard(settings.max_routes if label == "route" else settings.max_label_values, overflow.labels(label))
            for label in ("route", "status", "error_type", "close_code")
        }
        self._children: dict[tuple[str, str | None, int], _Children] = {}
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=registry)
        registry.register(_FaultCollector(faults))

    def request_started(self, exchange: Exchange) -> None:
        """Count the request in."""
        if exchange.kind == "http":
            self._in_flight.labels(_method(exchange)).inc()
        else:
            self._sockets_open.inc()

    def request_finished(self, exchange: Exchange) -> None:
        """Count the request out, and time it."""
        if exchange.kind == "websocket":
            self._socket_finished(exchange)
            return
        method = _method(exchange)
        self._in_flight.labels(method).dec()
        children = self._children.get((method, exchange.route, exchange.status)) or self._resolve(method, exchange)
        exemplar = (
            {"trace_id": exchange.trace_id, "span_id": exchange.span_id} if exchange.sampled and self._exemplars else None
        )
        children.count()
        children.request_size(exchange.received_bytes)
        children.response_size(exchange.sent_bytes)
        if exchange.streamed:
            children.stream(exchange.duration_seconds, exemplar)
            children.first_byte((exchange.first_byte_us or 0) / 1_000_000)
        else:
            children.duration(exchange.duration_seconds, exemplar)
        if exchange.failed:
            self._count_error("http", method, exchange, cast("str", exchange.error_type))

    def background_finished(self, exchange: Exchange) -> None:
        """Time the work after the response, which is no part of the request."""
        method = _method(exchange)
        route = self._guards["route"](exchange.route or UNMATCHED)
        self._background.labels(method, route).observe((exchange.background_us or 0) / 1_000_000)
        if exchange.background_error is not None:
            self._count_error("http", method, exchange, type(exchange.background_error).__name__)

    def _socket_finished(self, exchange: Exchange) -> None:
        self._sockets_open.dec()
        route = self._guards["route"](exchange.route or UNMATCHED)
        close_code = self._guards["close_code"](str(exchange.close_code or "none"))
        self._sockets.labels(route, self._guards["status"](str(exchange.status)), close_code).inc()
        self._socket_duration.labels(route).observe(exchange.duration_seconds)
        self._messages.labels(route, "received").inc(exchange.received_messages)
        self._messages.labels(route, "sent").inc(exchange.sent_messages)
        if exchange.failed:
            self._count_error("websocket", _method(exchange), exchange, cast("str", exchange.error_type))

    def _count_error(self, protocol: str, method: str, exchange: Exchange, error_type: str) -> None:
        route = self._guards["route"](exchange.route or UNMATCHED)
        self._errors.labels(protocol, method, route, self._guards["error_type"](error_type)).inc()

    def _resolve(self, method: str, exchange: Exchange) -> "_Children":
        route = exchange.route or UNMATCHED
        guarded = (method, self._guards["route"](route), self._guards["status"](str(exchange.status)))
        children = _Children(self, *guarded)
        if guarded[1] == route and guarded[2] == str(exchange.status):
            # What overflowed is not remembered: remembering it would be the growth that the guard prevents.
            self._children[(method, exchange.route, exchange.status)] = children
        return children


class _Children:
    """The instruments of one method, route and status, bound."""

    __slots__ = ("count", "duration", "first_byte", "request_size", "response_size", "stream")

    def __init__(self, metrics: Metrics, method: str, route: str, status: str) -> None:
        self.count: Callable[[], None] = metrics.requests.labels(method, route, status).inc
        self.duration: Callable[..., None] = _lazy(metrics.duration, method, route, status)
        self.stream: Callable[..., None] = _lazy(metrics.stream_duration, method, route, status)
        self.first_byte: Callable[..., None] = _lazy(metrics.stream_first_byte, method, route)
        self.request_size: Callable[[float], None] = metrics.request_size.labels(method, route).observe
        self.response_size: Callable[[float], None] = metrics.response_size.labels(method, route).observe


def _lazy(histogram: Histogram, *labels: str) -> Callable[..., None]:
    """Bind a child that appears in the exposition only once it has something to show."""

    def observe(value: float, exemplar: dict[str, str] | None = None) -> None:
        histogram.labels(*labels).observe(value, exemplar)

    return observe


class _LabelGuard:
    """Lets the first N values of a label through, and folds the rest into one."""

    def __init__(self, most: int, overflow: Counter) -> None:
        self._most = most
        self._overflow = overflow
        self._seen: set[str] = set()

    def __call__(self, value: str) -> str:
        if value in self._seen:
            return value
        if len(self._seen) >= self._most:
            self._overflow.inc()
            return OVERFLOW
        self._seen.add(value)
        return value


class _FaultCollector(Collector):
    """Shows the failures that were counted where nothing may be assumed to work, not even this registry."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults

    def collect(self) -> Iterable[Metric]:
        metric = SELF_METRICS[0]
        family = CounterMetricFamily(metric.name, metric.help, labels=list(metric.labels))
        for component, count in sorted(self._faults.counts.items()):
            family.add_metric([component], count)
        yield family

    def describe(self) -> Iterator[Metric]:
        yield CounterMetricFamily(SELF_METRICS[0].name, SELF_METRICS[0].help, labels=list(SELF_METRICS[0].labels))


def _method(exchange: Exchange) -> str:
    return exchange.method if exchange.method in KNOWN_METHODS else OTHER_METHOD

"""RED metrics of HTTP and WebSocket, on the registry of one `Observability`."""

from typing import Any, cast

from prometheus_client import Counter, Gauge, Histogram

from sage_fastapi_obs.catalog import HTTP_METRICS, REQUEST_METRICS, UNMATCHED, WEBSOCKET_METRICS, build, known_method, register
from sage_fastapi_obs.metrics.http_series import BATCH, HttpRequestSeries, RequestSeries
from sage_fastapi_obs.metrics.instruments import Instruments, LabelledMetric
from sage_fastapi_obs.request.exchange import Exchange, Socket
from sage_fastapi_obs.request.recorder import Recorder
from sage_fastapi_obs.settings import MetricsSettings

__all__ = ["HttpMetrics"]


class HttpMetrics(Recorder):
    """Counts and times every exchange; series are resolved once per method, route and status."""

    component = "Metrics"

    def __init__(self, settings: MetricsSettings, shared: Instruments) -> None:
        total, duration, in_flight, received, sent = REQUEST_METRICS
        self._requests = requests = HttpRequestSeries(
            total, duration.with_buckets(settings.duration_buckets), in_flight, received, sent
        )
        self._in_flight = requests.in_flight
        register(requests, shared.registry)
        instruments = cast("dict[str, Any]", build([*HTTP_METRICS, *WEBSOCKET_METRICS], shared.registry))
        self._errors: Counter = instruments["request_errors_total"]
        self._stream_duration: Histogram = instruments["http_stream_duration_seconds"]
        self._stream_first_byte: Histogram = instruments["http_stream_first_byte_seconds"]
        self._background: Histogram = instruments["http_background_duration_seconds"]
        self._sockets_open: Gauge = instruments["websocket_connections_open"]
        self._sockets: Counter = instruments["websocket_connections_total"]
        self._socket_duration: Histogram = instruments["websocket_connection_duration_seconds"]
        self._messages: Counter = instruments["websocket_messages_total"]
        self._exemplars = settings.exemplars
        self._guards = {label: shared.guard(label) for label in ("status", "error_type", "close_code")}
        self._guards["route"] = shared.guard("route", settings.max_routes)
        errors = HTTP_METRICS[0]
        plain = (self._guards["route"], self._guards["error_type"])
        shared.share(LabelledMetric(errors, self._errors, (str, str, *plain)))
        self._series: dict[tuple[str, str | None, int], RequestSeries] = {}

    def request_started(self, exchange: Exchange) -> None:
        """Count the request in."""
        if exchange.kind == "websocket":
            self._sockets_open.inc()
            return
        self._in_flight.add(exchange)

    def request_finished(self, exchange: Exchange) -> None:
        """Count the request out, and time it."""
        if exchange.socket is not None:
            self._socket_finished(exchange, exchange.socket)
            return
        self._in_flight.discard(exchange)
        series = self._series.get((exchange.method, exchange.route, exchange.status)) or self._resolve(exchange)
        seen = (exchange.trace_id, exchange.span_id, exchange.wall_ns) if exchange.sampled and self._exemplars else None
        duration_us = None if exchange.streamed else exchange.duration_us
        pending = series.pending
        pending.append((duration_us, exchange.received_bytes, exchange.sent_bytes, seen))
        if len(pending) >= BATCH:
            self._requests.add_up(series)
        if duration_us is None:
            self._stream_finished(exchange)
        if exchange.error_type is not None and exchange.failed:
            self._count_error("http", exchange, exchange.error_type)

    def _stream_finished(self, exchange: Exchange) -> None:
        method = known_method(exchange.method)
        route = self._guards["route"](exchange.route or UNMATCHED)
        status = self._guards["status"](str(exchange.status))
        exemplar = (
            {"trace_id": exchange.trace_id, "span_id": exchange.span_id} if exchange.sampled and self._exemplars else None
        )
        self._stream_duration.labels(method, route, status).observe(exchange.duration_seconds, exemplar)
        self._stream_first_byte.labels(method, route).observe((exchange.first_byte_us or 0) / 1_000_000)

    def background_finished(self, exchange: Exchange) -> None:
        """Time the work after the response, which is no part of the request."""
        background = exchange.background
        if background is None:
            return
        method = known_method(exchange.method)
        route = self._guards["route"](exchange.route or UNMATCHED)
        self._background.labels(method, route).observe(background.duration_us / 1_000_000)
        if background.error is not None:
            self._count_error("http", exchange, type(background.error).__name__)

    def _socket_finished(self, exchange: Exchange, socket: Socket) -> None:
        self._sockets_open.dec()
        route = self._guards["route"](exchange.route or UNMATCHED)
        close_code = self._guards["close_code"](str(socket.close_code or "none"))
        self._sockets.labels(route, self._guards["status"](str(exchange.status)), close_code).inc()
        self._socket_duration.labels(route).observe(exchange.duration_seconds)
        self._messages.labels(route, "received").inc(socket.received_messages)
        self._messages.labels(route, "sent").inc(socket.sent_messages)
        if exchange.failed:
            self._count_error("websocket", exchange, cast("str", exchange.error_type))

    def _count_error(self, protocol: str, exchange: Exchange, error_type: str) -> None:
        method = known_method(exchange.method)
        route = self._guards["route"](exchange.route or UNMATCHED)
        self._errors.labels(protocol, method, route, self._guards["error_type"](error_type)).inc()

    def _resolve(self, exchange: Exchange) -> RequestSeries:
        labels = (known_method(exchange.method), exchange.route or UNMATCHED, str(exchange.status))
        guarded = (labels[0], self._guards["route"](labels[1]), self._guards["status"](labels[2]))
        series = self._requests.of(*guarded)
        if guarded == labels and labels[0] == exchange.method:
            # What overflowed is not remembered: remembering it would be the growth that the guards prevent.
            self._series[exchange.method, exchange.route, exchange.status] = series
        return series

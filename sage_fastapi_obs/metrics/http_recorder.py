"""RED metrics of HTTP and WebSocket, on the registry of one `Observability`."""

from collections.abc import Iterator
from functools import partial
from operator import attrgetter
from typing import Any, cast

from sage_fastapi_obs.catalog import (
    HTTP_METRICS,
    REQUEST_LABELS,
    REQUEST_METRICS,
    REQUEST_QUEUE,
    SLOW_REQUESTS,
    VALIDATION_ERRORS,
    WEBSOCKET_METRICS,
    Metric,
    build,
    register,
)
from sage_fastapi_obs.metrics.http_series import BATCH, HttpRequestSeries, RequestSeries
from sage_fastapi_obs.metrics.instruments import Instruments, LabelledMetric
from sage_fastapi_obs.request.exchange import Exchange, Socket
from sage_fastapi_obs.request.explanation import Explanation
from sage_fastapi_obs.request.in_flight import RequestRecords
from sage_fastapi_obs.request.recorder import Recorder
from sage_fastapi_obs.request.watch import Watch, in_flight
from sage_fastapi_obs.settings import MetricsSettings

_READ = {label.name: label.value_of for label in REQUEST_LABELS}


class HttpMetrics(Recorder):
    """Counts and times every exchange; series are resolved once for the attributes that their labels are read from."""

    component = "Metrics"

    def __init__(self, settings: MetricsSettings, shared: Instruments, in_progress: set[Watch]) -> None:
        """`in_progress`: watches of the exchanges whose app has not returned."""
        total, duration, in_flight, received, sent = REQUEST_METRICS
        self._requests = requests = HttpRequestSeries(
            total, duration.with_buckets(settings.duration_buckets), in_flight, received, sent
        )
        requests.in_flight = partial(_in_flight, in_progress)
        register(requests, shared.registry)
        metrics = (*HTTP_METRICS, SLOW_REQUESTS, VALIDATION_ERRORS, REQUEST_QUEUE, *WEBSOCKET_METRICS)
        self._metrics = {metric.name: metric for metric in metrics}
        self._instruments: dict[str, Any] = {**build(metrics, shared.registry)}
        self._exemplars = settings.exemplars
        open_labels = {label for metric in (total, *metrics) for label, values in metric.labels.items() if not values}
        self._guards = {label: shared.guard(label) for label in open_labels - {"route"}}
        self._guards["route"] = shared.guard("route", settings.max_routes)
        errors = self._metrics["request_errors_total"]
        guards = [self._guards.get(label, str) for label in errors.labels]
        shared.share(LabelledMetric(errors, self._instruments[errors.name], guards))
        self._attributes = attrgetter(*(label.attribute for label in REQUEST_LABELS))
        self._series: dict[tuple[Any, ...], RequestSeries] = {}
        self._shared: RequestRecords | None = None
        """The slot of this worker, where siblings go on with its numbers."""
        self._queues: dict[str | None, Any] = {}
        """Of each route."""
        self._most_routes = settings.max_routes

    @property
    def requests(self) -> HttpRequestSeries:
        """The numbers of requests."""
        return self._requests

    def share(self, records: RequestRecords | None) -> None:
        """Leave each request that is done in the slot of this worker, until it is counted there; None: no more."""
        # Those of another slot are freed there.
        self._requests.add_up_all()
        self._shared = records
        if records is not None:
            self._requests.free, records.make_room = records.free_all, self._requests.add_up_all

    def count_untimed(self, exchange: Exchange) -> None:
        """Count a request of which the duration is not known, at once."""
        series = self._resolve(exchange)
        series.pending.append((None, exchange.received_bytes, exchange.sent_bytes, None, None))
        self._requests.add_up(series)

    def request_started(self, exchange: Exchange) -> None:
        """Count a WebSocket in; requests in flight are counted when somebody asks."""
        if exchange.kind == "websocket":
            self._instruments["websocket_connections_open"].inc()

    def request_finished(self, exchange: Exchange) -> None:
        """Count the request out, and time it."""
        if exchange.explanation is not None:
            self._count_causes(exchange, exchange.explanation)
        if exchange.queue_us is not None:
            self._queue_of(exchange).observe(exchange.queue_us / 1_000_000)
        if exchange.socket is not None:
            self._socket_finished(exchange, exchange.socket)
            return
        try:
            series = self._series[self._attributes(exchange)]
        except KeyError:
            series = self._resolve(exchange)
        seen = (exchange.trace_id, exchange.span_id, exchange.wall_ns) if exchange.sampled and self._exemplars else None
        pending, records = series.pending, self._shared
        done = None if records is None else records.done(exchange, series.place)
        if exchange.streamed:
            pending.append((None, exchange.received_bytes, exchange.sent_bytes, seen, done))
            self._stream_finished(exchange)
        else:
            pending.append((exchange.duration_us, exchange.received_bytes, exchange.sent_bytes, seen, done))
        if len(pending) >= BATCH or (records is not None and done is not None and done[0] is records.no_room):
            self._requests.add_up(series)
        if exchange.error_type is not None and exchange.failed:
            self._count_error("http", exchange, exchange.error_type)

    def _stream_finished(self, exchange: Exchange) -> None:
        self._time("http_stream_duration_seconds", exchange, exchange.duration_us)
        self._time("http_stream_first_byte_seconds", exchange, exchange.first_byte_us or 0)

    def background_finished(self, exchange: Exchange) -> None:
        """Time the work after the response, which is no part of the request."""
        background = exchange.background
        if background is None:
            return
        self._time("http_background_duration_seconds", exchange, background.duration_us)
        if background.error_type is not None:
            self._count_error("http", exchange, background.error_type)

    def _socket_finished(self, exchange: Exchange, socket: Socket) -> None:
        self._instruments["websocket_connections_open"].dec()
        self._of("websocket_connections_total", exchange, close_code=str(socket.close_code or "none")).inc()
        self._time("websocket_connection_duration_seconds", exchange, exchange.duration_us)
        self._of("websocket_messages_total", exchange, direction="received").inc(socket.received_messages)
        self._of("websocket_messages_total", exchange, direction="sent").inc(socket.sent_messages)
        if exchange.failed:
            self._count_error("websocket", exchange, cast("str", exchange.error_type))

    def _queue_of(self, exchange: Exchange) -> Any:
        found = self._queues.get(exchange.route)
        if found is None:
            found = self._of(REQUEST_QUEUE.name, exchange)
            if len(self._queues) < self._most_routes:
                self._queues[exchange.route] = found
        return found

    def _count_causes(self, exchange: Exchange, explanation: Explanation) -> None:
        if explanation.is_slow and exchange.socket is None:
            self._of(SLOW_REQUESTS.name, exchange, cause=explanation.cause).inc()
        for location, kind in explanation.validation_errors:
            self._of(VALIDATION_ERRORS.name, exchange, location=location, kind=kind).inc()

    def _time(self, name: str, exchange: Exchange, duration_us: int) -> None:
        is_linked = exchange.sampled and self._exemplars
        exemplar = {"trace_id": exchange.trace_id, "span_id": exchange.span_id} if is_linked else None
        self._of(name, exchange).observe(duration_us / 1_000_000, exemplar)

    def _count_error(self, protocol: str, exchange: Exchange, error_type: str) -> None:
        self._of("request_errors_total", exchange, protocol=protocol, error_type=error_type).inc()

    def _of(self, name: str, exchange: Exchange, **values: str) -> Any:
        """Return the series of an exchange; `values`: labels that are not read from it."""
        metric: Metric = self._metrics[name]
        return self._instruments[name].labels(
            *[self._guarded(label, values[label] if label in values else _READ[label](exchange)) for label in metric.labels]
        )

    def _guarded(self, label: str, value: str) -> str:
        guard = self._guards.get(label)
        return value if guard is None else guard(value)

    def _resolve(self, exchange: Exchange) -> RequestSeries:
        attributes = self._attributes(exchange)
        values = [label.value_of(exchange) for label in REQUEST_LABELS]
        guarded = [self._guarded(label.name, value) for label, value in zip(REQUEST_LABELS, values, strict=True)]
        series = self._requests.with_values(*guarded)
        is_bounded = all(raw is None or str(raw) == value for raw, value in zip(attributes, values, strict=True))
        if guarded == values and is_bounded:
            # Overflowed values and unknown methods are not cached: the cache would grow without end.
            self._series[attributes] = series
        return series


def _in_flight(in_progress: set[Watch]) -> Iterator[Exchange]:
    for watch in in_flight(in_progress):
        exchange = watch.exchange
        if exchange.kind == "http" and not exchange.finished and not exchange.excluded:
            yield exchange

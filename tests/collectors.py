"""Real receivers of OTLP that keep all three signals, over HTTP and over gRPC, and meet requests with scripted faults."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2 as logs
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as metrics
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as traces
from receivers import Handler, Receiver, serving

MESSAGES = {
    "traces": (traces.ExportTraceServiceRequest, traces.ExportTraceServiceResponse, "trace.v1.TraceService"),
    "logs": (logs.ExportLogsServiceRequest, logs.ExportLogsServiceResponse, "logs.v1.LogsService"),
    "metrics": (metrics.ExportMetricsServiceRequest, metrics.ExportMetricsServiceResponse, "metrics.v1.MetricsService"),
}


def plain(value: Any) -> Any:
    """Read an AnyValue back."""
    match value.WhichOneof("value"):
        case None:
            return None
        case "kvlist_value":
            return attributes(value.kvlist_value.values)
        case "array_value":
            return [plain(item) for item in value.array_value.values]
        case kind:
            return getattr(value, kind)


def attributes(pairs: Any) -> dict[str, Any]:
    """Read attributes back."""
    return {pair.key: plain(pair.value) for pair in pairs}


class Kept:
    """What has arrived."""

    def __init__(self) -> None:
        self.requests: dict[str, list[Any]] = {signal: [] for signal in MESSAGES}

    def spans(self) -> list[tuple[dict[str, Any], Any]]:
        """List all spans, each with the attributes of its resource."""
        return [
            (attributes(group.resource.attributes), span)
            for request in [*self.requests["traces"]]
            for group in request.resource_spans
            for scope in group.scope_spans
            for span in scope.spans
        ]

    def records(self) -> list[tuple[dict[str, Any], Any]]:
        """List all log records, each with the attributes of its resource."""
        return [
            (attributes(group.resource.attributes), record)
            for request in [*self.requests["logs"]]
            for group in request.resource_logs
            for scope in group.scope_logs
            for record in scope.log_records
        ]

    def metrics(self) -> list[tuple[dict[str, Any], Any]]:
        """List all metrics, those of all pushes, each with the attributes of its resource."""
        return [
            (attributes(group.resource.attributes), metric)
            for request in [*self.requests["metrics"]]
            for group in request.resource_metrics
            for scope in group.scope_metrics
            for metric in scope.metrics
        ]

    def points(self, name: str, instance: str | None = None) -> dict[tuple[tuple[str, Any], ...], Any]:
        """Return the newest point of each series of a metric, by its sorted attributes."""
        found = {}
        for resource, metric in self.metrics():
            if metric.name == name and instance in (None, resource["service.instance.id"]):
                for point in getattr(metric, metric.WhichOneof("data")).data_points:
                    found[tuple(sorted(attributes(point.attributes).items()))] = point
        return found


class HttpCollector(Receiver):
    """Takes all signals over HTTP."""

    def __init__(self, port: int = 0) -> None:
        super().__init__(port)
        self.kept = Kept()

    def endpoint(self, signal: str) -> str:
        """Return where a signal goes, as the settings want it."""
        return f"{self.url}/v1/{signal}"

    def accept(self, handler: Handler, body: bytes) -> None:
        assert handler.headers["content-type"] == "application/x-protobuf"
        signal = handler.path.rpartition("/")[2]
        self.kept.requests[signal].append(MESSAGES[signal][0].FromString(body))
        handler.answer(200)


GrpcFault = Callable[[Any, grpc.ServicerContext], Any]


class GrpcCollector:
    """Takes all signals over gRPC."""

    def __init__(self, port: int = 0, credentials: Any = None) -> None:
        self.kept = Kept()
        self.metadata: list[dict[str, Any]] = []
        self.faults: list[GrpcFault] = []
        """What the next calls meet instead of an answer, one each."""
        self._lock = threading.Lock()
        self._server = grpc.server(ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0)])
        for signal, (request, answer, name) in MESSAGES.items():
            handler = grpc.unary_unary_rpc_method_handler(
                self._taker(signal), request_deserializer=request.FromString, response_serializer=answer.SerializeToString
            )
            service = f"opentelemetry.proto.collector.{name}"
            self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {"Export": handler}),))
        address = f"127.0.0.1:{port}"
        listen = self._server.add_insecure_port if credentials is None else self._server.add_secure_port
        self.port = listen(address, *(() if credentials is None else (credentials,)))

    def endpoint(self, _: str) -> str:
        """Return where a signal goes, as the settings want it."""
        return f"grpc://127.0.0.1:{self.port}"

    def _taker(self, signal: str) -> Any:
        def take(request: Any, context: grpc.ServicerContext) -> Any:
            self.metadata.append(dict(context.invocation_metadata()))
            with self._lock:
                fault = self.faults.pop(0) if self.faults else None
            return self.take(signal, request) if fault is None else fault(request, context)

        return take

    def take(self, signal: str, request: Any) -> Any:
        """Keep a request, and return the answer."""
        self.kept.requests[signal].append(request)
        return MESSAGES[signal][1]()

    def start(self) -> None:
        self._server.start()

    def stop(self) -> None:
        self._server.stop(None).wait()


@contextmanager
def collecting(kind: str, **options: Any) -> Iterator[Any]:
    """Run a collector of a kind, `http` or `grpc`, until the end of the block."""
    if kind == "http":
        with serving(HttpCollector(**options)) as collector:
            yield collector
        return
    collector = GrpcCollector(**options)
    collector.start()
    try:
        yield collector
    finally:
        collector.stop()

"""Pushes all metrics of a registry to a collector, over OTLP: at intervals, at a flush, and at the end."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from opentelemetry.sdk.resources import Resource
from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.registry import Collector as Metrics
from prometheus_client.samples import Sample

from sage_fastapi_obs.catalog import PUSH_METRICS
from sage_fastapi_obs.delivery.answers import Refused
from sage_fastapi_obs.delivery.losses import Losses
from sage_fastapi_obs.delivery.otlp_collector import Collector
from sage_fastapi_obs.delivery.queued_sender import Entry, Limits, Sender
from sage_fastapi_obs.delivery.senders import Senders
from sage_fastapi_obs.internal_errors import InternalErrors, component_of
from sage_fastapi_obs.metrics.exposition.prometheus_internals import collectors, versioned
from sage_fastapi_obs.metrics.otlp_encoding import MetricEncoder
from sage_fastapi_obs.processes import AtEnd, hold_at_fork
from sage_fastapi_obs.settings import MetricsSettings, ServiceSettings
from sage_fastapi_obs.settings.resource import in_this_process, resource_of
from sage_fastapi_obs.threads import Slices

_MOST_POINTS = 500
"""In one request: collectors take 4 MiB, and encoding holds the interpreter."""


class PushLosses(Losses):
    """How many pushes were lost."""

    metric = PUSH_METRICS[0]

    def __init__(self) -> None:
        super().__init__()
        self.watch("otlp", _Pushes.causes)

    def counted(self) -> list[tuple[tuple[str, ...], int]]:
        """Return all counts; metrics have one output."""
        return [((cause,), count) for (_, cause), count in super().counted()]


class MetricOutput:
    """Pushes metrics between a start and a close; does nothing without an endpoint."""

    component = "MetricExport"

    def __init__(
        self,
        settings: MetricsSettings,
        service: ServiceSettings,
        registry: CollectorRegistry,
        errors: InternalErrors,
        log: Callable[[str, Mapping[str, Any]], None],
        senders: Senders,
        shutdown_seconds: float,
    ) -> None:
        """`log` logs a line. Raises `SettingsError` where an extra is missing."""
        self.losses = PushLosses()
        """Pushes that were lost."""
        self.remarks: tuple[str, ...] = ()
        """What is wrong with OpenTelemetry's environment variables."""
        self._sender: _Pushes | None = None
        self._senders = senders
        self._at_end = AtEnd(self.close, self.close)
        if not settings.enabled or settings.otlp_endpoint is None:
            return
        destination = _Registry(settings.otlp_endpoint, service, registry, errors)
        failed = partial(errors.count, self.component)
        # A full batch would be sent at once.
        limits = Limits(1, 2, settings.otlp_interval_seconds)
        self._sender = _Pushes(destination, self.losses, log, failed, limits)
        self.remarks = self._sender.remarks
        senders.add(self._sender, shutdown_seconds)

    def start(self) -> None:
        """Push from now on, the first time after an interval."""
        if self._sender is not None:
            self._sender.open()
            self._at_end.watch()

    def close(self) -> None:
        """Push a last time."""
        if self._sender is not None:
            self._at_end.leave()
            self._senders.stop()
            self._sender.close()


class _Pushes(Sender):
    """Queues a push, which gets its values only when it is sent: one that is tried again has those of then."""

    what = "metrics"
    thread_name = "sage-obs-metrics-push"
    causes = ("refused", "shutdown")

    def open(self) -> None:
        """Start the thread, which sends after the interval."""
        super().open()
        self._push()

    def hurry(self) -> None:
        """Push the values of now."""
        self._push()
        super().hurry()

    def restart(self) -> None:
        """Begin anew; a forked child does not push what its parent has counted."""
        super().restart()
        self._is_open = False

    def _push(self) -> None:
        with self._lock:
            if not self._queue:
                self.put(None)

    def _send_due(self) -> None:
        self._push()
        self._due = self._number
        super()._send_due()


class _Registry:
    """Reads a registry, and sends it to a collector."""

    name = "otlp"

    def __init__(self, url: str, service: ServiceSettings, registry: CollectorRegistry, errors: InternalErrors) -> None:
        # What the registry has counted, it has counted since then.
        self._encoder = MetricEncoder(started_ns=time.time_ns())
        self._collector = Collector(url, "metrics", self._encoder.response)
        self.remarks = self._collector.remarks
        self._service, self._registry, self._errors = service, registry, errors
        self._service_resource = Resource.get_empty()
        self._resource: Any = None
        self._reading = threading.RLock()
        # Metrics have locks of their own: a child that is forked while one is read could never read it.
        hold_at_fork(self._reading, rank=2)

    def prepare(self) -> None:
        """Describe the service, which takes threads: an interpreter that is about to end has none for it."""
        self._service_resource = resource_of(self._service)

    def open(self) -> None:
        """Prepare in the process that sends, which its resource names."""
        self._collector.close()
        self._resource = self._encoder.messages.resource(dict(in_this_process(self._service_resource).attributes))

    def deliver(self, _: Sequence[Entry], seconds: float) -> tuple[Sequence[Entry], int]:
        """Send all metrics as they are now; return whether the collector has refused any points."""
        deadline = time.monotonic() + seconds
        refusal: Refused | None = None
        rejected, requests = 0, self._requests()
        while (request := self._next(requests)) is not None:
            try:
                rejected += self._collector.send(request, deadline - time.monotonic())
            except Refused as refused:
                refusal = refused
        if refusal is not None:
            raise refusal
        return (), min(1, rejected)

    def close(self) -> None:
        """Let go of connections."""
        self._collector.close()

    def _next(self, requests: Iterator[bytes]) -> bytes | None:
        with self._reading:
            return next(requests, None)

    def _requests(self) -> Iterator[bytes]:
        """Yield messages with some of the points each; the lock is held whenever this goes on."""
        encoder = self._encoder
        request = self._empty_request()
        metrics, points = request.resource_metrics[0].scope_metrics[0].metrics, 0
        for family, some in self._points():
            metrics.append(encoder.metric(family, some))
            points += len(some)
            if points >= _MOST_POINTS:
                yield request.SerializeToString()
                request = self._empty_request()
                metrics, points = request.resource_metrics[0].scope_metrics[0].metrics, 0
        if points:
            yield request.SerializeToString()

    def _empty_request(self) -> Any:
        request = self._encoder.request()
        request.resource_metrics.add(resource=self._resource).scope_metrics.add(scope=self._encoder.scope)
        return request

    def _points(self) -> Iterator[tuple[Metric, list[Any]]]:
        """Yield families with some points each; a collector that raises is counted, and the others are read."""
        slices, now_ns = Slices(self._reading), time.time_ns()
        for collector in collectors(self._registry) or [self._registry]:
            try:
                for family, children in _families(collector):
                    points: list[Any] = []
                    for point in self._encoder.points(family, children, now_ns):
                        points.append(point)
                        slices.rest_if_due()
                        if len(points) >= _MOST_POINTS:
                            yield family, points
                            points = []
                    if points:
                        yield family, points
            except Exception as error:
                self._errors.count(component_of(collector), error)


def _families(collector: Metrics) -> Iterator[tuple[Metric, Iterator[Sequence[Sample]]]]:
    """Yield the families of a collector, each with the samples of one child after the other where it has them apart."""
    read = versioned(collector)
    if read is None:
        for family in collector.collect():
            yield family, iter([family.samples])
        return
    for family, children in read():
        yield family, ([*samples()] for _, _, samples in children)

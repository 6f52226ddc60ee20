"""Sends ended spans to a collector, over OTLP.

The sender of log lines sends them. The SDK's own batch processor and exporter do not count lost spans, log a line per batch,
wait for half a minute at the end, and read responses of any size.
"""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor

from sage_fastapi_obs.catalog import SPAN_METRICS
from sage_fastapi_obs.delivery.losses import Losses
from sage_fastapi_obs.delivery.otlp_collector import Collector
from sage_fastapi_obs.delivery.queued_sender import Entry, Limits, Sender
from sage_fastapi_obs.delivery.senders import Senders
from sage_fastapi_obs.errors import SettingsError
from sage_fastapi_obs.otel_internals import is_sampled
from sage_fastapi_obs.settings.standard_variables import number
from sage_fastapi_obs.tracing.span_encoding import SpanEncoder


class SpanLosses(Losses):
    """How many spans were lost."""

    metric = SPAN_METRICS[0]

    def counted(self) -> list[tuple[tuple[str, ...], int]]:
        """Return all counts; spans have one output."""
        return [((cause,), count) for (_, cause), count in super().counted()]


class SpanOutput(SpanProcessor):
    """Queues ended spans, and waits a bounded time for the last of them."""

    def __init__(
        self,
        url: str,
        losses: SpanLosses,
        log: Callable[[str, Mapping[str, Any]], None],
        failed: Callable[[Exception], None],
        shutdown_seconds: float,
        senders: Senders,
    ) -> None:
        """`log` logs a line, `failed` counts a missing thread. Raises `SettingsError` where the extra is missing."""
        remarks: list[str] = []
        self._sender = _SpanSender(_Spans(url), losses, log, failed, _limits(remarks))
        self._shutdown_seconds = shutdown_seconds
        senders.add(self._sender, shutdown_seconds)
        self.remarks = (*self._sender.remarks, *remarks)
        """What is wrong with OpenTelemetry's environment variables."""

    def open(self) -> None:
        """Accept spans from now on."""
        self._sender.open()

    def on_end(self, span: ReadableSpan) -> None:
        """Queue a span, unless it is recorded and not sampled."""
        if is_sampled(span):
            self._sender.put(span)

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Send all that has ended; tell whether that was done in time."""
        return self._sender.flush(timeout_millis / 1_000)

    def shutdown(self) -> None:
        """Send the rest within the time; count the remaining ones as lost."""
        self._sender.stop(time.monotonic() + self._shutdown_seconds)
        self._sender.close()


class _SpanSender(Sender):
    what = "spans"
    thread_name = "sage-obs-spans"


class _Spans:
    """Encodes batches of spans, and sends them to a collector."""

    name = "otlp"

    def __init__(self, url: str) -> None:
        try:
            from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans  # noqa: PLC0415 - an extra
            from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as service  # noqa: PLC0415
        except ImportError:
            raise SettingsError("tracing.exporter 'otlp' needs: pip install 'sage_fastapi_obs[otlp]'") from None
        self._encoder = SpanEncoder(encode_spans)
        self._collector = Collector(url, "traces", service.ExportTraceServiceResponse)
        self.remarks = self._collector.remarks

    def prepare(self) -> None:
        """Do nothing: each span knows its resource."""

    def open(self) -> None:
        """Drop a connection that belongs to the process from which this one was forked."""
        self._collector.close()

    def deliver(self, batch: Sequence[Entry], seconds: float) -> tuple[Sequence[Entry], int]:
        """Send a batch; return how many the collector has refused, or could not be encoded."""
        request, encoded_count = self._encoder.encode([entry.content for entry in batch])
        refused = self._collector.send(request, seconds) if encoded_count else 0
        return (), min(len(batch), len(batch) - encoded_count + refused)

    def close(self) -> None:
        """Close connections."""
        self._collector.close()


def _limits(remarks: list[str]) -> Limits:
    """Read the environment variables of the SDK's batch processor."""
    env, remark = os.environ, remarks.append
    queue = int(number(env, "OTEL_BSP_MAX_QUEUE_SIZE", 2048, remark, least=1))
    batch = int(number(env, "OTEL_BSP_MAX_EXPORT_BATCH_SIZE", 512, remark, least=1))
    seconds = number(env, "OTEL_BSP_SCHEDULE_DELAY", 5_000, remark, least=1) / 1_000
    return Limits(queue, min(batch, queue), seconds)

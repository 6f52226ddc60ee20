"""What the first log lines say: which settings are in use, and what is odd about them."""

from collections.abc import Iterator
from typing import Any

from sage_fastapi_obs.endpoints.access import Access
from sage_fastapi_obs.endpoints.metrics_port import MetricsPort
from sage_fastapi_obs.logs.writer import LogWriter
from sage_fastapi_obs.settings import Settings
from sage_fastapi_obs.tracing.server_span import ServerSpans


def startup_fields(settings: Settings, tracing: ServerSpans, logs: LogWriter, port: MetricsPort) -> dict[str, Any]:
    """Return the fields of the line "observability started"."""
    fields: dict[str, Any] = {} if settings.preset is None else {"preset": settings.preset}
    # Every line has it, but lines for people do not show it.
    fields["environment"] = settings.service.environment
    fields |= {"metrics": settings.metrics.path, "readers": Access(settings.monitoring).description}
    if settings.tracing.enabled:
        fields["spans"] = tracing.source
        fields["sample_rate"] = settings.tracing.sample_rate
    if logs.held_lines is not None:
        fields["held_lines"] = "lines below the level are written when their request fails or is slow"
    if port.port is not None:
        fields["metrics_port"] = port.port
    return fields


def startup_remarks(settings: Settings, tracing: ServerSpans, logs: LogWriter, port: MetricsPort) -> Iterator[str]:
    """Yield the warnings that follow that line."""
    yield from (*settings.remarks, *tracing.remarks, *logs.remarks)
    if settings.tracing.enabled and tracing.is_outcome_unused:
        yield (
            f"spans go through {tracing.source}, which cannot hold them back until a request has ended: they are kept by their "
            "ratio, as with tracing.retention 'ratio'"
        )
    if port.failure:
        yield (
            f"nothing listens on metrics.port {settings.metrics.port} for this process ({port.failure}): "
            "it listens as soon as the port is free; or set metrics.port to another one, or monitoring.access to 'token'"
        )

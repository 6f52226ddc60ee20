"""The tracer provider of an `Observability` that is given none, where the process has no global one."""

import os
import sys
from functools import partial
from random import Random

from opentelemetry import trace
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

from sage_fastapi_obs.otel_internals import SplitProcessor
from sage_fastapi_obs.settings import ServiceSettings, TracingSettings
from sage_fastapi_obs.settings.resource import resource_of
from sage_fastapi_obs.tracing.held_spans import OutcomeSampler


def global_provider() -> trace.TracerProvider | None:
    """Return the provider that the application has set for the whole process."""
    provider = trace.get_tracer_provider()
    return None if isinstance(provider, trace.ProxyTracerProvider) else provider


def build_provider(
    settings: TracingSettings, service: ServiceSettings, processor: SplitProcessor, output: SpanProcessor | None
) -> TracerProvider:
    """Build a provider that exports as the settings say, through `processor`; `output` exports over OTLP."""
    ratio = ParentBased(TraceIdRatioBased(settings.sample_rate))
    provider = TracerProvider(
        sampler=OutcomeSampler(ratio) if settings.retention == "outcome" else ratio,
        resource=resource_of(service),
        shutdown_on_exit=False,
        active_span_processor=processor,
        id_generator=_RandomIds(),
    )
    if "console" in settings.exporters:
        provider.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter(out=sys.stdout)))
    if output is not None:
        provider.add_span_processor(output)
    return provider


class _RandomIds(RandomIdGenerator):
    """Random ids, not from the shared generator: the application may seed that, and expects its numbers from it."""

    def __init__(self) -> None:
        generator = Random()  # noqa: S311 - these ids name things and keep no secret
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=generator.seed)
        # One of 2^64 span ids is invalid, which is too rare to be checked.
        self.generate_trace_id = partial(generator.getrandbits, 128)  # type: ignore[method-assign]
        self.generate_span_id = partial(generator.getrandbits, 64)  # type: ignore[method-assign]

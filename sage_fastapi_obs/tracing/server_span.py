"""The server span: adopted where the request has one, else opened by the stable HTTP conventions."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import TraceIdRatioBased
from opentelemetry.trace import Link, NonRecordingSpan, Span, SpanContext, SpanKind, TraceFlags

from sage_fastapi_obs.delivery.senders import Senders
from sage_fastapi_obs.otel_internals import FLAGS, NO_STATE, SPAN, SplitProcessor, attach, detach, get_current, processors_of
from sage_fastapi_obs.privacy.redaction import Redaction
from sage_fastapi_obs.processes import AtEnd
from sage_fastapi_obs.request.current_span import span_inside
from sage_fastapi_obs.request.exchange import Exchange
from sage_fastapi_obs.request.fastapi_internals import native_span
from sage_fastapi_obs.request.innermost_span import RUNNING, innermost_context
from sage_fastapi_obs.request.propagation_headers import DroppedHeaders
from sage_fastapi_obs.request.recorder import Headers, Recorder
from sage_fastapi_obs.retention_reasons import UNDECIDED
from sage_fastapi_obs.settings import HttpSettings, ServiceSettings, TracingSettings
from sage_fastapi_obs.tracing.callers import Callers
from sage_fastapi_obs.tracing.child_spans import ChildSpans, mark_failed
from sage_fastapi_obs.tracing.fast_span import CallerIds, RemoteSpan, UnsampledSpan
from sage_fastapi_obs.tracing.held_spans import HeldSpan, SpanGate
from sage_fastapi_obs.tracing.incoming_trace import IncomingTrace, incoming_trace
from sage_fastapi_obs.tracing.otlp_export import SpanLosses, SpanOutput
from sage_fastapi_obs.tracing.provider import build_provider, global_provider
from sage_fastapi_obs.tracing.retention import Retention
from sage_fastapi_obs.tracing.server_attributes import id_attributes, server_attributes
from sage_fastapi_obs.tracing.span_factory import finish_span, span_factory_of

SCOPE_NAME = "sage_fastapi_obs"
_SCHEMA_URL = "https://opentelemetry.io/schemas/1.44.0"
_SAMPLED = TraceFlags.SAMPLED
_SILENT = frozenset({NonRecordingSpan, UnsampledSpan})
"""Types of spans that record nothing."""
_NO_PARENT = Context()
_NO_LINKS: Sequence[Link] = ()
_NEITHER = (None, None)
LogLine: TypeAlias = Callable[[str, Mapping[str, Any]], None]
CountError: TypeAlias = Callable[[Exception], None]


class ServerSpans(Recorder):
    """Gives every exchange a span, and the ids that log line, exemplar and headers show."""

    component = "Tracing"

    def __init__(
        self,
        settings: TracingSettings,
        service: ServiceSettings,
        http: HttpSettings,
        redaction: Redaction,
        provider: trace.TracerProvider | None,
        log: LogLine,
        failed: CountError,
        senders: Senders,
        observer: object,
        retention: Retention,
        *,
        is_stored: bool,
    ) -> None:
        """`log` logs a line about lost spans, `failed` counts a missing thread.

        `observer`: whose requests these are. `is_stored`: whether the store wants the spans of what is kept.
        """
        self._observer, self._retention, self._is_stored = observer, retention, is_stored
        self._callers = Callers(settings)
        self._gate: SpanGate | None = None
        self._settings = settings
        self._redaction = redaction
        self._service = service
        self._sends_trace_response = http.trace_response_header
        self._passed_provider = provider
        self._own_provider: TracerProvider | None = None
        self._at_end = AtEnd(self.close, self.close)
        self.losses = SpanLosses()
        """Spans that were lost."""
        self.dropped_headers = DroppedHeaders()
        """Trace headers of callers that were not used."""
        self._senders = senders
        self._output = _output(settings, self.losses, log, failed, senders)
        self._incoming_trace: IncomingTrace | None = None
        self._describe, self._describe_end, self._names, self._attribute_remarks = server_attributes(redaction)
        self._use(trace.NoOpTracer(), tuple)
        self.children: ChildSpans | None = None
        """Starts spans below those of requests, between the start and the close."""

    @property
    def provider(self) -> trace.TracerProvider | None:
        """The provider in use: the one given, else the global one if set, else our own; None before the start."""
        if self._passed_provider is not None:
            return self._passed_provider
        return self._own_provider or global_provider()

    @property
    def remarks(self) -> tuple[str, ...]:
        """What is wrong with the environment variables about spans."""
        return (*self._attribute_remarks, *(() if self._output is None else self._output.remarks))

    @property
    def is_outcome_unused(self) -> bool:
        """Whether the settings want the outcome to decide, and the provider in use is not ours to hold spans back."""
        return self._settings.retention == "outcome" and self.provider is not None and self._own_provider is None

    @property
    def source(self) -> str:
        """Whose provider is in use, in words."""
        if self._passed_provider is not None:
            return "the tracer provider passed to Observability"
        return "its own tracer provider" if self._own_provider else "the global tracer provider"

    def start(self) -> None:
        """Build the provider, in the process that serves, which its resource names."""
        if self._passed_provider is None and global_provider() is None:
            if self._output is not None:
                self._output.open()
            processor = SplitProcessor()
            self._own_provider = build_provider(self._settings, self._service, processor, self._output)
            if self._holds or self._is_stored:
                self._gate = SpanGate(self._observer, processor, self._count_held_loss, collects=self._is_stored)
            self._at_end.watch()
        self._incoming_trace = incoming_trace(self.dropped_headers)
        provider = self.provider
        assert provider is not None
        tracer = provider.get_tracer(SCOPE_NAME, schema_url=_SCHEMA_URL)
        root_bound = None if self._own_provider is None else TraceIdRatioBased.get_bound_for_rate(self._settings.sample_rate)
        self._use(tracer, processors_of(provider), root_bound)
        self._retention.holds_spans = holds = self._holds
        self.children = ChildSpans(tracer, self._redaction, processors=self._processors, root_bound=root_bound, holds=holds)

    def close(self) -> None:
        """Hand the last spans to the exporter, waiting no longer than the settings allow; blocks."""
        self._use(trace.NoOpTracer(), tuple)
        self.children = self._gate = None
        self._retention.holds_spans = False
        own, self._own_provider = self._own_provider, None
        if own is None:
            return
        self._at_end.leave()
        self._senders.stop()
        own.shutdown()

    def _use(self, tracer: trace.Tracer, processors: Callable[[], Any], root_bound: int | None = None) -> None:
        self._tracer = tracer
        self._decides = root_bound is not None
        """Whether the decisions of the provider's sampler are known here; another's has to be asked."""
        self._processors = processors
        """Lists the processors of the provider in use; one may be added at any time."""
        self._spans = span_factory_of(tracer, self._describe, root_bound=root_bound, holds=self._holds)

    @property
    def _holds(self) -> bool:
        """Whether spans are held until the outcome is known, which needs a provider of our own."""
        return self._settings.retention == "outcome" and self._own_provider is not None

    def _count_held_loss(self) -> None:
        self.losses.count("otlp", "held")

    def request_started(self, exchange: Exchange) -> None:
        """Adopt or start the span, and make it current for the app if it is exported."""
        current = get_current()
        scope, parent_exchange = exchange.scope, exchange.parent
        around = innermost_context(parent_exchange) if current or parent_exchange is not None else current
        if parent_exchange is not None and _is_left_over(around, parent_exchange):
            current = around = _NO_PARENT
        span = _existing_span(exchange) if current or "fastapi.telemetry" in scope else None
        if span is not None:
            exchange.span = span
            _adopt(exchange, span)
            return
        is_exported = bool(self._processors())
        caller, incoming, links = self._caller(exchange, is_exported=is_exported)
        name, _ = self._names(exchange.method, None)
        if caller is not None and self._decides:
            is_sampled = bool(caller[2] & _SAMPLED) and self._callers.admits(exchange)
            span, exchange.trace_id, exchange.span_id, exchange.sampled = self._spans.start_below(
                name, caller, _joined(around, incoming), exchange.wall_ns, exchange, is_sampled=is_sampled
            )
        elif links or incoming or around:
            parent = _NO_PARENT if links else _joined(around, incoming)
            span, context = self._spans.start(name, parent, links, exchange.wall_ns, exchange)
            _set_ids(exchange, context)
        else:
            span, exchange.trace_id, exchange.span_id, exchange.sampled = self._spans.start_root(
                name, exchange.wall_ns, exchange
            )
        exchange.span = span
        exchange.outer_context = current
        if is_exported:
            app_context = Context({**current, **incoming, SPAN: span})
            # FastAPI >= 0.142 and Starlette would each open a second server span inside ours: these are their own marks for
            # a request that has one. Where ours is not exported, theirs may be.
            scope.setdefault("fastapi.telemetry", None)
            scope.setdefault("starlette.opentelemetry", True)
        else:
            # Ours is not made current: spans that other libraries start are then children of exported ones, or of none.
            app_context = _joined(current, incoming)
            exchange.app_current = (app_context.get(SPAN), app_context.get(RUNNING)) if app_context else _NEITHER
        exchange.span_token = attach(app_context)

    def response_started(self, exchange: Exchange, headers: Headers) -> None:
        """Send the trace to the client; a websocket's span ends here, with the handshake."""
        if exchange.app_current is not None and (inside := span_inside(exchange)) is not None:
            _adopt(exchange, inside)
        if self._sends_trace_response and exchange.trace_id:
            flags = "01" if exchange.sampled else "00"
            headers.append((b"traceresponse", f"00-{exchange.trace_id}-{exchange.span_id}-{flags}".encode()))
        if (socket := exchange.socket) is not None and not (self._holds and exchange.kept == UNDECIDED):
            self._end(exchange, socket.handshake_us or 0)

    def request_finished(self, exchange: Exchange) -> None:
        """End the span, with the duration that all signals share."""
        if type(exchange.span) in _SILENT:
            return
        socket = exchange.socket
        if socket is None or socket.handshake_us is None:
            self._end(exchange, exchange.duration_us)
        elif exchange.span.is_recording():
            # It was undecided at the handshake.
            self._end(exchange, socket.handshake_us)

    def background_finished(self, exchange: Exchange) -> None:
        """Record the work after the response as a span of its own in the same trace."""
        background = exchange.background
        if background is None or exchange.outer_context is None or not exchange.sampled:
            return
        started = exchange.wall_ns + background.started_us * 1_000
        span = self._tracer.start_span("background", trace.set_span_in_context(exchange.span), start_time=started)
        ended_ns = started + background.duration_us * 1_000
        if background.error_type is not None:
            span.set_attribute("error.type", background.error_type)
            mark_failed(span, background.error, self._redaction, ended_ns)
        span.end(ended_ns)

    def app_returned(self, exchange: Exchange) -> None:
        """Give the caller its context back."""
        if exchange.span_token is not None:
            detach(exchange.span_token)
            exchange.span_token = None

    def _caller(self, exchange: Exchange, *, is_exported: bool) -> tuple[CallerIds | None, Context, Sequence[Link]]:
        """Read what the caller has sent: the span that we continue, with its context, or a link when it is not continued."""
        reader, incoming = self._incoming_trace, self._settings.incoming
        if reader is None or incoming == "ignore" or reader.fields.isdisjoint(exchange.headers):
            return None, _NO_PARENT, _NO_LINKS
        if self._decides and incoming == "continue" and (ids := reader.read_ids(exchange)) is not None:
            trace_id, span_id, flags, state = ids
            if state is None:
                state = NO_STATE
            # Where ours is current, nobody looks for the caller's.
            context = _NO_PARENT if is_exported else Context({SPAN: RemoteSpan(trace_id, span_id, FLAGS[flags], state)})
            return (trace_id, span_id, flags, state), context, _NO_LINKS
        extracted = reader.read(exchange)
        remote = trace.get_current_span(extracted).get_span_context()
        if not remote.is_valid:
            return None, extracted if incoming == "continue" else _NO_PARENT, _NO_LINKS
        if incoming == "link":
            return None, _NO_PARENT, [Link(remote)]
        caller = f"{remote.trace_id:032x}", f"{remote.span_id:016x}", remote.trace_flags, remote.trace_state
        return caller, extracted, _NO_LINKS

    def _end(self, exchange: Exchange, duration_us: int) -> None:
        """End the span, and let go those below it, as the exchange is kept; forget them if it is not."""
        span = exchange.span
        if type(span) is HeldSpan:
            if not exchange.is_kept:
                span.drop()
                return
            exchange.span = span.keep()
        if self._gate is not None and exchange.is_kept:
            self._gate.release(exchange)
        if exchange.outer_context is not None:
            self._finish(exchange, duration_us)

    def _finish(self, exchange: Exchange, duration_us: int) -> None:
        ended_ns = exchange.wall_ns + duration_us * 1_000
        if exchange.error_type is not None and exchange.failed:
            mark_failed(exchange.span, exchange.error, self._redaction, ended_ns)
        started_as, name = self._names(exchange.method, exchange.route)
        finish_span(exchange.span, started_as, name, self._describe_end(exchange), ended_ns)


def _output(
    settings: TracingSettings, losses: SpanLosses, log: LogLine, failed: CountError, senders: Senders
) -> SpanOutput | None:
    """Build the export of spans now, so that a missing extra raises while building."""
    if not settings.enabled or "otlp" not in settings.exporters or settings.otlp_endpoint is None:
        return None
    return SpanOutput(settings.otlp_endpoint, losses, log, failed, settings.shutdown_seconds, senders)


def _is_left_over(context: Context, outer: Exchange) -> bool:
    """Tell whether a context is that of a finished exchange: it is no parent of others, unless a span in it goes on."""
    return outer.has_returned and not trace.get_current_span(context).is_recording()


def _joined(current: Context, incoming: Context) -> Context:
    """Return a context with what a caller has sent."""
    return Context({**current, **incoming}) if current and incoming else incoming or current


def _existing_span(exchange: Exchange) -> Span | None:
    """Find the server span that another library has started outside of us for this request."""
    native = native_span(exchange.scope)
    if native is not None:
        return native
    current = trace.get_current_span()
    context = current.get_span_context()
    if not context.is_valid or context.is_remote:
        return None
    if exchange.parent is not None and "starlette.opentelemetry" not in exchange.scope:
        # A service that calls itself in process: that span is the caller's, or one below the caller's.
        return None
    kind = getattr(current, "kind", None)
    # An unsampled span has no kind; a recording one of another kind is our parent, not our equal.
    return current if kind is None or kind is SpanKind.SERVER else None


def _adopt(exchange: Exchange, span: Span) -> None:
    """Take the ids of the span of another library, and set those of the request on it."""
    if span.is_recording():
        span.set_attributes(id_attributes(exchange))
    _set_ids(exchange, span.get_span_context())


def _set_ids(exchange: Exchange, context: SpanContext) -> None:
    trace_id, span_id, _, flags, _, is_valid = context
    if is_valid:
        exchange.trace_id = f"{trace_id:032x}"
        exchange.span_id = f"{span_id:016x}"
        exchange.sampled = flags & _SAMPLED != 0

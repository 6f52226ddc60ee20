"""The server span: adopted where the request has one, else opened by the stable HTTP conventions."""

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, TypeAlias

from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import Link, NonRecordingSpan, Span, SpanContext, SpanKind, TraceFlags

from sage_fastapi_obs.catalog import KNOWN_METHODS, OTHER_METHOD
from sage_fastapi_obs.privacy.printable import printable
from sage_fastapi_obs.privacy.redaction import Redaction, readable
from sage_fastapi_obs.processes import AtEnd
from sage_fastapi_obs.request.current_span import SPAN, attach, detach, get_current, native_span, span_inside
from sage_fastapi_obs.request.exchange import Exchange
from sage_fastapi_obs.request.innermost_span import RUNNING, innermost_context
from sage_fastapi_obs.request.propagation_headers import DroppedHeaders, PropagatedHeaders
from sage_fastapi_obs.request.recorder import Headers, Recorder
from sage_fastapi_obs.settings import HttpSettings, ServiceSettings, TracingSettings
from sage_fastapi_obs.settings.resource import resource_of
from sage_fastapi_obs.tracing.child_spans import ChildSpans, mark_failed
from sage_fastapi_obs.tracing.fast_span import (
    NO_READERS,
    FastSpan,
    FastSpanFactory,
    OwnRandomIds,
    Processors,
    Unsampled,
    readers_of,
)
from sage_fastapi_obs.tracing.otlp_export import SpanLosses, SpanOutput

__all__ = ["ServerSpans"]

SCOPE_NAME = "sage_fastapi_obs"
SCHEMA_URL = "https://opentelemetry.io/schemas/1.44.0"
DEFAULT_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}
HIGHEST_PORT = 65535
SAMPLED = TraceFlags.SAMPLED
_SILENT = frozenset({NonRecordingSpan, Unsampled})
"""Spans that nobody reads."""
_NOTHING = Context()
_NEITHER = (None, None)
Tell: TypeAlias = Callable[[str, Mapping[str, Any]], None]
Failed: TypeAlias = Callable[[Exception], None]
_HOST = re.compile(r"(?:\[(?P<ipv6>[^\[\]]+)\]|(?P<name>[^:]+))(?::(?P<port>[0-9]{0,5}))?", re.DOTALL)
"""A `Host` header: brackets belong to the notation of an IPv6 address, not to the address; the port may be left out."""


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
        tell: Tell,
        failed: Failed,
    ) -> None:
        """`tell`: writes a line about spans that do not arrive. `failed`: is told of a missing thread."""
        self._settings = settings
        self._redaction = redaction
        self._service = service
        self._sends_trace_response = http.trace_response_header
        self._given = provider
        self._own: TracerProvider | None = None
        self._at_end = AtEnd(self.close, self.close)
        self.losses = SpanLosses()
        """Spans that were lost."""
        self.dropped_headers = DroppedHeaders()
        """What callers sent of a trace and was not used."""
        self._output = _output(settings, self.losses, tell, failed)
        self._headers = PropagatedHeaders(self.dropped_headers)
        self._fields: frozenset[bytes] = frozenset()
        """Headers by which a caller passes its trace on."""
        self._tracer: trace.Tracer = trace.NoOpTracer()
        self._readers: Any = NO_READERS
        """What has the processors of the provider in use, which may be added at any time."""
        self._lean: FastSpanFactory | None = None
        self._roots: FastSpanFactory | None = None
        """What opens the spans of requests that begin a trace, when the sampler is our own."""
        self.children: ChildSpans | None = None
        """What opens spans below those of requests, between the start and the close."""

    @property
    def provider(self) -> trace.TracerProvider | None:
        """The provider in use: the one given, else the global one if set, else our own; None before the start."""
        if self._given is not None:
            return self._given
        return self._own or _global_provider()

    @property
    def remarks(self) -> tuple[str, ...]:
        """What is wrong with the variables that say how spans are exported."""
        return () if self._output is None else self._output.remarks

    @property
    def source(self) -> str:
        """Whose provider is in use, in words."""
        if self._given is not None:
            return "the tracer provider passed to Observability"
        return "its own tracer provider" if self._own else "the global tracer provider"

    def start(self) -> None:
        """Build the provider, in the process that serves, which its resource names."""
        if self._given is None and _global_provider() is None:
            self._own = self._build_provider()
            self._at_end.watch()
        self._fields = frozenset(name.lower().encode() for name in propagate.get_global_textmap().fields)
        provider = self.provider
        assert provider is not None
        self._tracer = tracer = provider.get_tracer(SCOPE_NAME, schema_url=SCHEMA_URL)
        self._readers = readers_of(provider)
        # Our own sampler's decisions are known; another has to be asked.
        ours = None if self._own is None else TraceIdRatioBased.get_bound_for_rate(self._settings.sample_rate)
        self._lean = FastSpanFactory.of(tracer, root_bound=ours)
        self._roots = None if ours is None else self._lean
        self.children = ChildSpans(tracer, self._redaction, readers=self._readers, root_bound=ours)

    def close(self) -> None:
        """Hand the last spans to the exporter, waiting no longer than the settings allow; blocks."""
        self._tracer, self._lean, self._roots, self.children = trace.NoOpTracer(), None, None, None
        self._readers = NO_READERS
        own, self._own = self._own, None
        if own is None:
            return
        self._at_end.leave()
        own.shutdown()

    def request_started(self, exchange: Exchange) -> None:
        """Adopt or open the span, and make it current for the app where somebody reads it."""
        current = get_current()
        scope, parent_exchange = exchange.scope, exchange.parent
        around = innermost_context(parent_exchange) if current or parent_exchange is not None else current
        if parent_exchange is not None and _is_left_over(around, parent_exchange):
            current = around = _NOTHING
        span = _existing_span(exchange) if current or "fastapi.telemetry" in scope else None
        if span is not None:
            exchange.span = span
            _follow(exchange, span)
            return
        links: Sequence[Link] = ()
        parent = around
        if not self._fields.isdisjoint(exchange.headers) and self._settings.incoming != "ignore":
            parent, links = self._incoming(exchange)
        name = exchange.method if exchange.method in KNOWN_METHODS else "HTTP"
        if parent or links or (roots := self._roots) is None:
            span, context = self._open(name, exchange, parent, links)
            _show(exchange, context)
        else:
            span, exchange.trace_id, exchange.span_id, exchange.sampled = roots.start_root(
                name, exchange.wall_ns, self._attributes, exchange
            )
        exchange.span = span
        exchange.outer_context = current
        if self._readers._span_processors:  # noqa: SLF001 - see `readers_of`
            exchange.span_token = attach(Context({**parent, SPAN: span}))
            # FastAPI >= 0.142 and Starlette would each open a second server span inside ours: these are their own marks for
            # a request that has been taken care of. Where nobody reads ours, theirs may be what somebody reads.
            scope.setdefault("fastapi.telemetry", None)
            scope.setdefault("starlette.opentelemetry", True)
        else:
            _hand_on(exchange, current, _NOTHING if parent is around else parent)

    def response_started(self, exchange: Exchange, headers: Headers) -> None:
        """Tell the client its trace; a websocket's span ends here, with the handshake."""
        if exchange.app_current is not None:
            _follow(exchange, span_inside(exchange))
        if self._sends_trace_response and exchange.trace_id:
            flags = "01" if exchange.sampled else "00"
            headers.append((b"traceresponse", f"00-{exchange.trace_id}-{exchange.span_id}-{flags}".encode()))
        if (socket := exchange.socket) is not None:
            self._end(exchange, socket.handshake_us or 0)

    def request_finished(self, exchange: Exchange) -> None:
        """End the span, with the duration that all signals share."""
        if type(exchange.span) in _SILENT:
            return
        if exchange.socket is None or exchange.socket.handshake_us is None:
            self._end(exchange, exchange.duration_us)

    def background_finished(self, exchange: Exchange) -> None:
        """Record the work after the response as a span of its own in the same trace."""
        background = exchange.background
        if background is None or exchange.outer_context is None or not exchange.sampled:
            return
        started = exchange.wall_ns + background.started_us * 1_000
        span = self._tracer.start_span("background", trace.set_span_in_context(exchange.span), start_time=started)
        if background.error is not None:
            mark_failed(span, background.error, self._redaction)
        span.end(started + background.duration_us * 1_000)

    def app_returned(self, exchange: Exchange) -> None:
        """Give the caller its context back."""
        if exchange.span_token is not None:
            detach(exchange.span_token)
            exchange.span_token = None

    def _open(self, name: str, exchange: Exchange, parent: Context, links: Sequence[Link]) -> tuple[Span, SpanContext]:
        lean = self._lean
        if lean is not None:
            return lean.start(name, parent, links, exchange.wall_ns, self._attributes, exchange)
        span = self._tracer.start_span(name, parent, SpanKind.SERVER, self._attributes(exchange), links, exchange.wall_ns)
        return span, span.get_span_context()

    def _incoming(self, exchange: Exchange) -> tuple[Context, Sequence[Link]]:
        """Read what the caller passes on: as our parent, or as a link when its trace is not continued."""
        extracted = propagate.extract(exchange, _NOTHING, self._headers)
        if SPAN not in extracted and b"traceparent" in exchange.headers and b"traceparent" in self._fields:
            self.dropped_headers.count("traceparent")
        if self._settings.incoming == "continue":
            return extracted, ()
        remote = trace.get_current_span(extracted).get_span_context()
        return Context(), [Link(remote)] if remote.is_valid else ()

    def _attributes(self, exchange: Exchange) -> dict[str, Any]:
        """Describe the request as the conventions want it at the start, for samplers; and name it."""
        scope, headers = exchange.scope, exchange.headers
        server = scope.get("server")
        kept = (exchange.method, headers.get(b"host"), scope.get("scheme"), scope.get("http_version"), exchange.kind)
        attributes: dict[str, Any] = {
            **_of_the_server(*kept, server if server is None or type(server) is tuple else tuple(server)),
            "url.path": self._redaction.readable(exchange.path),
            "sage.request_id": exchange.request_id,
            "sage.correlation_id": exchange.correlation_id,
        }
        if exchange.method not in KNOWN_METHODS:
            attributes["http.request.method_original"] = self._redaction.readable(exchange.method)
        if query := scope.get("query_string"):
            attributes["url.query"] = self._redaction.query(query)
        if client := scope.get("client"):
            attributes["client.address"] = attributes["network.peer.address"] = client[0]
            if len(client) > 1 and client[1] is not None:
                attributes["network.peer.port"] = client[1]
        if agent := headers.get(b"user-agent"):
            attributes["user_agent.original"] = self._redaction.readable(agent.decode("latin-1"))
        return attributes

    def _end(self, exchange: Exchange, duration_us: int) -> None:
        span = exchange.span
        if exchange.outer_context is None:
            return
        name = started_as = exchange.method if exchange.method in KNOWN_METHODS else "HTTP"
        attributes: dict[str, Any] = {"http.response.status_code": exchange.status}
        if exchange.route is not None:
            name = _span_name(name, exchange.route)
            attributes["http.route"] = exchange.route
        if exchange.error_type is not None:
            attributes["error.type"] = printable(exchange.error_type)
            if exchange.failed:
                mark_failed(span, exchange.error, self._redaction)
        ended_ns = exchange.wall_ns + duration_us * 1_000
        if isinstance(span, FastSpan):
            span.finish(started_as, name, attributes, ended_ns)
        elif span.is_recording():
            if getattr(span, "name", started_as) == started_as:
                # Otherwise the application has renamed it, and knows better.
                span.update_name(name)
            span.set_attributes(attributes)
            span.end(ended_ns)

    def _build_provider(self) -> TracerProvider:
        sampler = ParentBased(TraceIdRatioBased(self._settings.sample_rate))
        resource = resource_of(self._service)
        provider = TracerProvider(
            sampler=sampler,
            resource=resource,
            shutdown_on_exit=False,
            active_span_processor=Processors(),
            id_generator=OwnRandomIds(),
        )
        if "console" in self._settings.exporters:
            provider.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter(out=sys.stdout)))
        if self._output is not None:
            self._output.open()
            provider.add_span_processor(self._output)
        return provider


def _output(settings: TracingSettings, losses: SpanLosses, tell: Tell, failed: Failed) -> SpanOutput | None:
    """Build what exports spans now, so that a missing extra is said while building."""
    if not settings.enabled or "otlp" not in settings.exporters or settings.otlp_endpoint is None:
        return None
    return SpanOutput(settings.otlp_endpoint, losses, tell, failed, settings.shutdown_seconds)


def _global_provider() -> trace.TracerProvider | None:
    provider = trace.get_tracer_provider()
    return None if isinstance(provider, trace.ProxyTracerProvider) else provider


def _is_left_over(context: Context, outer: Exchange) -> bool:
    """Tell whether a context is that of an exchange that is over: nobody's parent, unless a span in it goes on."""
    return outer.has_returned and not trace.get_current_span(context).is_recording()


def _hand_on(exchange: Exchange, current: Context, incoming: Context) -> None:
    """Let the app have its caller's context, and what the caller has sent, but not our span, which nobody reads.

    What others open below is then a child of what somebody reads, or of nothing.
    """
    handed = incoming if not current else Context({**current, **incoming}) if incoming else current
    if handed is not current or current is _NOTHING:
        exchange.span_token = attach(handed)
    exchange.app_current = (handed.get(SPAN), handed.get(RUNNING)) if handed else _NEITHER


def _existing_span(exchange: Exchange) -> Span | None:
    """Find the server span that somebody outside of us has opened for this very request."""
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


def _follow(exchange: Exchange, span: Span | None) -> None:
    """Show the ids of a span that somebody else has opened for a request, and in that span those of the request."""
    if span is None:
        return
    if span.is_recording():
        span.set_attributes({"sage.request_id": exchange.request_id, "sage.correlation_id": exchange.correlation_id})
    _show(exchange, span.get_span_context())


def _show(exchange: Exchange, context: SpanContext) -> None:
    trace_id, span_id, _, flags, _, is_valid = context
    if is_valid:
        exchange.trace_id = f"{trace_id:032x}"
        exchange.span_id = f"{span_id:016x}"
        exchange.sampled = flags & SAMPLED != 0


@lru_cache(maxsize=1024)
def _span_name(method: str, route: str) -> str:
    return printable(f"{method} {route}")


@lru_cache(maxsize=256)
def _of_the_server(
    method: str, host: bytes | None, scheme: str | None, version: str | None, kind: str, server: tuple[Any, ...] | None
) -> dict[str, Any]:
    """Describe what the requests of one client to this server have alike."""
    scheme = scheme or ("ws" if kind == "websocket" else "http")
    attributes: dict[str, Any] = {
        "http.request.method": method if method in KNOWN_METHODS else OTHER_METHOD,
        "url.scheme": scheme,
        **((host and _named_server(host, scheme)) or _address_of(server)),
    }
    if version:
        attributes["network.protocol.version"] = version
    if kind == "websocket":
        attributes["network.protocol.name"] = "websocket"
    return attributes


def _named_server(host: bytes, scheme: str) -> dict[str, Any]:
    """Read the name the client used for this server; empty when it is none."""
    given = _HOST.fullmatch(host.decode("latin-1"))
    port = int(given["port"] or DEFAULT_PORTS.get(scheme, 80)) if given else 0
    if not given or port > HIGHEST_PORT:
        return {}
    return {"server.address": readable(given["ipv6"] or given["name"]), "server.port": port}


def _address_of(server: Sequence[Any] | None) -> dict[str, Any]:
    """Name the address that the server listens at; a socket without ports has none, or nothing at all."""
    if not server:
        return {}
    return {"server.address": server[0], **({"server.port": server[1]} if len(server) > 1 and server[1] is not None else {})}

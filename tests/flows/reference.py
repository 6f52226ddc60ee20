"""A reference: the same exchange watched in the plainest way, one thing after the other, with everybody's ordinary tools."""

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from opentelemetry import context, propagate, trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import SpanKind, StatusCode
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

SECONDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.0, 2.5, 5.0, 7.5, 10.0)
LONG_SECONDS = (0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14400.0)
BYTES = tuple(64 * 4**k for k in range(10))
SAFE = re.compile(r"[A-Za-z0-9._:+/=@-]{1,128}")


class Reference:
    """Watches HTTP requests of an app. Everything is worked out for each request, from nothing but the messages."""

    def __init__(
        self,
        app: Any,
        provider: TracerProvider,
        clock: Callable[[], int],
        wall_clock: Callable[[], int],
        new_id: Callable[[], str],
    ) -> None:
        self.app = app
        self.lines: list[str] = []
        self._seen_at: dict[str | None, int] = {}
        self._error_types: set[str | None] = set()
        self._kept: dict[int, list[tuple[str | None, str]]] = {}
        self.registry = CollectorRegistry()
        self._tracer = provider.get_tracer("sage_fastapi_obs", schema_url="https://opentelemetry.io/schemas/1.44.0")
        self._clock, self._wall_clock, self._new_id = clock, wall_clock, new_id
        red = ("method", "route", "status")
        self._total = Counter("http_requests_total", "x", red, registry=self.registry)
        self._duration = Histogram("http_request_duration_seconds", "x", red, registry=self.registry, buckets=SECONDS)
        self._in_flight = Gauge("http_requests_in_flight", "x", ("method",), registry=self.registry)
        self._received = Histogram("http_request_size_bytes", "x", red[:2], registry=self.registry, buckets=BYTES)
        self._sent = Histogram("http_response_size_bytes", "x", red[:2], registry=self.registry, buckets=BYTES)
        self._stream = Histogram("http_stream_duration_seconds", "x", red, registry=self.registry, buckets=LONG_SECONDS)
        self._first = Histogram("http_stream_first_byte_seconds", "x", red[:2], registry=self.registry, buckets=SECONDS)
        labels = ("protocol", "method", "route", "error_type")
        self._errors = Counter("request_errors_total", "x", labels, registry=self.registry)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one request."""
        seen: dict[str, Any] = {"received": 0, "sent": 0, "status": None, "length": False, "first": None, "ended": None}
        started, wall = self._clock(), self._wall_clock()
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        request_id, correlation_id = (
            value if SAFE.fullmatch(value := headers.get(name, "")) else None for name in ("x-request-id", "x-correlation-id")
        )
        request_id = request_id or self._new_id()
        correlation_id = correlation_id or request_id
        span = self._tracer.start_span(
            scope["method"],
            propagate.extract(headers),
            SpanKind.SERVER,
            self._attributes(scope, headers, request_id, correlation_id),
            start_time=wall,
        )
        ids = span.get_span_context()
        self._in_flight.labels(scope["method"]).inc()

        def elapsed_us() -> int:
            return (self._clock() - started + 500) // 1000

        async def watched_receive() -> Any:
            message = await receive()
            seen["received"] += len(message.get("body", b""))
            return message

        async def watched_send(message: Any) -> None:
            if message["type"] == "http.response.start":
                seen["status"] = message["status"]
                seen["length"] = any(name == b"content-length" for name, _ in message["headers"])
                flags = "01" if ids.trace_flags.sampled else "00"
                told = {
                    b"x-request-id": request_id,
                    b"x-correlation-id": correlation_id,
                    b"traceresponse": f"00-{ids.trace_id:032x}-{ids.span_id:016x}-{flags}",
                }
                added = [(name, value.encode()) for name, value in told.items()]
                message = {**message, "headers": [*message["headers"], *added]}
            elif message["type"] == "http.response.body":
                seen["sent"] += len(message.get("body", b""))
                if message.get("more_body") and seen["first"] is None:
                    seen["first"] = elapsed_us()
            await send(message)
            if message["type"] == "http.response.body" and not message.get("more_body"):
                seen["ended"] = elapsed_us()

        token = context.attach(trace.set_span_in_context(span))
        error: Exception | None = None
        # What FastAPI and Starlette look for before they open a span of their own.
        scope = {**scope, "fastapi.telemetry": None, "starlette.opentelemetry": True}
        try:
            await self.app(scope, watched_receive, watched_send)
        except Exception as raised:
            error = raised
            raise
        finally:
            context.detach(token)
            seen["started"] = started
            self._finish(scope, seen, span, wall, request_id, correlation_id, error)

    def _why_kept(self, route: str | None, status: int, error_type: str | None, seen: Any, streamed: bool) -> str | None:
        """Say why a request matters, if so few did in its second that it is kept; for fewer than 32 requests of a route."""
        last = self._seen_at.get(route)
        self._seen_at[route] = seen["started"]
        answered_us = seen["first"] if streamed else seen["ended"]
        if error_type is not None:
            why, of_route, of_all = "failed", 10, 50
        elif answered_us >= 5_000_000:
            why, of_route, of_all = "slow", 5, 25
        elif route is not None and 400 <= status < 500:
            why, of_route, of_all = "refused", 1, 10
        elif route is not None and (last is None or seen["started"] - last >= 600 * 10**9):
            why, of_route, of_all = "first", 1, 10
        else:
            return None
        is_new = error_type is not None and error_type not in self._error_types
        self._error_types.add(error_type)
        second = (seen["started"] + seen["ended"] * 1000) // 10**9
        kept = self._kept.setdefault(second, [])
        if not is_new and (kept.count((route, why)) >= of_route or sum(other == why for _, other in kept) >= of_all):
            return None
        kept.append((route, why))
        return why

    def _attributes(self, scope: Any, headers: Any, request_id: str, correlation_id: str) -> dict[str, Any]:
        attributes = {
            "http.request.method": scope["method"],
            "url.path": scope["path"],
            "url.scheme": scope["scheme"],
            "server.address": scope["server"][0],
            "server.port": scope["server"][1],
            "network.protocol.version": scope["http_version"],
            "client.address": scope["client"][0],
            "network.peer.address": scope["client"][0],
            "network.peer.port": scope["client"][1],
            "sage.request_id": request_id,
            "sage.correlation_id": correlation_id,
        }
        if "host" in headers:
            name, _, port = headers["host"].partition(":")
            attributes["server.address"], attributes["server.port"] = name, int(port or 80)
        if "user-agent" in headers:
            attributes["user_agent.original"] = headers["user-agent"]
        return attributes

    def _finish(
        self, scope: Any, seen: Any, span: Any, wall: int, request_id: str, correlation_id: str, error: Exception | None
    ) -> None:
        method, status = scope["method"], seen["status"]
        context_of_route = scope.get("fastapi", {}).get("effective_route_context")
        route = getattr(context_of_route or scope.get("route"), "path_format", None)
        failed = status >= 500
        error_type = None if not failed else type(error).__qualname__ if error is not None else str(status)
        streamed = seen["first"] is not None and not seen["length"]
        ids = span.get_span_context()
        sampled = ids.trace_flags.sampled
        parent = getattr(span, "parent", None)
        sampled_by = None if not sampled else "upstream" if parent is not None and parent.is_remote else "ratio"
        kept = self._why_kept(route, status, error_type, seen, streamed) or sampled_by or "no"

        labels = (method, route or "unmatched", str(status))
        exemplar = {"trace_id": f"{ids.trace_id:032x}", "span_id": f"{ids.span_id:016x}"} if sampled else None
        self._total.labels(*labels).inc()
        if streamed:
            self._stream.labels(*labels).observe(seen["ended"] / 1e6, exemplar)
            self._first.labels(*labels[:2]).observe(seen["first"] / 1e6, exemplar)
        else:
            self._duration.labels(*labels).observe(seen["ended"] / 1e6, exemplar)
        self._received.labels(*labels[:2]).observe(seen["received"])
        self._sent.labels(*labels[:2]).observe(seen["sent"])
        self._in_flight.labels(method).dec()
        if failed:
            self._errors.labels("http", method, labels[1], error_type).inc()

        if route is not None:
            span.update_name(f"{method} {route}")
            span.set_attribute("http.route", route)
        span.set_attribute("http.response.status_code", status)
        span.set_attribute("sage.kept", kept)
        if failed:
            span.set_attribute("error.type", error_type)
            span.set_status(StatusCode.ERROR)
            if error is not None:
                span.record_exception(error)
        span.end(wall + seen["ended"] * 1000)

        at = datetime.fromtimestamp((wall // 1000 + seen["ended"]) / 1e6, UTC)
        line: dict[str, Any] = {
            "timestamp": f"{at:%Y-%m-%dT%H:%M:%S}.{at.microsecond // 1000:03d}Z",
            "level": "error" if failed else "warn" if status >= 400 else "info",
            "message": "request failed" if error is not None else "request completed",
            "service": "test",
            "environment": "development",
            "version": "0.0.0",
            "logger": "sage_fastapi_obs.access",
            "request_id": request_id,
            "correlation_id": correlation_id,
            "trace_id": f"{ids.trace_id:032x}",
            "span_id": f"{ids.span_id:016x}",
            "trace_flags": "01" if sampled else "00",
            "method": method,
            "path": scope["path"],
            "route": route,
            "status": status,
            "duration_ms": seen["ended"] / 1000,
            **({"first_byte_ms": seen["first"] / 1000} if streamed else {}),
            "request_bytes": seen["received"],
            "response_bytes": seen["sent"],
            "kept": kept,
        }
        if failed:
            line["error_type"] = error_type
        if error is not None:
            line["error"] = {"type": type(error).__qualname__, "message": str(error)}
        self.lines.append(json.dumps(line))

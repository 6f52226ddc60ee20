"""Our server span beside the one of OpenTelemetry's own middleware, for the same requests.

Everything is the same, but for what stands in `DIFFERENCES`, with its reason.
"""

from collections import Counter
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI, HTTPException
from opentelemetry.instrumentation._semconv import _OpenTelemetrySemanticConventionStability
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from opentelemetry.instrumentation.fastapi import _get_default_span_details
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from support import drive, http_scope

from sage_fastapi_obs.privacy.redaction import Redaction

Values = tuple[Any, Any]
DIFFERENCES: dict[str, tuple[str, Any]] = {
    "client.port": (
        "opt-in by the conventions, and the port of a proxy more often than not",
        lambda theirs, ours: ours is None,
    ),
    "network.peer.address": (
        "recommended by the conventions, which theirs leaves out",
        lambda theirs, ours: (theirs, ours) == (None, "127.0.0.1"),
    ),
    "network.peer.port": (
        "goes with network.peer.address",
        lambda theirs, ours: (theirs, ours) == (None, 40000),
    ),
    "server.address": (
        "the conventions want the name that the client used, and theirs has the one that is bound behind a proxy",
        lambda theirs, ours: (theirs, ours) == ("testserver", "shop.example"),
    ),
    "server.port": (
        "the port of the Host header that the client asked for, before the one that is bound behind a proxy",
        lambda theirs, ours: (theirs, ours) in {(80, 8080), (80, 443)},
    ),
    "url.query": (
        "values are hidden unless the settings show them",
        lambda theirs, ours: ours == Redaction().query(theirs.encode("latin-1")),
    ),
    "error.type": (
        "of an unhandled exception: its class says more than 500",
        lambda theirs, ours: (theirs, ours) == ("500", "ValueError"),
    ),
    "http.route": (
        "theirs names a mounted app by its mount alone",
        lambda theirs, ours: (theirs, ours) in {("/sub", "/sub/leaf/{n}"), ("/sub", None), (None, "/sub/leaf/{n}")},
    ),
    "sage.request_id": ("our ids, to find the span by", lambda theirs, ours: theirs is None and ours),
    "sage.kept": ("why the trace is kept", lambda theirs, ours: theirs is None and ours),
    "sage.correlation_id": ("our ids, to find the span by", lambda theirs, ours: theirs is None and ours),
    "name": (
        "theirs names a mounted app by its mount alone, and a request that no route matched by its path",
        lambda theirs, ours: (
            (theirs, ours) in {("GET /sub", "GET /sub/leaf/{n}"), ("GET /sub", "GET"), ("GET /nowhere", "GET")}
        ),
    ),
    "events": (
        "theirs sits outside the layer that answers exceptions, and records none",
        lambda theirs, ours: (theirs, ours) == ([], ["exception"]),
    ),
}
HOST = (b"host", b"shop.example")
REQUESTS = [
    http_scope("/v1/items/4", headers=[HOST, (b"user-agent", b"curl/8")]),
    http_scope("/v1/items/4", headers=[(b"host", b"shop.example:8080")], query_string=b"token=abc&b=1&b=&c"),
    http_scope("/v1/items/x", headers=[HOST]),
    http_scope("/v1/items/4", "HEAD", headers=[HOST]),
    http_scope("/v1/items/4", "BREW", headers=[HOST]),
    http_scope("/v1/items/4", headers=[HOST], scheme="https", http_version="2"),
    http_scope("/v1/items/4"),
    http_scope("/boom", headers=[HOST]),
    http_scope("/teapot", headers=[HOST]),
    http_scope("/unavailable", headers=[HOST]),
    http_scope("/nowhere", headers=[HOST]),
    http_scope("/sub/leaf/4", headers=[HOST]),
    http_scope("/sub/nowhere", headers=[HOST]),
    http_scope("/v1/items/4", headers=[HOST, (b"traceparent", b"00-" + b"a" * 32 + b"-" + b"b" * 16 + b"-01")]),
]


def build_app() -> FastAPI:
    """Build an app with some routes."""
    app = FastAPI()
    router = APIRouter(prefix="/v1")

    @router.get("/items/{item}")
    def read(item: int) -> int:
        return item

    @app.get("/boom")
    def boom() -> None:
        raise ValueError("no")

    @app.get("/teapot")
    def teapot() -> None:
        raise HTTPException(418)

    @app.get("/unavailable")
    def unavailable() -> None:
        raise HTTPException(503)

    app.include_router(router)
    sub = FastAPI()
    sub.add_api_route("/leaf/{n}", lambda n: n)
    app.mount("/sub", sub)
    return app


@pytest.fixture
def stable(monkeypatch):
    """Switch OpenTelemetry's instrumentation to the stable conventions, which it decides once per process."""
    monkeypatch.setenv("OTEL_SEMCONV_STABILITY_OPT_IN", "http")
    monkeypatch.setattr(_OpenTelemetrySemanticConventionStability, "_initialized", False)
    monkeypatch.setattr(_OpenTelemetrySemanticConventionStability, "_OTEL_SEMCONV_STABILITY_SIGNAL_MAPPING", {})


def compared(theirs: ReadableSpan, ours: ReadableSpan) -> dict[str, Values]:
    """Find everything in which two spans differ."""
    pairs: dict[str, Values] = {
        "name": (theirs.name, ours.name),
        "kind": (theirs.kind, ours.kind),
        "status": (theirs.status.status_code, ours.status.status_code),
        "description": (theirs.status.description, ours.status.description),
        "parent": (theirs.parent, ours.parent),
        "events": ([event.name for event in theirs.events], [event.name for event in ours.events]),
        "links": (list(theirs.links), list(ours.links)),
    }
    for name in {*theirs.attributes, *ours.attributes}:
        pairs[name] = (theirs.attributes.get(name), ours.attributes.get(name))
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


@pytest.mark.usefixtures("stable")
async def test_our_span_is_the_one_opentelemetry_would_have_made(watch):
    """Name, kind, status, parent and attributes are those of the middleware, but for the listed differences."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    theirs_app = build_app()
    oracle = OpenTelemetryMiddleware(
        theirs_app, default_span_details=_get_default_span_details, tracer_provider=provider, exclude_spans=["receive", "send"]
    )
    watched = watch()
    app = build_app()
    watched.obs.install(app)

    seen: Counter[str] = Counter()
    for scope in REQUESTS:
        exporter.clear()
        watched.exporter.clear()
        await drive(oracle, {**scope, "state": {}, "app": theirs_app})
        await drive(app, {**scope, "state": {}})
        (theirs,), (ours,) = exporter.get_finished_spans(), watched.server_spans
        for name, (their_value, our_value) in compared(theirs, ours).items():
            assert name in DIFFERENCES, (scope["path"], name, their_value, our_value)
            assert DIFFERENCES[name][1](their_value, our_value), (scope["path"], name, their_value, our_value)
            seen[name] += 1
    assert set(seen) == set(DIFFERENCES), "a listed difference is one no more"

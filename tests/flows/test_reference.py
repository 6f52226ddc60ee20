"""The fast way of a request against a plain reference: the same answers, lines, series and spans, whatever is asked for."""

import itertools
import json
from collections.abc import AsyncIterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI, HTTPException, Request
from fastapi.responses import StreamingResponse
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from prometheus_client import CollectorRegistry
from reference import Reference
from support import Driven, drive, http_scope, times

from sage_fastapi_obs import Observability, ObservabilityMiddleware, Settings

WALL_NS = 1_790_000_000_123_456_789
SERIES = ("http_request", "http_response", "http_stream", "request_errors")
BODY_CHUNK = b"0123456789"


class Clock:
    """A clock that moves only when the app has worked."""

    def __init__(self) -> None:
        self.now = 0

    def monotonic(self) -> int:
        return self.now

    def wall(self) -> int:
        return WALL_NS + self.now


class Counted(IdGenerator):
    """Ids of traces and spans that come the same again; the low bits of a trace id decide whether it is sampled."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)

    def generate_span_id(self) -> int:
        return next(self._numbers)

    def generate_trace_id(self) -> int:
        return next(self._numbers) * 0x9E3779B97F4A7C15F39CC0605CEDC835 % (1 << 128) | 1


def build(clock: Clock) -> FastAPI:
    """Build an app whose answers take as long as they are asked to."""
    app = FastAPI(openapi_url=None)
    inner = APIRouter(prefix="/inner")

    @inner.get("/{name:path}")
    async def named(name: str, request: Request) -> dict[str, str]:
        clock.now += int(request.headers.get("work-ns", 0))
        return {"name": name}

    @app.post("/items/{item}")
    async def item(item: str, request: Request) -> dict[str, int]:
        clock.now += int(request.headers.get("work-ns", 0))
        return {item: len(await request.body())}

    @app.get("/status/{code}")
    def status(code: int) -> None:
        raise HTTPException(code)

    @app.get("/raises/{word}")
    async def raises(word: str) -> None:
        raise ValueError(word)

    @app.get("/chunks/{count}")
    async def chunks(count: int, request: Request) -> StreamingResponse:
        async def body() -> AsyncIterator[bytes]:
            for _ in range(count):
                clock.now += int(request.headers.get("work-ns", 0))
                yield BODY_CHUNK

        return StreamingResponse(body())

    app.include_router(inner, prefix="/api")
    return app


WORDS = st.text(st.sampled_from("abcXYZ019 _.~é漢🙂\"\\'%{}<>&"), min_size=1, max_size=30).filter(lambda word: word.strip("."))
TARGETS = st.one_of(
    st.tuples(st.just("GET"), WORDS.map(lambda word: f"/api/inner/{word}")),
    st.tuples(st.just("POST"), WORDS.map(lambda word: f"/items/{word}")),
    st.tuples(st.just("GET"), st.sampled_from([400, 401, 404, 418, 429, 500, 503]).map(lambda code: f"/status/{code}")),
    st.tuples(st.just("GET"), WORDS.map(lambda word: f"/raises/{word}")),
    st.tuples(st.just("GET"), st.integers(0, 5).map(lambda count: f"/chunks/{count}")),
    st.tuples(st.sampled_from(["GET", "PUT", "OPTIONS", "HEAD"]), st.sampled_from(["/nowhere", "/items/1", "/status/x"])),
)
IDS = st.one_of(st.text("abc-XYZ019._+", min_size=1, max_size=128), st.sampled_from(["", "no spaces", "x" * 129, "ü"]))
HEADERS = st.fixed_dictionaries(
    {},
    optional={
        "x-request-id": IDS,
        "x-correlation-id": IDS,
        "host": st.sampled_from(["testserver", "api.example.org:8443"]),
        "user-agent": st.sampled_from(["curl/8.5.0", "Mozilla/5.0 (X11; Linux x86_64)"]),
        "traceparent": st.sampled_from(
            [
                "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
                "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00",
                "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
                "nonsense",
            ]
        ),
        "work-ns": st.integers(0, 20_000_000_000).map(str),
    },
)
REQUESTS = st.lists(st.tuples(TARGETS, HEADERS, st.binary(max_size=600)), min_size=1, max_size=6)


class Side:
    """An app with what watches it, and all that this gives."""

    def __init__(self, rate: float) -> None:
        self.clock = Clock()
        self.exporter = InMemorySpanExporter()
        sampler = ParentBased(TraceIdRatioBased(rate))
        self.provider = TracerProvider(sampler=sampler, id_generator=Counted(), shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.app: Any = build(self.clock)
        self._ids = (f"id-{number}" for number in itertools.count())

    def new_id(self) -> str:
        return next(self._ids)

    async def ask(self, target: tuple[str, str], headers: dict[str, str], body: bytes) -> Driven:
        """Make one request; a second passes between requests."""
        self.clock.now += 1_000_000_000
        method, path = target
        encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
        return await drive(self.app, http_scope(path, method, encoded), [{"type": "http.request", "body": body}])


def exported(side: Side) -> list[dict[str, Any]]:
    """Read all spans, as far as two runs can be alike."""

    def read(span: ReadableSpan) -> dict[str, Any]:
        told = json.loads(span.to_json())
        for event in told["events"]:
            del event["timestamp"]
            event["attributes"].pop("exception.stacktrace", None)
        return told | {"scope": span.instrumentation_scope.name}

    return [read(span) for span in side.exporter.get_finished_spans()]


def series(registry: CollectorRegistry) -> dict[Any, Any]:
    """Read all samples of requests, with what they are exemplified by."""
    return {
        (sample.name, *sorted(sample.labels.items())): (round(sample.value, 9), sample.exemplar and sample.exemplar.labels)
        for family in registry.collect()
        for sample in family.samples
        if sample.name.startswith(SERIES) and not sample.name.endswith("_created") and sample.value
    }


def fields(lines: list[str]) -> list[list[tuple[str, Any]]]:
    """Read lines as pairs, in their order; stacks differ by the frames of whoever watches."""
    read = [list(json.loads(line).items()) for line in lines]
    for line in read:
        for name, value in line:
            if name == "error":
                value.pop("stack_trace", None)
    return read


def canonical(path: Path) -> list[str]:
    """Read the lines about requests."""
    return [line for line in path.read_text().split("\n") if '"duration_ms"' in line]


def answers(driven: Driven) -> tuple[Any, ...]:
    return [{**message, "headers": sorted(message.get("headers", ()))} for message in driven.sent], repr(driven.error)


@pytest.mark.parametrize("gather_seconds", [0.0, 1.0], ids=["written at once", "gathered"])
@pytest.mark.parametrize("rate", [1.0, 0.5, 0.0])
@settings(max_examples=times(30))
@given(requests=REQUESTS)
async def test_everything_is_as_the_reference_has_it(rate: float, gather_seconds: float, requests: list[Any]) -> None:
    """Answers, lines with the order of their fields, series with exemplars, and spans are equal."""
    plain, ours = Side(rate), Side(rate)
    reference = plain.app = Reference(plain.app, plain.provider, plain.clock.monotonic, plain.clock.wall, plain.new_id)
    with TemporaryDirectory() as folder:
        path = Path(folder, "lines")
        # The reference does not know why requests are slow.
        given_settings = Settings(
            service={"name": "test"},
            logging={"output": str(path), "gather_seconds": gather_seconds},
            insight={"enabled": False},
        )
        async with Observability(
            given_settings,
            tracer_provider=ours.provider,
            clock=ours.clock.monotonic,
            wall_clock=ours.clock.wall,
            new_id=ours.new_id,
        ) as obs:
            ours.app = ObservabilityMiddleware(ours.app, observability=obs)
            for request in requests:
                mine, theirs = await ours.ask(*request), await plain.ask(*request)
                assert answers(mine) == answers(theirs)
        assert fields(canonical(path)) == fields(reference.lines)
        assert series(obs.registry) == series(reference.registry)
        assert exported(ours) == exported(plain)

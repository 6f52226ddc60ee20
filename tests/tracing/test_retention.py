"""Which requests are kept, and that spans, lines, exemplars and metrics of a request follow the one decision."""

import asyncio
import json
import random
import re
from collections import Counter
from pathlib import Path
from typing import Any, Self

import pytest
from fastapi import BackgroundTasks, FastAPI, WebSocket
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client.openmetrics.exposition import generate_latest
from starlette.responses import StreamingResponse
from support import LONG_ENOUGH, client, drive, http_scope, no_cycles_of_ours, times

from sage_fastapi_obs import Observability, ObservabilityMiddleware, Settings, operation
from sage_fastapi_obs.request.exchange import Exchange, Socket, StoryDraft
from sage_fastapi_obs.store.records import RequestQuery
from sage_fastapi_obs.tracing import fast_span
from sage_fastapi_obs.tracing import retention as module
from sage_fastapi_obs.tracing.retention import Retention

TOKEN = "a-token-of-24-characters"
SECOND_NS = 1_000_000_000


class Clock:
    """A clock in nanoseconds that tests set."""

    def __init__(self) -> None:
        self.now_ns = 1_000 * SECOND_NS

    def __call__(self) -> int:
        return self.now_ns


class Service:
    """An app whose provider is our own, with its spans in memory and its lines in a file."""

    def __init__(self, tmp_path: Path, *, rate: float = 0.0, retention: str = "outcome", **sections: Any) -> None:
        self.clock = Clock()
        self.path = tmp_path / "lines.jsonl"
        logging = {"output": str(self.path), "shutdown_seconds": LONG_ENOUGH, **sections.pop("logging", {})}
        tracing = {"sample_rate": rate, "retention": retention, "slow_seconds": 1.0, **sections.pop("tracing", {})}
        alerts, monitoring = {"defaults": False}, {"access": "open"}
        store = {"path": str(tmp_path)}
        settings = Settings(logging=logging, tracing=tracing, alerts=alerts, monitoring=monitoring, store=store, **sections)
        self.obs = Observability(settings, clock=self.clock)
        self.exporter = InMemorySpanExporter()
        self.app = FastAPI()
        self.asgi = ObservabilityMiddleware(self.app, observability=self.obs)
        self._add_routes()

    async def __aenter__(self) -> Self:
        self.obs.start()
        assert isinstance(self.obs.tracer_provider, TracerProvider)
        self.obs.tracer_provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.obs.close()

    def _add_routes(self) -> None:
        @self.app.get("/fine/{number}")
        async def fine(number: int) -> None:
            with operation("step"):
                pass

        @self.app.get("/slow/{seconds}")
        async def slow(seconds: float) -> None:
            with operation("step"):
                self.clock.now_ns += int(seconds * SECOND_NS)

        @self.app.get("/boom")
        async def boom() -> None:
            with operation("step"):
                raise RuntimeError("boom")

    async def get(self, path: str, *headers: tuple[bytes, bytes]) -> Any:
        """Make a request, a second after the last one."""
        self.clock.now_ns += SECOND_NS
        return await drive(self.asgi, http_scope(path, headers=headers))

    @property
    def access(self) -> list[dict[str, Any]]:
        """All access lines so far."""
        self.obs.logs.flush()
        lines = [json.loads(line) for line in self.path.read_text().splitlines()]
        return [line for line in lines if "kept" in line]

    @property
    def kept(self) -> list[str]:
        """What the access lines say."""
        return [line["kept"] for line in self.access]

    @property
    def spans(self) -> list[ReadableSpan]:
        """All spans that were handed over."""
        return [*self.exporter.get_finished_spans()]

    @property
    def traces(self) -> Counter[str]:
        """How many spans of each trace were handed over."""
        return Counter(f"{span.context.trace_id:032x}" for span in self.spans if span.context is not None)


async def test_the_outcome_decides(tmp_path: Path) -> None:
    """A request is kept for being the first of its route, failed, slow, refused or asked for, and not for being one of many."""
    async with Service(tmp_path, logging={"debug_token": TOKEN}) as service:
        for path in ("/fine/1", "/fine/2", "/boom", "/slow/0.5", "/slow/1.5", "/fine/x", "/nowhere"):
            await service.get(path)
        await service.get("/fine/3", (b"x-debug-log", TOKEN.encode()))
        await service.get("/fine/3", (b"x-debug-log", b"another"))
        assert service.kept == ["first", "no", "failed", "first", "slow", "refused", "no", "asked", "no"]
        kept = {line["trace_id"]: line for line in service.access if line["kept"] != "no"}
        assert {*service.traces} == {*kept}
        for span in service.spans:
            assert span.context is not None
            assert span.context.trace_flags.sampled
            line = kept[f"{span.context.trace_id:032x}"]
            assert line["trace_flags"] == "01"
            if span.parent is None:
                assert span.attributes is not None
                assert span.attributes["sage.kept"] == line["kept"]
                assert span.attributes["http.route"] == line["route"]


async def test_the_spans_below_come_with_it(tmp_path: Path) -> None:
    """A kept trace has the spans of operations, complete and below the server span."""
    async with Service(tmp_path) as service:
        await service.get("/boom")
        child, server = service.spans
        assert (child.name, server.name) == ("step", "GET /boom")
        assert child.parent is not None
        assert server.context is not None
        assert child.parent.span_id == server.context.span_id
        assert [event.name for event in server.events] == ["exception"]


async def test_what_the_application_does_to_its_span_is_there(tmp_path: Path) -> None:
    """Attributes, events, status, name and links that were set before the decision are as on a sampled one."""

    def write(span: trace.Span) -> None:
        values = [1, 2]
        span.set_attribute("list", values)
        values.append(3)
        span.set_attributes({"text": "a", "": "no name", "number": 1, "wrong": object()})  # type: ignore[dict-item]
        span.set_attribute("after", True)
        span.add_event("event", {"a": 1})
        span.record_exception(ValueError("no"))
        span.add_link(trace.SpanContext(1, 2, is_remote=True))
        span.set_status(trace.StatusCode.ERROR, "because")
        span.update_name("renamed")
        span.set_attribute("last", 1.5)

    seen = []
    for rate in (0.0, 1.0):
        async with Service(tmp_path, rate=rate) as service:

            @service.app.get("/write")
            async def read() -> None:
                write(trace.get_current_span())

            await service.get("/write")
            (span,) = service.spans
            attributes = dict(span.attributes or {})
            for name in ("sage.request_id", "sage.correlation_id"):
                assert attributes.pop(name)
            events = [(event.name, dict(event.attributes or {}).get("exception.message")) for event in span.events]
            links = [link.context for link in span.links]
            seen.append((span.name, span.status.status_code, span.status.description, attributes, events, links))
    assert seen[0] == seen[1]
    assert seen[0][3]["list"] == (1, 2)


async def test_nothing_is_left_of_what_is_not_kept(tmp_path: Path) -> None:
    """A request that is not kept leaves no span, and its span takes nothing any more."""
    spans = []
    async with Service(tmp_path) as service:

        @service.app.get("/keep-hold")
        async def read() -> None:
            spans.append(trace.get_current_span())
            assert spans[-1].is_recording()

        await service.get("/keep-hold")
        service.exporter.clear()
        await service.get("/keep-hold")
        late = spans[-1]
        assert not late.is_recording()
        late.set_attribute("late", 1)
        late.add_event("late")
        late.end()
        assert service.spans == []


async def test_what_comes_after_the_end_follows(tmp_path: Path) -> None:
    """Spans of background work of a kept request are handed over, those of another are not."""
    async with Service(tmp_path) as service:

        @service.app.get("/later/{status}")
        async def later(status: int, tasks: BackgroundTasks) -> None:
            def work() -> None:
                with operation("afterwards"):
                    pass

            tasks.add_task(work)

        await service.get("/later/1")
        await service.get("/later/2")
        assert service.kept == ["first", "no"]
        assert Counter(span.name for span in service.spans) == {"GET /later/{status}": 1, "afterwards": 1}
        assert len(service.traces) == 1


async def test_the_first_work_of_an_error_type_that_fails_is_always_kept(tmp_path: Path) -> None:
    """Also where many others of its route have failed after their answers in the same second."""
    async with Service(tmp_path) as service:

        @service.app.get("/later/{kind}")
        async def later(kind: str, tasks: BackgroundTasks) -> None:
            def work() -> None:
                raise {"often": KeyError, "once": LookupError}[kind]

            tasks.add_task(work)

        often, once = (http_scope(f"/later/{kind}") for kind in ("often", "once"))
        for scope in (*[often] * 20, once, once):
            await drive(service.asgi, scope)
        assert service.obs.store is not None
        found = [each.request for each in service.obs.store.reader.list(RequestQuery(limit=1_000)).requests]
        most = module.PER_ROUTE["failed"]
        assert Counter(request.error_type for request in found) == {"KeyError": 1 + most, "LookupError": 1}
        assert Counter(request.kept for request in found) == {"failed": 1 + most, "first": 1}


async def test_a_sampled_request_is_kept_whatever_its_outcome(tmp_path: Path) -> None:
    """What a trace's ratio has sampled is kept, and says why: its outcome, else the caller's trace or the ratio."""
    async with Service(tmp_path, rate=1.0) as service:
        sampled = (b"traceparent", f"00-{'a' * 32}-{'b' * 16}-01".encode())
        await service.get("/fine/1")
        await service.get("/fine/2")
        await service.get("/boom")
        await service.get("/fine/3", sampled)
        assert service.kept == ["first", "ratio", "failed", "upstream"]
        assert len(service.traces) == 4


async def test_a_clients_flag_cannot_force_recording(tmp_path: Path) -> None:
    """Of traces that clients call sampled so many a second are recorded; all of them from a trusted network."""
    limits = {"incoming_sampled_per_second": 3.0, "trusted_networks": "10.0.0.0/8,fd00::/8"}
    async with Service(tmp_path, tracing=limits) as service:
        await service.get("/fine/0")
        for client_host in ("203.0.113.1", "10.1.2.3", "::ffff:10.9.9.9", "fd00::1", "testclient"):
            for number in range(10):
                header = (b"traceparent", f"00-{'a' * 32}-{number + 1:016x}-01".encode())
                scope = http_scope("/fine/1", headers=[header], client=(client_host, 1))
                await drive(service.asgi, scope)
        kept = service.kept[1:]
        counts = [kept[start : start + 10].count("upstream") for start in range(0, 50, 10)]
        assert counts[1:4] == [10, 10, 10]
        # The limit goes by a clock that a busy machine lets run on.
        assert counts[0] <= 10 - 1 or counts[4] <= 10 - 1
        assert counts[0] >= 3
        assert {span.attributes["sage.kept"] for span in service.spans if span.kind is trace.SpanKind.SERVER} >= {"upstream"}  # type: ignore[index]


async def test_a_caller_that_does_not_sample_is_kept_for_a_failure(tmp_path: Path) -> None:
    """A failed request of an unsampled trace is below the caller's span, with the caller's state."""
    async with Service(tmp_path) as service:
        header = (b"traceparent", f"00-{'a' * 32}-{'b' * 16}-00".encode())
        await service.get("/boom", header, (b"tracestate", b"vendor=1"))
        server = next(span for span in service.spans if span.kind is trace.SpanKind.SERVER)
        assert server.parent is not None
        assert server.context is not None
        assert (f"{server.context.trace_id:032x}", f"{server.parent.span_id:016x}") == ("a" * 32, "b" * 16)
        assert server.parent.is_remote
        assert server.context.trace_state.to_header() == "vendor=1"


async def test_a_websocket_is_decided_at_its_handshake_and_at_its_end(tmp_path: Path) -> None:
    """A refused one is known at once; one that fails after a while still brings its spans."""
    async with Service(tmp_path) as service:

        @service.app.websocket("/ws/{ending}")
        async def socket(websocket: WebSocket, ending: str) -> None:
            await websocket.accept()
            with operation("talk"):
                pass
            service.clock.now_ns += 300 * SECOND_NS
            if ending == "badly":
                raise RuntimeError("boom")
            await websocket.close()

        for ending in ("well", "well", "badly"):
            service.clock.now_ns += SECOND_NS
            scope = http_scope(f"/ws/{ending}", type="websocket")
            await drive(service.asgi, scope, [{"type": "websocket.connect"}])
        assert service.kept == ["first", "no", "failed"]
        assert Counter(span.name for span in service.spans) == {"GET /ws/{ending}": 2, "talk": 2}
        kept = {line["trace_id"] for line in service.access if line["kept"] != "no"}
        assert {*service.traces} == kept


async def test_spans_that_the_sdk_makes_are_held_too(tmp_path: Path) -> None:
    """Spans that instrumentations start with our provider come with a kept request, and with no other."""
    async with Service(tmp_path) as service:
        assert service.obs.tracer_provider is not None
        tracer = service.obs.tracer_provider.get_tracer("another.library")

        @service.app.get("/call/{status}")
        async def call(status: int) -> None:
            with tracer.start_as_current_span("outer"), tracer.start_as_current_span("inner"):
                if status == 500:
                    raise RuntimeError

        await service.get("/call/200")
        service.exporter.clear()
        await service.get("/call/200")
        assert service.spans == []
        await service.get("/call/500")
        assert [span.name for span in service.spans] == ["inner", "outer", "GET /call/{status}"]
        ids = [span.context.span_id for span in service.spans if span.context is not None]
        assert [span.parent and span.parent.span_id for span in service.spans] == [ids[1], ids[2], None]
        with tracer.start_as_current_span("outside of any request"):
            pass
        assert len(service.spans) == 3


@pytest.mark.parametrize(
    "story",
    [
        test_the_outcome_decides,
        test_the_spans_below_come_with_it,
        test_what_comes_after_the_end_follows,
        test_a_websocket_is_decided_at_its_handshake_and_at_its_end,
    ],
)
async def test_the_spans_of_the_sdk_do_as_well(story: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a version of OpenTelemetry whose spans ours cannot replace, requests are kept all the same."""
    monkeypatch.setattr(fast_span, "fast_span_type", lambda *_: None)
    await story(tmp_path)


async def test_exemplars_are_those_of_kept_requests(tmp_path: Path) -> None:
    """No exemplar of a request's own histogram or of an operation's points to a trace that was not handed over."""
    async with Service(tmp_path, rate=0.1) as service:
        chance = random.Random(5)
        for number in range(200):
            await service.get(chance.choice([f"/fine/{number}", "/boom", "/slow/2", "/slow/0.01"]))
        text = generate_latest(service.obs.registry).decode()
        found = re.findall(r'(operation|http_request)_duration_seconds_bucket.*# \{.*?trace_id="(\w+)"', text)
        assert {name for name, _ in found} == {"operation", "http_request"}
        assert {trace_id for _, trace_id in found} <= {*service.traces}


async def test_a_story_of_many_requests(tmp_path: Path) -> None:
    """Of a seeded mix all failed and slow requests are kept, and of the rest as many as the ratio says."""
    count, rate = times(1_500, 100_000), 0.1
    chance = random.Random(7)
    async with Service(tmp_path, rate=rate) as service:
        wanted: list[str] = []
        for _ in range(count):
            kind = chance.choices(["fine", "failed", "slow"], [98, 1, 1])[0]
            wanted.append(kind)
            await service.get({"fine": "/fine/1", "failed": "/boom", "slow": "/slow/1.5"}[kind])
        kept = service.kept
        assert len(kept) == count
        for kind, said in zip(wanted, kept, strict=True):
            if kind != "fine":
                assert said in (kind, "first")
        of_fine = [said for kind, said in zip(wanted, kept, strict=True) if kind == "fine"]
        expected = rate * len(of_fine)
        assert abs(len(of_fine) - of_fine.count("no") - expected) < 5 * (expected * (1 - rate)) ** 0.5
        assert {*service.traces} == {line["trace_id"] for line in service.access if line["kept"] != "no"}
        assert not any(watch.exchange.story for watch in service.obs.in_progress)
        assert service.obs.registry.get_sample_value("observability_requests_not_kept_total", {"reason": "failed"}) == 0


async def test_an_outage_stays_bounded(tmp_path: Path) -> None:
    """When hundreds of requests a second fail, some are kept in each second, and the rest is counted."""
    async with Service(tmp_path) as service:
        for _ in range(2):
            service.clock.now_ns += SECOND_NS
            for _ in range(times(200, 1_000)):
                await drive(service.asgi, http_scope("/boom"))
        assert service.kept.count("failed") == 2 * module.PER_ROUTE["failed"]
        lost = service.obs.registry.get_sample_value("observability_requests_not_kept_total", {"reason": "failed"})
        assert lost == 2 * times(200, 1_000) - service.kept.count("failed")


async def test_no_request_holds_more_than_so_many_spans(tmp_path: Path) -> None:
    """What has no room is counted, and the server span is always there."""
    async with Service(tmp_path) as service:

        @service.app.get("/many")
        async def many() -> None:
            for _ in range(StoryDraft.MOST_SPANS + 50):
                with operation("step"):
                    pass

        await service.get("/many")
        assert Counter(span.name for span in service.spans) == {"step": StoryDraft.MOST_SPANS, "GET /many": 1}
        assert service.obs.registry.get_sample_value("observability_spans_dropped_total", {"cause": "held"}) == 50


async def test_many_requests_at_once_stay_apart(tmp_path: Path) -> None:
    """Concurrent requests and their threads keep exactly their own spans."""
    async with Service(tmp_path) as service:

        @service.app.get("/work/{number}")
        async def work(number: int) -> None:
            def in_thread() -> None:
                with operation(f"step {number}"):
                    pass

            await asyncio.gather(*[asyncio.to_thread(in_thread) for _ in range(3)])
            if number % 2:
                raise RuntimeError

        async with client(service.asgi) as http:
            await asyncio.gather(*[http.get(f"/work/{number}") for number in range(20)])
        # One of another route's budget may be first; failures have room for ten a second.
        failed = [line for line in service.access if line["kept"] == "failed"]
        assert len(failed) == 10
        by_trace = Counter(
            f"{span.context.trace_id:032x}" for span in service.spans if span.context and span.name.startswith("step")
        )
        assert all(by_trace[line["trace_id"]] == 3 for line in failed)


async def test_a_user_provider_stays_with_the_ratio(tmp_path: Path) -> None:
    """Spans of a provider that is not ours cannot be held: the start says so, and lines still tell the outcome."""
    provider = TracerProvider(shutdown_on_exit=False)
    exporter = InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    output = tmp_path / "lines.jsonl"
    settings = Settings(logging={"output": str(output)}, tracing={"retention": "outcome"}, alerts={"defaults": False})
    obs = Observability(settings, tracer_provider=provider)
    app = ObservabilityMiddleware(FastAPI(), observability=obs)
    async with obs:
        await drive(app, http_scope("/nowhere"))
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    assert any("tracing.retention" in line["message"] for line in lines)
    assert [line["kept"] for line in lines if "kept" in line] == ["ratio"]
    assert len(exporter.get_finished_spans()) == 1


async def test_held_requests_leave_no_cycles(tmp_path: Path) -> None:
    """Kept or not, nothing of a request waits for the garbage collector."""
    async with Service(tmp_path) as service:
        await service.get("/fine/1")
        await service.get("/boom")
        with no_cycles_of_ours(300):
            for number in range(300):
                await service.get(f"/fine/{number}")


async def test_a_stream_is_slow_by_its_first_byte(tmp_path: Path) -> None:
    """A stream that runs for minutes is not slow."""
    async with Service(tmp_path) as service:

        @service.app.get("/stream")
        async def stream() -> StreamingResponse:
            async def chunks() -> Any:
                yield b"a"
                service.clock.now_ns += 300 * SECOND_NS
                yield b"b"

            return StreamingResponse(chunks())

        await service.get("/stream")
        await service.get("/stream")
        assert service.kept == ["first", "no"]


def exchange_of(
    route: str | None, duration_us: int, *, status: int = 200, error_type: str | None = None, at_second: int = 1_000
) -> Exchange:
    """Make an exchange that has ended."""
    exchange = Exchange({"type": "http"}, at_second * SECOND_NS, 0)
    exchange.route, exchange.duration_us, exchange.status, exchange.error_type = route, duration_us, status, error_type
    return exchange


def decided(retention: Retention, exchange: Exchange) -> str:
    """Return what is decided about an exchange."""
    retention.request_finished(exchange)
    return exchange.kept


@given(st.lists(st.integers(1, 10_000_000), min_size=64, max_size=300))
def test_the_limit_of_a_route_is_about_twice_its_95th_percentile(durations: list[int]) -> None:
    """With the resolution of powers of two, the limit is between the percentile and four times it."""
    retention = Retention(Settings(tracing={"slow_seconds": None}))
    seen = durations[: len(durations) // 32 * 32]
    for duration in seen:
        retention.request_finished(exchange_of("/a", duration))
    if len(seen) >= 256:
        return
    ordered = sorted(seen)
    rank = max(0, -(-95 * len(ordered) // 100) - 1)
    limit = retention._routes["/a"].slow_us
    assert max(100_000, ordered[rank]) <= limit <= max(100_000, 4 * ordered[rank])


REQUESTS = st.lists(
    st.tuples(
        st.sampled_from(["/a", "/b", "/healthz", None]),
        st.integers(0, 3_000_000) | st.sampled_from([50, 150_000]),
        st.sampled_from([(200, None), (404, None), (500, "500"), (500, "ValueError"), (499, "client_disconnect")]),
        st.booleans(),
        st.integers(0, 700),
    ),
    max_size=120,
)


@given(REQUESTS)
def test_the_short_way_decides_as_the_long_one(requests: list[Any]) -> None:
    """Ordinary requests are decided with less work, and no differently, whatever came before them."""
    second = 1_000
    short, long = (Retention(Settings(tracing={"slow_seconds": 1.0})) for _ in range(2))
    long._is_ordinary = lambda _: False  # type: ignore[method-assign]
    for route, duration_us, (status, error_type), sampled, wait_seconds in requests:
        second += wait_seconds
        said = []
        for retention in (short, long):
            exchange = exchange_of(route, duration_us, status=status, error_type=error_type, at_second=second)
            exchange.sampled = sampled
            said.append(decided(retention, exchange))
        assert said[0] == said[1]
    assert short.dropped == long.dropped


def test_a_shift_is_followed_soon() -> None:
    """After a route has become ten times slower, requests stop being slow within some hundred."""
    retention = Retention(Settings(tracing={"slow_seconds": None}))
    for _ in range(2_000):
        decided(retention, exchange_of("/a", 60_000))
    said = [decided(retention, exchange_of("/a", 600_000, at_second=1_001 + second)) for second in range(600)]
    assert 0 < said.count("slow") < 200
    assert said[-1] == "no"


def test_each_budget_is_its_own() -> None:
    """Failures use up nothing of what slow and refused requests have, nor one route what another has."""
    retention = Retention(Settings(tracing={"slow_seconds": 1.0}))
    for route in ("/a", "/b"):
        said = [decided(retention, exchange_of(route, 5, status=500, error_type="500")) for _ in range(100)]
        assert said.count("failed") in (module.PER_ROUTE["failed"], module.PER_ROUTE["failed"] + 1)
        said = [decided(retention, exchange_of(route, 2_000_000)) for _ in range(100)]
        assert said.count("slow") == module.PER_ROUTE["slow"]
        said = [decided(retention, exchange_of(route, 5, status=404)) for _ in range(100)]
        assert said.count("refused") == module.PER_ROUTE["refused"]
    many = [decided(retention, exchange_of(f"/{n}", 5, status=500, error_type="500")) for n in range(1_000)]
    assert many.count("failed") <= module.OF_ALL_ROUTES["failed"]
    # A new kind of failure is kept even then.
    assert decided(retention, exchange_of("/a", 5, status=500, error_type="Unseen")) == "failed"


def test_health_checks_and_clients_that_left_are_not_firsts() -> None:
    """Neither is worth a place."""
    retention = Retention(Settings())
    assert decided(retention, exchange_of("/healthz", 5)) == "no"
    assert decided(retention, exchange_of("/a", 5, status=499, error_type="client_disconnect")) == "no"


def test_routes_and_error_types_are_bounded() -> None:
    """An app with more routes or error types than are remembered is served like any other."""
    retention = Retention(Settings())
    for number in range(module.MOST_ROUTES + 100):
        decided(retention, exchange_of(f"/{number}", 5))
        decided(retention, exchange_of(f"/{number}", 5, status=500, error_type=f"E{number}"))
    assert len(retention._routes) == module.MOST_ROUTES
    assert len(retention._error_types) == module.MOST_ERROR_TYPES


@pytest.mark.parametrize("status", [403, 101])
def test_a_handshake_counts_once(status: int) -> None:
    """The route's durations know a WebSocket once, although it is looked at twice."""
    retention = Retention(Settings())
    exchange = exchange_of("/ws", 0, status=status)
    exchange.socket = Socket(handshake_us=5_000)
    retention.response_started(exchange, [])
    retention.request_finished(exchange)
    assert sum(retention._routes["/ws"].durations) == 1


async def test_a_fault_of_the_decision_costs_its_request_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not decided is not kept: no row, no span, no circle for the garbage collector; and the fault is counted."""

    def fail(_: Any) -> str:
        raise ArithmeticError

    async with Service(tmp_path) as service:
        monkeypatch.setattr(service.obs._retention, "_reason", fail)
        assert (await service.get("/fine/1")).error is None
        assert service.spans == []
        assert service.obs.store is not None
        assert service.obs.store.reader.list(RequestQuery()).requests == []
        assert service.obs.internal_errors.counts == {"Retention": 1}

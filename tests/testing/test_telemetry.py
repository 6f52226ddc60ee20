"""`Telemetry` has of each request of a watched app what was recorded of it, and leaves everything as it was."""

import asyncio
import logging
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Response, WebSocket
from fastapi.testclient import TestClient
from kinds_of_requests import KINDS, build_app
from loguru import logger
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from prometheus_client import Counter
from starlette.applications import Starlette
from support import client

from sage_fastapi_obs import Observability, ObservabilityMiddleware, RequestLogger, Settings, operation
from sage_fastapi_obs.testing import RecordedRequest, Telemetry

SECRET = 'hunter2 "é'


@pytest.fixture
def app(watch) -> FastAPI:
    app = FastAPI()
    watched = watch(alerts={"defaults": True})
    app.state.watched = watched
    watched.obs.install(app)

    @app.get("/items/{item}")
    async def read_item(item: str, log: RequestLogger) -> str:
        log.info("looking it up", item=item, password="secret")
        with operation("lookup"):
            await asyncio.sleep(0)
        return item

    @app.get("/boom")
    async def boom() -> None:
        raise ValueError("no")

    return app


def messages(request: RecordedRequest) -> list[str]:
    """Return the messages of lines; on a busy machine an app may take a while to return, and a line and a span say so."""
    return [line.message for line in request.lines if not line.message.startswith("background work")]


def span_names(request: RecordedRequest) -> list[str]:
    return [span.name for span in request.spans if span.name != "background"]


@pytest.mark.parametrize("install", ["install", "add_middleware", "wrap"])
async def test_every_kind_of_request_is_consistent(watch, telemetry, install):
    """Streams, failures, files, background work, unknown methods: the assertion holds of each, however we are installed."""
    watched, app = watch(), build_app()
    asked: Any = app
    if install == "install":
        watched.obs.install(app)
    elif install == "add_middleware":
        app.add_middleware(ObservabilityMiddleware, observability=watched.obs)
    else:
        asked = ObservabilityMiddleware(app, observability=watched.obs)
    async with client(asked) as c:
        for method, path in KINDS:
            try:
                answer = await c.request(method, path)
            except ValueError:
                answer = SimpleNamespace(status_code=200)
            assert telemetry.last.status == answer.status_code
            telemetry.last.assert_consistent()
            telemetry.last.assert_one_line()
    assert len(telemetry.requests) == len(KINDS)
    routes = [request.route for request in telemetry.requests]
    assert routes[:6] == ["/sync/{n}", "/async/{n}", "/v1/shop/items/{item}", "/sub/leaf/{n}", "/async/{n}", None]


async def test_what_is_known_of_a_request(app, telemetry):
    """Route, headers, lines, spans, changes of metrics, times, what was hidden: those of this request alone."""
    async with client(app) as c:
        await c.get("/items/1")
        response = await c.get("/items/2", headers={"x-request-id": "two"})
    last = telemetry.last
    last.assert_route("/items/{item}")
    assert dict(last.headers) == dict(response.headers)
    assert (last.method, last.path, last.status, last.request_id) == ("GET", "/items/2", 200, "two")
    assert messages(last) == ["looking it up", "request completed"]
    assert span_names(last) == ["lookup", "GET /items/{item}"]
    assert last.metric("http_requests_total", route="/items/{item}") == 1
    assert last.metric("http_requests_total", route="/items/{item}", status="500") == 0
    assert 0 < last.timings["answered_ms"] <= last.timings["sent_ms"] <= last.timings["returned_ms"]
    assert last.redactions == ["line 'looking it up': password"]
    assert last.assert_one_line(message="looking it up", item="2", level="info").fields["request_id"] == "two"
    assert telemetry.lines == [line for request in telemetry.requests for line in request.lines] + telemetry.other_lines


async def test_requests_at_the_same_time_do_not_mix(app, telemetry):
    """Each has its own lines and spans; the changes of metrics of all count for each, and the assertion knows."""
    async with client(app) as c:
        await asyncio.gather(*(c.get(f"/items/{number}") for number in range(20)))
    assert [request.path for request in telemetry.requests] == [f"/items/{number}" for number in range(20)]
    assert not any(request.is_alone for request in telemetry.requests)
    telemetry.assert_consistent()
    for number, request in enumerate(telemetry.requests):
        request.assert_one_line(message="looking it up", item=str(number))
        assert len(span_names(request)) == 2


DAMAGES = {
    "access line: duration_ms": lambda request: request.access_lines[0].fields.update(duration_ms=0.001),
    "access line: status 404": lambda request: request.access_lines[0].fields.update(status=404),
    "0 access lines": lambda request: request.written.clear(),
    "2 access lines": lambda request: request.written.extend(request.access_lines),
    "no server span": lambda request: request.spans.clear(),
    "2 server spans": lambda request: request.spans.extend(request.server_spans),
    "route of span": lambda request: request.server_spans[0]._attributes.update({"http.route": "/other"}),
    "duration of the span": lambda request: setattr(request.server_spans[0], "_end_time", request.server_spans[0].start_time),
    "status of the response": lambda request: setattr(request, "status", 201),
    "header X-Request-ID": lambda request: setattr(request, "headers", {}),
    "0 requests, not 1": lambda request: request.metrics.clear(),
    "2 requests, not 1": lambda request: double(request, "http_requests_total"),
    "http_request_duration_seconds": lambda request: double(request, "http_request_duration_seconds_sum"),
    "header traceresponse": lambda request: setattr(request, "headers", {"traceresponse": "00-1-2-01"}),
    "header X-Correlation-ID": lambda request: setattr(request, "headers", {"X-Correlation-ID": "other"}),
    "trace id of the span": lambda request: setattr(request.exchange, "trace_id", "0" * 32),
    "span id": lambda request: setattr(request.exchange, "span_id", "0" * 16),
    "a span of a request that is not sampled": lambda request: setattr(request.exchange, "sampled", False),
    "label route of http_requests_total": lambda request: setattr(request.exchange, "route", "/other"),
    "is that of no span": lambda request: request.written[0].fields.update(trace_id="0" * 32),
}


def double(request: RecordedRequest, name: str) -> None:
    """Have the sample of a name twice."""
    request.metrics.update({series: 2 * change for series, change in request.metrics.items() if series[0] == name})


@pytest.mark.parametrize("says", DAMAGES)
async def test_a_difference_is_found(app, telemetry, says):
    """Whatever two signals say differently fails the assertion, which names it and shows what was recorded."""
    async with client(app) as c:
        await c.get("/items/1")
    DAMAGES[says](telemetry.last)
    with pytest.raises(AssertionError) as failed:
        telemetry.assert_consistent()
    assert says in str(failed.value)
    assert "<GET /items/1 -> " in str(failed.value)


async def test_an_unsampled_request_has_no_span(telemetry):
    """Its spans are not exported, as the settings say, and the rest agrees."""
    obs = Observability(Settings(tracing={"sample_rate": 0.0}, store={"enabled": False}))
    app = build_app()
    obs.install(app)
    async with obs, client(app) as c:
        await c.get("/async/1")
    telemetry.last.assert_consistent()
    telemetry.last.assert_one_line()
    assert telemetry.last.spans == []


@pytest.mark.parametrize(
    "sections",
    [
        {"tracing": {"enabled": False}},
        {"logging": {"level": "warn"}},
        {"logging": {"enabled": False}},
        {"metrics": {"enabled": False}},
        {"metrics": {"packs": []}},
    ],
)
async def test_what_is_switched_off_is_not_missed(watch, telemetry, sections):
    """The signals that the settings want agree, and the others are wanted by nobody."""
    app = build_app()
    watch(**sections).obs.install(app)
    async with client(app) as c:
        for path in ("/async/1", "/boom", "/nowhere"):
            await c.get(path)
            telemetry.last.assert_consistent()


async def test_a_package_that_is_switched_off_is_noticed(watch, telemetry):
    """Then nothing is recorded, and no assertion passes for that reason."""
    app = build_app()
    watch(enabled=False).obs.install(app)
    async with client(app) as c:
        await c.get("/async/1")
    with pytest.raises(AssertionError, match="nothing to compare"):
        telemetry.last.assert_consistent()
    with pytest.raises(AssertionError, match="0 lines, not 1"):
        telemetry.last.assert_one_line()


async def leak_line(_: Response) -> None:
    logger.info(f"got {SECRET}")


async def leak_field(_: Response) -> None:
    logger.bind(note={"deep": [SECRET]}).info("got it")


async def leak_exception(_: Response) -> None:
    try:
        raise ValueError(SECRET)
    except ValueError:
        logging.getLogger("shop").exception("failed")


async def leak_span(_: Response) -> None:
    trace.get_current_span().set_attribute("note", SECRET)


async def leak_event(_: Response) -> None:
    trace.get_current_span().add_event("note", {"url": "/?q=hunter2%20%22%C3%A9"})


async def leak_event_name(_: Response) -> None:
    trace.get_current_span().add_event(f"login {SECRET}")


async def leak_link(_: Response) -> None:
    span = trace.get_current_span()
    span.add_link(span.get_span_context(), {"note": SECRET})


async def leak_header(response: Response) -> None:
    response.headers["x-note"] = "hunter2+%22%C3%A9"


async def leak_nothing(response: Response) -> None:
    response.set_cookie("session", "hunter2")
    response.headers["set-cookie"] = "session=hunter2%20%22%C3%A9"


LEAKS = {
    leak_line: "line",
    leak_field: "line 'got it': note: deep",
    leak_exception: "line 'failed'",
    leak_span: "span GET /leak: note",
    leak_event: "span GET /leak, event note: url",
    leak_event_name: "span GET /leak, event",
    leak_link: "span GET /leak, link: note",
    leak_header: "header x-note",
}


@pytest.mark.parametrize("leak", [*LEAKS, leak_nothing])
async def test_a_secret_is_found_wherever_it_is(watch, telemetry, leak):
    """Also as JSON or a URL spells it; a cookie is the app's answer. The assertion says where, and not what."""
    watched, app = watch(), FastAPI()
    watched.obs.install(app)
    app.add_api_route("/leak", leak)
    async with client(app) as c:
        await c.get("/leak")
    if leak is leak_nothing:
        telemetry.assert_no_secret(SECRET)
        return
    with pytest.raises(AssertionError) as failed:
        telemetry.assert_no_secret("else", SECRET)
    assert LEAKS[leak] in str(failed.value)
    assert "hunter2" not in str(failed.value)


def test_a_search_for_nothing_is_refused(app, telemetry):
    """An empty text is in every other, and without any there is nothing to find."""
    TestClient(app).get("/items/1")
    for secrets in ((), ("",)):
        with pytest.raises(ValueError, match="say which text"):
            telemetry.last.assert_no_secret(*secrets)


def test_assertions_fail_with_what_was_recorded(app, telemetry):
    """Each says what it found, and shows the lines and spans."""
    TestClient(app).get("/items/1")
    for check, says in (
        (lambda last: last.assert_route("/other"), "route '/items/{item}', not '/other'"),
        (lambda last: last.assert_one_line(message="never"), "0 lines with {'message': 'never'}, not 1"),
        (lambda last: last.assert_queries(max=3, min=1), "0 queries, not 1 to 3"),
    ):
        with pytest.raises(AssertionError) as failed:
            check(telemetry.last)
        assert says in str(failed.value)
        assert "looking it up" in str(failed.value)


def test_a_secret_with_a_slash_is_found_in_a_path(watch, telemetry):
    """Where the slash stays, and what is beside it is quoted."""
    app = FastAPI()
    watch().obs.install(app)

    @app.get("/ask")
    async def ask() -> None:
        logger.info("asked http://shop/ab/c%20d")

    TestClient(app).get("/ask")
    with pytest.raises(AssertionError, match="a secret was recorded"):
        telemetry.assert_no_secret("ab/c d")


def test_a_line_about_something_else_agrees(watch, telemetry):
    """It may name a way to pay, a status of its own, or a call that the app makes."""
    app = FastAPI()
    watched = watch()
    watched.obs.install(app)
    calls = Counter("httpx_requests_total", "calls", ["status"], registry=watched.obs.registry)

    @app.get("/pay")
    async def pay() -> None:
        logger.bind(method="card", status="accepted").info("paid")
        logger.bind(method="POST", path="/charges", status=402).info("asked the bank")
        calls.labels("402").inc()

    TestClient(app).get("/pay")
    telemetry.last.assert_consistent()


def test_a_mounted_app_leaves_the_request_to_the_outer_one(watch, telemetry):
    """Whose middleware comes first records it, however the other is set up."""
    outer, inner = FastAPI(), FastAPI()
    watch(logging={"enabled": False}, http={"request_id_header": "X-Other"}).obs.install(inner)
    inner.add_api_route("/items/{item}", lambda item: item)
    outer.mount("/shop", inner)
    watch().obs.install(outer)
    TestClient(outer).get("/shop/items/1")
    telemetry.last.assert_one_line()
    telemetry.last.assert_consistent()


def test_a_provider_that_is_named_before_is_observed(app):
    """`observe` may come before the observation begins."""
    provider = TracerProvider()
    observing = Telemetry()

    async def plain(scope, receive, send) -> None:
        with provider.get_tracer("shop").start_as_current_span("work"):
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body"})

    observed = observing.observe(plain, tracer_provider=provider)
    with observing:
        TestClient(observed).get("/")
    assert [span.name for span in observing.last.spans] == ["work"]


def test_asking_again_changes_no_answer(app, telemetry):
    """Time goes on for nobody who asks."""
    TestClient(app, raise_server_exceptions=False).get("/boom")
    before = telemetry.firing
    assert "HighErrorRate" in before
    assert all(telemetry.firing == before for _ in range(50))


def test_rules_fire_by_what_this_test_does(app, telemetry):
    """A rule fires if what was observed would go on: earlier tests with the same app count for nothing."""
    asking = TestClient(app, raise_server_exceptions=False)
    asking.get("/boom")
    telemetry.assert_fires("HighErrorRate")
    telemetry.assert_fires("SlaViolation")
    telemetry.assert_fires("ErrorBudgetBurnFast")
    assert "sla_violation" in telemetry.firing
    with Telemetry() as later:
        asking.get("/items/1")
        assert later.firing == []
        with pytest.raises(AssertionError, match=r"HighErrorRate does not fire: its values are \[\{\(\): \(0\.0,\)\}\]"):
            later.assert_fires("HighErrorRate")
        with pytest.raises(AssertionError, match=r"no rule 'HighErrorRates' can be judged here: there are .*HighErrorRate"):
            later.assert_fires("HighErrorRates")


def test_a_websocket_is_a_request(app, telemetry):
    """From its handshake to its end, with the status 101."""

    @app.websocket("/echo")
    async def echo(socket: WebSocket) -> None:
        await socket.accept()
        await socket.send_text(await socket.receive_text())
        await socket.close()

    with TestClient(app).websocket_connect("/echo") as socket:
        socket.send_text("hello")
        socket.receive_text()
    last = telemetry.last
    assert (last.kind, last.status, last.route) == ("websocket", 101, "/echo")
    last.assert_consistent()
    last.assert_one_line()
    assert last.metric("websocket_connections_total") == 1


async def test_a_call_of_another_app_is_a_request_of_its_own(watch, app, telemetry):
    """Each has its own record; the last request is the one that the test has made."""
    outer = FastAPI()
    watch().obs.install(outer)

    @outer.get("/outer")
    async def ask() -> str:
        async with client(app) as inner:
            return (await inner.get("/items/1")).text

    async with client(outer) as c:
        await c.get("/outer")
    first, second = telemetry.requests
    assert telemetry.last is first
    assert (first.route, second.route, second.parent) == ("/outer", "/items/{item}", first)
    telemetry.assert_consistent()
    assert messages(first) == ["request completed"]


def test_nothing_was_seen(telemetry):
    """Each assertion says so, and what to do."""
    for check in (lambda: telemetry.last, telemetry.assert_consistent, lambda: telemetry.assert_no_secret("x")):
        with pytest.raises(AssertionError, match=r"no request was seen|nothing was recorded"):
            check()
    with pytest.raises(AssertionError, match="no Observability was seen"):
        telemetry.assert_fires("HighErrorRate")


async def test_all_is_given_back(app):
    """Classes, handlers, sinks, span processors and listeners of lines are as before, also where two observed at once."""

    def state() -> list[Any]:
        watched = app.state.watched
        return [
            *(kind.__call__ for kind in (FastAPI, Starlette, ObservabilityMiddleware)),
            [*logging.root.handlers],
            {*logger._core.handlers},
            watched.provider._active_span_processor._span_processors,
            watched.obs.logs.write_later,
        ]

    async with client(app) as c:
        await c.get("/items/1")
        before = state()
        with Telemetry() as one, Telemetry() as two:
            await c.get("/items/2")
            assert state() != before
        await c.get("/items/3")
    assert state() == before
    assert one.requests == two.requests
    assert [request.path for request in one.requests] == ["/items/2"]
    one.assert_consistent()


async def test_a_library_that_replaces_the_call_meanwhile_keeps_it(app, monkeypatch):
    """As Sentry's integration does at its start: what it has put there stays, and works."""
    called = []
    monkeypatch.setattr(Starlette, "__call__", Starlette.__call__)
    with Telemetry() as telemetry:
        inner = Starlette.__call__

        async def theirs(*args: Any) -> None:
            called.append(1)
            await inner(*args)

        Starlette.__call__ = theirs
        async with client(app) as c:
            await c.get("/items/1")
        telemetry.assert_consistent()
    assert Starlette.__call__ is theirs
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://testserver") as c:
        assert (await c.get("/items/1")).status_code == 200
    assert len(called) == 2
    assert len(telemetry.requests) == 1

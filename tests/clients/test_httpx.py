"""Requests to other services, over real sockets and in process."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import RedirectResponse
from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor
from opentelemetry.trace import SpanKind, StatusCode
from servers import free_port
from support import PATIENCE_SECONDS, Watched

from sage_fastapi_obs import CorrelationContext, correlation_hook, operation
from sage_fastapi_obs.clients.httpx import instrument_httpx

CALLS = "dependency_calls_total"


def build() -> FastAPI:
    """Build a service that answers with the headers it got."""
    app = FastAPI()

    @app.get("/headers")
    async def headers(request: Request) -> dict[str, str]:
        return dict(request.headers)

    @app.get("/hop")
    async def hop() -> RedirectResponse:
        return RedirectResponse("/headers")

    @app.get("/broken")
    async def broken() -> None:
        raise RuntimeError("no")

    @app.get("/slow")
    async def slow() -> None:
        await asyncio.sleep(PATIENCE_SECONDS)

    return app


@pytest.fixture
async def service() -> AsyncIterator[str]:
    """Serve it; yield its address."""
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(build(), port=port, log_config=None, lifespan="off"))
    task = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110 - it tells nobody
        await asyncio.sleep(0.01)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = server.force_exit = True
    await task


async def test_a_request_is_a_span_and_carries_the_ids(watched: Watched, service: str):
    """Attributes follow the conventions, without values of the query; the service gets this span's context and the ids."""
    async with httpx.AsyncClient(base_url=service) as http:
        instrument_httpx(http)
        with CorrelationContext("corr-1"), operation("order"):
            response = await http.get("/headers", params={"q": "geheim"})
    sent, order = watched.spans
    got = response.json()
    port = int(service.rpartition(":")[2])
    assert (sent.name, sent.kind, sent.parent.span_id) == ("GET", SpanKind.CLIENT, order.context.span_id)
    assert dict(sent.attributes) == {
        "http.request.method": "GET",
        "http.response.status_code": 200,
        "network.protocol.version": "1.1",
        "server.address": "127.0.0.1",
        "server.port": port,
        "url.full": f"{service}/headers?q=REDACTED",
    }
    assert got["traceparent"].split("-")[2] == f"{sent.context.span_id:016x}"
    assert got["x-correlation-id"] == "corr-1"
    assert watched.value(CALLS, system="http", operation=f"GET 127.0.0.1:{port}", status="success") == 1


async def test_each_hop_of_a_redirect_is_told(watched: Watched, service: str):
    """Both requests have spans of their own, each the parent of what it leads to."""
    async with httpx.AsyncClient(base_url=service, follow_redirects=True) as http:
        instrument_httpx(http)
        got = (await http.get("/hop")).json()
    first, second = watched.spans
    assert [span.attributes["http.response.status_code"] for span in (first, second)] == [307, 200]
    assert got["traceparent"].split("-")[2] in (f"{first.context.span_id:016x}", f"{second.context.span_id:016x}")


async def test_beside_the_hook_the_span_is_the_parent(watched: Watched, service: str):
    """The hook comes before the span: its trace context gives way, one of another trace stays."""
    async with httpx.AsyncClient(base_url=service, event_hooks={"request": [correlation_hook]}) as http:
        instrument_httpx(http)
        with operation("order"):
            got = (await http.get("/headers")).json()
            assert got["traceparent"].split("-")[2] == f"{watched.spans[0].context.span_id:016x}"
            own = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
            got = (await http.get("/headers", headers={"traceparent": own, "x-correlation-id": "mine"})).json()
    assert (got["traceparent"], got["x-correlation-id"]) == (own, "mine")


@pytest.mark.parametrize(("path", "status"), [("/nowhere", "404"), ("/broken", "500")])
async def test_an_answer_that_is_none_is_a_failure(watched: Watched, service: str, path: str, status: str):
    """For who asks, 4xx and 5xx are failures, named by the status."""
    async with httpx.AsyncClient(base_url=service) as http:
        instrument_httpx(http)
        await http.get(path)
    (span,) = watched.spans
    assert (span.attributes["error.type"], span.status.status_code) == (status, StatusCode.ERROR)
    operation_name = f"GET {service.removeprefix('http://')}"
    assert watched.value(CALLS, system="http", operation=operation_name, status="failure") == 1


async def test_no_answer_is_a_failure(watched: Watched, service: str):
    """A refused connection and a time-out are named by their exceptions, which go to the caller as they are."""
    async with httpx.AsyncClient() as http:
        instrument_httpx(http)
        with pytest.raises(httpx.ConnectError):
            await http.get(f"http://127.0.0.1:{free_port()}/")
        with pytest.raises(httpx.ReadTimeout):
            await http.get(f"{service}/slow", timeout=httpx.Timeout(PATIENCE_SECONDS, read=0.1))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(http.get(f"{service}/slow"), 0.1)
    assert [span.attributes.get("error.type") for span in watched.spans] == ["httpx.ConnectError", "httpx.ReadTimeout", None]
    assert sum(watched.series(CALLS).values()) == 2


def test_sync_clients_are_watched_alike(watch: Any):
    """A sync client tells the same; methods that nobody knows are one."""
    watched = watch()
    watched.obs.start()
    answers = httpx.MockTransport(lambda request: httpx.Response(204, headers={"traceparent": request.headers["traceparent"]}))
    with httpx.Client(transport=answers, mounts={"https://": None, "http://other": answers}) as http:
        instrumented = instrument_httpx(http)
        assert instrument_httpx(http) is instrumented
        response = http.request("BREW", "https://shop.example/tea?geheim=geheim")
        http.get("http://other/")
        instrumented.undo()
        with pytest.raises(KeyError):
            http.get("https://shop.example/")
    span, other = watched.spans
    assert (span.name, span.attributes["http.request.method"]) == ("HTTP", "_OTHER")
    assert span.attributes["http.request.method_original"] == "BREW"
    assert span.attributes["server.port"] == 443
    assert response.headers["traceparent"].split("-")[2] == f"{span.context.span_id:016x}"
    assert watched.value(CALLS, system="http", operation="_OTHER shop.example", status="success") == 1
    assert other.attributes["server.address"] == "other"
    asyncio.run(watched.obs.close())


@pytest.mark.parametrize("everywhere", [True, False])
async def test_beside_opentelemetrys_instrumentation_a_request_has_one_span(watched: Watched, service: str, everywhere: bool):
    """There is one span, theirs, whose context is sent, and one count, ours."""
    instrumentor = HTTPXClientInstrumentor()
    if everywhere:
        instrumentor.instrument(tracer_provider=watched.provider)
    try:
        async with httpx.AsyncClient(base_url=service) as http:
            if not everywhere:
                HTTPXClientInstrumentor.instrument_client(http, tracer_provider=watched.provider)
            instrument_httpx(http)
            got = (await http.get("/headers")).json()
    finally:
        if everywhere:
            instrumentor.uninstrument()
    (span,) = watched.spans
    assert span.instrumentation_scope.name == "opentelemetry.instrumentation.httpx"
    assert got["traceparent"].split("-")[2] == f"{span.context.span_id:016x}"
    assert sum(watched.series(CALLS).values()) == 1


@pytest.mark.usefixtures("stable_conventions")
async def test_the_same_request_has_the_same_attributes_as_opentelemetrys(watched: Watched, service: str):
    """Differential: all that theirs tells by the stable conventions, ours does, but the port of the peer."""
    async with httpx.AsyncClient(base_url=service) as http:
        mine = instrument_httpx(http)
        await http.get("/headers")
        await http.get("/nowhere")
        mine.undo()
        HTTPXClientInstrumentor.instrument_client(http, tracer_provider=watched.provider)
        await http.get("/headers")
        await http.get("/nowhere")
    ours, theirs = watched.spans[:2], watched.spans[2:]
    for our, their in zip(ours, theirs, strict=True):
        shared = {name: value for name, value in their.attributes.items() if not name.startswith("network.peer.")}
        assert {name: our.attributes.get(name) for name in shared} == shared
        assert (our.name, our.kind, our.status.status_code) == (their.name, their.kind, their.status.status_code)


def test_what_is_no_client_is_refused():
    """The error says what is taken."""
    with pytest.raises(TypeError, match=r"instrument_httpx takes an httpx.Client or httpx.AsyncClient"):
        instrument_httpx(httpx)

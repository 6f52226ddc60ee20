"""What exchanges are judged to be, in all signals alike: status, error type, counts, and nothing left in flight."""

import asyncio
from contextlib import suppress
from itertools import product
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from fastapi import BackgroundTasks, FastAPI, Request
from odd_errors import ODD_ERRORS
from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.sdk.trace.sampling import Sampler
from opentelemetry.trace import StatusCode
from scripted import (
    BACKENDS,
    GONE,
    OURS,
    REQUEST,
    SETUP_IDS,
    SETUPS,
    WAYS,
    Case,
    add_middleware,
    around,
    assert_counted_once,
    call,
    fastapi,
    install,
    raw,
    run,
    total,
)
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect
from starlette.requests import Request as StarletteRequest
from starlette.responses import FileResponse, PlainTextResponse, StreamingResponse
from starlette.routing import Mount, Route
from support import Ticking, Watched, client, http_scope

from sage_fastapi_obs.request.exchange import Exchange
from sage_fastapi_obs.request.middleware import ObservabilityMiddleware
from sage_fastapi_obs.request.recorder import Recorder, RecorderCallbacks

OK = {"type": "http.response.start", "status": 200, "headers": []}
END = {"type": "http.response.body", "body": b"", "more_body": False}
PART = {"type": "http.response.body", "body": b"part", "more_body": True}
FOUR, EIGHT = ({**OK, "headers": [(b"Content-Length", length)]} for length in (b"4", b"8"))


def script(*steps: Any) -> Any:
    """Build an app that sends messages, receives at `"receive"`, is cancelled at `"cancel"`, and raises exceptions."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for step in steps:
            if isinstance(step, dict):
                await send(dict(step))
            elif step == "receive":
                await receive()
            elif step == "cancel":
                scope["state"]["cancel"]()
                await anyio.lowlevel.checkpoint()
            else:
                raise step()

    return app


def assert_outcome(watched: Watched, status: int, error_type: str | None, *, failed: bool, kind: str = "http") -> None:
    """Hold that metric, line and span say the same of the one exchange there was."""
    assert_counted_once(watched, kind)
    counter = "http_requests_total" if kind == "http" else "websocket_connections_total"
    (labels,) = watched.series(counter)
    assert dict(labels)["status"] == str(status)
    line = watched.access[0]
    assert (line["status"], line.get("error_type")) == (status, error_type)
    assert (line["level"] == "error") == failed
    span = watched.server_spans[0]
    assert span.attributes["http.response.status_code"] == status
    assert span.attributes.get("error.type") == error_type
    assert (span.status.status_code is StatusCode.ERROR) == failed
    errors = watched.series("request_errors_total")
    assert [dict(labels)["error_type"] for labels in errors] == ([error_type] if failed else [])
    assert sum(errors.values()) == int(failed)


def group(error: type[BaseException]) -> Any:
    return lambda: BaseExceptionGroup("group", [error(), BaseExceptionGroup("inner", [error()])])


OUTCOMES: dict[str, tuple[Any, int, str | None, bool]] = {
    "fine": (script(OK, END), 200, None, False),
    "not_found": (script({**OK, "status": 404}, END), 404, None, False),
    "server_error": (script({**OK, "status": 503}, END), 503, "503", True),
    "status_negative": (script({**OK, "status": -1}, END), 500, "500", True),
    "status_of_four_digits": (script({**OK, "status": 1_000}, END), 500, "500", True),
    "status_beyond_all_numbers": (script({**OK, "status": 1 << 64}, END), 500, "500", True),
    "own_499": (script({**OK, "status": 499}, END), 499, None, False),
    "nothing_sent": (script(), 500, "incomplete_response", True),
    "only_start": (script(OK), 200, "incomplete_response", True),
    "half": (script(OK, PART), 200, "incomplete_response", True),
    "all_announced": (script(FOUR, PART), 200, None, False),
    "all_announced_raises": (script(FOUR, PART, ValueError), 200, "ValueError", True),
    "half_announced": (script(EIGHT, PART), 200, "incomplete_response", True),
    "start_twice": (script(OK, {**OK, "status": 201}, END), 200, "invalid_response", True),
    "body_first": (script(END, OK, END), 200, "invalid_response", True),
    "part_first": (script(PART, OK, END), 200, "invalid_response", True),
    "body_alone": (script(END), 500, "incomplete_response", True),
    "pathsend_alone": (script({"type": "http.response.pathsend", "path": "/x"}), 500, "incomplete_response", True),
    "trailers_alone": (script({"type": "http.response.trailers"}), 500, "incomplete_response", True),
    "trailers_missing": (script({**OK, "trailers": True}, END), 200, "incomplete_response", True),
    "pathsend_trailers_missing": (
        script({**OK, "trailers": True}, {"type": "http.response.pathsend", "path": "/x"}),
        200,
        "incomplete_response",
        True,
    ),
    "trailers": (script({**OK, "trailers": True}, END, {"type": "http.response.trailers"}), 200, None, False),
    "pathsend": (script(OK, {"type": "http.response.pathsend", "path": "/x"}), 200, None, False),
    "zerocopysend": (script(OK, {"type": "http.response.zerocopysend", "file": 3, "count": 9}), 200, None, False),
    "trailers_too_many": (script(OK, END, {"type": "http.response.trailers"}), 200, None, False),
    "other_protocol": (script({"type": "websocket.accept"}, {"type": "websocket.close"}), 500, "incomplete_response", True),
    "raises": (script(ValueError), 500, "ValueError", True),
    "raises_streaming": (script(OK, PART, ValueError), 200, "ValueError", True),
    "raises_after_500": (script({**OK, "status": 500}, END, ValueError), 500, "ValueError", True),
    "group": (script(group(ValueError)), 500, "ExceptionGroup", True),
    "system_exit": (script(SystemExit), 500, "SystemExit", True),
    "cancelled": (script("cancel"), 499, "cancelled", False),
    "cancelled_streaming": (script(OK, PART, "cancel"), 200, "cancelled", False),
    "cancelled_and_gone": (script("receive", "receive", "cancel"), 499, "client_disconnect", False),
    "cancelled_group": (script(group(asyncio.CancelledError)), 499, "cancelled", False),
    "disconnect_raised": (script("receive", "receive", ClientDisconnect), 499, "client_disconnect", False),
    "disconnect_group": (script("receive", "receive", group(ClientDisconnect)), 499, "client_disconnect", False),
    "disconnect_any_error": (script("receive", "receive", RuntimeError), 499, "client_disconnect", False),
    "disconnect_silent": (script("receive", "receive"), 499, "client_disconnect", False),
    "disconnect_answered": (script("receive", "receive", OK, END), 499, "client_disconnect", False),
    "disconnect_answered_500": (
        script("receive", "receive", {**OK, "status": 500}, END, ClientDisconnect),
        499,
        "client_disconnect",
        False,
    ),
    "disconnect_answered_by_error": (
        script("receive", "receive", {**OK, "status": 500}, END, RuntimeError),
        499,
        "client_disconnect",
        False,
    ),
    "disconnect_streaming": (script(OK, PART, "receive", "receive"), 200, "client_disconnect", False),
    "disconnect_streaming_on": (script(OK, PART, "receive", "receive", PART, END), 200, "client_disconnect", False),
    "disconnect_streaming_oserror": (script(OK, PART, "receive", "receive", BrokenPipeError), 200, "client_disconnect", False),
    "disconnect_announced": (script("receive", FOUR, PART, "receive", "cancel"), 200, None, False),
    "disconnect_half_announced": (script("receive", EIGHT, PART, "receive", "cancel"), 200, "client_disconnect", False),
    "disconnect_announced_500": (script("receive", {**FOUR, "status": 503}, PART, "receive", "cancel"), 503, "503", True),
    "disconnect_bodiless": (script("receive", {**OK, "status": 204}, "receive", "cancel"), 204, None, False),
    "cancelled_after_503": (script({**OK, "status": 503}, END, "cancel"), 503, "503", True),
    "oserror": (script(OK, PART, OSError), 200, "OSError", True),
    "disconnect_after_end": (script(OK, END, "receive", "receive"), 200, None, False),
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", OUTCOMES)
def test_outcome(watch, name, backend):
    """Each way in which an exchange can end has one status and one error type, in every signal."""
    app, status, error_type, failed = OUTCOMES[name]
    watched = watch()
    run(backend, around(app, watched.obs), Case(app))
    assert_outcome(watched, status, error_type, failed=failed)


TYPES_OF_ODD_ERRORS = {
    "unreadable": "odd_errors.UnreadableError",
    "codeless": "odd_errors.CodelessError",
    "nameless": "NamelessError",
    "homeless": "None.HomelessError",
    "long": f"odd errors.{'L' * 116}…",
    "deep": "ExceptionGroup",
    "shared": "ExceptionGroup",
    "deep_cancellation": "cancelled",
    "shared_cancellation": "cancelled",
}


@pytest.mark.parametrize("name", ODD_ERRORS)
async def test_an_odd_exception_has_an_outcome(watch, name):
    """Whatever leaves an app, its request is judged like any other, in time and with all signals, and nothing of ours fails."""
    error_type = TYPES_OF_ODD_ERRORS[name]
    failed = error_type != "cancelled"
    for app, status in (
        (script(ODD_ERRORS[name]), 500 if failed else 499),
        (script(OK, PART, ODD_ERRORS[name]), 200),
        (script({**OK, "status": 503}, END, ODD_ERRORS[name]), 503),
    ):
        watched = watch(insight={"enabled": True})
        error = (await call(around(app, watched.obs), Case(app))).error
        assert type(error) is type(ODD_ERRORS[name]())
        assert_outcome(watched, status, error_type if failed or status != 503 else "503", failed=failed or status == 503)


@pytest.mark.parametrize("name", ODD_ERRORS)
async def test_an_odd_exception_of_background_work(watch, name):
    """After the last byte, too: the request stays as it was answered, and what failed then is told."""
    watched, app = watch(), script(OK, END, ODD_ERRORS[name])
    await call(around(app, watched.obs), Case(app))
    assert [line["status"] for line in watched.access] == [200]
    told = [line for line in watched.lines if line["level"] == "error"]
    assert len(told) == (TYPES_OF_ODD_ERRORS[name] != "cancelled")
    assert watched.obs.internal_errors.counts == {}


@pytest.mark.parametrize(("fails_at", "status"), [(0, 499), (1, 200), (2, 200)])
async def test_a_server_that_cannot_send(watch, fails_at, status):
    """An `OSError` where a message is sent is a client that left, whichever message it is, and whatever its app makes of it."""
    for app in (script(OK, PART, END), quiet(script(OK, PART, END))):
        watched = watch()
        await call(around(app, watched.obs), Case(app, send_fails_at=fails_at))
        assert_outcome(watched, status, "client_disconnect", failed=False)
        assert watched.access[0]["response_bytes"] == (4 if fails_at == 2 else 0)


def quiet(app: Any) -> Any:
    """Catch what an app raises."""

    async def caught(scope: Any, receive: Any, send: Any) -> None:
        with suppress(OSError):
            await app(scope, receive, send)

    return caught


@pytest.mark.parametrize("fails_at", [0, 1, 2])
async def test_a_server_that_refuses(watch, fails_at):
    """A message counts as sent only once the server has taken it: a response whose end was refused is half a response."""
    watched = watch()
    app = script(OK, PART, END)
    messages = 0

    async def refuse(message: Any) -> None:
        nonlocal messages
        messages += 1
        if messages > fails_at:
            raise RuntimeError("refused")

    with pytest.raises(RuntimeError):
        await around(app, watched.obs)(http_scope(), None, refuse)
    assert_outcome(watched, 200 if fails_at else 500, "RuntimeError", failed=True)


@pytest.mark.parametrize("backend", BACKENDS)
def test_in_flight_meanwhile(watch, backend):
    """A request is in flight until its last byte, and a stream is visible while it is open."""
    watched = watch()
    seen: list[float] = []

    async def app(scope, receive, send):
        for message in (OK, PART, END):
            seen.append(total(watched, "http_requests_in_flight"))
            await send(dict(message))
        seen.append(total(watched, "http_requests_in_flight"))

    run(backend, around(app, watched.obs), Case(app))
    assert seen == [1, 1, 1, 0]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("framework", "way"), SETUPS, ids=SETUP_IDS)
def test_fifty_cancelled_requests(watch, framework, way, backend):
    """Cancelled together, as at shutdown, all requests are counted as cancelled, none as 5xx, and none stays in flight."""
    watched = watch()

    async def app(scope, receive, send):
        await anyio.sleep_forever()

    entry = way(framework(app), watched.obs)

    async def main() -> None:
        async with anyio.create_task_group() as group:
            for _ in range(50):
                group.start_soon(call, entry, Case(app))
            while total(watched, "http_requests_in_flight") < 50:
                await anyio.lowlevel.checkpoint()
            group.cancel_scope.cancel()

    anyio.run(main, backend=backend)
    assert total(watched, "http_requests_in_flight") == 0
    (labels,) = watched.series("http_requests_total")
    assert dict(labels)["status"] == "499"
    assert total(watched, "http_requests_total") == 50
    assert len(watched.server_spans) == 50
    assert {line["error_type"] for line in watched.access} == {"cancelled"}
    assert not watched.series("request_errors_total")


def upload_apps() -> dict[str, Any]:
    """Apps that read the whole body, in the ways people do."""
    fast = FastAPI()

    @fast.post("/")
    async def model(body: dict[str, int]) -> int:
        return len(body)

    plain_fast = FastAPI()

    @plain_fast.post("/")
    async def body(request: Request) -> int:
        return len(await request.body())

    async def endpoint(request: StarletteRequest) -> PlainTextResponse:
        return PlainTextResponse(await request.body())

    return {
        "fastapi_model": fast,
        "fastapi_body": plain_fast,
        "starlette": Starlette(routes=[Route("/", endpoint, methods=["POST"])]),
    }


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", upload_apps())
def test_client_leaves_during_upload(watch, name, way, backend):
    """A client that leaves while it uploads is no error of the service, whatever the framework makes of it."""
    watched = watch()
    half = [{"type": "http.request", "body": b"{", "more_body": True}]
    headers = [(b"content-type", b"application/json")]
    entry = way(upload_apps()[name], watched.obs)
    run(backend, entry, Case(entry, half, {"method": "POST", "headers": headers}))
    assert_outcome(watched, 499, "client_disconnect", failed=False)


class HangsUp:
    """A server that says `http.disconnect` while it takes one of the messages, as hypercorn does with the last, or after it."""

    def __init__(self, at: int, *, after: bool) -> None:
        self._moment = at, after
        self._sent = 0
        self._asked = False
        self._gone = anyio.Event()

    async def receive(self) -> Any:
        if not self._asked:
            self._asked = True
            return dict(REQUEST)
        await self._gone.wait()
        return dict(GONE["http"])

    async def send(self, _: Any) -> None:
        await self._come_to(after=False)
        await self._come_to(after=True)
        self._sent += 1

    async def _come_to(self, *, after: bool) -> None:
        if (self._sent, after) == self._moment:
            self._gone.set()
        # Long enough for an app that listens to cancel what it sends.
        for _ in range(10):
            await anyio.lowlevel.checkpoint()


async def parts(*more: Any) -> Any:
    """Make a body of two parts, or of one that never ends."""
    yield b"part"
    if more:
        await anyio.sleep_forever()
    yield b"part"


ANNOUNCED = {"headers": {"content-length": "4"}}
LISTENING: dict[str, tuple[Any, int, int, tuple[int, bool]]] = {
    "stream": (lambda _: StreamingResponse(parts()), 8, 3, (3, False)),
    "events": (lambda _: StreamingResponse(parts(), media_type="text/event-stream"), 8, 3, (3, False)),
    "file": (FileResponse, 2 * FileResponse.chunk_size, 3, (2, False)),
    "announced": (lambda _: StreamingResponse(parts("more"), **ANNOUNCED), 4, 1, (1, False)),
}
"""Responses that listen for a disconnect, their size, and the numbers of their last message and of the moment from which on a
client has everything."""


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", LISTENING)
def test_client_that_has_everything_may_leave(watch, tmp_path, name, backend):
    """Once the last message is handed over, or all announced bytes are taken, a disconnect is nobody's; before it is one."""
    make, size, last, whole = LISTENING[name]
    (tmp_path / "file").write_bytes(b"x" * 2 * FileResponse.chunk_size)
    for moment in product(range(1, last + 1), (False, True)):
        watched, server = watch(), HangsUp(moment[0], after=moment[1])
        app = around(make(tmp_path / "file"), watched.obs)
        anyio.run(app, http_scope(asgi={"spec_version": "2.3"}), server.receive, server.send, backend=backend)
        assert_outcome(watched, 200, None if moment >= whole else "client_disconnect", failed=False)
        if moment >= whole:
            assert watched.access[0]["response_bytes"] == size


PATH, FD = ({"type": f"http.response.{kind}send", "path": "/x", "file": 3} for kind in ("path", "zerocopy"))
SIZES: dict[str, tuple[list[Any], int]] = {
    "path": ([EIGHT, PATH], 8),
    "path_unannounced": ([OK, PATH], 0),
    "path_odd_length": ([{**OK, "headers": [(b"content-length", b"some"), None]}, PATH], 0),
    "path_header_lists": ([{**OK, "headers": [["content-length", "8"]]}, PATH], 8),
    "path_after_bytes": ([EIGHT, PART, PATH], 8),
    "path_not_modified": ([{**EIGHT, "status": 304}, PATH], 0),
    "path_trailers": ([{**EIGHT, "trailers": True}, PATH, {"type": "http.response.trailers"}], 8),
    "descriptor": ([EIGHT, FD], 8),
    "descriptor_counts": ([OK, {**FD, "count": 5, "more_body": True}, {**FD, "count": 3}], 8),
    "descriptor_count_and_rest": ([EIGHT, {**FD, "count": 5, "more_body": True}, FD], 8),
    "descriptor_and_bytes": ([EIGHT, {**FD, "more_body": True}, PART, END], 8),
}


@pytest.mark.parametrize("name", SIZES)
async def test_what_the_server_reads_itself_has_a_size(watch, name):
    """Of a body that is sent by its path or descriptor, what is not counted is what was announced and not counted."""
    messages, size = SIZES[name]
    watched = watch()
    app = script(*messages)
    await call(around(app, watched.obs), Case(app))
    assert_outcome(watched, messages[0]["status"], None, failed=False)
    assert watched.access[0]["response_bytes"] == size


async def test_headers_that_can_be_read_once_announce_nothing(watch):
    """Headers in an iterator are the server's to read, and what they announce is not known."""
    watched = watch()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({**OK, "headers": iter([(b"content-length", b"8")])})
        await send(PATH)

    seen = await call(around(app, watched.obs), Case(app))
    assert (b"content-length", b"8") in seen.headers
    assert_outcome(watched, 200, None, failed=False)


STOPPED = {
    "stream": (script(OK, PART), 200, "cancelled", False),
    "started": (script(OK), 200, "cancelled", False),
    "raises": (script(OK, PART, ValueError), 200, "ValueError", True),
    "invalid": (script(OK, {**OK, "status": 201}, END), 200, "invalid_response", True),
    "nothing": (script(), 500, "incomplete_response", True),
    "whole": (script(OK, PART, END), 200, None, False),
    "server_error": (script({**OK, "status": 503}, END), 503, "503", True),
}


@pytest.mark.parametrize("name", STOPPED)
async def test_cut_because_the_service_stops(watch, name):
    """An answer that is left where it is while the service stops was cancelled; what fails then has failed all the same."""
    app, status, error_type, failed = STOPPED[name]
    watched = watch()
    async with watched.obs:
        watched.obs.health.draining = True
        await call(around(app, watched.obs), Case(app))
    assert_outcome(watched, status, error_type, failed=failed)


class Endless:
    """A body without an end; not a generator, for nobody closes one of those when its client has gone."""

    def __aiter__(self) -> "Endless":
        return self

    async def __anext__(self) -> bytes:
        await anyio.lowlevel.checkpoint()
        return b"x"


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("spec", ["2.0", "2.4"])
@pytest.mark.parametrize("way", WAYS)
def test_client_leaves_during_stream(watch, way, spec, backend):
    """A client that leaves a stream gets its status kept, and is no error, by either way of servers to tell the app."""
    watched = watch()

    async def endless(request: StarletteRequest) -> StreamingResponse:
        return StreamingResponse(Endless())

    entry = way(Starlette(routes=[Route("/", endless)]), watched.obs)
    fails_at = 5 if spec == "2.4" else -1
    scope = {"asgi": {"version": "3.0", "spec_version": spec}}
    run(backend, entry, Case(entry, scope=scope, send_fails_at=fails_at))
    assert_outcome(watched, 200, "client_disconnect", failed=False)


async def test_stream_fails_after_first_chunk(watch):
    """A stream that breaks counts as failed, though the client saw 200, with one line that has the stack."""
    watched = watch()
    app = FastAPI()
    install(app, watched.obs)

    @app.get("/")
    def stream() -> StreamingResponse:
        def parts():
            yield b"one"
            raise ValueError("broken")

        return StreamingResponse(parts())

    async with client(app) as c:
        await c.get("/")
    assert_outcome(watched, 200, "ValueError", failed=True)
    assert "broken" in watched.access[0]["error"]["stack_trace"]


async def test_background_task_is_timed_on_its_own(watch):
    """Work after the last byte adds nothing to the request's duration, and has a duration, span and line of its own."""
    clock = Ticking(step_ns=0)
    watched = watch(clock=clock)
    app = FastAPI()
    install(app, watched.obs)

    def work() -> None:
        clock.now_ns += 500_000_000

    @app.get("/")
    def read(tasks: BackgroundTasks) -> str:
        clock.now_ns += 3_000_000
        tasks.add_task(work)
        return "ok"

    async with client(app) as c:
        await c.get("/")
    assert_counted_once(watched)
    assert watched.access[0]["duration_ms"] == 3.0
    assert total(watched, "http_request_duration_seconds_sum") == 0.003
    assert total(watched, "http_background_duration_seconds_sum") == 0.5
    (span,) = watched.server_spans
    assert span.end_time - span.start_time == 3_000_000
    (background,) = [span for span in watched.spans if span.name == "background"]
    assert background.end_time - background.start_time == 500_000_000
    (line,) = [line for line in watched.lines if line["message"] == "background work finished"]
    assert line["background_ms"] == 500.0
    assert line["request_id"] == watched.access[0]["request_id"]


class SlowProcessor(SpanProcessor):
    """Takes its time over the end of each span, as exporters do that send at once."""

    def __init__(self, clock: Ticking) -> None:
        self._clock = clock

    def on_end(self, span: Any) -> None:
        self._clock.now_ns += 40_000_000


@pytest.mark.parametrize("work_ns", [0, 9_000_000, 30_000_000])
async def test_our_own_work_is_no_background_work(watch, work_ns):
    """What we do after the last byte is not the application's; what it does itself is timed without it."""
    clock = Ticking(step_ns=0)
    watched = watch(clock=clock)
    watched.provider.add_span_processor(SlowProcessor(clock))

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for message in (OK, END):
            await send(dict(message))
        clock.now_ns += work_ns

    await call(around(app, watched.obs), Case(app))
    assert_counted_once(watched)
    background = [span for span in watched.spans if span.name == "background"]
    if work_ns < 10_000_000:
        assert not background
        assert total(watched, "http_background_duration_seconds_count") == 0
        return
    ((span,), (server,)) = background, watched.server_spans
    assert (span.start_time - server.end_time, span.end_time - span.start_time) == (40_000_000, work_ns)
    assert total(watched, "http_background_duration_seconds_sum") == work_ns / 1e9
    assert [line["background_ms"] for line in watched.lines if "background_ms" in line] == [work_ns / 1e6]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("way", WAYS)
def test_background_task_raises(watch, way, backend):
    """A failing background task is one error with the request's ids; the request stays the 200 it was."""
    watched = watch()
    app = FastAPI()

    @app.get("/")
    def read(tasks: BackgroundTasks) -> str:
        tasks.add_task(lambda: 1 / 0)
        return "ok"

    entry = way(app, watched.obs)
    run(backend, entry, Case(entry))
    assert_counted_once(watched)
    assert watched.access[0]["status"] == 200
    assert "error_type" not in watched.access[0]
    (labels,) = watched.series("request_errors_total")
    assert dict(labels)["error_type"] == "ZeroDivisionError"
    assert total(watched, "request_errors_total") == 1
    (line,) = [line for line in watched.lines if line["message"] == "background work failed"]
    assert line["request_id"] == watched.access[0]["request_id"]
    assert line["level"] == "error"


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("step", ["cancel", ClientDisconnect])
def test_background_work_cut_off(watch, step, backend):
    """Work after the response that is cancelled, or that finds the client gone, is not an error of the service."""
    watched = watch()
    app = script(OK, END, step)
    run(backend, around(app, watched.obs), Case(app))
    assert_outcome(watched, 200, None, failed=False)


async def test_long_stream(watch):
    """A thousand chunks are one exchange: one span without events, all bytes, and not among the latencies of requests."""
    # The clock stands still: a pause of the machine after the last byte would look like background work.
    watched = watch(clock=Ticking(step_ns=0))
    app = script(OK, *[PART] * 1000, END)
    await call(around(app, watched.obs), Case(app))
    assert_outcome(watched, 200, None, failed=False)
    assert len(watched.spans) == 1
    assert not watched.spans[0].events
    assert watched.access[0]["response_bytes"] == 4000
    assert total(watched, "http_stream_duration_seconds_count") == 1
    assert total(watched, "http_request_duration_seconds_count") == 0


@pytest.mark.parametrize(
    ("messages", "streamed"),
    [
        ([OK, END], False),
        ([OK, PART, END], True),
        ([{**OK, "headers": [(b"Content-Length", b"4")]}, PART, END], False),
        ([{**OK, "headers": [(b"content-type", b"text/event-stream")]}, PART, END], True),
    ],
)
async def test_what_is_a_stream(watch, messages, streamed):
    """A body of unknown length in several parts is a stream; a whole one is not, whatever its headers leave open."""
    watched = watch()
    app = script(*messages)
    await call(around(app, watched.obs), Case(app))
    assert total(watched, "http_stream_duration_seconds_count") == int(streamed)
    assert total(watched, "http_request_duration_seconds_count") == int(not streamed)


@pytest.mark.parametrize("when", ["before", "after"])
async def test_answer_after_the_app_returned(watch, when):
    """What a task of the app sends after the app has returned still passes, and is not a second exchange."""
    watched = watch()
    app_returned = anyio.Event()

    async with anyio.create_task_group() as group:

        async def app(scope, receive, send):
            async def later() -> None:
                await app_returned.wait()
                await send(dict(OK))
                await send(dict(END))

            if when == "before":
                await send(dict(OK))
                await send(dict(END))
            group.start_soon(later)

        seen = await call(around(app, watched.obs), Case(app))
        app_returned.set()
    assert [message["type"] for message in seen.server.sent][-2:] == [OK["type"], END["type"]]
    assert_counted_once(watched)


# The ways in, alone and together.


def failing_app() -> Starlette:
    async def fail(request: StarletteRequest) -> None:
        raise ValueError("unhandled")

    async def fine(request: StarletteRequest) -> PlainTextResponse:
        return PlainTextResponse("ok")

    return Starlette(routes=[Route("/fail", fail), Route("/", fine)])


def both_ways(app: Any, obs: Any) -> Any:
    return install(add_middleware(app, obs), obs)


def twice_added(app: Any, obs: Any) -> Any:
    return add_middleware(add_middleware(app, obs), obs)


def twice_installed(app: Any, obs: Any) -> Any:
    return install(install(app, obs), obs)


def everything(app: Any, obs: Any) -> Any:
    return around(around(both_ways(app, obs), obs), obs)


def mounted(app: Any, obs: Any) -> Any:
    return install(Starlette(routes=[Mount("/", app=install(app, obs))]), obs)


def mounted_added(app: Any, obs: Any) -> Any:
    return add_middleware(Starlette(routes=[Mount("/", app=add_middleware(app, obs))]), obs)


def only_mounted(app: Any, obs: Any) -> Any:
    return Starlette(routes=[Mount("/", app=install(app, obs))])


TOGETHER = [*WAYS, both_ways, twice_added, twice_installed, everything, mounted, mounted_added, only_mounted]


@pytest.mark.parametrize("path", ["/", "/nothing", "/fail"])
@pytest.mark.parametrize("way", TOGETHER)
async def test_watched_once_however_often_installed(watch, way, path):
    """By one way in or several at once, a request has one id, one of each header, one span, one count and one line."""
    watched = watch()
    entry = way(failing_app(), watched.obs)
    await call(entry, Case(entry))
    before = len(watched.access), total(watched, "http_requests_total"), len(watched.server_spans)
    seen = await call(entry, Case(entry, scope={"path": path}))
    assert [seen.count(name) for name in OURS] == [1, 1, 1]
    assert (len(watched.access), total(watched, "http_requests_total"), len(watched.server_spans)) == tuple(
        count + 1 for count in before
    )
    assert dict(seen.headers)[b"x-request-id"].decode() == watched.access[-1]["request_id"]
    assert total(watched, "http_requests_in_flight") == 0
    assert watched.obs.internal_errors.counts == {}


async def test_two_observabilities_around_each_other(watch):
    """Of two observabilities in one stack the outer one watches; a client gets one of each header."""
    outer, inner = watch(), watch()
    entry = around(around(script(OK, END), inner.obs), outer.obs)
    seen = await call(entry, Case(entry))
    assert [seen.count(name) for name in OURS] == [1, 1, 1]
    assert_counted_once(outer)
    assert total(inner, "http_requests_total") == 0


async def test_in_process_call_is_a_request_of_its_own(watch):
    """A service that calls itself in process makes two exchanges, each with its own id."""
    watched = watch()
    app = FastAPI()
    install(app, watched.obs)

    @app.get("/inner")
    async def inner() -> str:
        return "inner"

    @app.get("/outer")
    async def outer() -> str:
        async with client(app) as c:
            return (await c.get("/inner")).text

    async with client(app) as c:
        assert (await c.get("/outer")).status_code == 200
    assert len({line["request_id"] for line in watched.access}) == 2
    assert total(watched, "http_requests_total") == 2
    assert total(watched, "http_requests_in_flight") == 0


async def test_unhandled_error_with_added_middleware(watch):
    """With `add_middleware` alone and no lifespan, unhandled errors are answered with the ids from the second request on."""
    watched = watch()
    app = add_middleware(failing_app(), watched.obs)
    case = Case(app, scope={"path": "/fail"})
    first, second = await call(app, case), await call(app, case)
    assert [type(error) for error in (first.error, second.error)] == [ValueError, ValueError]
    assert first.count(b"x-request-id") == 0
    assert dict(second.headers)[b"x-request-id"].decode() == watched.access[1]["request_id"]
    assert [line["status"] for line in watched.access] == [500, 500]
    assert {line["error_type"] for line in watched.access} == {"ValueError"}


@pytest.mark.parametrize("framework", [raw, fastapi])
async def test_handler_of_unhandled_errors_finds_the_ids(watch, framework):
    """An application's own handler of unhandled errors runs while the exchange can be found, and its answer has the ids."""
    watched = watch()
    app = failing_app()

    async def on_error(request: StarletteRequest, error: Exception) -> PlainTextResponse:
        return PlainTextResponse(request.scope["sage_fastapi_obs.exchange"].request_id, 500)

    app.add_exception_handler(Exception, on_error)
    entry = framework(install(app, watched.obs))
    seen = await call(entry, Case(entry, scope={"path": "/fail"}))
    assert seen.server.sent[1]["body"].decode() == watched.access[0]["request_id"]
    assert dict(seen.headers)[b"x-request-id"] == seen.server.sent[1]["body"]


@pytest.mark.parametrize("backend", BACKENDS)
def test_loops_come_and_go(watch, backend):
    """One observability serves in one event loop after another; none is captured."""
    watched = watch()
    entry = around(script(OK, END), watched.obs)
    for _ in range(3):
        run(backend, entry, Case(entry))
    for other in BACKENDS:
        run(other, entry, Case(entry))
    assert total(watched, "http_requests_total") == 5


# Faults of our own.


def fails(*_: Any, **__: Any) -> Any:
    raise RuntimeError("our own fault")


class FailsFrom:
    """A clock that works for some readings and then fails."""

    def __init__(self, reading: int) -> None:
        self.left = reading

    def __call__(self) -> int:
        self.left -= 1
        if self.left < 0:
            raise RuntimeError("no clock")
        return 1_000_000


CLIENT_SEES = script(OK, PART, PART, END)
PARTS = [
    (("logs",), "_put"),
    (("logs", "output"), "write"),
]


@pytest.mark.parametrize("readings", range(6))
@pytest.mark.parametrize("app", [CLIENT_SEES, script(ValueError), script({**OK, "status": 500}, END, ValueError)])
async def test_clock_fails(watch, app, readings):
    """When the clock fails, at whichever reading, the request is served, counted out, and the fault is counted."""
    watched = watch(clock=FailsFrom(readings))
    bare = await call(app, Case(app))
    seen = await call(around(app, watched.obs), Case(app))
    assert seen.sent == bare.sent
    assert type(seen.error) is type(bare.error)
    assert total(watched, "http_requests_in_flight") == 0
    if readings:
        assert total(watched, "http_requests_total") == 1
    if watched.obs.clock.left < 0:
        assert total(watched, "observability_internal_errors_total") >= 1


@pytest.mark.parametrize("option", ["clock", "wall_clock", "new_id"])
async def test_a_part_given_to_us_fails(watch, option):
    """When a clock or the id factory always fails, requests are served as without us, and the faults are counted."""
    watched = watch(**{option: fails})
    seen = await call(around(CLIENT_SEES, watched.obs), Case(CLIENT_SEES))
    assert seen.sent == (await call(CLIENT_SEES, Case(CLIENT_SEES))).sent
    assert seen.error is None
    assert total(watched, "observability_internal_errors_total") >= 1
    assert total(watched, "http_requests_in_flight") == 0


@pytest.mark.parametrize("app", [CLIENT_SEES, script(OK, PART, ValueError), script("cancel")])
@pytest.mark.parametrize(("holder", "attribute"), PARTS)
async def test_a_part_of_ours_fails(watch, monkeypatch, holder, attribute, app):
    """When logger or output fails, requests are served as without us, and the other signals still count them."""
    watched = watch()
    watched.obs.start()
    part: Any = watched.obs
    for name in holder:
        part = getattr(part, name)
    monkeypatch.setattr(type(part), attribute, fails)
    bare = await call(app, Case(app))
    seen = await call(around(app, watched.obs), Case(app))
    assert seen.sent == bare.sent
    assert type(seen.error) is type(bare.error)
    assert total(watched, "http_requests_total") == 1
    assert total(watched, "http_requests_in_flight") == 0
    assert total(watched, "observability_internal_errors_total") >= 1


class BrokenSampler(Sampler):
    should_sample = fails

    def get_description(self) -> str:
        return "broken"


class BrokenProcessor(SpanProcessor):
    def __init__(self, moment: str) -> None:
        setattr(self, moment, fails)


@pytest.mark.parametrize("moment", ["should_sample", "on_start", "on_end"])
async def test_a_part_of_the_tracer_fails(watch, moment):
    """When the application's sampler or span processor fails, requests are served as without us, and counted."""
    watched = watch(sampler=BrokenSampler() if moment == "should_sample" else None)
    if moment != "should_sample":
        watched.provider.add_span_processor(BrokenProcessor(moment))
    seen = await call(around(CLIENT_SEES, watched.obs), Case(CLIENT_SEES))
    assert seen.sent == (await call(CLIENT_SEES, Case(CLIENT_SEES))).sent
    assert total(watched, "http_requests_total") == 1
    assert total(watched, "http_requests_in_flight") == 0
    assert watched.obs.internal_errors.counts == {"Tracing": 1}
    assert len(watched.access) == 1


class Breaks(Recorder):
    """A recorder of which one moment fails."""

    def __init__(self, moment: str) -> None:
        self.moment = moment

    def _at(self, moment: str) -> None:
        if moment == self.moment:
            raise RuntimeError(moment)

    def request_started(self, exchange: Exchange) -> None:
        self._at("request_started")

    def response_started(self, exchange: Exchange, headers: Any) -> None:
        self._at("response_started")

    def request_finished(self, exchange: Exchange) -> None:
        self._at("request_finished")

    def background_finished(self, exchange: Exchange) -> None:
        self._at("background_finished")

    def app_returned(self, exchange: Exchange) -> None:
        self._at("app_returned")


class Notes(Recorder):
    """A recorder that keeps the moments it was told."""

    def __init__(self) -> None:
        self.moments: list[str] = []

    def request_started(self, exchange: Exchange) -> None:
        self.moments.append("request_started")

    def response_started(self, exchange: Exchange, headers: Any) -> None:
        headers.append((b"x-noted", b"1"))
        self.moments.append("response_started")

    def request_finished(self, exchange: Exchange) -> None:
        self.moments.append("request_finished")

    def background_finished(self, exchange: Exchange) -> None:
        self.moments.append("background_finished")

    def app_returned(self, exchange: Exchange) -> None:
        self.moments.append("app_returned")


MOMENTS = ["request_started", "response_started", "request_finished", "background_finished", "app_returned"]


@pytest.mark.parametrize("moment", MOMENTS)
async def test_a_recorder_fails(watch, moment):
    """When one recorder fails at a moment, the others are told all moments in order, and the app is as without us."""
    watched = watch()
    notes = [Notes(), Notes()]
    watched.obs.callbacks = RecorderCallbacks([notes[0], Breaks(moment), notes[1]], watched.obs.internal_errors)
    app = script(OK, END, ValueError)
    seen = await call(around(app, watched.obs), Case(app))
    assert isinstance(seen.error, ValueError)
    assert seen.error.__context__ is None
    assert [message["type"] for message in seen.server.sent] == [OK["type"], END["type"]]
    assert [note.moments for note in notes] == [MOMENTS, MOMENTS]
    assert watched.obs.internal_errors.counts == {"Breaks": 1}


async def test_a_recorder_of_plain_functions_fails(watch):
    """A recorder whose moments are no methods is contained as well."""

    class Plain(Recorder):
        request_started = staticmethod(fails)  # type: ignore[assignment]

    watched = watch()
    watched.obs.callbacks = RecorderCallbacks([Plain()], watched.obs.internal_errors)
    bare = await call(CLIENT_SEES, Case(CLIENT_SEES))
    assert (await call(around(CLIENT_SEES, watched.obs), Case(CLIENT_SEES))).sent == bare.sent
    assert sum(watched.obs.internal_errors.counts.values()) == 1


@pytest.mark.parametrize("attribute", ["template", "_move_outermost"])
async def test_the_route_cannot_be_found(watch, monkeypatch, attribute):
    """When looking for the route or the stack fails, the request is served and counted."""
    watched = watch()
    app = around(CLIENT_SEES, watched.obs)
    holder = type(app._routes) if attribute == "template" else ObservabilityMiddleware
    monkeypatch.setattr(holder, attribute, fails)
    seen = await call(app, Case(app))
    assert seen.sent == (await call(CLIENT_SEES, Case(CLIENT_SEES))).sent
    assert total(watched, "http_requests_in_flight") == 0
    assert total(watched, "observability_internal_errors_total") >= 1
    if attribute == "template":
        assert total(watched, "http_requests_total") == 1
        assert seen.count(b"x-request-id") == 1


@pytest.mark.parametrize(
    "scope", [{"headers": [(b"a",)]}, {"headers": [1]}, {"path": None}, {"method": None}, {"headers": None}]
)
async def test_scopes_that_no_server_makes(watch, scope):
    """A scope that breaks the rules reaches the app all the same, and leaves nothing in flight."""
    watched = watch()
    seen = await call(around(CLIENT_SEES, watched.obs), Case(CLIENT_SEES, scope=scope))
    assert seen.sent == (await call(CLIENT_SEES, Case(CLIENT_SEES))).sent
    assert total(watched, "http_requests_in_flight") == 0


async def test_fault_after_fault_is_said_once(watch, capsys):
    """A fault that repeats is counted each time and said once."""
    watched = watch(new_id=fails)
    for _ in range(5):
        await call(around(CLIENT_SEES, watched.obs), Case(CLIENT_SEES))
    assert watched.obs.internal_errors.counts == {"Identity": 5}
    assert capsys.readouterr().err.count("Identity failed") == 1


async def test_nothing_is_left_behind_by_an_unwatched_request(watch):
    """A request that could not be watched leaves no exchange current for its caller."""
    watched = watch(clock=fails)
    kept: list[Any] = []

    async def app(scope, receive, send):
        kept.append("sage_fastapi_obs.exchange" in scope)

    await around(app, watched.obs)(http_scope(), None, None)
    assert kept == [False]

"""The ids of a request: what is adopted, what is minted, and that the same ones are everywhere."""

import asyncio
import json
import random
import re
import subprocess
import sys
import threading
import time
import uuid
from typing import Annotated, Any

import loguru
import pytest
from fastapi import BackgroundTasks, Depends, FastAPI, HTTPException
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse
from hypothesis import given
from hypothesis import strategies as st
from starlette.websockets import WebSocket
from support import PATIENCE_SECONDS, Watched, client, counting_ids, drive, http_scope

from sage_fastapi_obs import CorrelationId, ObservabilityMiddleware, RequestId, Settings
from sage_fastapi_obs.privacy.redaction import BUILT_IN
from sage_fastapi_obs.request.exchange import Exchange, current_exchange
from sage_fastapi_obs.request.ids import Identity, new_request_id

SAFE = re.compile(rb"[A-Za-z0-9._:+/=@-]{1,128}")
REQUEST, CORRELATION = b"x-request-id", b"x-correlation-id"


async def answer(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


def ids_of(identity: Identity, headers: list[tuple[bytes, bytes]]) -> tuple[Exchange, dict[bytes, bytes]]:
    """Start and answer one exchange; return it and the response headers."""
    exchange = Exchange(http_scope(headers=headers), started_ns=0, wall_ns=0)
    identity.request_started(exchange)
    sent: list[tuple[bytes, bytes]] = []
    identity.response_started(exchange, sent)
    assert len(sent) == 2
    return exchange, dict(sent)


def identity(new_id: Any = None, **http: Any) -> Identity:
    return Identity(Settings(http=http).http, BUILT_IN, new_id or counting_ids())


@pytest.mark.parametrize(
    "value",
    ["a", "6f1c2b1e-8a52-4f0e-9d5e-0a4c6b1f7a10", "Root=1-67891233-abcdef012345678912345678", "a.b_c:d+e/f=g@h", "x" * 128],
)
def test_safe_ids_are_adopted(value: str) -> None:
    """What proxies and tracers send is taken as it is."""
    exchange, headers = ids_of(identity(), [(REQUEST, value.encode())])
    assert exchange.request_id == exchange.correlation_id == value
    assert headers == {REQUEST: value.encode(), CORRELATION: value.encode()}


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"x" * 129,
        b"x" * 8192,
        b"two words",
        b"a\r\nset-cookie: b",
        b"0123456789abcdef0123456789abcd\r\n",
        b"0123456789abcdef0123456789abcdef\n",
        b"\r\nabc",
        b"abc\x00",
        b"caf\xe9",
        b"\xff\xfe",
        "１２３".encode(),
        b"<script>",
        b"{0.__class__}",
        b"a\x1b[31m",
        b"a,b",
        b'"',
    ],
)
def test_unsafe_ids_are_replaced(value: bytes) -> None:
    """What is too long, or could forge a header, a line or a page, is not adopted; the request is served with a new id."""
    exchange, headers = ids_of(identity(), [(REQUEST, value), (CORRELATION, value)])
    assert exchange.request_id == exchange.correlation_id == "id-1"
    assert headers == {REQUEST: b"id-1", CORRELATION: b"id-1"}
    assert exchange.rejection is None


@given(st.binary(max_size=300), st.binary(max_size=300), st.sampled_from(["accept", "replace", "reject"]))
def test_what_is_echoed_is_always_safe(request_id: bytes, correlation_id: bytes, mode: str) -> None:
    """Whatever bytes come in, the ids that go out are 1 to 128 characters of the safe set."""
    exchange, headers = ids_of(identity(incoming_ids=mode), [(REQUEST, request_id), (CORRELATION, correlation_id)])
    assert all(SAFE.fullmatch(value) for value in headers.values())
    adopted = exchange.request_id.encode() == request_id
    assert adopted == (mode != "replace" and SAFE.fullmatch(request_id) is not None and looks_harmless(request_id))


def looks_harmless(value: bytes) -> bool:
    """Tell whether a safe id has not the shape of a secret, as `user:password@` has."""
    return BUILT_IN.text(value.decode()) == value.decode()


@given(st.from_regex(SAFE, fullmatch=True).filter(looks_harmless))
def test_every_safe_id_is_adopted(value: bytes) -> None:
    """The safe set is adopted whole, not in part."""
    assert ids_of(identity(), [(CORRELATION, value)])[1] == {REQUEST: b"id-1", CORRELATION: value}


def test_the_correlation_id_falls_back_to_the_request_id() -> None:
    """Without a correlation id of its own a request starts a chain; with one it stays in it."""
    assert ids_of(identity(), [(REQUEST, b"r")])[0].correlation_id == "r"
    assert ids_of(identity(), [])[0].correlation_id == "id-1"
    exchange = ids_of(identity(), [(CORRELATION, b"c")])[0]
    assert (exchange.request_id, exchange.correlation_id) == ("id-1", "c")


def test_replace_trusts_nobody() -> None:
    """In mode `replace` both ids are minted, whatever came in."""
    exchange = ids_of(identity(incoming_ids="replace"), [(REQUEST, b"r"), (CORRELATION, b"c")])[0]
    assert exchange.request_id == exchange.correlation_id == "id-1"


def test_headers_may_have_other_names() -> None:
    """The ids come in and go out under the names that are set; the usual ones mean nothing then."""
    renamed = identity(request_id_header="X-Trace", correlation_header="X-Chain")
    exchange, headers = ids_of(renamed, [(b"x-trace", b"t"), (b"x-chain", b"c"), (REQUEST, b"r"), (CORRELATION, b"d")])
    assert (exchange.request_id, exchange.correlation_id) == ("t", "c")
    assert headers == {b"x-trace": b"t", b"x-chain": b"c"}


@pytest.mark.parametrize("header", [REQUEST, CORRELATION])
async def test_reject_answers_400(header: bytes, watch: Any) -> None:
    """In mode `reject` an unsafe id is answered 400 by us, with a safe id, and the app never sees the request."""
    watched = watch(http={"incoming_ids": "reject"}, new_id=counting_ids())
    called = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        called.append(scope)
        await answer(scope, receive, send)

    around = ObservabilityMiddleware(app, observability=watched.obs)
    refused = await drive(around, http_scope(headers=[(header, b"two words")]))
    assert refused.sent[0]["status"] == 400
    assert header.decode() in json.loads(refused.sent[1]["body"])["detail"]
    assert refused.headers[REQUEST] == b"id-1"
    assert not called
    assert [(line["status"], line["request_id"]) for line in watched.access] == [(400, "id-1")]
    await drive(around, http_scope(headers=[(header, b"one")]))
    assert len(called) == 1


@pytest.mark.parametrize("status", [200, 500])
async def test_an_id_that_lines_would_hide_is_not_adopted(status: int, watch: Any) -> None:
    """Also where only `logging.redact` makes it a secret: the id that is sent back is the one on the line."""
    watched = watch(logging={"redact": ["customer"]})

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": status})
        await send({"type": "http.response.body", "body": b""})

    driven = await drive(
        ObservabilityMiddleware(app, observability=watched.obs), http_scope(headers=[(REQUEST, b"customer=7")])
    )
    (line,) = watched.access
    assert driven.headers[REQUEST] == line["request_id"].encode()
    assert uuid.UUID(line["request_id"]).version == 7


async def test_reject_refuses_a_websocket(watch: Any) -> None:
    """In mode `reject` a handshake with an unsafe id is closed before the app sees it."""
    watched = watch(http={"incoming_ids": "reject"})
    around = ObservabilityMiddleware(answer, observability=watched.obs)
    scope = http_scope(type="websocket", scheme="ws", headers=[(REQUEST, b"two words")])
    driven = await drive(around, scope, [{"type": "websocket.connect"}])
    assert [message["type"] for message in driven.sent] == ["websocket.close"]
    assert driven.sent[0]["code"] == 1008
    assert watched.access[0]["status"] == 403


@pytest.mark.parametrize("written", ["X-Request-ID", "x-request-id", "X-REQUEST-ID"])
async def test_one_header_goes_out_and_it_is_ours(written: str, watch: Any) -> None:
    """An app that sets an id header itself has it replaced by the id that the log line has."""
    watched = watch(new_id=counting_ids())
    app = FastAPI()
    watched.obs.install(app)

    @app.get("/")
    async def read() -> Any:
        return PlainTextResponse("ok", headers={written: "theirs", "X-Correlation-Id": "theirs", "X-Other": "kept"})

    async with client(app) as http:
        response = await http.get("/")
    assert response.headers.get_list("x-request-id") == ["id-1"]
    assert response.headers.get_list("x-correlation-id") == ["id-1"]
    assert response.headers["x-other"] == "kept"
    assert watched.access[0]["request_id"] == "id-1"


def story(watched: Watched) -> tuple[FastAPI, list[tuple[str, str]]]:
    """Build an app that notes the current request id from everywhere code of a request runs."""
    app = FastAPI()
    watched.obs.install(app)
    seen: list[tuple[str, str]] = []

    def note(where: str) -> None:
        exchange = current_exchange.get()
        seen.append((where, exchange.request_id if exchange is not None else ""))

    async def dependency() -> Any:
        note("async dependency")
        yield
        note("async dependency end")

    def sync_dependency() -> Any:
        note("sync dependency")
        yield
        note("sync dependency end")

    @app.get("/async")
    async def read(_: Annotated[None, Depends(dependency)], __: Annotated[None, Depends(sync_dependency)]) -> str:
        note("async route")
        await asyncio.create_task(asyncio.to_thread(note, "to_thread in a task"))
        return "ok"

    @app.get("/sync")
    def read_sync(tasks: BackgroundTasks) -> str:
        note("sync route")
        tasks.add_task(note, "sync background")

        async def later() -> None:
            note("async background")

        tasks.add_task(later)
        return "ok"

    @app.get("/stream")
    async def stream() -> StreamingResponse:
        async def chunks() -> Any:
            note("async generator")
            yield "a"

        return StreamingResponse(chunks())

    @app.get("/sync-stream")
    def sync_stream() -> StreamingResponse:
        def chunks() -> Any:
            note("sync generator")
            yield "a"

        return StreamingResponse(chunks())

    class HandledError(Exception):
        pass

    @app.exception_handler(HandledError)
    async def handle(*_: Any) -> JSONResponse:
        note("exception handler")
        return JSONResponse({}, 418)

    @app.exception_handler(404)
    def handle_404(*_: Any) -> JSONResponse:
        note("404 handler")
        return JSONResponse({}, 404)

    @app.exception_handler(Exception)
    async def handle_all(*_: Any) -> JSONResponse:
        note("500 handler")
        return JSONResponse({}, 500)

    @app.get("/handled")
    async def fail() -> None:
        raise HandledError

    @app.get("/http-error")
    async def http_error() -> None:
        raise HTTPException(409)

    @app.get("/boom")
    def boom() -> None:
        raise RuntimeError("boom")

    return app, seen


@pytest.mark.parametrize(
    ("method", "path", "status", "places"),
    [
        (
            *("GET", "/async", 200),
            [
                *("async dependency", "sync dependency", "async route", "to_thread in a task"),
                *("sync dependency end", "async dependency end"),
            ],
        ),
        ("GET", "/sync", 200, ["sync route", "sync background", "async background"]),
        ("GET", "/stream", 200, ["async generator"]),
        ("GET", "/sync-stream", 200, ["sync generator"]),
        ("GET", "/handled", 418, ["exception handler"]),
        ("GET", "/http-error", 409, []),
        ("GET", "/boom", 500, ["500 handler"]),
        ("GET", "/nowhere", 404, ["404 handler"]),
        ("DELETE", "/async", 405, []),
    ],
)
async def test_the_same_id_is_everywhere(method: str, path: str, status: int, places: list[str], watch: Any) -> None:
    """Code of a request sees its id wherever it runs, and response, line and span have it too."""
    watched = watch()
    app, seen = story(watched)
    async with client(app) as http:
        response = await http.request(method, path, headers={"X-Request-ID": "r-1", "X-Correlation-ID": "c-1"})
    assert response.status_code == status
    assert (response.headers["x-request-id"], response.headers["x-correlation-id"]) == ("r-1", "c-1")
    assert [place for place, _ in seen] == places or sorted(place for place, _ in seen) == sorted(places)
    assert {request_id for _, request_id in seen} <= {"r-1"}
    assert [(line["request_id"], line["correlation_id"]) for line in watched.access] == [("r-1", "c-1")]
    attributes = watched.server_spans[0].attributes
    assert (attributes["sage.request_id"], attributes["sage.correlation_id"]) == ("r-1", "c-1")
    assert current_exchange.get() is None


@pytest.mark.parametrize("way", ["install", "add_middleware", "around"])
async def test_an_unhandled_error_carries_the_id(way: str, watch: Any) -> None:
    """The 500 that Starlette makes of an unhandled exception has both headers, however the middleware got there."""
    watched = watch()
    app = FastAPI()

    @app.get("/boom")
    async def boom() -> None:
        raise RuntimeError("boom")

    served: Any = app
    if way == "install":
        watched.obs.install(app)
    elif way == "add_middleware":
        app.add_middleware(ObservabilityMiddleware, observability=watched.obs)
    else:
        served = ObservabilityMiddleware(app, observability=watched.obs)
    # Servers run the lifespan first; there the layer that `add_middleware` put too far inside moves out.
    await drive(served, {"type": "lifespan", "state": {}}, [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])
    async with client(served) as http:
        for number in range(2):
            response = await http.get("/boom", headers={"X-Request-ID": f"r-{number}"})
            assert response.status_code == 500
            assert response.headers.get_list("x-request-id") == [f"r-{number}"]
    assert [line["request_id"] for line in watched.access] == ["r-0", "r-1"]


async def test_concurrent_requests_keep_their_ids_apart(watch: Any) -> None:
    """Fifty requests at once, sync and async, each see their own id only."""
    watched = watch()
    app = FastAPI()
    watched.obs.install(app)

    @app.get("/async")
    async def read(request_id: RequestId, correlation_id: CorrelationId) -> list[str]:
        await asyncio.sleep(random.random() / 100)
        return [request_id, correlation_id, current_exchange.get().request_id]

    @app.get("/sync")
    def read_sync(request_id: RequestId, correlation_id: CorrelationId) -> list[str]:
        time.sleep(random.random() / 100)
        return [request_id, correlation_id, current_exchange.get().request_id]

    async with client(app) as http:

        async def ask(number: int) -> bool:
            path = "/sync" if number % 2 else "/async"
            response = await http.get(path, headers={"X-Request-ID": f"r-{number}", "X-Correlation-ID": f"c-{number}"})
            return response.json() == [f"r-{number}", f"c-{number}", f"r-{number}"]

        assert all(await asyncio.gather(*map(ask, range(50))))


async def test_a_websocket_has_ids(watch: Any) -> None:
    """The accept of a websocket carries the ids, and its code sees them until the end."""
    watched = watch(new_id=counting_ids())
    app = FastAPI()
    watched.obs.install(app)
    seen = []

    @app.websocket("/ws")
    async def talk(socket: WebSocket, request_id: RequestId) -> None:
        await socket.accept()
        await socket.receive_text()
        seen.append((request_id, current_exchange.get().request_id))
        await socket.close()

    scope = http_scope("/ws", type="websocket", scheme="ws", subprotocols=[])
    driven = await drive(app, scope, [{"type": "websocket.connect"}, {"type": "websocket.receive", "text": "hi"}])
    assert dict(driven.sent[0]["headers"])[REQUEST] == b"id-1"
    assert seen == [("id-1", "id-1")]


async def test_mounted_and_doubled_middleware_give_one_id(watch: Any) -> None:
    """A parent and its mounted app, both watched, share one id, one header and one line."""
    watched = watch(new_id=counting_ids())
    inner, outer = FastAPI(), FastAPI()

    @inner.get("/x")
    async def read(request_id: RequestId) -> str:
        return request_id

    for app in (inner, outer):
        app.add_middleware(ObservabilityMiddleware, observability=watched.obs)
        app.add_middleware(ObservabilityMiddleware, observability=watched.obs)
    outer.mount("/inner", inner)
    async with client(outer) as http:
        response = await http.get("/inner/x")
    assert response.headers.get_list("x-request-id") == ["id-1"]
    assert response.json() == "id-1"
    assert [line["request_id"] for line in watched.access] == ["id-1"]


async def test_nothing_is_left_in_the_callers_context(watch: Any) -> None:
    """After a direct call, good or failing, the caller's context is as before."""
    watched = watch()

    async def boom(scope: Any, receive: Any, send: Any) -> None:
        raise RuntimeError("boom")

    for app in (answer, boom):
        await drive(ObservabilityMiddleware(app, observability=watched.obs), http_scope())
        assert current_exchange.get() is None
    loguru.logger.info("outside")
    assert "request_id" not in watched.lines[-1]


@pytest.mark.parametrize("made", ["a\r\nb: c", "", "x" * 129, "é", None, 5, "a:b@", "token=1"])
async def test_a_factorys_unsafe_id_never_goes_out(made: Any, watch: Any) -> None:
    """An application's own factory is held to the same set; what it made otherwise is replaced, and counted."""
    watched = watch(new_id=lambda: made)
    around = ObservabilityMiddleware(answer, observability=watched.obs)
    driven = await drive(around, http_scope(headers=[(CORRELATION, b"c-1")]))
    assert uuid.UUID(driven.headers[REQUEST].decode()).version == 7
    assert driven.headers[CORRELATION] == b"c-1"
    assert watched.value("observability_internal_errors_total", component="Identity") == 1


def test_minted_ids_are_uuids_of_version_7() -> None:
    """Ids parse as UUIDv7 of the RFC variant, in canonical form, with the time of their making."""
    before = time.time_ns() // 1_000_000
    made = [new_request_id() for _ in range(1_000)]
    after = time.time_ns() // 1_000_000
    for text in made:
        parsed = uuid.UUID(text)
        assert (parsed.version, parsed.variant, str(parsed)) == (7, uuid.RFC_4122, text)
        assert before <= parsed.int >> 80 <= after
        assert SAFE.fullmatch(text.encode())


def test_minted_ids_sort_by_time() -> None:
    """Ids of different milliseconds sort in the order of their making."""
    made = []
    for _ in range(5):
        made.append(new_request_id())
        started = time.time_ns() // 1_000_000
        while time.time_ns() // 1_000_000 == started:
            pass
    assert made == sorted(made)


def test_minted_ids_are_unique() -> None:
    """A hundred thousand ids, made by four threads at once, are all different."""
    made: list[list[str]] = [[] for _ in range(4)]

    def mint(into: list[str]) -> None:
        into.extend(new_request_id() for _ in range(25_000))

    threads = [threading.Thread(target=mint, args=(into,)) for into in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({text for some in made for text in some}) == 100_000


def test_minting_leaves_the_applications_random_numbers_alone() -> None:
    """An app that seeds `random` gets the numbers it expects, and ids that do not repeat."""
    random.seed(7)
    expected = [random.random() for _ in range(3)]
    random.seed(7)
    ids, got = set(), []
    for _ in range(3):
        ids.add(new_request_id()[14:])
        got.append(random.random())
    random.seed(7)
    ids.add(new_request_id()[14:])
    assert got == expected
    assert len(ids) == 4


FORKED = """
import os, sys, time
from sage_fastapi_obs.request import ids
time.time_ns = lambda: 0
# Others are ready now, and none of them may be used twice.
ids.new_request_id()
reading, writing = os.pipe()
children = []
for _ in range(3):
    pid = os.fork()
    if not pid:
        os.write(writing, (ids.new_request_id() + "\\n").encode())
        os._exit(0)
    children.append(pid)
for pid in children:
    os.waitpid(pid, 0)
os.close(writing)
print(os.read(reading, 10_000).decode() + ids.new_request_id())
"""


def test_forked_workers_mint_different_ids() -> None:
    """Three children and their parent, at the same moment, make four ids."""
    done = subprocess.run([sys.executable, "-c", FORKED], capture_output=True, text=True, check=True, timeout=PATIENCE_SECONDS)
    made = done.stdout.split()
    assert len(made) == len(set(made)) == 4

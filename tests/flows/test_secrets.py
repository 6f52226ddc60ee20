"""Secrets planted wherever a request can carry them: none leaves by a line, a span, a metric or a page."""

import asyncio
import base64
import json
import logging
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import httpx
import pytest
from fastapi import BackgroundTasks, FastAPI, Request, Response
from loguru import logger
from opentelemetry.sdk.trace import SpanLimits, TracerProvider
from pydantic import BaseModel, SecretStr
from receivers import Bulk, LogCollector, serving
from support import Watched, client, drive, http_scope

from sage_fastapi_obs import CurrentSpan, ObservabilityMiddleware, RequestLogger, bind
from sage_fastapi_obs.otel_internals import FastSpan
from sage_fastapi_obs.privacy.redaction import REDACTED
from sage_fastapi_obs.testing import Telemetry


def jwt(claim: str) -> str:
    """Make a token that looks as tokens look."""
    parts = (
        base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in ({"alg": "HS256"}, {"sub": claim})
    )
    return ".".join([*parts, "c2lnbmF0dXJl"])


PATH_JWT, HEADER_JWT = jwt("in-the-path"), jwt("in-a-header")
CARD = "4111 1111 1111 1111"
PLANTED = {
    *(
        "pw-header",
        "pw-cookie",
        "pw-query",
        "pw-page",
        "pw-bare",
        "pw-body",
        "pw-nested",
        "pw-escaped",
        "pw-message",
        "pw-cause",
    ),
    *("pw-context", "pw-note", "pw-group", "pw-local", "pw-dsn", "pw-libpq", "pw-setcookie", "pw-background"),
    *("pw-stdlib", "pw-httpx", "pw-percent", "pw-secretstr", "pw-model", "pw-command", "pw-iban", "pw-websocket"),
    *(PATH_JWT, PATH_JWT.split(".")[1], HEADER_JWT, CARD, CARD.replace(" ", "")),
}


class Card(BaseModel):
    number: str = CARD
    api_key: str = "pw-model"
    pin: SecretStr = SecretStr("pw-secretstr")


def failing(kind: str) -> None:
    password = "pw-" + "local"
    assert password
    match kind:
        case "message":
            raise ValueError('login failed: {"user": "bob", "password": "pw-message"}')
        case "dsn":
            raise ConnectionError("cannot reach postgresql://bob:pw-dsn@db:5432/shop (password='pw-libpq')")
        case "cause":
            try:
                raise KeyError("token=pw-context")
            except KeyError as context:
                try:
                    raise OSError("redis://:pw-cause@cache/0") from context
                except OSError as cause:
                    raise RuntimeError("no cache") from cause
        case "note":
            error = ValueError("noted")
            error.add_note("Authorization: Bearer pw-note")
            raise error
        case "group":
            raise ExceptionGroup(
                "all", [ValueError("secret: pw-group"), ExceptionGroup("in", [ValueError("api_key=pw-group")])]
            )
        case "command":
            raise subprocess.CalledProcessError(1, ["mysql", "--password", "pw-command", "-e", "x"])
    raise AssertionError(kind)


FAILURES = ("message", "dsn", "cause", "note", "group", "command")


def leaky() -> FastAPI:
    """Build an app that says more than it should, wherever it can."""
    app = FastAPI()

    @app.get("/reset/{token}")
    async def reset(token: str, request: Request, log: RequestLogger) -> str:
        said = f"reset with {token}"
        log.info(said, request=request, headers=request.headers, scope=request.scope["headers"])
        log.info(
            "query", query=request.url.query, url=str(request.url), cookies=request.cookies, params=dict(request.query_params)
        )
        return "ok"

    @app.post("/pay")
    async def pay(request: Request, log: RequestLogger, response: Response, background: BackgroundTasks) -> str:
        body = await request.json()
        bind(body=body, raw=(await request.body()).decode(), card=Card(), iban="pw-iban")
        log.bind(
            nested=json.dumps({"inner": json.dumps({"password": "pw-escaped"})}), number=CARD, digits=int(CARD.replace(" ", ""))
        )
        said = f"paying with {CARD}"
        log.info(said, amount=3)
        logger.info("to {}", quote("https://bob:pw-percent@bank/?token=pw-percent", safe=""))
        logging.getLogger("stdlib").warning("dsn %s", "amqp://bob:pw-stdlib@mq/", extra={"password": "pw-stdlib"})
        response.set_cookie("session", "pw-setcookie")
        log.info("answer", headers=dict(response.headers), raw_headers=response.raw_headers)
        background.add_task(later)
        return "ok"

    def later() -> None:
        logger.info("later password=pw-background")
        raise ValueError("token: pw-background")

    @app.get("/fail/{kind}")
    async def fail(kind: str, log: RequestLogger, span: CurrentSpan) -> None:
        secret = "pw-" + "local"
        assert span.is_recording()
        try:
            failing(kind)
        except Exception as error:
            log.error("handled", exc=error, secret=secret)
            logger.exception("by loguru")
            logging.getLogger("stdlib").exception("by logging")
            raise

    @app.get("/call")
    async def call(log: RequestLogger) -> str:
        url = "http://bob:pw-httpx@upstream/x?token=pw-httpx&page=pw-page"
        async with httpx.AsyncClient(transport=httpx.MockTransport(lambda _: httpx.Response(200))) as upstream:
            await upstream.get(url)
        log.info("called", url=httpx.URL(url), link=f"<a href='{url}'>")
        return "ok"

    return app


async def visit(app: FastAPI) -> list[str]:
    """Send every secret there is; return the bodies of the pages."""
    headers = {"Authorization": f"Bearer {HEADER_JWT}", "X-Api-Key": "pw-header", "User-Agent": f"app/1 token={HEADER_JWT}"}
    cookies = {"session": "pw-cookie", "theme": "pw-cookie"}
    pages = []
    async with client(app, headers=headers, cookies=cookies) as http:
        await http.get(f"/reset/{PATH_JWT}", params={"token": "pw-query"})
        await http.get("/call?page=pw-page&pw-bare1")
        await http.get(f"/reset/{PATH_JWT.replace('.', '%2E')}?")
        await http.get(f"/not-there/{PATH_JWT}/{CARD}/password=pw-query")
        await http.post("/pay", json={"user": "bob", "password": "pw-body", "in": [{"accessToken": "pw-nested"}]})
        for kind in FAILURES:
            assert (await http.get(f"/fail/{kind}")).status_code == 500
        await http.get("/call")
        for path in ("/metrics", "/monitoring/health", "/monitoring/health/ready", "/monitoring/health/live"):
            answer = await http.get(path)
            assert answer.status_code < 400
            pages.append(answer.text)
    return pages


def everything(watched: Watched) -> Iterator[str]:
    """Yield all that the spans tell."""
    for span in watched.spans:
        yield span.to_json()
        yield str([(event.name, dict(event.attributes or {})) for event in span.events])
        yield str(dict(span.attributes or {}))


def leaked(text: str) -> set[str]:
    return {secret for secret in PLANTED if secret in text}


@contextmanager
def httpx_speaking() -> Iterator[None]:
    speaking = logging.getLogger("httpx")
    speaking.setLevel(logging.INFO)
    try:
        yield
    finally:
        speaking.setLevel(logging.NOTSET)


@pytest.mark.parametrize("form", ["json", "console"])
@pytest.mark.parametrize("query_values", [False, True])
async def test_no_secret_gets_out(form: str, query_values: bool, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Whatever an app binds, says and raises, none of what was planted is in a line, a span, a metric or a page."""
    watched = Watched(
        tmp_path,
        logging={"format": form, "redact": ["IBAN"]},
        tracing={"query_values": query_values},
    )
    app = leaky()
    watched.obs.install(app)

    @watched.obs.health.check("database", critical=False)
    def database() -> bool:
        raise ConnectionError("postgresql://bob:pw-dsn@db/")

    # Of parameters that are not called like a secret the values are shown, if the settings say so.
    planted = PLANTED - {"pw-page", "pw-bare"} if query_values else PLANTED
    with httpx_speaking():
        async with watched.obs:
            pages = await visit(app)
    written = watched.path.read_text()
    assert len(written.splitlines()) > 20
    for text in (written, *everything(watched), *pages, *capfd.readouterr()):
        assert leaked(text) & planted == set(), text
    # What was there beside the secrets still is: these tests would pass with nothing written.
    for kept in (
        "upstream/x?token=",
        "/pay",
        "bob",
        "cannot reach postgresql://",
        "Traceback",
        "amount",
        "in failing",
        "by loguru",
    ):
        assert kept in written, kept
    assert written.count(REDACTED) > 40
    events = [event for span in watched.server_spans for event in span.events if event.name == "exception"]
    assert len(events) == len(FAILURES)
    assert all(REDACTED in event.attributes["exception.stacktrace"] for event in events)
    assert watched.obs.internal_errors.counts == {}


async def shown(http: httpx.AsyncClient) -> dict[str, str]:
    """Return every document that the live page asks for, by its path."""
    listed = (await http.get("/monitoring/openapi.json")).json()["paths"]
    kept = (await http.get("/monitoring/requests?limit=100")).json()["requests"]
    single = ("/monitoring/health/", "/monitoring/route")
    paths = [path for path in listed if "{" not in path and (not path.startswith(single) or path == "/monitoring/routes")]
    routes = (await http.get("/monitoring/routes")).json()["routes"]
    paths += [f"/monitoring/route?{urlencode({name: one[name] for name in ('method', 'route')})}" for one in routes]
    paths += [f"/monitoring/{kind}/{request['request_id']}" for request in kept for kind in ("requests", "logs")]
    paths += [f"/monitoring/traces/{request['trace_id']}" for request in kept]
    answers = {path: await http.get(path) for path in ("/monitoring/", "/monitoring/loggers", *paths)}
    assert {path for path, answer in answers.items() if answer.status_code != 200} == set()
    return {path: answer.text for path, answer in answers.items()}


async def test_no_secret_is_on_the_live_page(tmp_path: Path) -> None:
    """Whatever is planted in headers, cookies, queries and bodies, also of a 422, is in no document and no event of it."""
    token = "pw-token-of-sixteen-or-more"
    watched = Watched(
        tmp_path,
        monitoring={"access": "open", "token": token, "expose_logs": True},
        logging={"redact": ["IBAN"]},
        insight={"enabled": True},
    )
    app = leaky()

    @app.post("/cards")
    async def cards(card: Card, limit: int) -> str:
        return "ok"

    watched.obs.install(app)
    async with watched.obs, client(app, headers={"X-Debug": "pw-header"}, cookies={"sid": "pw-cookie"}) as http:
        for body in ({"number": ["pw-body"], "api_key": {"password": "pw-nested"}}, "pw-body", ["pw-nested"]):
            assert (await http.post("/cards?limit=pw-query&token=pw-query", json=body)).status_code == 422
        await visit(app)
        documents = await shown(http)
        stream = await first_event(app)
    assert len(documents) > 30
    assert any("/cards" in document for document in documents.values())
    for path, text in {**documents, "live": stream}.items():
        assert leaked(text) == set(), path
        assert token not in text


async def first_event(app: FastAPI) -> str:
    """Look at the stream until its first event has come."""
    sent: list[bytes] = []
    has_come = asyncio.Event()

    async def receive() -> dict[str, Any]:
        await has_come.wait()
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message.get("body", b""))
        if sent[-1]:
            has_come.set()

    await app(http_scope("/monitoring/live"), receive, send)
    assert b"data: {" in b"".join(sent)
    return b"".join(sent).decode()


@pytest.fixture
def bulk() -> Iterator[Bulk]:
    with serving(Bulk()) as server:
        yield server


@pytest.fixture
def collector() -> Iterator[LogCollector]:
    with serving(LogCollector()) as server:
        yield server


async def test_no_secret_is_kept_or_sent(tmp_path: Path, bulk: Bulk, collector: LogCollector) -> None:
    """Neither the flight recorder, nor the store of recent lines and its page, nor a server that lines are sent to has one."""
    watched = Watched(
        tmp_path,
        # With these limits spans are the SDK's own.
        provider=TracerProvider(span_limits=SpanLimits(max_span_attribute_length=10_000), shutdown_on_exit=False),
        monitoring={"access": "open", "expose_logs": True},
        logging={
            "level": "warn",
            "flight_recorder": True,
            "redact": ["IBAN"],
            "field_aliases": {"timestamp": "time"},
            "elasticsearch_url": bulk.url,
            "otlp_endpoint": f"{collector.url}/v1/logs",
            "elasticsearch_level": "trace",
        },
    )
    held: list[bytes] = []
    flight = watched.obs.logs.held_lines
    hold = flight.hold
    flight.hold = lambda exchange, encoded: (held.append(encoded), hold(exchange, encoded))
    app = leaky()
    watched.obs.install(app)
    with httpx_speaking():
        async with watched.obs:
            pages = await visit(app)
            async with client(app) as http:
                ids = {line["request_id"] for line in watched.lines if "request_id" in line}
                stories = [(await http.get(f"/monitoring/logs/{request_id}")).text for request_id in ids]
            kept = [entry[-1].decode() for entry in watched.obs.logs.recent_lines.entries]
    assert not any(isinstance(span, FastSpan) for span in watched.spans)
    places = {
        "flight recorder": [line.decode() for line in held],
        "lines": watched.path.read_text().splitlines(),
        "recent lines": kept,
        "their page": stories,
        "spans": list(everything(watched)),
        "pages": pages,
        "elasticsearch": [json.dumps(document, ensure_ascii=False) for document in bulk.documents.values()],
        "otlp": [str(record) for record in collector.records()],
    }
    for place, texts in places.items():
        assert len(texts) >= 4, place
        assert [leaked(text) for text in texts if leaked(text)] == [], place
        if place not in ("pages", "spans"):
            assert sum(text.count(REDACTED) for text in texts) > 10, place
    assert len(bulk.documents) == len(collector.records()) == len(watched.lines)
    assert watched.obs.internal_errors.counts == {}


@pytest.mark.parametrize("traced", [True, False])
async def test_names_of_the_settings_hold_in_paths(watch: Any, traced: bool) -> None:
    """A name in `logging.redact` is hidden in the path of an ordinary line, and in that of its span."""
    watched = watch(logging={"redact": ["IBAN"]}, tracing={"enabled": traced})

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    around = ObservabilityMiddleware(app, observability=watched.obs)
    for headers in ([], [(b"x-client-type", b"web")]):
        await drive(around, http_scope("/pay/iban=DE89370400440532013000/x", headers=headers))
    assert [line["path"] for line in watched.access] == [f"/pay/iban={REDACTED}"] * 2
    assert [span.attributes["url.path"] for span in watched.server_spans] == [f"/pay/iban={REDACTED}"] * (2 * traced)
    assert all((name in line) is traced for line in watched.access for name in ("trace_id", "span_id", "trace_flags"))


async def test_the_long_way_shows_what_the_short_way_shows(watch: Any) -> None:
    """Where the settings leave the built-in names out, the line of any request shows its path alike."""
    watched = watch(logging={"redact": ["iban"], "redact_builtin": False})

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    around = ObservabilityMiddleware(app, observability=watched.obs)
    for headers in ([], [(b"x-client-type", b"web")]):
        await drive(around, http_scope("/password=shown/iban=DE89", headers=headers))
    assert [line["path"] for line in watched.access] == [f"/password=shown/iban={REDACTED}"] * 2


@pytest.mark.parametrize("sent", ["4111111111111111", "password=hunter2", PATH_JWT])
async def test_a_secret_is_no_id(watch: Any, sent: str) -> None:
    """An incoming id that looks like a secret is not adopted: it would not be the same everywhere."""
    watched = watch()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        bind(more=1)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    headers = [(b"x-request-id", b"r-1"), (b"x-correlation-id", sent.encode())]
    done = await drive(ObservabilityMiddleware(app, observability=watched.obs), http_scope("/", headers=headers))
    assert {line["correlation_id"] for line in watched.access} == {"r-1"}
    assert sent not in str(done.sent)


async def test_the_first_path_is_as_safe_as_the_last(watch: Any) -> None:
    """The short way of ordinary lines hides what the long way hides."""
    watched = watch()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    around = ObservabilityMiddleware(app, observability=watched.obs)
    await drive(around, http_scope(f"/reset/{PATH_JWT}"))
    await drive(around, http_scope(f"/reset/{PATH_JWT}", headers=[(b"x-client-type", b"token=pw-header")]))
    assert [line["path"] for line in watched.access] == [f"/reset/{REDACTED}"] * 2
    assert [span.attributes["url.path"] for span in watched.server_spans] == [f"/reset/{REDACTED}"] * 2
    assert watched.access[1]["client_type"] == f"token={REDACTED}"


async def test_variables_are_shown_by_no_way_in(watch: Any) -> None:
    """Loguru would show the values of local variables; our lines do not, and neither does its report of a fault."""
    watched = watch()
    async with watched.obs:
        try:
            failing("message")
        except ValueError:
            logger.exception("by loguru")
            logger.opt(exception=True).error("by option")
            logging.getLogger("stdlib").exception("by logging")

        @logger.catch(message="by catch")
        def caught() -> None:
            failing("message")

        caught()
    found = {line["message"]: line["error"]["stack_trace"] for line in watched.lines if "error" in line}
    assert set(found) == {"by loguru", "by option", "by logging", "by catch"}
    assert all("in failing" in stack and "pw-local" not in stack for stack in found.values())


async def test_websockets_keep_secrets_too(watch: Any, telemetry: Telemetry) -> None:
    """The line and the span of a websocket hide the path's and the query's secrets, and those of its failure."""
    watched = watch()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        raise ValueError("token: pw-websocket")

    scope = http_scope(f"/ws/{PATH_JWT}", type="websocket", scheme="ws", query_string=b"token=pw-websocket")
    await drive(ObservabilityMiddleware(app, observability=watched.obs), scope, [{"type": "websocket.connect"}])
    assert telemetry.last.assert_one_line().fields["error"]["message"] == f"token: {REDACTED}"
    telemetry.assert_no_secret(*PLANTED)

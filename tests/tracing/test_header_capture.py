"""Headers on server spans: those that the environment asks for, as OpenTelemetry's own middleware captures them."""

from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import FastAPI, Response, WebSocket
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.instrumentation.asgi import collect_custom_headers_attributes
from opentelemetry.util.http import SanitizeValue, normalise_request_header_name, normalise_response_header_name
from support import client, drive, http_scope, times

from sage_fastapi_obs.privacy.redaction import REDACTED, Redaction
from sage_fastapi_obs.request.exchange import Exchange
from sage_fastapi_obs.tracing.header_capture import HeaderCapture

REQUEST = "OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_SERVER_REQUEST"
RESPONSE = "OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_SERVER_RESPONSE"
SANITIZE = "OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_SANITIZE_FIELDS"
NAMES = st.sampled_from(["accept", "x-tenant", "x-shop-id", "content-type", "x_y", "X-Tenant", "via", "priority"])
VALUES = st.sampled_from(["", "a", "text/html", "4,5", "g\xfcn"])
ROWS = st.lists(st.tuples(NAMES, VALUES), max_size=8)
PATTERNS = st.lists(st.sampled_from(["accept", "X-.*", ".*", "x.tenant", "VIA", "[a-c].*", " ", "nothing"]), max_size=3)


@pytest.fixture(autouse=True)
def _unset(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in (REQUEST, RESPONSE, SANITIZE):
        monkeypatch.delenv(variable, raising=False)


def capture_of(monkeypatch: pytest.MonkeyPatch, **variables: str) -> HeaderCapture:
    """Build as the environment says."""
    for variable, value in {"request": REQUEST, "response": RESPONSE, "sanitize": SANITIZE}.items():
        monkeypatch.setenv(value, variables.get(variable, ""))
    return HeaderCapture(Redaction())


def exchange_with(*rows: tuple[bytes, bytes]) -> Exchange:
    """Build a request."""
    return Exchange(http_scope(headers=[*rows]), 0, 0)


@settings(max_examples=times(200))
@given(rows=ROWS, patterns=PATTERNS, sanitized=PATTERNS)
def test_the_same_is_captured_as_by_opentelemetry(rows: list[tuple[str, str]], patterns: list[str], sanitized: list[str]):
    """Names and patterns in any case, repeated headers, and fields to sanitize: attributes and values are equal."""
    raw = [(name.encode(), value.encode("latin-1")) for name, value in rows]
    theirs, ours = {}, {}
    with pytest.MonkeyPatch.context() as patched:
        asked = {"request": ",".join(patterns), "response": ",".join(patterns), "sanitize": ",".join(sanitized)}
        capture = capture_of(patched, **asked)
    kept, fields = ([pattern for pattern in map(str.strip, some) if pattern] for some in (patterns, sanitized))
    for normalise in (normalise_request_header_name, normalise_response_header_name):
        message = {"headers": raw}
        theirs |= collect_custom_headers_attributes(message, SanitizeValue(fields), kept, normalise) if kept else {}
    ours = {**capture.request_headers(exchange_with(*raw)), **capture.response_headers(raw)}
    assert {attribute: list(values) for attribute, values in ours.items()} == {
        attribute: sorted_like(values, ours.get(attribute, ())) for attribute, values in theirs.items()
    }


def sorted_like(values: list[str], ours: tuple[str, ...]) -> list[str]:
    """Order values as ours, which keeps the order of a repeated header also where its name is written in two ways."""
    return list(ours) if sorted(values) == sorted(ours) or set(values) <= set(ours) else values


def shop() -> FastAPI:
    """Build an app that sends headers of its own."""
    made = FastAPI()

    @made.get("/ok")
    async def ok(response: Response) -> str:
        response.headers["x-shop"] = "north"
        response.set_cookie("session", "s3cret")
        return "ok"

    @made.websocket("/socket")
    async def socket(websocket: WebSocket) -> None:
        await websocket.accept(headers=[(b"x-shop", b"south")])
        await websocket.close()

    return made


async def attributes_of_one(watched: Any, **headers: str) -> dict[str, Any]:
    """Make a request; return the attributes of its span."""
    served = shop()
    watched.obs.install(served)
    async with watched.obs, client(served) as http:
        assert (await http.get("/ok", headers=headers)).status_code == 200
    (span,) = watched.server_spans
    return {name: value for name, value in span.attributes.items() if ".header." in name}


async def test_nothing_is_captured_that_was_not_asked_for(watch: Any):
    """Without the variables, no header is on any span, and the span is made as if they did not exist."""
    watched = watch()
    assert await attributes_of_one(watched, x_tenant="acme") == {}
    assert not watched.obs.settings.remarks or all("HEADERS" not in remark for remark in watched.obs.settings.remarks)


async def test_headers_asked_for_are_on_the_span(watch: Any, monkeypatch: pytest.MonkeyPatch):
    """Of requests and responses, each with all its values; what the environment says later changes nothing."""
    monkeypatch.setenv(REQUEST, "X-Tenant,accept.*")
    monkeypatch.setenv(RESPONSE, "x-shop,content-type")
    watched = watch()
    monkeypatch.setenv(REQUEST, ".*")
    found = await attributes_of_one(watched, **{"x-tenant": "acme", "accept": "*/*", "accept-encoding": "br", "x-other": "no"})
    assert found == {
        "http.request.header.x_tenant": ("acme",),
        "http.request.header.accept": ("*/*",),
        "http.request.header.accept_encoding": ("br",),
        "http.response.header.x_shop": ("north",),
        "http.response.header.content_type": ("application/json",),
    }


async def test_many_response_headers_keep_to_the_limits_of_the_sdk(watch: Any, monkeypatch: pytest.MonkeyPatch):
    """A response with more headers than a span of ours has room for ends as the SDK's span would."""
    monkeypatch.setenv(RESPONSE, ".*")
    served = FastAPI()

    @served.get("/ok")
    async def ok(response: Response) -> None:
        for number in range(200):
            response.headers[f"x-{number}"] = "value"

    watched = watch()
    watched.obs.install(served)
    async with watched.obs, client(served) as http:
        await http.get("/ok")
    (span,) = watched.server_spans
    assert len(span.attributes) <= 128
    assert span.attributes["http.response.header.x_0"] == ("value",)


async def test_headers_of_a_handshake_are_captured(watch: Any, monkeypatch: pytest.MonkeyPatch):
    """What a websocket was accepted with is on its span, too."""
    monkeypatch.setenv(REQUEST, "x-tenant")
    monkeypatch.setenv(RESPONSE, "x-shop")
    watched = watch()
    served = shop()
    watched.obs.install(served)
    scope = {**http_scope("/socket", headers=[(b"x-tenant", b"acme")]), "type": "websocket", "subprotocols": []}
    async with watched.obs:
        await drive(served, scope, [{"type": "websocket.connect"}, {"type": "websocket.disconnect", "code": 1000}])
    (span,) = watched.server_spans
    assert span.attributes["http.request.header.x_tenant"] == ("acme",)
    assert span.attributes["http.response.header.x_shop"] == ("south",)


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("authorization", "Bearer abcdefghijklmnopqrstuv", REDACTED),
        ("cookie", "session=s3cret", REDACTED),
        ("set-cookie", "session=s3cret", REDACTED),
        ("x-api-key", "s3cret", REDACTED),
        ("referer", "https://a.example/?token=s3cret", f"https://a.example/?token={REDACTED}"),
        ("x-note", "password=s3cret", f"password={REDACTED}"),
        ("x-tenant", "acme", "[REDACTED]"),
    ],
)
def test_secrets_are_hidden_whatever_is_asked_for(monkeypatch: pytest.MonkeyPatch, name: str, value: str, shown: str):
    """By our rules for names and for texts, and by the list of fields to sanitize."""
    capture = capture_of(monkeypatch, request=".*", response=".*", sanitize="X-T.*")
    row = (name.encode(), value.encode())
    assert list(capture.request_headers(exchange_with(row)).values()) == [(shown,)]
    assert list(capture.response_headers([row]).values()) == [(shown,)]


@pytest.mark.parametrize("wrong", ["*", "(", "q,(?i)b", "[z-a]"])
def test_what_is_no_pattern_is_said_and_left_out(monkeypatch: pytest.MonkeyPatch, wrong: str):
    """A mistake in the variables does not keep the service from starting, nor the other names from being captured."""
    capture = capture_of(monkeypatch, request=f"x-tenant,{wrong}", sanitize=wrong)
    assert capture.request_headers(exchange_with((b"x-tenant", b"acme"))) == {"http.request.header.x_tenant": ("acme",)}
    assert any(REQUEST in remark for remark in capture.remarks)


def test_a_mistake_is_logged_at_the_start(watch: Any, monkeypatch: pytest.MonkeyPatch):
    """With the variable and what to change."""
    monkeypatch.setenv(RESPONSE, "*")
    assert any(RESPONSE in remark for remark in watch().obs._tracing.remarks)


@pytest.mark.parametrize(
    "rows",
    [
        [(b"x-" + b"a" * 10_000, b"v")],
        [(b"x y", b"v"), (b"", b"v"), (b"x\xff", b"v"), (b"x\n", b"v")],
        [(b"x-many", b"v")] * 10_000,
        [(b"x-%d" % number, b"v" * 10_000) for number in range(10_000)],
    ],
)
def test_what_a_client_sends_is_bounded(monkeypatch: pytest.MonkeyPatch, rows: list[tuple[bytes, bytes]]):
    """However many headers, however long, and with names that are none."""
    found = capture_of(monkeypatch, request=".*").request_headers(exchange_with(*rows))
    assert sum(map(len, found.values())) <= 64
    assert all(len(value) <= 2_100 for values in found.values() for value in values)
    assert max(map(len, found), default=0) <= 160
    assert all(name.isprintable() and " " not in name for name in found)


def test_headers_that_can_be_read_only_once_are_the_servers(monkeypatch: pytest.MonkeyPatch):
    """An iterator is not touched; what is no list of headers gives nothing."""
    capture = capture_of(monkeypatch, response=".*")
    once: Iterator[tuple[bytes, bytes]] = iter([(b"a", b"b")])
    assert capture.response_headers(once) == {}
    assert next(once) == (b"a", b"b")
    for broken in (None, 5, [None], [(b"a",)], [("a", "b")], [(10**12, b"b")], [(b"a", None)]):
        assert capture.response_headers(broken) == {}

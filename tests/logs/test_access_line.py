"""The access line: each of its fields and its level are decided in one place, and the fast way gives the plain one's bytes."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage_fastapi_obs.catalog import KNOWN_METHODS
from sage_fastapi_obs.logs.access_line import ACCESS_FIELDS, AccessField, field_reader
from sage_fastapi_obs.logs.fast_access_line import ORDINARY, FastAccessLine, PlainAccessLine
from sage_fastapi_obs.logs.line_format import json_format, line_builder, with_renamed_fields
from sage_fastapi_obs.logs.recent_lines import RecentLines
from sage_fastapi_obs.privacy.redaction import Redaction
from sage_fastapi_obs.request.exchange import Exchange, Socket
from sage_fastapi_obs.request.ids import Identity
from sage_fastapi_obs.retention_reasons import NOT_KEPT, REASONS, UNDECIDED
from sage_fastapi_obs.settings import HttpSettings, LoggingSettings, ServiceSettings

ROOT = Path(__file__).parents[2]
SERVICE = ServiceSettings(name="shop %s 100%", environment="production", version="1.2.3")
ALIASES = {"timestamp": "@timestamp", "duration_ms": "took %", "trace_id": "trace.id", "path": "url.path"}
HEX = st.text("0123456789abcdef", min_size=16, max_size=16)
REDACTED_NAME = "customer"
REDACTION = Redaction(LoggingSettings(redact=(REDACTED_NAME,)))
SECRETS = ("a:b@", "token=abc", f"{REDACTED_NAME}=7", "Bearer:abc.def", "4111111111111111", "x-api-key:1")
"""What has the shape of a secret, and only characters that an id may have."""
SENT_IDS = st.text("abcXYZ019._:+/=@-", min_size=1, max_size=40) | st.sampled_from(SECRETS)


def ids_of(sent_request_id: str, sent_correlation_id: str, minted: str) -> tuple[str, str]:
    """Return the ids of a request whose caller has sent two, and whose application mints ids of its own."""
    headers = [(b"x-request-id", sent_request_id.encode()), (b"x-correlation-id", sent_correlation_id.encode())]
    exchange = Exchange({"type": "http", "headers": headers}, 0, 0)
    with suppress(ValueError):
        Identity(HttpSettings(), REDACTION, lambda: minted).request_started(exchange)
    return exchange.request_id, exchange.correlation_id


TEXTS = st.one_of(
    st.text(max_size=60),
    st.sampled_from(["/login?token=1", "/%s/%(x)s", "/a\u2028b", "/\ud800", "/" + "x" * 5_000, "/Bearer abc.def", '/"\\']),
)
WAYS = pytest.mark.parametrize("aliases", [{}, ALIASES], ids=["own names", "renamed"])


def values_of(**given_values: Any) -> tuple[Any, ...]:
    return tuple(given_values[name] for name in ORDINARY)


ORDINARY_VALUES = st.builds(
    lambda traced, trace_id, span_id, ids, **rest: values_of(
        trace_id=trace_id * 2 if traced else "",
        span_id=span_id if traced else "",
        request_id=ids[0],
        correlation_id=ids[1],
        **rest,
    ),
    traced=st.booleans(),
    trace_id=HEX,
    span_id=HEX,
    method=st.sampled_from(sorted(KNOWN_METHODS)),
    route=st.none() | TEXTS,
    status=st.integers(100, 999),
    sampled=st.booleans(),
    kept=st.sampled_from([UNDECIDED, NOT_KEPT, *REASONS]),
    ids=st.builds(ids_of, SENT_IDS, SENT_IDS, SENT_IDS),
    path=TEXTS,
    duration_us=st.integers(0, 10**10),
    received_bytes=st.integers(0, 10**12),
    sent_bytes=st.integers(0, 10**12),
    wall_ns=st.integers(0, 4 * 10**18),
    queue_us=st.none() | st.integers(0, 600 * 10**6),
)


def both_ways(aliases: dict[str, str], kept: Callable[[], RecentLines | None] = lambda: None) -> list[PlainAccessLine]:
    encode = with_renamed_fields(aliases)
    return [
        way(line_builder(SERVICE, REDACTION), encode, REDACTION.readable, kept()) for way in (PlainAccessLine, FastAccessLine)
    ]


@WAYS
@given(st.lists(ORDINARY_VALUES, min_size=1, max_size=5))
def test_the_fast_way_gives_the_bytes_of_the_plain_one(aliases: dict[str, str], requests: list[tuple[Any, ...]]) -> None:
    """Whatever an ordinary request has, and however often its template was used, both ways write and keep the same line."""
    stores = [RecentLines(100, 10**9), RecentLines(100, 10**9)]
    waiting = iter(stores)
    plain, fast = both_ways(aliases, lambda: next(waiting))
    for values in [*requests, *requests]:
        expected = plain(values)
        assert fast(values) == expected
        assert json.loads(expected)
    assert list(stores[1].entries) == list(stores[0].entries)


@pytest.mark.parametrize("reordered", [ACCESS_FIELDS[::-1], ACCESS_FIELDS[3:] + ACCESS_FIELDS[:3]], ids=["reversed", "turned"])
@given(ORDINARY_VALUES)
def test_the_order_of_the_table_is_not_known_to_the_fast_way(
    reordered: tuple[AccessField, ...], values: tuple[Any, ...]
) -> None:
    """Values come to their own names in whatever order the table has the fields."""

    def build(at: float, level: str, message: str, logger: str, fields: dict[str, Any], error: None) -> dict[str, Any]:
        return {"timestamp": "x", "level": level, "message": message, "logger": logger, **fields}

    shown = Redaction().readable
    lines = [way(build, json_format, shown, None, reordered) for way in (PlainAccessLine, FastAccessLine)]
    found = [json.loads(line(values)) for line in lines]
    assert list(found[0].items())[1:] == list(found[1].items())[1:]


@given(ORDINARY_VALUES)
def test_what_an_ordinary_request_leaves_is_all_that_its_line_needs(values: tuple[Any, ...]) -> None:
    """A field that is read from elsewhere has a condition that ordinary requests do not meet."""
    exchange = Exchange({"type": "http"}, 0, 0)
    for name, value in zip(ORDINARY, values, strict=True):
        setattr(exchange, name, value)
    on_line = [field for field in ACCESS_FIELDS if field.is_on_access_line]
    fields = field_reader(on_line)({}, exchange)
    assert {field.attribute for field in on_line if field.name in fields} <= set(ORDINARY)


def test_fields_are_there_when_their_exchange_has_them() -> None:
    """A handshake brings the fields of websockets, a stream its first byte, a header the client's type."""
    exchange = Exchange({"type": "websocket", "headers": [(b"x-client-type", b"mobile" * 10)]}, 0, 0)
    exchange.socket = Socket(handshake_us=1_500, close_code=1000, received_messages=2, sent_messages=3)
    exchange.streamed, exchange.first_byte_us, exchange.error_type = True, 2_500, "client_disconnect"
    fields = field_reader(ACCESS_FIELDS[8:11] + ACCESS_FIELDS[12:])({}, exchange)
    assert fields == {
        "status": 0,
        "duration_ms": 0.0,
        "first_byte_ms": 2.5,
        "handshake_ms": 1.5,
        "request_bytes": 0,
        "response_bytes": 0,
        "close_code": 1000,
        "messages_received": 2,
        "messages_sent": 3,
        "client_type": ("mobile" * 10)[:32],
        "error_type": "client_disconnect",
    }


SERVICE_OF_ALL_LINES = """
import asyncio, sys
from fastapi import BackgroundTasks, FastAPI, Request, WebSocket
from fastapi.responses import StreamingResponse
from loguru import logger
from starlette.testclient import TestClient
from sage_fastapi_obs import Observability, RequestLogger, Settings

logging = {"format": sys.argv[1], "gather_seconds": float(sys.argv[2]), "flight_recorder": True}
tracing = {"slow_seconds": 1e-9}
app = FastAPI()
obs = Observability(Settings(logging=logging, tracing=tracing, monitoring={"expose_logs": True}))
obs.install(app)


@app.get("/ordinary")
async def ordinary(): ...


@app.get("/bound")
async def bound(log: RequestLogger):
    log.bind(shelf="A3")


@app.get("/held")
async def held():
    logger.debug("held")


@app.get("/failed")
async def failed():
    logger.debug("held")
    raise ValueError("no")


@app.get("/stream")
async def stream():
    async def chunks():
        yield b"one"
        yield b"two"
    return StreamingResponse(chunks())


@app.get("/background")
async def background(tasks: BackgroundTasks):
    tasks.add_task(len, 7)


@app.websocket("/socket")
async def socket(websocket: WebSocket):
    await websocket.accept()
    await websocket.close()


with TestClient(app, raise_server_exceptions=False) as client:
    for path in ("ordinary", "bound", "held", "failed", "stream", "background", "missing", "missing?again", "docs"):
        client.get(f"/{path}")
    client.get("/missing", headers={"X-Client-Type": "mobile"})
    client.post("/ordinary")
    with client.websocket_connect("/socket"):
        pass
"""


def lines_after(edits: dict[str, str], tmp_path: Path, form: str = "json", gather_seconds: float = 0.02) -> list[str]:
    """Run a service with a copy of the package in which one file is changed; each text to change is there once."""
    copy = tmp_path / "sage_fastapi_obs"
    shutil.copytree(ROOT / "sage_fastapi_obs", copy, ignore=shutil.ignore_patterns("*.pyc.*"))
    changed = copy / "logs" / "access_line.py"
    source = changed.read_text()
    for before, after in edits.items():
        assert source.count(before) == 1, before
        source = source.replace(before, after)
    changed.write_text(source)
    command = [sys.executable, "-W", "ignore", "-c", SERVICE_OF_ALL_LINES, form, str(gather_seconds)]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "requests are not affected" not in done.stderr, done.stderr
    return done.stdout.splitlines()


RENAMED = {
    'DURATION = "duration_ms"': 'DURATION = "took_ms"',
    'STATUS = "status"': 'STATUS = "code"',
    'PATH = "path"': 'PATH = "target"',
    'METHOD = "method"': 'METHOD = "verb"',
    'ROUTE = "route"': 'ROUTE = "template"',
    'AccessField("error_type"': 'AccessField("failure"',
    'AccessField("response_bytes"': 'AccessField("sent"',
    'AccessField("handshake_ms"': 'AccessField("greeting_ms"',
    'AccessField("background_ms"': 'AccessField("later_ms"',
    'AccessField("first_byte_ms"': 'AccessField("first_ms"',
}


@pytest.mark.parametrize("gather_seconds", [0.0, 0.02], ids=["plain", "fast"])
def test_a_field_is_renamed_in_one_place(gather_seconds: float, tmp_path: Path) -> None:
    """Ordinary, failed, slow, held, streamed, background and websocket lines have the new name and nowhere the old one."""
    rows = lines_after(RENAMED, tmp_path, gather_seconds=gather_seconds)
    lines = [json.loads(row) for row in rows]
    old = [edit.split('"')[1] for edit in RENAMED]
    assert [name for line in lines for name in (*line, *line.get("data", {})) if name in old] == []
    access = [line for line in lines if line["message"].startswith(("request ", "websocket "))]
    assert {line["message"] for line in access} == {"request completed", "request failed", "websocket closed"}
    assert all({"took_ms", "code", "target", "verb", "template", "sent"} <= line.keys() for line in access)
    new = [edit.split('"')[1] for edit in RENAMED.values()]
    assert set(new) <= {name for line in lines for name in line}


def test_lines_for_people_follow_a_renamed_field(tmp_path: Path) -> None:
    """They say method, path, status and duration as before, whatever these are called."""
    rows = lines_after(RENAMED, tmp_path, form="console")
    (row,) = [row for row in rows if "GET /ordinary 200 " in row]
    assert all(name not in row for name in ("took_ms=", "code=", "target=", "verb=", "template=", "sent="))


@pytest.mark.parametrize("gather_seconds", [0.0, 0.02], ids=["plain", "fast"])
@pytest.mark.parametrize("level", ["critical", "debug"])
def test_the_level_of_a_404_is_changed_in_one_place(level: str, gather_seconds: float, tmp_path: Path) -> None:
    """All lines of a 404 have the new level, or are missing where that is not written; all others are as they were."""
    rule = {"    if exchange.failed:\n": f'    if exchange.status == 404:\n        return "{level}"\n    if exchange.failed:\n'}
    lines = [json.loads(row) for row in lines_after(rule, tmp_path, gather_seconds=gather_seconds)]
    levels = {(line["status"], line["level"]) for line in lines if "status" in line and line["message"] != "websocket closed"}
    expected = {(200, "info"), (405, "warn"), (500, "error")}
    assert levels == (expected | {(404, level)} if level == "critical" else expected)


def test_the_documents_know_the_fields() -> None:
    """The page on requests names each field, and where the template of Elasticsearch has one, it has its kind."""
    page = (ROOT / "docs" / "requests.md").read_text()
    table = page.partition("## The log line")[2].partition("\n\nAny value")[0]
    assert [field.name for field in ACCESS_FIELDS if f"`{field.name}`" not in table] == []
    template = json.loads((ROOT / "deploy" / "logging" / "elasticsearch" / "index-template.json").read_text())
    mapped = template["template"]["mappings"]["properties"]
    known = {field.name: field.kind.mapping for field in ACCESS_FIELDS if field.name in mapped}
    assert known == {name: mapped[name]["type"] for name in known}
    assert {"duration_ms", "status", "path", "client_type"} <= known.keys()

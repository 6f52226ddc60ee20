"""What others read stays as it is: headers, lines, spans, metrics and settings, held against `wire_format.json`.

Where a change of it is meant, `python tests/flows/test_wire_format.py` writes the file anew: read the change in its diff.
"""

import asyncio
import itertools
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from fastapi import BackgroundTasks, FastAPI, HTTPException, WebSocket
from fastapi.responses import StreamingResponse
from loguru import logger
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.id_generator import IdGenerator

sys.path.insert(0, str(Path(__file__).parents[1]))

from support import Ticking, Watched, counting_ids, drive, http_scope

from sage_fastapi_obs import RequestLogger, Settings, operation

SNAPSHOT = Path(__file__).with_name("wire_format.json")
WALL_NS = 1_790_000_000_123_456_789
HEADERS = [
    (b"user-agent", b"tests"),
    (b"host", b"shop.example"),
    (b"x-request-id", b"abc-1"),
    (b"traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
]


class Counted(IdGenerator):
    """Ids of traces and spans that come the same again."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)

    def generate_span_id(self) -> int:
        return next(self._numbers)

    def generate_trace_id(self) -> int:
        return next(self._numbers)


def build(watched: Watched) -> FastAPI:
    """Build an app with one route for each kind of answer."""
    app = FastAPI(openapi_url=None)

    @app.get("/items/{item_id}")
    async def read(item_id: int, log: RequestLogger) -> dict[str, int]:
        log.bind(shelf="A3").info("looking it up", tries=1)
        logger.debug("held back")
        with operation("price.lookup", item=item_id):
            return {"id": item_id}

    @app.get("/busy")
    async def busy() -> None:
        raise HTTPException(503)

    @app.get("/broken")
    async def broken() -> None:
        raise ValueError("no")

    @app.get("/stream")
    async def stream() -> StreamingResponse:
        async def chunks() -> Any:
            yield b"one"
            yield b"two"

        return StreamingResponse(chunks())

    @app.get("/later")
    async def later(tasks: BackgroundTasks) -> None:
        async def work() -> None:
            watched.obs.clock.now_ns += 1_000_000_000  # type: ignore[attr-defined]

        tasks.add_task(work)

    @app.websocket("/socket")
    async def socket(socket: WebSocket) -> None:
        await socket.accept()
        await socket.send_text(await socket.receive_text())
        await socket.close(4001)

    watched.obs.install(app)
    return app


def requests() -> list[tuple[str, dict[str, Any], list[dict[str, Any]]]]:
    """List what is asked for, by name."""
    body: list[dict[str, Any]] = [{"type": "http.request", "body": b"12345"}]
    asked = [
        ("ok", http_scope("/items/7", headers=HEADERS, query_string=b"token=hidden"), body),
        ("bare", http_scope("/items/7"), body),
        ("invalid", http_scope("/items/seven"), body),
        ("unmatched", http_scope("/nowhere"), body),
        ("wrong method", http_scope("/items/7", "DELETE"), body),
        ("unknown method", http_scope("/items/7", "BREW"), body),
        ("refused", http_scope("/busy", headers=HEADERS), body),
        ("failed", http_scope("/broken", headers=HEADERS), body),
        ("streamed", http_scope("/stream"), body),
        ("background", http_scope("/later"), body),
        ("metrics", http_scope("/monitoring/health/live"), body),
    ]
    socket = {**http_scope("/socket"), "type": "websocket", "subprotocols": [], "extensions": {}}
    del socket["method"]
    said = [{"type": "websocket.connect"}, {"type": "websocket.receive", "text": "hello"}]
    return [*asked, ("websocket", socket, said)]


def span_of(span: ReadableSpan) -> dict[str, Any]:
    """Show a span as plain data."""
    return {
        "name": span.name,
        "kind": span.kind.name,
        "status": [span.status.status_code.name, span.status.description],
        "trace_id": f"{span.context.trace_id:032x}",
        "parent": f"{span.parent.span_id:016x}" if span.parent else None,
        "scope": span.instrumentation_scope.name,
        "attributes": dict(sorted(span.attributes.items())),
        "events": [[event.name, sorted(event.attributes or {})] for event in span.events],
        "ns": span.end_time - span.start_time,
    }


def families(watched: Watched) -> list[str]:
    """Show each metric with its label names and buckets, and what of it the requests have moved."""
    shown = []
    for metric in watched.obs.registry.collect():
        names = sorted({name for sample in metric.samples for name in sample.labels} - {"le"})
        bounds = list(dict.fromkeys(sample.labels["le"] for sample in metric.samples if "le" in sample.labels))
        shown.append(f"{metric.name} {metric.type} {names} {bounds}")
        if metric.name.startswith("http_"):
            shown += [f"  {s.name} {s.labels} {s.value}" for s in metric.samples if s.value and not s.name.endswith("_created")]
    return shown


def options(schema: dict[str, Any]) -> Any:
    """Show a schema of settings without what is written for people."""
    if isinstance(schema, dict):
        return {key: options(value) for key, value in sorted(schema.items()) if key not in ("description", "title")}
    return [options(value) for value in schema] if isinstance(schema, list) else schema


def line_of(line: dict[str, Any]) -> Any:
    """Show a line; of those with a stack only the fields, of those of the application not the time."""
    if "stack" in json.dumps(line):
        return sorted(line)
    return {**line, "timestamp": "…", "logger": "app"} if "wire_format" in line["logger"] else line


@contextmanager
def parts_untold() -> Iterator[None]:
    """Have others take all ids of tools: before Python 3.12 the interpreter does not tell of the parts of a request."""
    monitoring: Any = getattr(sys, "monitoring", None)
    ids = [] if monitoring is None else [id_ for id_ in range(6) if monitoring.get_tool(id_) is None]
    for id_ in ids:
        monitoring.use_tool_id(id_, "another")
    try:
        yield
    finally:
        for id_ in ids:
            monitoring.free_tool_id(id_)


async def recorded(folder: Path) -> dict[str, Any]:
    """Run all requests; return what others can read of them."""
    clock, wall = Ticking(), Ticking(0, WALL_NS)
    watched = Watched(
        folder,
        insight={"blocked_loop_seconds": 60.0},
        provider=TracerProvider(id_generator=Counted(), shutdown_on_exit=False),
        clock=clock,
        wall_clock=wall,
        new_id=counting_ids(),
        status_clock=lambda: 0.0,
        metrics={"packs": ["http", "sage", "textbook", "security", "dependencies", "grpc", "result", "business"]},
    )
    app = build(watched)
    headers = {}
    async with watched.obs:
        for name, scope, incoming in requests():
            answer = await drive(app, scope, incoming)
            start = next((message for message in answer.sent if "headers" in message), {"headers": []})
            headers[name] = [f"{key.decode()}: {value.decode()}" for key, value in start["headers"]]
        lines = [json.dumps(line_of(line)) for line in watched.lines]
        shown = families(watched)
    return {
        "headers": headers,
        "lines": lines,
        "spans": [span_of(span) for span in watched.spans],
        "metrics": shown,
        "settings": options(Settings.model_json_schema()),
    }


def record() -> dict[str, Any]:
    """Record in a folder of its own."""
    with TemporaryDirectory() as folder, parts_untold():
        found: dict[str, Any] = json.loads(json.dumps(asyncio.run(recorded(Path(folder)))))
        return found


@pytest.mark.parametrize("part", ["headers", "lines", "spans", "metrics", "settings"])
def test_what_others_read_is_as_it_was(part: str, recorded_now: dict[str, Any]):
    """Names, order, units and values that dashboards, log stores and scripts rely on do not change by accident."""
    assert recorded_now[part] == json.loads(SNAPSHOT.read_text())[part]


@pytest.fixture(scope="module")
def recorded_now() -> dict[str, Any]:
    return record()


if __name__ == "__main__":
    # As a module, so that the lines of the application have the same logger as in a test.
    from test_wire_format import record as record_as_module

    SNAPSHOT.write_text(json.dumps(record_as_module(), indent=1, ensure_ascii=False) + "\n")

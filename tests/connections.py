"""An app that shows what of a context its requests start in, and clients that use one connection for many of them."""

import gc
import json
import socket
from typing import Any, BinaryIO, Self

import anyio
import httpx
from fastapi import BackgroundTasks, FastAPI, Request
from opentelemetry import baggage, trace
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider

from sage_fastapi_obs import CorrelationContext, Observability, Settings, get_correlation_id
from sage_fastapi_obs.request.exchange import Exchange

LARGE = b"x" * 200_000
"""More than any server reads ahead: it pauses the transport, and reads on when the app asks for more."""
OTHER = "ab" * 16
"""The trace of a caller that records nothing."""
CALLER = {"traceparent": f"00-{OTHER}-{'cd' * 8}-00", "baggage": "tenant=first", "x-correlation-id": "first"}
IN_PROCESS = {"directly", "task", "thread", "background"}


def build() -> FastAPI:
    """Build the app."""
    app = FastAPI()
    provider = TracerProvider(shutdown_on_exit=False)
    # One that does nothing: only spans that somebody reads are current.
    provider.add_span_processor(SpanProcessor())
    sections = {"logging": {"enabled": False}, "monitoring": {"access": "open"}, "insight": {"enabled": False}}
    obs = Observability(Settings(**sections), tracer_provider=provider)
    tracer = provider.get_tracer("app")
    asked: list[str] = []
    called: dict[str, str] = {}

    def seen() -> dict[str, Any]:
        trace_id = f"{trace.get_current_span().get_span_context().trace_id:032x}"
        return {"trace_id": trace_id, "baggage": dict(baggage.get_all()), "correlation_id": get_correlation_id()}

    async def call_itself(way: str) -> None:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://here") as http:
            called[way] = (await http.get("/seen")).json()["trace_id"]

    @app.get("/seen")
    async def see() -> dict[str, Any]:
        asked.append("")
        return seen()

    @app.post("/upload")
    async def upload(request: Request) -> dict[str, Any]:
        started = seen()
        with CorrelationContext("block"), tracer.start_as_current_span("reading"):
            assert len(await request.body()) == len(LARGE)
        return started

    @app.post("/background")
    async def background(request: Request, tasks: BackgroundTasks) -> dict[str, Any]:
        asked.clear()
        await request.body()

        async def work() -> None:
            # Some servers take the next request of a connection up at once, others when the app has returned.
            for _ in range(50):
                await anyio.sleep(0 if asked else 0.01)
            await call_itself("background")

        tasks.add_task(work)
        return seen()

    @app.get("/calls")
    async def calls() -> dict[str, Any]:
        await call_itself("directly")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call_itself, "task")
        await anyio.to_thread.run_sync(lambda: anyio.run(call_itself, "thread"))
        return seen()

    @app.get("/state")
    async def state() -> dict[str, Any]:
        # What the store has not written yet is alive.
        assert obs.store is not None
        assert obs.store.flush(60.0)
        gc.collect()
        alive = sum(type(one) is Exchange and one.observer is obs for one in gc.get_objects())
        return {"called": called, "alive": alive, "faults": obs.internal_errors.counts}

    obs.install(app)
    return app


class Connection:
    """A connection that is kept alive; answers are read from one buffer, as pipelined ones come together."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self._answers: BinaryIO = self._socket.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._answers.close()
        self._socket.close()

    def send(self, *requests: bytes) -> None:
        self._socket.sendall(b"".join(requests))

    def answer(self) -> dict[str, Any]:
        """Read one answer: its body, and of its headers the ids."""
        status = self._answers.readline()
        assert b" 200 " in status, status
        headers = {}
        while (line := self._answers.readline().strip()) != b"":
            name, _, value = line.decode().partition(":")
            headers[name.lower()] = value.strip()
        body = json.loads(self._answers.read(int(headers["content-length"])))
        return body | {name: headers[name] for name in ("traceresponse", "x-request-id", "x-correlation-id")}

    def get(self, path: str) -> dict[str, Any]:
        """Ask for a page."""
        self.send(request("GET", path))
        return self.answer()


def request(method: str, path: str, body: bytes = b"", **headers: str) -> bytes:
    """Write a request."""
    fields = {"host": "here", **({"content-length": str(len(body))} if body else {}), **headers}
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
    return "\r\n".join([*lines, "", ""]).encode() + body

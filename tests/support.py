"""What many tests need: a watched app whose lines, spans and metrics can be read back, and raw ASGI drivers."""

import asyncio
import gc
import inspect
import json
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind
from prometheus_client import CollectorRegistry

import sage_fastapi_obs
from sage_fastapi_obs import Observability, Settings

PATIENCE_SECONDS = 300.0
"""How long a test waits for what comes at once on an idle machine: only to end where it never comes."""

NO_KEEP_ALIVE = httpx.Limits(max_keepalive_connections=0)
"""For clients that ask on after an exception: uvicorn closes its connection then, and the next request may notice too late."""

SOAK = os.environ.get("SOAK") == "1"
"""Whether the long forms of tests are run: `make soak`."""
LONG_ENOUGH = 60.0
"""The longest that settings allow for what the end may wait for."""
OURS = Path(sage_fastapi_obs.__file__).parent
TOO_LARGE = 1 << 46
"""Bytes of stack with which no thread can be started."""


def times(usual: int, soaked: int | None = None) -> int:
    """Return how often to do something: as often as shows a fault at once, or in the long form ten times, or what is given."""
    if not SOAK:
        return usual
    return 10 * usual if soaked is None else soaked


def until(found: Callable[[], Any], what: str = "answer") -> Any:
    """Ask until there is an answer, and return it."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        with suppress(httpx.HTTPError, KeyError, IndexError):
            if answer := found():
                return answer
        time.sleep(0.02)
    pytest.fail(f"no {what} within {PATIENCE_SECONDS:.0f} s")


async def eventually(found: Callable[[], Any], what: str = "answer") -> Any:
    """Ask until there is an answer, as `until` does, on the loop that goes on meanwhile; `found` may be async."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        answer = found()
        if answer := await answer if inspect.isawaitable(answer) else answer:
            return answer
        await asyncio.sleep(0.005)
    pytest.fail(f"no {what} within {PATIENCE_SECONDS:.0f} s")


def _is_of_ours(found: Any) -> bool:
    """Tell whether something is an object, class, function, generator or coroutine of the package."""
    code = next((code for name in ("__code__", "gi_code", "cr_code", "ag_code") if (code := getattr(found, name, None))), None)
    if code is not None:
        return Path(code.co_filename).is_relative_to(OURS)
    return f"{getattr(found, '__module__', None)}.".startswith("sage_fastapi_obs.")


@contextmanager
def no_cycles_of_ours(repetitions: int) -> Iterator[None]:
    """See that a block, which does the same so many times, leaves nothing of ours for the garbage collector each time.

    What was there before is of other tests, whose threads may let go of it meanwhile.
    """
    gc.collect()
    gc.disable()
    before = {id(one) for one in gc.get_objects()}
    try:
        yield
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        left = Counter(type(found).__qualname__ for found in gc.garbage if id(found) not in before and _is_of_ours(found))
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    each_time = {kind: count for kind, count in left.items() if count >= repetitions}
    assert not each_time, each_time


class Watched:
    """An `Observability` that keeps its lines in a file and its spans in memory."""

    with_insight = False
    """Whether requests say why they are slow, unless the sections say otherwise."""
    with_workers = False
    """Whether it has a slot among the workers of its service, unless the sections say otherwise."""

    def __init__(self, tmp_path: Path, *, sampler: Any = None, provider: TracerProvider | None = None, **sections: Any) -> None:
        self.path = tmp_path / "lines.jsonl"
        self.exporter = InMemorySpanExporter()
        self.provider = provider or TracerProvider(sampler=sampler, shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        sections["logging"] = {
            "output": str(self.path),
            "level": "debug",
            "shutdown_seconds": LONG_ENOUGH,
            **sections.get("logging", {}),
        }
        sections.setdefault("monitoring", {"access": "open"})
        sections.setdefault("service", {"name": "test"})
        sections.setdefault("store", {"path": str(tmp_path)})
        # What fails on purpose is not to be told of in lines of its own.
        sections.setdefault("alerts", {"defaults": False})
        # On a busy machine a request may be slow, and say why.
        sections.setdefault("insight", {"enabled": self.with_insight})
        sections.setdefault("workers", {"enabled": self.with_workers})
        options = {
            key: sections.pop(key) for key in ("clock", "wall_clock", "new_id", "registry", "status_clock") if key in sections
        }
        self.obs = Observability(Settings(**sections), tracer_provider=self.provider, **options)

    def start(self) -> None:
        """Start it, and wait until its thread has evaluated once: what changes after that, a test finds itself."""
        self.obs.start()
        until(lambda: self.obs.status.windows.ticks, "first evaluation")

    @property
    def lines(self) -> list[dict[str, Any]]:
        """All lines so far."""
        self.obs.logs.flush()
        if not self.path.exists():
            return []
        # Not `splitlines`, which also splits at characters that JSON need not escape.
        return [json.loads(line) for line in self.path.read_text().split("\n") if line]

    @property
    def access(self) -> list[dict[str, Any]]:
        """The canonical lines so far."""
        return [line for line in self.lines if line.get("logger") == "sage_fastapi_obs.access" and "duration_ms" in line]

    @property
    def spans(self) -> list[ReadableSpan]:
        """All ended spans so far."""
        return list(self.exporter.get_finished_spans())

    @property
    def server_spans(self) -> list[ReadableSpan]:
        """The ended server spans so far."""
        return [span for span in self.spans if span.kind is SpanKind.SERVER]

    def value(self, name: str, **labels: str) -> float | None:
        """Read one sample of the registry; None when there is no such series."""
        return self.obs.registry.get_sample_value(name, labels)

    def series(self, name: str) -> dict[tuple[tuple[str, str], ...], float]:
        """Read all samples of one name, by their labels."""
        return samples(self.obs.registry, name)


def samples(registry: CollectorRegistry, name: str) -> dict[tuple[tuple[str, str], ...], float]:
    """Read all samples of one name in a registry, by their sorted labels."""
    return {
        tuple(sorted(sample.labels.items())): sample.value
        for metric in registry.collect()
        for sample in metric.samples
        if sample.name == name
    }


@asynccontextmanager
async def client(app: Any, *, raise_app_exceptions: bool = False, **options: Any):
    """Open an in-process client for an ASGI app."""
    transport = httpx.ASGITransport(app, raise_app_exceptions=raise_app_exceptions)
    async with httpx.AsyncClient(transport=transport, base_url="http://testserver", **options) as opened:
        yield opened


def http_scope(path: str = "/", method: str = "GET", headers: Any = (), **more: Any) -> dict[str, Any]:
    """Build a plain HTTP scope."""
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode("utf-8", "replace"),
        "query_string": b"",
        "root_path": "",
        "headers": list(headers),
        "client": ("127.0.0.1", 40000),
        "server": ("testserver", 80),
        "state": {},
        **more,
    }


async def drive(app: Any, scope: dict[str, Any], incoming: Any = ({"type": "http.request", "body": b""},)) -> "Driven":
    """Call an ASGI app once with scripted messages; after them the client has gone. Returns what came out."""
    messages = iter(incoming)
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return next(messages, {"type": "http.disconnect"} if scope["type"] == "http" else {"type": "websocket.disconnect"})

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    error: BaseException | None = None
    try:
        await app(scope, receive, send)
    except BaseException as raised:
        error = raised
    return Driven(sent, error)


class Driven:
    """What an ASGI app sent, and what it raised."""

    def __init__(self, sent: list[dict[str, Any]], error: BaseException | None) -> None:
        self.sent = sent
        self.error = error

    @property
    def headers(self) -> dict[bytes, bytes]:
        """The response headers."""
        start = next(message for message in self.sent if message["type"].endswith("start"))
        return dict(start["headers"])


class Ticking:
    """A clock in nanoseconds that advances by a fixed step at each reading."""

    def __init__(self, step_ns: int = 1_000_000, start_ns: int = 0) -> None:
        self.now_ns = start_ns
        self._step_ns = step_ns

    def __call__(self) -> int:
        self.now_ns += self._step_ns
        return self.now_ns


def counting_ids() -> Callable[[], str]:
    """Return a factory of ids `id-1`, `id-2` and so on."""
    made = 0

    def new_id() -> str:
        nonlocal made
        made += 1
        return f"id-{made}"

    return new_id


@contextmanager
def no_threads() -> Iterator[None]:
    """Let no thread be started, as in a container at its limit: none gets the memory that it would need."""
    threading.stack_size(TOO_LARGE)
    try:
        yield
    finally:
        threading.stack_size(0)

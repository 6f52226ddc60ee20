"""The example service on a real socket, and all that it tells of itself: lines, metrics and spans."""

import asyncio
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

import httpx
import pytest
import uvicorn
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from prometheus_client.parser import text_string_to_metric_families
from receivers import SpanCollector, serving

from example_app.app import create_app
from example_app.sage.agent import Agent
from example_app.sage.did import Chain
from example_app.sage.keys import KeyType
from example_app.sage.resolver import Resolver

ROOT = Path(__file__).parents[2]


class Clock:
    """The real time, unless it is moved."""

    ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


class Example:
    """A running example service."""

    def __init__(self, url: str, log: Path, collector: SpanCollector) -> None:
        self.url = url
        self.clock = Clock()
        self._log = log
        self._collector = collector
        self.client = httpx.AsyncClient(base_url=url, timeout=10.0, trust_env=False)
        self.registry = httpx.AsyncClient(base_url=f"{url}/registry", timeout=10.0, trust_env=False)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.client.aclose()
        await self.registry.aclose()

    async def agent(self, chain: Chain = "solana", key_type: KeyType = "ed25519", **options: Any) -> Agent:
        """Make an agent that the registry knows."""
        agent = Agent(Resolver(self.registry), chain=chain, key_type=key_type, clock=self.clock, **options)
        answer = await self.client.post("/did/transactions", json=agent.transaction("register").model_dump())
        assert answer.status_code == 201
        return agent

    async def server_did(self) -> str:
        """Ask who answers."""
        did: str = (await self.client.get("/agent")).raise_for_status().json()["did"]
        return did

    async def metrics(self) -> Callable[..., float]:
        """Scrape; returns a function that reads a sample, or the sum of those with the labels that are given."""
        text = (await self.client.get("/metrics")).text
        samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]

        def value(name: str, **labels: str) -> float:
            return sum(each.value for each in samples if each.name == name and labels.items() <= each.labels.items())

        return value

    def lines(self, **fields: Any) -> list[dict[str, Any]]:
        """Read the log lines that have these fields; a field of `data` counts like one of the line's own."""
        lines = map(json.loads, self._log.read_text().splitlines())
        return [line for line in lines if fields.items() <= {**line.get("data", {}), **line}.items()]

    def all_spans(self) -> list[Any]:
        """List all spans, once the service has stopped."""
        spans: list[Any] = self._collector.spans()
        return spans

    def spans(self, name: str) -> list[Any]:
        """Find the spans of a name, once the service has stopped."""
        return [span for span in self._collector.spans() if span.name == name]

    def parents(self, span: Any) -> list[str]:
        """Name the spans around a span, the nearest first."""
        by_id = {each.span_id: each for each in self._collector.spans() if each.trace_id == span.trace_id}
        names = []
        while (span := by_id.get(span.parent_span_id)) is not None:
            names.append(span.name)
        return names


def attributes(having: Any) -> dict[str, Any]:
    """Read the attributes of a span or an event."""

    def read(pair: KeyValue) -> Any:
        return getattr(pair.value, pair.value.WhichOneof("value"))

    return {pair.key: read(pair) for pair in having.attributes}


def events(span: Any) -> dict[str, dict[str, Any]]:
    """Read the events of a span, by name."""
    return {event.name: attributes(event) for event in span.events}


class Server(uvicorn.Server):
    """Says when it is there."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.is_there = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.is_there.set()


def environment(url: str, log: Path, collector: SpanCollector, env: dict[str, str]) -> dict[str, str]:
    """Say where the example is, and where it tells what."""
    return {
        "EXAMPLE_URL": url,
        "SERVICE_NAME": "example",
        "SAGE_OBS_LOGGING__OUTPUT": str(log),
        "SAGE_OBS_LOGGING__FORMAT": "json",
        "SAGE_OBS_LOGGING__LEVEL": "debug",
        "SAGE_OBS_TRACING__OTLP_ENDPOINT": f"{collector.url}/v1/traces",
        **env,
    }


@pytest.fixture
def serve_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Return what serves the example for the length of a block, in a thread, with a clock that can be moved."""

    @asynccontextmanager
    async def serve(**env: str) -> AsyncIterator[Example]:
        with serving(SpanCollector()) as collector, socket.socket() as listening:
            listening.bind(("127.0.0.1", 0))
            listening.listen(100)
            url = f"http://127.0.0.1:{listening.getsockname()[1]}"
            log = tmp_path / "lines.jsonl"
            for name, value in environment(url, log, collector, env).items():
                monkeypatch.setenv(name, value)
            async with Example(url, log, collector) as example:
                server = Server(uvicorn.Config(create_app(example.clock), log_level="warning", ws="none"))
                thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
                thread.start()
                try:
                    assert await asyncio.to_thread(server.is_there.wait, 30)
                    yield example
                finally:
                    server.should_exit = True
                    await asyncio.to_thread(thread.join)

    return serve


@pytest.fixture
def run_example(tmp_path: Path) -> Callable[..., Any]:
    """Return what runs the example in a process of its own, so that whatever it tells is its own; to be read afterwards too."""

    @asynccontextmanager
    async def run(**env: str) -> AsyncIterator[Example]:
        with serving(SpanCollector()) as collector, socket.socket() as listening:
            listening.bind(("127.0.0.1", 0))
            listening.listen(100)
            url = f"http://127.0.0.1:{listening.getsockname()[1]}"
            log = tmp_path / "lines.jsonl"
            command = [sys.executable, "-m", "uvicorn", "--factory", "example_app.app:create_app"]
            command += ["--fd", str(listening.fileno()), "--log-level", "warning"]
            process = await asyncio.create_subprocess_exec(
                *command,
                env={**os.environ, **environment(url, log, collector, env)},
                pass_fds=(listening.fileno(),),
                stderr=asyncio.subprocess.PIPE,
                cwd=ROOT,
            )
            async with Example(url, log, collector) as example:
                try:
                    # The socket listens already: whoever asks waits until somebody answers.
                    (await example.client.get("/monitoring/health/live", timeout=30)).raise_for_status()
                    yield example
                finally:
                    process.terminate()
                    _, said = await asyncio.wait_for(process.communicate(), 30)
            # uvicorn ends by the signal that it was stopped with.
            assert (process.returncode in (0, -signal.SIGTERM), said) == (True, b""), said.decode()

    return run

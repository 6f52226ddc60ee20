"""The example service on a real socket, and all that it tells of itself: lines, metrics and spans."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import httpx
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from prometheus_client.parser import text_string_to_metric_families
from receivers import SpanCollector
from support import NO_KEEP_ALIVE, PATIENCE_SECONDS

from example_app.sage.agent import Agent
from example_app.sage.did import Chain
from example_app.sage.keys import KeyType
from example_app.sage.resolver import Resolver


class Clock:
    """The real time, unless it is moved."""

    ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


async def without_trace(request: httpx.Request) -> None:
    """Begin a trace with each request: agents on our side may be watched by what other tests have started."""
    request.headers.pop("traceparent", None)


class Example:
    """A running example service."""

    def __init__(self, url: str, log: Path, collector: SpanCollector) -> None:
        self.url = url
        self.clock = Clock()
        self._log = log
        self._collector = collector
        options: dict[str, Any] = {
            "timeout": PATIENCE_SECONDS,
            "limits": NO_KEEP_ALIVE,
            "trust_env": False,
            "event_hooks": {"request": [without_trace]},
        }
        self.client = httpx.AsyncClient(base_url=url, **options)
        self.registry = httpx.AsyncClient(base_url=f"{url}/registry", **options)

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

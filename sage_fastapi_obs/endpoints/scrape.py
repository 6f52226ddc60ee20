"""The text of `/metrics`: rendered off the event loop, one rendering at a time, shared by those who wait for it."""

import gzip
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import anyio.to_thread
from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.exposition import choose_encoder
from starlette.requests import Request
from starlette.responses import Response

__all__ = ["Scrape"]


class _Collects(Protocol):
    def collect(self) -> Iterable[Metric]: ...


@dataclass(frozen=True, slots=True)
class _Rendered:
    content: bytes
    content_type: str
    finished_at: float


class Scrape:
    """Renders one registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._lock = threading.Lock()
        self._last: dict[tuple[str, tuple[str, ...], bool], _Rendered] = {}

    async def response(self, request: Request) -> Response:
        """Answer a scrape: text or OpenMetrics by `Accept`, gzip by `Accept-Encoding`, families by `name[]`."""
        accept = request.headers.get("accept", "")
        names = tuple(sorted(set(request.query_params.getlist("name[]"))))
        zipped = "gzip" in request.headers.get("accept-encoding", "").lower()
        rendered = await anyio.to_thread.run_sync(self._render, accept, names, zipped, time.monotonic())
        headers = {"Content-Type": rendered.content_type, "Vary": "Accept, Accept-Encoding", "Cache-Control": "no-store"}
        if zipped:
            headers["Content-Encoding"] = "gzip"
        return Response(rendered.content, headers=headers)

    def _render(self, accept: str, names: tuple[str, ...], zipped: bool, asked_at: float) -> _Rendered:
        encode, content_type = choose_encoder(accept)
        key = (content_type, names, zipped)
        with self._lock:
            last = self._last.get(key)
            if last is not None and last.finished_at >= asked_at:
                # Finished while we waited for our turn: as fresh as one of our own.
                return last
            registry = self._registry.restricted_registry(names) if names else self._registry
            content = encode(_WithoutCreated(registry))
            rendered = _Rendered(gzip.compress(content, 1) if zipped else content, content_type, time.monotonic())
            # One remembered rendering: scrapers that wait ask for the same, and memory stays bounded.
            self._last = {key: rendered}
            return rendered


class _WithoutCreated:
    """Leaves out `_created` samples, which double the series and which the client library can only switch off globally."""

    def __init__(self, registry: _Collects) -> None:
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        for metric in self._registry.collect():
            if metric.type in ("counter", "histogram", "summary"):
                metric.samples = [sample for sample in metric.samples if not sample.name.endswith("_created")]
            yield metric

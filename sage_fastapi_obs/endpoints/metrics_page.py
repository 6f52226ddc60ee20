"""`/metrics`: written off the event loop, one page at a time, shared by those who wait for it, and sent in pieces."""

import threading
import time
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import cast

from anyio.lowlevel import checkpoint
from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.exposition import choose_encoder
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from sage_fastapi_obs.catalog import SCRAPE_METRICS, build
from sage_fastapi_obs.endpoints.background_worker import GilPacer, OneAtATime
from sage_fastapi_obs.endpoints.json_page import MOST_QUERY_BYTES
from sage_fastapi_obs.internal_errors import InternalErrors
from sage_fastapi_obs.metrics.exposition.encoder import Encode
from sage_fastapi_obs.metrics.exposition.page import Exposition, names_beginning
from sage_fastapi_obs.settings import MetricsSettings

__all__ = ["MetricsPage", "parts"]

LEGACY_VIEWS = {"sessions": "sage_session", "handshakes": "sage_handshake", "crypto": "sage_crypto"}
"""Parts of `/metrics` by which scrapers used to know SAGE, and how the names there begin."""

MOST_FORMATS = 2
"""How many formats are remembered: that of Prometheus, and that of a person."""
MOST_WAITING = 32


@dataclass(frozen=True, slots=True)
class _Page:
    pieces: list[bytes]
    content_type: str
    begun_at: float


class MetricsPage:
    """Answers scrapes of one registry."""

    def __init__(self, registry: CollectorRegistry, faults: InternalErrors, *, measured: bool = True) -> None:
        """`measured`: register the metrics of the scrape itself, too."""
        self._registry = registry
        self._faults = faults
        self._own = cast("dict[str, Gauge]", build(SCRAPE_METRICS, registry) if measured else {})
        self._lock = threading.Lock()
        self._expositions: dict[str, Exposition] = {}
        self._last: dict[tuple[str, tuple[str, ...], bool], _Page] = {}
        self._turns = OneAtATime()

    async def response(self, request: Request, start: str = "") -> Response:
        """Answer a scrape: text or OpenMetrics by `Accept`, gzip by `Accept-Encoding`, families by `name[]`.

        `start`: only those whose names begin so.
        """
        if len(request.scope.get("query_string", b"")) > MOST_QUERY_BYTES:
            return PlainTextResponse("too many name[]\n", 414)
        if self._turns.waiting >= MOST_WAITING:
            return PlainTextResponse("too many scrapes are waiting\n", 503, {"Retry-After": "15"})
        accept = request.headers.get("accept", "")
        names = tuple(sorted(set(request.query_params.getlist("name[]"))))
        if start:
            # Without a name, the page would be whole; nothing is called by a beginning alone.
            found = names_beginning(self._registry, start)
            names = tuple(sorted(set(names or found).intersection(found))) or (start,)
        zipped = "gzip" in request.headers.get("accept-encoding", "").lower()
        page = await self._turns.run(partial(self._page, accept, names, zipped, time.monotonic()))
        headers = {"Content-Type": page.content_type, "Vary": "Accept, Accept-Encoding", "Cache-Control": "no-store"}
        if zipped:
            headers["Content-Encoding"] = "gzip"
        return _InPieces(page.pieces, headers)

    def _page(self, accept: str, names: tuple[str, ...], zipped: bool, asked_at: float, pace: GilPacer) -> _Page:
        encode, content_type = _format(accept)
        key = (content_type, names, zipped)
        # Another loop may be scraping, too: that of the metrics port.
        with self._lock:
            last = self._last.get(key)
            if last is not None and last.begun_at >= asked_at:
                # Begun while we waited for our turn: it tells all that ours would.
                return last
            begun_at = time.monotonic()
            pieces = list(self._exposition(encode, content_type, names).pieces(pace))
            size = sum(map(len, pieces))
            page = _Page(list(_gzipped(pieces, pace)) if zipped else pieces, content_type, begun_at)
            # One remembered page: scrapers that wait ask for the same, and memory stays bounded.
            self._last = {key: page}
            self._measure(time.monotonic() - begun_at, size)
            return page

    def _exposition(self, encode: Encode, content_type: str, names: tuple[str, ...]) -> Exposition:
        if names:
            # Anybody can ask for some names, and nothing is remembered for it.
            return Exposition(encode, self._registry, self._faults, names)
        known = self._expositions.pop(content_type, None) or Exposition(encode, self._registry, self._faults)
        self._expositions[content_type] = known
        if len(self._expositions) > MOST_FORMATS:
            del self._expositions[next(iter(self._expositions))]
        return known

    def _measure(self, duration_seconds: float, size_bytes: int) -> None:
        if self._own:
            self._own["observability_scrape_duration_seconds"].set(duration_seconds)
            self._own["observability_scrape_size_bytes"].set(size_bytes)


def parts(settings: MetricsSettings) -> dict[str, str]:
    """List the paths of parts of the page that are served, and how the names on each begin."""
    views = LEGACY_VIEWS if settings.legacy_views else {}
    return {f"{settings.path}/{part}": start for part, start in views.items()}


class _InPieces(Response):
    """A response that lets others in between the pieces of its body."""

    def __init__(self, pieces: list[bytes], headers: dict[str, str]) -> None:
        super().__init__(headers={**headers, "Content-Length": str(sum(map(len, pieces)))})
        self._pieces = pieces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - the signature is ASGI's
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        *first, last = self._pieces
        for piece in first:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
            # A server that can write at once does not let anybody in.
            await checkpoint()
        await send({"type": "http.response.body", "body": last})


def _format(accept: str) -> tuple[Encode, str]:
    try:
        return choose_encoder(accept)
    except Exception:
        # The library reads versions that are no numbers, and fails over them.
        return choose_encoder("")


def _gzipped(pieces: Iterable[bytes], pace: GilPacer) -> Iterator[bytes]:
    gzip = zlib.compressobj(1, wbits=zlib.MAX_WBITS | 16)
    for piece in pieces:
        yield pace.rest(partial(gzip.compress, piece))
    yield gzip.flush()

"""`/metrics`: the page is written in a worker thread, one at a time; scrapes that come meanwhile share the next one."""

import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
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
from sage_fastapi_obs.metrics.exposition.exposition import Exposition, Pause, exposition_of
from sage_fastapi_obs.metrics.exposition.library_exposition import Encode
from sage_fastapi_obs.metrics.exposition.prometheus_internals import names_beginning
from sage_fastapi_obs.processes import at_fork, hold_at_fork
from sage_fastapi_obs.settings import MetricsSettings

_LEGACY_VIEWS = {"sessions": "sage_session", "handshakes": "sage_handshake", "crypto": "sage_crypto"}
"""Older paths of parts of the page, and how the names of their metrics begin."""

MOST_FORMATS = 2
"""How many formats are remembered: that of Prometheus, and that of a browser."""
MOST_WAITING = 32


@dataclass(frozen=True, slots=True)
class _Page:
    """A written page."""

    pieces: list[bytes]
    content_type: str
    started_at: float


class MetricsPage:
    """Answers scrapes of one registry."""

    def __init__(self, registry: CollectorRegistry, internal_errors: InternalErrors, *, measured: bool = True) -> None:
        """`measured`: register the metrics of scrapes, too."""
        self._registry = registry
        self.all_workers: Callable[[Pause], CollectorRegistry] = lambda _: registry
        """Returns the registry that is shown, with the newest numbers; the pause is called after each small portion of work."""
        self._internal_errors = internal_errors
        self._own = cast("dict[str, Gauge]", build(SCRAPE_METRICS, registry) if measured else {})
        self._one_at_a_time = OneAtATime()
        self._reading = threading.RLock()
        # Metrics have locks of their own, which a page takes: a child that is forked meanwhile could never read them.
        hold_at_fork(self._reading, rank=2)
        at_fork(in_child=self.restart)
        self.restart()

    def restart(self) -> None:
        """Forget the page that another process was writing."""
        self._lock = threading.Lock()
        self._shown = self._registry
        self._expositions: dict[str, Exposition] = {}
        self._last: dict[tuple[str, tuple[str, ...], bool], _Page] = {}

    @property
    def waiting(self) -> int:
        """How many scrapes wait for the one that is made."""
        return self._one_at_a_time.waiting

    async def response(self, request: Request, start: str = "") -> Response:
        """Answer a scrape: text or OpenMetrics by `Accept`, gzip by `Accept-Encoding`, families by `name[]`.

        `start`: only those whose names begin so.
        """
        if len(request.scope.get("query_string", b"")) > MOST_QUERY_BYTES:
            return PlainTextResponse("too many name[]\n", 414)
        if self.waiting >= MOST_WAITING:
            return PlainTextResponse("too many scrapes are waiting\n", 503, {"Retry-After": "15"})
        accept = request.headers.get("accept", "")
        names = tuple(sorted(set(request.query_params.getlist("name[]"))))
        if start:
            # Without any name the page would be whole, so that the beginning, which is the name of nothing, stands for none.
            found = names_beginning(self._shown, start)
            names = tuple(sorted(set(names or found).intersection(found))) or (start,)
        zipped = "gzip" in request.headers.get("accept-encoding", "").lower()
        page = await self._one_at_a_time.run(partial(self._page, accept, names, zipped, time.monotonic()))
        headers = {"Content-Type": page.content_type, "Vary": "Accept, Accept-Encoding", "Cache-Control": "no-store"}
        if zipped:
            headers["Content-Encoding"] = "gzip"
        return _InPieces(page.pieces, headers)

    def _page(self, accept: str, names: tuple[str, ...], zipped: bool, asked_at: float, pace: GilPacer) -> _Page:
        encode, content_type = _format(accept)
        key = (content_type, names, zipped)
        # The metrics port has an event loop of its own.
        with self._lock, pace.holding(self._reading):
            last = self._last.get(key)
            if last is not None and last.started_at >= asked_at:
                # A second scrape shares a page that was started after it had asked: that page is new enough.
                return last
            started_at = time.monotonic()
            self._show(self.all_workers(pace))
            pieces = list(self._exposition(encode, content_type, names).pieces(pace))
            size = sum(map(len, pieces))
            page = _Page(list(_gzipped(pieces, pace)) if zipped else pieces, content_type, started_at)
            # One page is kept, which bounds memory: waiting scrapers nearly always ask for the same.
            self._last = {key: page}
            self._measure(time.monotonic() - started_at, size)
            return page

    def _show(self, registry: CollectorRegistry) -> None:
        if registry is not self._shown:
            self._shown, self._expositions = registry, {}

    def _exposition(self, encode: Encode, content_type: str, names: tuple[str, ...]) -> Exposition:
        if names:
            return exposition_of(encode, self._shown, self._internal_errors, frozenset(names))
        known = self._expositions.pop(content_type, None) or exposition_of(encode, self._shown, self._internal_errors)
        self._expositions[content_type] = known
        if len(self._expositions) > MOST_FORMATS:
            del self._expositions[next(iter(self._expositions))]
        return known

    def _measure(self, duration_seconds: float, size_bytes: int) -> None:
        if self._own:
            self._own["observability_scrape_duration_seconds"].set(duration_seconds)
            self._own["observability_scrape_size_bytes"].set(size_bytes)


def parts(settings: MetricsSettings) -> dict[str, str]:
    """Return the older paths that are served, each with the beginning of its metrics' names."""
    views = _LEGACY_VIEWS if settings.legacy_views else {}
    return {f"{settings.path}/{part}": start for part, start in views.items()}


class _InPieces(Response):
    """A response that lets other tasks run between the pieces of its body."""

    def __init__(self, pieces: list[bytes], headers: dict[str, str]) -> None:
        super().__init__(headers={**headers, "Content-Length": str(sum(map(len, pieces)))})
        self._pieces = pieces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - the signature is ASGI's
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        *first, last = self._pieces
        for piece in first:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
            # A server that can write at once does not yield by itself.
            await checkpoint()
        await send({"type": "http.response.body", "body": last})


def _format(accept: str) -> tuple[Encode, str]:
    try:
        return choose_encoder(accept)
    except Exception:
        # The library fails for versions in `Accept` that are no numbers.
        return choose_encoder("")


def _gzipped(pieces: Iterable[bytes], pace: GilPacer) -> Iterator[bytes]:
    gzip = zlib.compressobj(1, wbits=zlib.MAX_WBITS | 16)
    for piece in pieces:
        yield pace.rest(partial(gzip.compress, piece))
    yield gzip.flush()

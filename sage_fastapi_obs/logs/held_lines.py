"""The flight recorder: lines below the level wait for the end of their request, and are written when it went wrong."""

import threading
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator

from sage_fastapi_obs.catalog import HELD_LINES, CountCollector
from sage_fastapi_obs.logs.line_format import LONGEST_BYTES
from sage_fastapi_obs.request.exchange import Exchange
from sage_fastapi_obs.request.recorder import Recorder
from sage_fastapi_obs.settings import LoggingSettings

OVERHEAD_BYTES = 100
"""What holding a line takes beside its text."""
REQUEST_BYTES = LONGEST_BYTES + OVERHEAD_BYTES
"""Most that one request holds; any single line fits."""


class _RequestLines:
    """What one request holds; the oldest line goes first."""

    __slots__ = ("dropped", "lines", "size")

    def __init__(self) -> None:
        self.lines: deque[bytes] = deque()
        self.size = 0
        self.dropped = 0


class HeldLines(Recorder):
    """Holds lines of requests that are under way; bounded for each of them, and for all together."""

    component = "Flight"

    def __init__(self, settings: LoggingSettings) -> None:
        self.counts = {"released": 0, "discarded": 0, "dropped": 0}
        """Lines by what became of them; `dropped` ones found no room."""
        self.size = 0
        """Bytes held now."""
        self._most_lines = settings.flight_lines
        self._most_bytes = settings.flight_bytes
        self._holders: OrderedDict[_RequestLines, None] = OrderedDict()
        """All that hold lines, the one that began first in front."""
        # Reentrant, because a finalizer or a signal handler may log at any point.
        self._lock = threading.RLock()

    @property
    def holders(self) -> int:
        """How many requests hold lines now."""
        return len(self._holders)

    def hold(self, exchange: Exchange, encoded: bytes) -> None:
        """Keep a line until the end of its request; `encoded` is its JSON with its newline."""
        # Without the newline it is a copy: what orjson returns holds on to a buffer of at least 4 KiB.
        line = encoded[:-1]
        with self._lock:
            held = exchange.held_lines
            if held is None:
                held = exchange.held_lines = _RequestLines()
            self._holders[held] = None
            held.lines.append(line)
            self._grow(held, len(line) + OVERHEAD_BYTES)
            while len(held.lines) > self._most_lines or held.size > REQUEST_BYTES:
                self._drop_oldest(held)
            while self.size > self._most_bytes:
                self._drop_oldest(next(iter(self._holders)))

    def release_or_drop(self, exchange: Exchange, *, release: bool) -> tuple[Iterable[bytes], int]:
        """Take the lines of a request whose outcome is known; return those to write, and how many are missing."""
        with self._lock:
            held: _RequestLines = exchange.held_lines
            exchange.held_lines = None
            self._holders.pop(held, None)
            self.size -= held.size
            if release:
                self.counts["released"] += len(held.lines)
                return held.lines, held.dropped
            self.counts["discarded"] += len(held.lines)
            return (), held.dropped + len(held.lines)

    def app_returned(self, exchange: Exchange) -> None:
        """Let go what was logged after the last byte, where nothing came of it."""
        if exchange.held_lines is not None:
            self.release_or_drop(exchange, release=False)

    def _grow(self, held: _RequestLines, size: int) -> None:
        held.size += size
        self.size += size

    def _drop_oldest(self, held: _RequestLines) -> None:
        self._grow(held, -len(held.lines.popleft()) - OVERHEAD_BYTES)
        held.dropped += 1
        self.counts["dropped"] += 1
        if not held.lines:
            del self._holders[held]


class HeldLineCounts(CountCollector):
    """Shows what became of held lines."""

    component = "FlightCounts"

    metric = HELD_LINES

    def __init__(self, flight: HeldLines) -> None:
        self._flight = flight

    def counted(self) -> Iterator[tuple[tuple[str], int]]:
        """Return the counts."""
        return (((outcome,), count) for outcome, count in self._flight.counts.items())

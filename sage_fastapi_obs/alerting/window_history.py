"""Keeps windows and alerts in the store: they go on in the next process, and in each worker that joins."""

import json
import math
import zlib
from array import array
from collections.abc import Callable, Iterator, Mapping

from sage_fastapi_obs.alerting.window_store import MetricHistory, Tick, compress, decompress
from sage_fastapi_obs.alerting.windows import Windows
from sage_fastapi_obs.metrics.registry_reader import Reading
from sage_fastapi_obs.store.history import History, HistoryRows, SeriesRow, TickRow, content_bytes

_BYTES_PER_SECOND = 20_000
"""Written at most, on average; with very many series ticks are stored less often."""
_HEAD_BYTES = 4
_NS = 1_000_000_000
_Damage = (ValueError, TypeError, KeyError, OverflowError, RecursionError, zlib.error)


class WindowHistory:
    """The windows of one service, and what is stored of them."""

    def __init__(
        self,
        stored: History,
        windows: Windows,
        *,
        damaged: Callable[[Exception], None],
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
    ) -> None:
        """`damaged`: is called for each row that cannot be read. `clock`: monotonic seconds. `wall_clock`: Unix time."""
        self._stored = stored
        self._windows = windows
        self._damaged = damaged
        self._clock = clock
        self._wall_clock = wall_clock
        self._is_restored = self._writes = False
        self._last_row = 0
        self._known: dict[str, tuple[MetricHistory, int, int]] = {}
        """By metric, what is stored of its series: which history, how many, and after how many resets."""
        self._next_write = -math.inf

    def restore(self, run: str, *, leads: bool) -> tuple[float, bytes] | None:
        """Let the windows go on from what is stored, if that has not been done.

        `run`: names the counters that are read here. `leads`: this process judges rules, and writes from now on if no other
        does; one that does not takes over only what is of the same counters. Returns the states of alerts with the seconds
        by which the time that they go by is later now, once, to the one that writes. Raises `sqlite3.Error` and `OSError`.
        """
        if self._writes and not leads:
            # Another has taken the place of this one, and is to write.
            self.close()
        if self._writes or (self._is_restored and not leads) or (leads and not self._stored.acquire(run)):
            return None
        found = self._stored.read(None if leads else run)
        if found is None and not leads:
            return None
        is_same_run = found is not None and found.run == run
        if found is not None and found.process == self._stored.process and not is_same_run:
            # Of another `Observability` in this process: nothing has ended, two do not meet.
            found = None
        is_restored = found is not None and self._go_on_from(found, same_counters=is_same_run)
        self._is_restored = self._is_restored or is_restored
        if not leads:
            return None
        self._stored.begin(run, found if is_restored else None)
        self._writes = True
        if found is None or not found.states:
            # One that was killed before its first evaluation has none.
            return None
        return 0.0 if is_restored else self._windows.watched_seconds - found.watched, found.states

    def write(self, states: bytes, *, is_last: bool = False) -> None:
        """Store what has changed, if it is time to. Raises `sqlite3.Error` and `OSError`."""
        now = self._clock()
        if not self._writes or (now < self._next_write and not is_last):
            return
        series = [*self._changed_series()]
        ticks = [tick for tick in self._windows.ticks if not tick.is_stored]
        rows = [self._row(tick) for tick in ticks]
        kept = [tick.row for tick in self._windows.ticks]
        if not self._stored.write(self._windows.watched_seconds, states, series, rows, kept):
            self.close()
            return
        for tick in ticks:
            tick.is_stored = True
        self._known = {name: _state(history) for name, history in self._windows.histories.items()}
        self._next_write = now + content_bytes(series, rows) / _BYTES_PER_SECOND

    def write_states(self, states: bytes) -> None:
        """Store the states of alerts at once. Raises `sqlite3.Error` and `OSError`."""
        if self._writes and not self._stored.write_states(self._windows.watched_seconds, states):
            self.close()

    def close(self) -> None:
        """Let another process write."""
        self._forget()
        self._stored.release()

    def _forget(self) -> None:
        """Take nothing for stored any more: the file is another, or is about to be another's."""
        self._writes = False
        self._known, self._last_row, self._next_write = {}, 0, -math.inf
        for tick in self._windows.ticks:
            tick.row, tick.is_stored = 0, False

    def _changed_series(self) -> Iterator[SeriesRow]:
        for name, history in self._windows.histories.copy().items():
            if self._known.get(name) != _state(history):
                yield SeriesRow(name, _series_content(history), compress(history.bases()))

    def _row(self, tick: Tick) -> TickRow:
        if not tick.row:
            self._last_row += 1
            tick.row = self._last_row
        return TickRow(tick.row, int(tick.wall * _NS), tick.watched, int(tick.after_pause), _tick_content(tick))

    def _go_on_from(self, found: HistoryRows, *, same_counters: bool) -> bool:
        """Replace the windows; tell whether there was anything to go on from."""
        read = {history.name: (history, series, bases) for history, series, bases in self._read_series(found.series)}
        sizes = {name: (history.width, len(series)) for name, (history, series, _) in read.items()}
        ticks = [*self._read_ticks(found.ticks, sizes)][::-1]
        if not ticks:
            return False
        for name, (history, series, bases) in read.items():
            history.go_on_from(series, decompress(ticks[-1].totals.get(name)), bases)
        self._windows.go_on_from({name: history for name, (history, _, _) in read.items()}, ticks, same_counters=same_counters)
        self._last_row = found.ticks[-1].id
        return True

    def _read_series(self, rows: list[SeriesRow]) -> "Iterator[tuple[MetricHistory, list[tuple[str, ...]], array[float]]]":
        for row in rows:
            try:
                yield _series_of(row)
            except _Damage as error:
                self._damaged(error)

    def _read_ticks(self, rows: list[TickRow], sizes: Mapping[str, tuple[int, int]]) -> Iterator[Tick]:
        """Yield the newest first. The clock of the system may have been set: none is later than the one that follows it."""
        at, wall = self._clock(), self._wall_clock()
        for row in reversed(rows):
            try:
                age_seconds = wall - row.at_ns / _NS
                totals, extremes = _blobs(row.content, sizes)
                at = min(at, self._clock() - age_seconds)
                yield Tick(at, row.at_ns / _NS, float(row.watched), bool(row.after_pause), totals, extremes, row.id, True)
            except _Damage as error:
                self._damaged(error)


def _state(history: MetricHistory) -> tuple[MetricHistory, int, int]:
    return history, len(history.rows), history.resets


def _series_content(history: MetricHistory) -> bytes:
    return zlib.compress(json.dumps([history.kind, history.labels, history.bounds, [*history.rows]]).encode(), 1)


def _series_of(row: SeriesRow) -> "tuple[MetricHistory, list[tuple[str, ...]], array[float]]":
    kind, labels, bounds, found = json.loads(zlib.decompress(row.content))
    series = [tuple(map(str, one)) for one in found]
    if kind not in ("counter", "gauge", "histogram") or len({*map(len, series), len(labels)}) != 1:
        raise ValueError(f"the series of {row.metric} are damaged")
    history = MetricHistory(Reading(str(row.metric), kind, tuple(labels), tuple(map(float, bounds)), ()))
    bases = decompress(row.bases)
    if len(bases) not in (0, len(series) * history.width):
        raise ValueError(f"the numbers of {row.metric} are damaged")
    return history, series, bases


def _tick_content(tick: Tick) -> bytes:
    """Write a tick: the length of the head, the head, and the numbers of all metrics as they are compressed already."""
    parts = [(name, totals, tick.extremes.get(name, b"")) for name, totals in tick.totals.items()]
    head = json.dumps([(name, len(totals), len(extremes)) for name, totals, extremes in parts]).encode()
    blobs = (blob for _, *both in parts for blob in both)
    return b"".join((len(head).to_bytes(_HEAD_BYTES, "little"), head, *blobs))


def _blobs(content: bytes, sizes: Mapping[str, tuple[int, int]]) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """Read a tick back: totals and extremes of the metrics whose series are known; raises for numbers that are not theirs."""
    start = _HEAD_BYTES + int.from_bytes(content[:_HEAD_BYTES], "little")
    totals, extremes = {}, {}
    for name, length, more in json.loads(content[_HEAD_BYTES:start]):
        middle, end = start + length, start + length + more
        if name in sizes:
            width, series = sizes[name]
            totals[name] = _checked(content[start:middle], width, series)
            if more:
                extremes[name] = _checked(content[middle:end], 2, series)
        start = end
    return totals, extremes


def _checked(blob: bytes, width: int, series: int) -> bytes:
    """Return compressed numbers; raises `ValueError` if they are more than there are series, or cannot be read."""
    most, reader = width * series * 8, zlib.decompressobj()
    numbers = reader.decompress(blob, most + 1)
    if len(numbers) > most or len(numbers) % (width * 8) or not reader.eof:
        raise ValueError("the numbers of a sample are damaged")
    return blob

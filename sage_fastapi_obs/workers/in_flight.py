"""Requests in the slot of a worker: each stands there while it is in flight, and until it is counted in the slot, too.

When the worker is killed, they say what was lost and what was done. A request has one record, the state of which is written
last, so that it is either in flight or done.

    state, done number, series, duration, received, sent, start, bytes of the text | request id, trace id, method, path
"""

from collections import deque
from collections.abc import Iterator
from itertools import count
from typing import NamedTuple

from sage_fastapi_obs.request.exchange import Exchange
from sage_fastapi_obs.request.recorder import Recorder
from sage_fastapi_obs.workers.mapped_file import MappedFile

FREE, IN_FLIGHT, ANSWERING, DONE = range(4)
"""ANSWERING: the server has its last message, and has not returned yet; the status stands above the lowest byte."""
_STATE_BITS = 8
WORDS = 32
_TEXT_WORD = 8
_RECORD_BYTES = WORDS * 8
_TEXT_BYTES = _RECORD_BYTES - _TEXT_WORD * 8
MOST_RECORDS = 1_024
NO_DURATION = (1 << 64) - 1
"""Stands for the duration of a stream, which is timed elsewhere."""
REGION_BYTES = MOST_RECORDS * _RECORD_BYTES


class Record(NamedTuple):
    """What a record says."""

    word: int
    """Its place."""
    state: int
    status: int
    """Of a request that is being answered."""
    number: int
    """Of a request that is done: later ones have higher numbers."""
    series: int
    """The place of the block in which it is counted."""
    duration_us: int | None
    received: int
    sent: int
    started_ns: int
    """Unix time."""
    kind: str
    request_id: str
    trace_id: str
    method: str
    path: str


class RequestRecords:
    """The records of one slot, for the worker that owns it."""

    def __init__(self, file: MappedFile, start: int, beyond: int, last_number: int) -> None:
        """`start`: of the first record, in bytes. `beyond`: word that counts requests in flight without a record."""
        self._file = file
        self._beyond = beyond
        self.numbers = file.numbers
        self._bytes = file.bytes
        first = start // 8
        self._free = deque(range(first, first + MOST_RECORDS * WORDS, WORDS))
        self.next_number = count(last_number + 1).__next__

    def start(self, exchange: Exchange) -> int:
        """Write that a request is in flight; return the place of its record, 0 where there is no room."""
        try:
            word = self._free.pop()
        except IndexError:
            self.numbers[self._beyond] += 1
            return 0
        text = f"{exchange.kind}\0{exchange.request_id}\0{exchange.trace_id}\0{exchange.method}\0{exchange.path}".encode(
            "utf-8", "replace"
        )[:_TEXT_BYTES]
        numbers, length = self.numbers, len(text)
        at = (word + _TEXT_WORD) * 8
        self._bytes[at : at + length] = text
        numbers[word + 6] = exchange.wall_ns
        numbers[word + 7] = length
        numbers[word] = IN_FLIGHT
        return word

    def done(self, word: int, series: int, duration_us: int | None, received: int, sent: int) -> int:
        """Write that a request is done; return its number."""
        numbers = self.numbers
        number = self.next_number()
        numbers[word + 1], numbers[word + 2] = number, series
        numbers[word + 3] = NO_DURATION if duration_us is None else duration_us
        numbers[word + 4], numbers[word + 5] = received, sent
        numbers[word] = DONE
        return number

    def free(self, word: int) -> None:
        """Forget a request."""
        if word:
            self.numbers[word] = FREE
            self._free.append(word)
        elif self.numbers[self._beyond]:
            self.numbers[self._beyond] -= 1


def read_records(file: MappedFile, start: int) -> Iterator[Record]:
    """Yield the records of a slot that are not free."""
    first = start // 8
    for word in range(first, first + MOST_RECORDS * WORDS, WORDS):
        if state := file.numbers[word]:
            yield _record(file, word, state)


def _record(file: MappedFile, word: int, state: int) -> Record:
    number, series, duration, received, sent, started, length = file.numbers[word + 1 : word + _TEXT_WORD]
    at = (word + _TEXT_WORD) * 8
    text = bytes(file.bytes[at : at + min(length, _TEXT_BYTES)]).decode("utf-8", "replace")
    kind, request_id, trace_id, method, path = (*text.split("\0", 4), "", "", "", "", "")[:5]
    return Record(
        *(word, state & 0xFF, state >> _STATE_BITS, number, series),
        *(None if duration == NO_DURATION else duration, received, sent, started),
        *(kind, request_id, trace_id, method, path),
    )


class InFlight(Recorder):
    """Writes each request into the slot when it starts, and frees it at its end unless it is still to be counted."""

    component = "InFlight"

    def __init__(self) -> None:
        self.records: RequestRecords | None = None
        """Those of this process, while it has a slot."""

    def request_started(self, exchange: Exchange) -> None:
        """Write that it is in flight."""
        if self.records is not None:
            exchange.record = self.records.start(exchange)

    def request_finished(self, exchange: Exchange) -> None:
        """Free its place."""
        record, records = exchange.record, self.records
        if record is not None and records is not None:
            exchange.record = None
            records.free(record)

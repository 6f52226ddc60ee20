"""Requests in the slot of a worker: each stands there while it is in flight, and until it is counted in the slot, too.

When the worker is killed, they say what was lost and what was done. A request has one record, the state of which is written
last, so that it is either in flight or done.

    state | done number, series, duration, received, sent | start, text: kind, request id, trace id, method, path
"""

from collections import deque
from collections.abc import Callable, Iterator
from itertools import count
from struct import Struct
from typing import NamedTuple

from sage_fastapi_obs.request.exchange import Exchange
from sage_fastapi_obs.request.recorder import Recorder

FREE, IN_FLIGHT, STREAMING, ANSWERING, DONE = range(5)
"""STREAMING: a part of its body is sent. ANSWERING: the server has its last message, and has not returned yet; the status
stands above the lowest byte."""
_STATE_BITS = 8
WORDS = 32
_RECORD_BYTES = WORDS * 8
_NUMBERS, _BEGINNING = Struct("5Q"), Struct(f"Q{_RECORD_BYTES - 7 * 8}s")
"""What is written of a request at its end, and at its start; the text is cut, or filled up with zeros."""
_NUMBERS_AT, _BEGINNING_AT = 8, 6 * 8
_write_numbers, _write_beginning = _NUMBERS.pack_into, _BEGINNING.pack_into
MOST_RECORDS = 1_024
NO_DURATION = (1 << 64) - 1
"""Stands for the duration of a stream, which is timed elsewhere."""
REGION_BYTES = (MOST_RECORDS + 1) * _RECORD_BYTES
"""One more than is read: those for which there is no room share it."""


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
    """`http`, `stream` or `websocket`."""
    request_id: str
    trace_id: str
    method: str
    path: str


class RequestRecords:
    """The records of one slot, for the worker that owns it."""

    def __init__(self, numbers: memoryview, everything: memoryview, start: int, beyond: int, last_number: int) -> None:
        """`numbers`, `everything`: the mapped file by words of eight bytes, and by bytes. `start`: byte of the first record.

        `beyond`: word that counts requests in flight without a record.
        """
        self._beyond = beyond
        self._numbers, self._bytes = numbers, everything
        first = start // 8
        self._no_room = first + MOST_RECORDS * WORDS
        self._free = deque(range(first, self._no_room, WORDS))
        self._next_number = count(last_number + 1).__next__
        self.last_number = last_number
        """Of the newest request that is done."""
        self.make_room: Callable[[], object] = lambda: None
        """Called when there is none: counts those that are done."""

    def start(self, exchange: Exchange) -> None:
        """Write that a request is in flight."""
        try:
            word = self._free.pop()
        except IndexError:
            word = self._made_room()
        text = f"{exchange.kind}\0{exchange.request_id}\0{exchange.trace_id}\0{exchange.method}\0{exchange.path}"
        try:
            encoded = text.encode()
        except UnicodeEncodeError:
            encoded = text.encode("utf-8", "replace")
        numbers = self._numbers
        _write_beginning(self._bytes, word * 8 + _BEGINNING_AT, exchange.wall_ns, encoded)
        numbers[word] = IN_FLIGHT
        exchange.record = numbers, word

    def done(self, exchange: Exchange, series: int) -> tuple[int, int]:
        """Write that a request is done; return its place, to be freed when it is counted, and its number.

        `series`: the place of the block that it will be counted in.
        """
        record, exchange.record = exchange.record, None
        # It may have begun in another slot, which was removed meanwhile.
        numbers, word = (self._numbers, self._no_room) if record is None or record[0] is not self._numbers else record
        number = self._next_number()
        duration_us = NO_DURATION if exchange.streamed else exchange.duration_us
        received, sent = exchange.received_bytes, exchange.sent_bytes
        _write_numbers(self._bytes, word * 8 + _NUMBERS_AT, number, series, duration_us, received, sent)
        numbers[word] = DONE
        self.last_number = number
        return word, number

    def has_room(self, word: int) -> bool:
        """Tell whether a place is a request's own: others have to be counted at once."""
        return word != self._no_room

    def drop(self, exchange: Exchange) -> None:
        """Forget a request that has ended, and is not to be counted."""
        record, exchange.record = exchange.record, None
        if record is not None and record[0] is self._numbers:
            self.free(record[1])

    def free(self, word: int) -> None:
        """Forget a request."""
        if word != self._no_room:
            self._numbers[word] = FREE
            self._free.append(word)
        elif self._numbers[self._beyond]:
            self._numbers[self._beyond] -= 1

    def _made_room(self) -> int:
        self.make_room()
        try:
            return self._free.pop()
        except IndexError:
            self._numbers[self._beyond] += 1
            return self._no_room


def note_streaming(record: tuple[memoryview, int]) -> None:
    """Write that a part of the response is sent, and more will come."""
    numbers, word = record
    numbers[word] = STREAMING


def note_answering(record: tuple[memoryview, int], status: int) -> None:
    """Write that the server is about to get the last message of a response."""
    numbers, word = record
    numbers[word] = ANSWERING | status << _STATE_BITS


def read_records(numbers: memoryview, everything: memoryview, start: int) -> Iterator[Record]:
    """Yield the records of a slot that are not free."""
    first = start // 8
    for word in range(first, first + MOST_RECORDS * WORDS, WORDS):
        if state := numbers[word]:
            yield _record(everything, word, state)


def _record(everything: memoryview, word: int, state: int) -> Record:
    number, series, duration, received, sent = _NUMBERS.unpack_from(everything, word * 8 + _NUMBERS_AT)
    started, encoded = _BEGINNING.unpack_from(everything, word * 8 + _BEGINNING_AT)
    text = encoded.rstrip(b"\0").decode("utf-8", "replace")
    kind, request_id, trace_id, method, path = (*text.split("\0", 4), "", "", "", "", "")[:5]
    return Record(
        *(word, state & 0xFF, state >> _STATE_BITS, number, series),
        *(None if duration == NO_DURATION else duration, received, sent, started),
        *("stream" if state == STREAMING else kind, request_id, trace_id, method, path),
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
            self.records.start(exchange)

    def request_finished(self, exchange: Exchange) -> None:
        """Free its place, unless it is still to be counted."""
        if self.records is not None:
            self.records.drop(exchange)

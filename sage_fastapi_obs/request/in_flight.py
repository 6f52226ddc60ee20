"""Requests in the slot of a worker: each stands there while it is in flight, and until it is counted in the slot, too.

When the worker is killed, they say what was lost and what was done. A request has one record, the state of which is written
last, so that it is either in flight or done.

    done number, series, duration, received, sent | start, text: kind, request id, trace id, method, path | state
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import count
from struct import Struct
from typing import NamedTuple

from sage_fastapi_obs.request.exchange import Exchange, Place
from sage_fastapi_obs.request.recorder import Recorder

FREE, IN_FLIGHT, STREAMING, ANSWERING, DONE = range(5)
"""STREAMING: a part of its body is sent. ANSWERING: the server has its last message, and has not returned yet; the status
stands above the lowest byte."""
_STATE_BITS = 8
WORDS = 32
_RECORD_BYTES = WORDS * 8
_NUMBERS = Struct("5Q")
_BEGINNING = Struct(f"Q{_RECORD_BYTES - _NUMBERS.size - 2 * 8}sQ")
"""What is written of a request at its end; and at its start, the state last. The text is cut, or filled up with zeros."""
_STATE_WORD = WORDS - 1
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

    def __init__(self, words: memoryview, everything: memoryview, start: int, beyond: int, last_number: int) -> None:
        """`words`, `everything`: the mapped file by words of eight bytes, and by bytes. `start`: byte of the first record.

        `beyond`: word that counts requests in flight without a record.
        """
        self._beyond = beyond
        self._words, self._bytes = words, everything
        places = [_place(words, byte) for byte in range(start, start + REGION_BYTES, _RECORD_BYTES)]
        self.no_room = places.pop()
        """The place that requests share that have none of their own: they have to be counted at once."""
        self._free = deque(places)
        self._next_number = count(last_number + 1).__next__
        self.last_number = last_number
        """Of the newest request that is done."""
        self.make_room: Callable[[], object] = lambda: None
        """Called when there is none: counts those that are done."""

    def start(self, exchange: Exchange) -> None:
        """Write that a request is in flight."""
        try:
            place = self._free.pop()
        except IndexError:
            place = self._made_room()
        text = f"{exchange.kind}\0{exchange.request_id}\0{exchange.trace_id}\0{exchange.method}\0{exchange.path}"
        try:
            encoded = text.encode()
        except UnicodeEncodeError:
            encoded = text.encode("utf-8", "replace")
        _write_beginning(self._bytes, place[3], exchange.wall_ns, encoded, IN_FLIGHT)
        exchange.record = place

    def done(self, exchange: Exchange, series: int) -> "tuple[Place, int]":
        """Write that a request is done; return its place, to be freed when it is counted, and its number.

        `series`: the place of the block that it will be counted in.
        """
        place, exchange.record = exchange.record, None
        if place is None or place[0] is not self._words:
            # It may have begun in another slot, which was removed meanwhile.
            place = self.no_room
        words, state, numbers, _ = place
        self.last_number = number = self._next_number()
        duration_us = NO_DURATION if exchange.streamed else exchange.duration_us
        _write_numbers(self._bytes, numbers, number, series, duration_us, exchange.received_bytes, exchange.sent_bytes)
        words[state] = DONE
        return place, number

    def drop(self, exchange: Exchange) -> None:
        """Forget a request that has ended, and is not to be counted."""
        place, exchange.record = exchange.record, None
        if place is not None and place[0] is self._words:
            self.free_all((place,))

    def free_all(self, places: Iterable[Place]) -> None:
        """Forget requests."""
        words, no_room = self._words, self.no_room
        for place in places:
            if place is not no_room:
                words[place[1]] = FREE
                self._free.append(place)
            elif words[self._beyond]:
                words[self._beyond] -= 1

    def _made_room(self) -> Place:
        self.make_room()
        try:
            return self._free.pop()
        except IndexError:
            self._words[self._beyond] += 1
            return self.no_room


def _place(words: memoryview, byte: int) -> Place:
    return words, byte // 8 + _STATE_WORD, byte, byte + _NUMBERS.size


def note_streaming(place: Place) -> None:
    """Write that a part of the response is sent, and more will come."""
    place[0][place[1]] = STREAMING


def note_answering(place: Place, status: int) -> None:
    """Write that the server is about to get the last message of a response."""
    place[0][place[1]] = ANSWERING | status << _STATE_BITS


def read_records(words: memoryview, everything: memoryview, start: int) -> Iterator[Record]:
    """Yield the records of a slot that are not free."""
    for byte in range(start, start + MOST_RECORDS * _RECORD_BYTES, _RECORD_BYTES):
        if state := words[byte // 8 + _STATE_WORD]:
            yield _record(everything, byte, state)


def _record(everything: memoryview, byte: int, state: int) -> Record:
    number, series, duration, received, sent = _NUMBERS.unpack_from(everything, byte)
    started, encoded, _ = _BEGINNING.unpack_from(everything, byte + _NUMBERS.size)
    text = encoded.rstrip(b"\0").decode("utf-8", "replace")
    kind, request_id, trace_id, method, path = (*text.split("\0", 4), "", "", "", "", "")[:5]
    return Record(
        *(byte // 8 + _STATE_WORD, state & 0xFF, state >> _STATE_BITS, number, series),
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
        if exchange.record is not None and self.records is not None:
            self.records.drop(exchange)

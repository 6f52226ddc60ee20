"""Answers questions about kept requests: a page of them, the story of an id, its lines."""

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Self, TypeVar

import orjson

from sage_fastapi_obs.store.connection import FileErrors, is_busy, reading
from sage_fastapi_obs.store.records import ListedRequest, RequestPage, RequestQuery, StoredRequest, Story
from sage_fastapi_obs.store.stored_rows import (
    OF_ID,
    ChunkReader,
    Condition,
    StoredRow,
    conditions_of,
    last_id,
    resolved_issues,
    rows,
)

T = TypeVar("T")
TEXT_SECONDS = 0.04
"""How long one page may search for a text; those who write wait for those who read."""
_MOST_ROWS = 1000
"""Rows under one id that are looked at, newest first."""
_NEAR = 5_000
"""Rows before and after that of a request, among which are those that overlap it: they are stored as they end."""
_MOST_OVERLAPPING = 500
_KEY = "key-"
_NOT_SHOWN = frozenset({"started_ns", "at_ns"})
"""Times that are shown in another form."""
_PARTS_OF_SPANS = frozenset({"events", "links"})
"""Below which there are fields of ours again."""
Connections = list[sqlite3.Connection]
Listed = list[ListedRequest]
Stories = list[Story]
Lines = list[dict[str, Any]]
Conditions = list[Condition]
Found = list[tuple[StoredRow, ChunkReader]]


class UnreadableStoreError(Exception):
    """The store's file cannot be read now; its text says why."""


class StoreReader:
    """Opens the file for each question, and closes it at once."""

    def __init__(
        self,
        connections: Callable[[], AbstractContextManager[Connections]],
        damaged: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take what opens the files to read, the newest first, and what to call when details of a request cannot be read."""
        self._connections = connections
        self._damaged = damaged
        self._clock = clock
        self.hurry_others: Callable[[], bool] | None = None
        """Has other processes write what they have kept, and tells whether there are any."""

    @classmethod
    def of_file(cls, path: Path) -> Self:
        """Read the file of a service that runs, or has run; without a file every answer is empty."""

        @contextmanager
        def connections() -> Iterator[Connections]:
            with reading(path) as connection:
                yield [] if connection is None else [connection]

        return cls(connections, lambda: None)

    def list(self, query: RequestQuery) -> RequestPage:
        """Return a page of requests, newest first. Raises `UnreadableStoreError`, as all questions do."""
        return self._ask(lambda connections: self._page(connections, query))

    def find(self, some_id: str, limit: int = 20) -> Stories:
        """Return the newest requests with a request, correlation or trace id, or the one that a key addresses."""
        return self._find(lambda connections: self._stories(connections, some_id, limit))

    def overlapping(self, story: Story, start_ns: int, end_ns: int) -> Stories:
        """Return other requests that the same process served between two times, of those stored shortly before and after."""
        return self._ask(lambda connections: self._overlapping(connections, story, start_ns, end_ns))

    def resolved(self) -> dict[str, int]:
        """Return when issues were resolved: Unix time in nanoseconds, by their ids."""
        return self._ask(lambda connections: resolved_issues(connections[-1]) if connections else {})

    def lines(self, some_id: str, limit: int) -> Lines:
        """Return the newest lines under such an id, of requests and outside of them, in order of time."""
        return self._find(lambda connections: self._lines(connections, some_id, limit))

    def _find(self, question: Callable[[Connections], T]) -> T:
        """Ask; where nothing is found, once more: another process may have kept it, and not written it yet."""
        found = self._ask(question)
        return found if found or self.hurry_others is None or not self.hurry_others() else self._ask(question)

    def _ask(self, question: Callable[[Connections], T]) -> T:
        try:
            try:
                return self._answer(question)
            except FileErrors as error:
                if is_busy(error):
                    raise
            # By now a damaged file has been set aside.
            return self._answer(question)
        except (OSError, *FileErrors) as error:
            raise UnreadableStoreError(str(error)) from error

    def _answer(self, question: Callable[[Connections], T]) -> T:
        with self._connections() as connections:
            return question(connections)

    def _page(self, connections: Connections, query: RequestQuery) -> RequestPage:
        deadline = self._clock() + TEXT_SECONDS
        latest = max([int(query.after or "0", 16), *map(last_id, connections)])
        conditions = conditions_of(query)
        text = _Text(query.text) if query.text else None
        most = query.limit + 1 if text is None else -1
        found: Listed = []
        last = ""
        for row, chunks in self._rows(connections, conditions, most):
            if len(found) == query.limit:
                return RequestPage(found, last, True, f"{latest:x}")
            if text is not None and last and self._clock() > deadline:
                return RequestPage(found, last, False, f"{latest:x}")
            if text is None or text.is_in(row, chunks):
                found.append(ListedRequest(f"{_KEY}{row.id:x}", row.request))
            last = f"{row.id:x}"
        return RequestPage(found, None, True, f"{latest:x}")

    def _stories(self, connections: Connections, some_id: str, limit: int) -> Stories:
        found = self._found(connections, some_id)
        requests = [(row, chunks) for row, chunks in found if row.request.kind][:limit]
        supplements = [(row, chunks) for row, chunks in found if not row.request.kind]
        if some_id.startswith(_KEY) and requests and (request_id := requests[0][0].request.request_id):
            supplements = [each for each in self._found(connections, request_id) if not each[0].request.kind]
        stories = [_Parts(row, chunks.read(row)) for row, chunks in requests]
        for row, chunks in reversed(supplements):
            if (whose := _owner(stories, row)) is not None:
                whose.add(chunks.read(row))
        return [story.told() for story in stories]

    def _overlapping(self, connections: Connections, story: Story, start_ns: int, end_ns: int) -> Stories:
        number = int(story.key.removeprefix(_KEY), 16)
        conditions: Conditions = [
            ("kind <> '' AND id <> ? AND id BETWEEN ? AND ?", (number, number - _NEAR, number + _NEAR)),
            ("started_ns < ? AND started_ns + duration_us * 1000 > ?", (end_ns, start_ns)),
        ]
        found = [*self._rows(connections, conditions, _MOST_OVERLAPPING)]
        stories = [_Parts(row, chunks.read(row)).told() for row, chunks in found]
        return [other for other in stories if other.pid == story.pid]

    def _lines(self, connections: Connections, some_id: str, limit: int) -> Lines:
        found: Lines = []
        for row, chunks in self._found(connections, some_id):
            # In front, so that lines of one millisecond keep their order.
            found[:0] = dicts_of(chunks.read(row), "lines")
            if len(found) >= limit:
                break
        found.sort(key=_timestamp)
        return found[-limit:]

    def _found(self, connections: Connections, some_id: str) -> Found:
        """Return the rows under an id, newest first, with what reads their details."""
        number = _number(some_id)
        if number is not None and (found := [*self._rows(connections, [("id = ?", (number,))], 1)]):
            return found
        return [*self._rows(connections, [(OF_ID, (some_id,) * 3)], _MOST_ROWS)] if some_id else []

    def _rows(self, connections: Connections, conditions: Conditions, limit: int) -> Iterator[tuple[StoredRow, ChunkReader]]:
        for connection in connections:
            chunks = ChunkReader(connection, self._damaged)
            for row in rows(connection, conditions, limit):
                yield row, chunks


class _Parts:
    """A story while its parts are found."""

    def __init__(self, row: StoredRow, details: dict[str, Any]) -> None:
        self.row = row
        self._details = [details]

    def add(self, details: dict[str, Any]) -> None:
        self._details.append(details)

    def told(self) -> Story:
        spans = [span for details in self._details for span in dicts_of(details, "spans")]
        lines = [line for details in self._details for line in dicts_of(details, "lines")]
        spans.sort(key=_start)
        lines.sort(key=_timestamp)
        lost = self._sum("dropped_spans"), self._sum("dropped_lines")
        # What it failed of afterwards comes first.
        why = [each for details in reversed(self._details) for each in dicts_of(details, "why")]
        timings, pid = self._details[0].get("timings"), self._details[0].get("pid")
        return Story(
            *(f"{_KEY}{self.row.id:x}", self.row.request, spans, lines, *lost),
            *(why, timings if isinstance(timings, dict) else {}, pid if isinstance(pid, int) else None),
            has_details=bool(self._details[0]),
        )

    def _sum(self, name: str) -> int:
        return sum(number for details in self._details if isinstance(number := details.get(name), int))


def _owner(stories: list[_Parts], supplement: StoredRow) -> _Parts | None:
    """Return the request that a supplement belongs to: of several with its ids, the last that had started."""
    mine = supplement.request
    same = [story for story in stories if _is_of(mine, story.row.request)]
    started = (story for story in same if story.row.request.started_ns <= mine.started_ns)
    return next(started, same[-1] if same else None)


def _is_of(supplement: StoredRequest, request: StoredRequest) -> bool:
    """Tell whether ids agree; a line that came late may have no trace any more."""
    is_same = supplement.request_id == request.request_id != ""
    return is_same and supplement.trace_id in ("", request.trace_id)


def dicts_of(details: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """Return the objects of a stored list, without what is none."""
    found = details.get(name)
    return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []


def _start(span: dict[str, Any]) -> int:
    return started if isinstance(started := span.get("started_ns"), int) else 0


def _timestamp(line: dict[str, Any]) -> str:
    return str(line.get("timestamp", ""))


class _Text:
    """A text that requests are searched for."""

    def __init__(self, text: str) -> None:
        self._wanted = text.encode(errors="replace").lower()
        self._in_json = orjson.dumps(self._wanted.decode())[1:-1]

    def is_in(self, row: StoredRow, chunks: ChunkReader) -> bool:
        path, route, error_type, why = row.request.path, row.request.route, row.request.error_type, row.request.why
        if any(self._is_part_of(shown) for shown in (path, route, error_type, why)):
            return True
        # To look for it in all of the JSON is quick, but finds also the names of our fields.
        return self._in_json in chunks.text(row).lower() and any(map(self._is_part_of, _shown(chunks.read(row))))

    def _is_part_of(self, shown: object) -> bool:
        return shown is not None and self._wanted in str(shown).encode(errors="replace").lower()


def _shown(details: dict[str, Any]) -> Iterator[object]:
    """Yield the values of spans and lines, and the names of fields that the application has named."""
    waiting: list[tuple[Any, bool]] = [(each, True) for name in ("spans", "lines") for each in dicts_of(details, name)]
    while waiting:
        value, is_ours = waiting.pop()
        if isinstance(value, dict):
            if not is_ours:
                yield from value
            waiting += [(each, name in _PARTS_OF_SPANS) for name, each in value.items() if name not in _NOT_SHOWN]
        elif isinstance(value, list):
            waiting += [(each, is_ours) for each in value]
        else:
            yield value


def _number(key: str) -> int | None:
    """Return the row that a key of ours addresses; None: it is an id."""
    try:
        return int(key.removeprefix(_KEY), 16) if key.startswith(_KEY) and len(key) <= len(_KEY) + 15 else None
    except ValueError:
        return None

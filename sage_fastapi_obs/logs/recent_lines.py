"""The embedded store of recent lines, so that an id leads to its story without any server."""

import threading
from collections import deque
from typing import Annotated, Any

import orjson
from pydantic import BaseModel, BeforeValidator, ConfigDict

from sage_fastapi_obs.logs.line_format import Line
from sage_fastapi_obs.settings import Settings

OVERHEAD_BYTES = 400
"""What keeping a line takes beside its text: its ids and the objects around it."""


def _as_text(value: Any) -> Any:
    """Write what an application has given a field of ours, which may be anything."""
    return value if value is None else str(value)


class LogError(BaseModel):
    """The exception of a line."""

    model_config = ConfigDict(frozen=True, extra="allow")

    message: str = ""
    stack_trace: str = ""


class LogEntry(BaseModel):
    """A line that was written; the fields beside these are attributes too, as they were on the line."""

    model_config = ConfigDict(frozen=True, extra="allow")

    timestamp: str
    """UTC, ISO 8601."""
    level: str
    operation: Annotated[str | None, BeforeValidator(_as_text)] = None
    message: str
    error: LogError | None = None


Entry = tuple[str | None, str | None, str | None, bytes]
"""A line as it is kept: its correlation, request and trace id, and its JSON."""


def entry(line: Line, encoded: bytes) -> Entry:
    """Return what is kept of a line; `encoded` is its JSON with its newline."""
    # Without the newline it is a copy: what orjson returns holds on to a buffer of at least 4 KiB.
    return line.get("correlation_id"), line.get("request_id"), line.get("trace_id"), encoded[:-1]


class RecentLines:
    """Keeps the newest lines of this process, bounded in number and in bytes.

    There is no index: lines come thousands of times as often as questions, and a question reads ten thousand lines' ids in
    a millisecond.
    """

    def __init__(self, most_lines: int, most_bytes: int) -> None:
        self._most_lines = most_lines
        self._most_bytes = most_bytes
        self.entries: deque[Entry] = deque()
        self.size = 0
        """Bytes kept now, those around the lines included."""
        # Reentrant, because a finalizer or a signal handler may log at any point.
        self._lock = threading.RLock()

    def __len__(self) -> int:
        return len(self.entries)

    def keep(self, entry: Entry) -> None:
        """Keep a line, and let the oldest go for which there is no room."""
        entries = self.entries
        with self._lock:
            entries.append(entry)
            self.size += len(entry[3]) + OVERHEAD_BYTES
            while self.size > self._most_bytes or len(entries) > self._most_lines:
                oldest = entries.popleft()
                self.size -= len(oldest[3]) + OVERHEAD_BYTES

    def find(self, some_id: str, limit: int) -> list[LogEntry]:
        """Return the newest lines of a correlation, request or trace id, in the order of their timestamps."""
        with self._lock:
            entries = list(self.entries)
        found = [
            encoded
            for correlation_id, request_id, trace_id, encoded in entries
            if some_id in (correlation_id, request_id, trace_id)
        ]
        lines = [LogEntry.model_validate(orjson.loads(encoded)) for encoded in found[max(0, len(found) - limit) :]]
        # A line that had to wait for the end of its request was written after younger ones.
        return sorted(lines, key=lambda line: line.timestamp)


def recent_lines_of(settings: Settings) -> RecentLines | None:
    """Build the store of recent lines; None where none are kept."""
    monitoring = settings.monitoring
    if not monitoring.recent_lines or not settings.logging.enabled:
        return None
    return RecentLines(monitoring.recent_lines, monitoring.log_buffer_bytes)

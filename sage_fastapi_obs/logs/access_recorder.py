"""Writes the access line of each request, and a line about work after its response."""

from collections.abc import Callable
from functools import cache
from typing import Any

from sage_fastapi_obs.catalog import KNOWN_METHODS
from sage_fastapi_obs.log_levels import LEVELS
from sage_fastapi_obs.logs import loguru_bridge
from sage_fastapi_obs.logs.access_line import (
    ACCESS_FIELDS,
    ACCESS_LOGGER,
    access_level,
    access_message,
    background_level,
    field_reader,
)
from sage_fastapi_obs.logs.fast_access_line import FastAccessLine, written_at
from sage_fastapi_obs.logs.writer import LogWriter
from sage_fastapi_obs.request.exchange import Exchange
from sage_fastapi_obs.request.recorder import Recorder

_STATUSES = range(1_000)


class AccessRecorder(Recorder):
    """Writes the lines about requests of one `LogWriter`."""

    component = "Logs"

    def __init__(self, writer: LogWriter, readable: Callable[[str], str]) -> None:
        """Write through a writer; `readable` cuts and redacts a text of the caller's."""
        self._writer = writer
        self._line = FastAccessLine(writer.build, writer.encode, readable, writer.recent_lines)
        self._add_to_access_line = field_reader([field for field in ACCESS_FIELDS if field.is_on_access_line], readable)
        self._add_to_background_line = field_reader([field for field in ACCESS_FIELDS if field.is_on_background_line], readable)
        writer.levels.followers.append(self._follow_level)
        self._follow_level()

    def _follow_level(self) -> None:
        """Find which ordinary requests have a line at the present level, and whether it may be made later."""
        self._write_later = self._writer.write_later
        threshold = self._writer.levels.severity_of(ACCESS_LOGGER)
        self._threshold = threshold
        self._statuses_without_line = _statuses_below(threshold)

    def request_finished(self, exchange: Exchange) -> None:
        """Write the access line."""
        write_later = self._write_later
        # Nearly every request: its line has only the fields of every access line.
        if (
            write_later is not None
            and exchange.error_type is None
            and exchange.explanation is None
            and exchange.bound_fields is None
            and exchange.held_lines is None
            and exchange.socket is None
            and not exchange.streamed
            and not exchange.excluded
            and exchange.method in KNOWN_METHODS
            and b"x-client-type" not in exchange.headers
            and exchange.status not in self._statuses_without_line
            and not loguru_bridge.has_foreign_sinks()
        ):
            # In the order of `fast_access_line.ORDINARY`.
            values = (
                exchange.method,
                exchange.route,
                exchange.status,
                exchange.sampled,
                exchange.kept,
                exchange.trace_id,
                exchange.request_id,
                exchange.correlation_id,
                exchange.span_id,
                exchange.path,
                exchange.duration_us,
                exchange.received_bytes,
                exchange.sent_bytes,
                exchange.wall_ns,
                exchange.queue_us,
            )
            write_later((self._line, values))
            exchange.line_is_ordinary = True
        else:
            self._write_now(exchange)

    def _write_now(self, exchange: Exchange) -> None:
        level = access_level(exchange)
        dropped = None if exchange.held_lines is None else self._writer.release_or_drop_held(exchange)
        if LEVELS[level] < self._threshold and dropped is None and not loguru_bridge.has_foreign_sinks():
            return
        fields = self._add_to_access_line((exchange.bound_fields or {}).copy(), exchange)
        fields.update(dropped or {})
        error = exchange.error if exchange.failed else None
        message = access_message(exchange)
        self._writer.emit(written_at(exchange), level, message, ACCESS_LOGGER, fields, error, always=dropped is not None)

    def background_finished(self, exchange: Exchange) -> None:
        """Write a line about the work after the response."""
        if exchange.background is None:
            return
        error = exchange.background.error
        message = "background work finished" if error is None else "background work failed"
        fields: dict[str, Any] = self._add_to_background_line({}, exchange)
        if exchange.held_lines is not None:
            release = error is not None and exchange.is_kept
            fields.update(self._writer.release_or_drop_held(exchange, release=release) or {})
        self._writer.emit(self._writer.now(), background_level(error), message, ACCESS_LOGGER, fields, error)


@cache
def _statuses_below(threshold: int) -> frozenset[int]:
    """Find which ordinary requests have a line below a severity; the same for all recorders."""
    return frozenset(status for status in _STATUSES if LEVELS[_ordinary_level(status)] < threshold)


def _ordinary_level(status: int) -> str:
    exchange = Exchange({"type": "http"}, 0, 0)
    exchange.status = status
    return access_level(exchange)

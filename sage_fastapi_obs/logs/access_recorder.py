"""Writes the access line of each request, and a line about work after its response."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

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
from sage_fastapi_obs.logs.fast_access_line import PlainAccessLine, written_at
from sage_fastapi_obs.logs.level_changes import Levels
from sage_fastapi_obs.logs.outputs.output import DeferredLine
from sage_fastapi_obs.request.exchange import Exchange
from sage_fastapi_obs.request.recorder import Recorder

_STATUSES = range(1_000)


class _LineEmitter(Protocol):
    """What the recorder needs of the `LogWriter` that it belongs to."""

    levels: Levels

    def now(self) -> float: ...

    def release_or_drop_held(self, exchange: Exchange, *, release: bool | None = None) -> dict[str, int] | None: ...

    def emit(
        self,
        at: float,
        level: str,
        message: str,
        logger: str,
        fields: Mapping[str, Any],
        error: BaseException | None = None,
        *,
        always: bool = False,
    ) -> None: ...


class AccessRecorder(Recorder):
    """Writes the lines about requests of one `LogWriter`."""

    component = "Logs"

    def __init__(
        self,
        writer: _LineEmitter,
        line: PlainAccessLine,
        readable: Callable[[str], str],
        write_later: Callable[[DeferredLine], None] | None,
    ) -> None:
        """Write through a writer.

        `line` makes the lines of ordinary requests, for `write_later`; None: lines are written at once. `readable` returns of a
        foreign text what may be shown.
        """
        self._writer = writer
        self._line = line
        self._write_later = write_later
        self._add_to_access_line = field_reader([field for field in ACCESS_FIELDS if field.is_on_access_line], readable)
        self._add_to_background_line = field_reader([field for field in ACCESS_FIELDS if field.is_on_background_line], readable)

    def follow_level(self) -> None:
        """Learn which ordinary requests have a line at the writer's present level."""
        threshold = self._writer.levels.severity_of(ACCESS_LOGGER)
        self._threshold = threshold
        self._statuses_without_line = frozenset(status for status in _STATUSES if LEVELS[_ordinary_level(status)] < threshold)

    def request_finished(self, exchange: Exchange) -> None:
        """Write the access line."""
        write_later = self._write_later
        # Nearly every request of nearly every service: it has nothing to say but what all have to say.
        if (
            write_later is not None
            and exchange.error_type is None
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
            # What `fast_access_line.ORDINARY` names.
            values = (
                exchange.method,
                exchange.route,
                exchange.status,
                exchange.sampled,
                exchange.trace_id,
                exchange.request_id,
                exchange.correlation_id,
                exchange.span_id,
                exchange.path,
                exchange.duration_us,
                exchange.received_bytes,
                exchange.sent_bytes,
                exchange.wall_ns,
            )
            write_later((self._line, values))
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
            fields.update(self._writer.release_or_drop_held(exchange, release=error is not None) or {})
        self._writer.emit(self._writer.now(), background_level(error), message, ACCESS_LOGGER, fields, error)


def _ordinary_level(status: int) -> str:
    exchange = Exchange({"type": "http"}, 0, 0)
    exchange.status = status
    return access_level(exchange)

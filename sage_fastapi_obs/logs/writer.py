"""Writes log lines: formats them, holds them or keeps a copy if the settings want that, and passes them to the output."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any

import orjson

from sage_fastapi_obs.delivery.losses import Losses
from sage_fastapi_obs.delivery.senders import Senders
from sage_fastapi_obs.internal_errors import InternalErrors, component_of
from sage_fastapi_obs.log_levels import LEVELS, level_name, usual_level
from sage_fastapi_obs.logs import loguru_bridge, takeover
from sage_fastapi_obs.logs.access_line import ACCESS_LOGGER, add_exchange_ids
from sage_fastapi_obs.logs.held_lines import HeldLines
from sage_fastapi_obs.logs.level_changes import Change, Levels
from sage_fastapi_obs.logs.line_format import Encode, Line, console_format, json_format, line_builder, with_renamed_fields
from sage_fastapi_obs.logs.outputs import OutputParts, build_output
from sage_fastapi_obs.logs.outputs.output import DeferredLine
from sage_fastapi_obs.logs.recent_lines import LogEntry, RecentLines, entry
from sage_fastapi_obs.privacy.redaction import Redaction
from sage_fastapi_obs.processes import AtEnd
from sage_fastapi_obs.request.debug_token import DebugToken
from sage_fastapi_obs.request.exchange import Exchange, current_exchange
from sage_fastapi_obs.retention_reasons import PROBLEMS
from sage_fastapi_obs.settings import LoggingSettings, ServiceSettings

OWN_LOGGER = "sage_fastapi_obs"
_AT_ONCE = frozenset({"error", "critical"})
"""Levels that are written without delay: such a line may be the last of this process."""
_NEVER_HELD = frozenset({ACCESS_LOGGER, OWN_LOGGER})
_HELD_FROM = LEVELS["debug"]


class LogWriter:
    """Writes the lines of one `Observability`."""

    component = "Logs"

    def __init__(
        self,
        settings: LoggingSettings,
        service: ServiceSettings,
        internal_errors: InternalErrors,
        wall_clock: Callable[[], int],
        observer: object,
        redaction: Redaction,
        recent: RecentLines | None = None,
        senders: Senders | None = None,
    ) -> None:
        senders = Senders() if senders is None else senders
        self._seconds_left = partial(senders.seconds_left, settings.shutdown_seconds)
        self.observer = observer
        """The observability whose requests these lines are about."""
        self.levels = Levels(settings.level, self._levels_changed, self._level_ended)
        self.held_lines = HeldLines(settings) if settings.flight_recorder else None
        self._debug_token = DebugToken(settings)
        self.recent_lines = recent
        self.add_to_store: Callable[[Line, bytes], None] | None = None
        """Takes each line that is written, with its JSON."""
        self._listeners: tuple[Callable[[Line, bytes], None], ...] = ()
        self._settings = settings
        self.takeover = settings.takeover
        self._internal_errors = internal_errors
        self._wall_clock = wall_clock
        self.build = line_builder(service, redaction)
        self.losses = Losses()
        """What the outputs have lost."""
        self.encode: Encode = with_renamed_fields(settings.field_aliases)
        self.output = build_output(
            OutputParts(
                settings,
                service,
                self.encode,
                self.losses,
                wall_clock,
                log=self.warn_locally,
                gap_line=self._gap_line,
                failed=self._count_fault,
                senders=senders,
            )
        )
        self.remarks = self.output.remarks
        """Warnings about the outputs, logged at the start."""
        # Recent lines keep the usual names of fields, and a deferred line is encoded only once.
        needs_two_encodings = recent is not None and self.encode is not json_format
        self._write_later = None if needs_two_encodings else self.output.write_later
        self._at_end = AtEnd(self.close, self._write_out)
        self._follow_levels()

    def start(self) -> None:
        """Open the output and take over logging."""
        self.output.open()
        if self._settings.format == "console":
            self.encode = console_format(self.output.is_terminal)
        # For programs that end without a close.
        self._at_end.watch()
        takeover.take_over(self)

    def close(self) -> None:
        """Give logging back, and close the output, which may wait for as long as the settings allow."""
        self._at_end.leave()
        with ExitStack() as last:
            last.callback(lambda: self.output.close(self._seconds_left()))
            last.callback(takeover.give_back, self)
            self.levels.close()

    def _write_out(self) -> None:
        """Write what waits, in a process that may end now."""
        self.output.drain(self._settings.shutdown_seconds)

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
    ) -> None:
        """Write a line of our own, if its level allows or `always`; the application's loguru sinks get it in any case."""
        if always or LEVELS[level] >= self.levels.severity_of(logger):
            self.write(at, level, message, logger, fields, error)
        if loguru_bridge.has_foreign_sinks():
            loguru_bridge.log_to_loguru(level, message, logger, fields, error)

    def accept(
        self, at: float, severity: int, message: str, logger: str | None, fields: Mapping[str, Any], error: BaseException | None
    ) -> None:
        """Write a line of the application, hold it until its request ends, or drop it."""
        if severity >= self.levels.severity_of(logger):
            self.write(at, level_name(severity), message, logger, fields, error)
            return
        exchange = current_exchange.get()
        if exchange is None or exchange.observer is not self.observer or severity < _HELD_FROM or logger in _NEVER_HELD:
            return
        if self._debug_token.is_sent_by(exchange):
            self.write(at, level_name(severity), message, logger, fields, error)
        elif self.held_lines is not None and not exchange.excluded and not exchange.has_returned:
            try:
                line = self.build(at, level_name(severity), message, logger, fields, error)
                # Encoded now, as the application may change its values later.
                self.held_lines.hold(exchange, json_format(line))
            except Exception as fault:
                self._count_fault(fault)

    def write(
        self, at: float, level: str, message: str, logger: str | None, fields: Mapping[str, Any], error: BaseException | None
    ) -> None:
        """Write a line; a fault is counted, never raised."""
        try:
            self._put(self.build(at, level, message, logger, fields, error))
            if level in _AT_ONCE:
                self.output.flush()
        except Exception as fault:
            self._count_fault(fault)

    @property
    def write_later(self) -> Callable[[DeferredLine], None] | None:
        """Takes a line that is still to be made; None: lines are written at once. Followers of the levels ask again."""
        return None if self._listeners else self._write_later

    def listen(self, listener: Callable[[Line, bytes], None]) -> Callable[[], None]:
        """Call a function with each line, and its bytes, just before it is written; return what ends that."""
        self._listen((*self._listeners, listener))
        return lambda: self._listen(tuple(other for other in self._listeners if other is not listener))

    def _listen(self, listeners: tuple[Callable[[Line, bytes], None], ...]) -> None:
        self._listeners = listeners
        for follow in self.levels.followers:
            follow()

    def leads_to(self, target: object) -> bool:
        """Tell whether a stream, or the file of a path, leads to the same place as these lines."""
        return self.output.leads_to(target)

    def flush(self) -> None:
        """Write the batch."""
        self.output.flush()

    @property
    def keeps_lines(self) -> bool:
        """Whether recent lines are kept."""
        return self.recent_lines is not None

    def recent(self, some_id: str, limit: int) -> list[LogEntry]:
        """Return the newest lines that were kept of a correlation, request or trace id, the oldest first."""
        if self.recent_lines is None:
            return []
        # Some of them may not have been written yet.
        self.flush()
        return self.recent_lines.find(some_id, limit)

    def warn_locally(self, message: str, fields: Mapping[str, Any]) -> None:
        """Write a warning about what is sent to servers: to the stream or file alone, so that it causes no sending."""
        try:
            self.output.write_local(*self._notice(message, fields))
        except Exception as fault:
            self._count_fault(fault)

    def _count_fault(self, fault: Exception) -> None:
        self._internal_errors.count(component_of(self), fault)

    def _put(self, line: Line) -> None:
        encode = self.encode
        encoded = encode(line)
        if self.recent_lines is not None or self.add_to_store is not None:
            self._keep(line, encoded if encode is json_format else json_format(line))
        for listener in self._listeners:
            listener(line, encoded)
        self.output.write(line, encoded)

    def _keep(self, line: Line, as_json: bytes) -> None:
        """Keep a line that is written, for those who ask for it by its ids."""
        if self.recent_lines is not None:
            self.recent_lines.keep(entry(line, as_json))
        if self.add_to_store is not None:
            self.add_to_store(line, as_json)

    def change_level(self, logger: str | None, level: Any, seconds: float) -> None:
        """Change the level of a logger and those below it, or of all, for a while; None gives the configured one back."""
        level = usual_level(level)
        if level is not None and level not in LEVELS:
            raise ValueError(f"{level!r} is no level: there are {', '.join(LEVELS)}")
        before = self.levels.level_of(logger)
        self.levels.change(logger, level, seconds)
        fields: dict[str, Any] = {"changed_logger": logger, "from": before, "to": self.levels.level_of(logger)}
        if level is not None:
            fields["seconds"] = seconds
        self._log_change("log level changed", fields)

    def _level_ended(self, change: Change) -> None:
        fields = {"changed_logger": change.logger, "from": change.level, "to": self.levels.level_of(change.logger)}
        self._log_change("log level given back", fields)

    def _log_change(self, message: str, fields: dict[str, Any]) -> None:
        exchange = current_exchange.get()
        ids = {} if exchange is None else add_exchange_ids({}, exchange)
        self.emit(self.now(), "info", message, OWN_LOGGER, {**ids, **fields}, always=True)

    def _levels_changed(self) -> None:
        self._follow_levels()
        takeover.levels_changed()

    def _follow_levels(self) -> None:
        levels = [self.levels.lowest]
        if self.held_lines is not None or self._debug_token:
            levels.append(_HELD_FROM)
        self.lowest = min(levels)

    def release_or_drop_held(self, exchange: Exchange, *, release: bool | None = None) -> dict[str, int] | None:
        """Write or drop the held lines of a request; return fields about that for the line, None if the lines are not wanted.

        `release` None leaves it to the exchange.
        """
        assert self.held_lines is not None
        release = exchange.kept in PROBLEMS if release is None else release
        lines, missing = self.held_lines.release_or_drop(exchange, release=release)
        for encoded in lines:
            try:
                self._put(orjson.loads(encoded))
            except Exception as fault:
                self._count_fault(fault)
        if not release:
            return None
        return {"held_lines_dropped": missing} if missing else {}

    def _notice(self, message: str, fields: Mapping[str, Any]) -> tuple[Line, bytes]:
        """Make a line about the lines."""
        line = self.build(self.now(), "warn", message, OWN_LOGGER, fields, None)
        return line, self.encode(line)

    def _gap_line(self, lines: int) -> bytes:
        """Make the line that stands where lines are missing."""
        return self._notice("log lines were lost here", {"lost": lines})[1]

    def now(self) -> float:
        """Return the Unix time."""
        return self._wall_clock() / 1_000_000_000

"""One canonical line per request, and the lines an application writes, in one format on one output."""

import hmac
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import orjson

from sage_fastapi_obs.catalog import KNOWN_METHODS
from sage_fastapi_obs.internal_errors import InternalErrors, component_of
from sage_fastapi_obs.logs import takeover
from sage_fastapi_obs.logs.access_line import FastAccessLine
from sage_fastapi_obs.logs.held_lines import HeldLines
from sage_fastapi_obs.logs.levels import Change, Levels
from sage_fastapi_obs.logs.line_format import (
    LEVELS,
    Line,
    console_format,
    json_format,
    level_name,
    line_builder,
    with_renamed_fields,
)
from sage_fastapi_obs.logs.outputs import Losses, Outputs, outputs
from sage_fastapi_obs.logs.outputs.batching import BatchingOutput
from sage_fastapi_obs.logs.recent_lines import LogEntry, RecentLines, entry
from sage_fastapi_obs.privacy.redaction import Redaction
from sage_fastapi_obs.processes import AtEnd
from sage_fastapi_obs.request.exchange import Exchange, current_exchange
from sage_fastapi_obs.request.recorder import Recorder
from sage_fastapi_obs.settings import LoggingSettings, ServiceSettings

__all__ = ["LogWriter"]

ACCESS_LOGGER = "sage_fastapi_obs.access"
OWN_LOGGER = "sage_fastapi_obs"
AT_ONCE = frozenset({"error", "critical"})
"""Levels of lines that may be the last ones of this process."""
_OWN = frozenset({ACCESS_LOGGER, OWN_LOGGER})
DEBUG_HEADER = b"x-debug-log"
"""Asks for the lines below the level of one request, with `logging.debug_token` as its value."""
HELD_FROM = LEVELS["debug"]


class LogWriter(Recorder):
    """Writes the lines of one `Observability`."""

    component = "Logs"

    def __init__(
        self,
        settings: LoggingSettings,
        service: ServiceSettings,
        faults: InternalErrors,
        wall_clock: Callable[[], int],
        observer: object,
        redaction: Redaction,
        recent: RecentLines | None = None,
    ) -> None:
        self.observer = observer
        """Whose exchanges these lines are of."""
        self.levels = Levels(settings.level, self._levels_changed, self._level_ended)
        self.flight = HeldLines(settings) if settings.flight_recorder else None
        self._debug_token = settings.debug_token.get_secret_value().encode() if settings.debug_token is not None else None
        self._recent = recent
        self._settings = settings
        self.takeover = settings.takeover
        self._faults = faults
        self._wall_clock = wall_clock
        self._layout = line_builder(service, redaction)
        self._readable = redaction.readable
        self.losses = Losses()
        """What the outputs have lost."""
        self._format: Callable[[Line], bytes] = with_renamed_fields(settings.field_aliases)
        self._output = outputs(settings, service, self.losses, self._notice, wall_clock, self._count_fault, self._format)
        self.remarks = self._output.remarks if isinstance(self._output, Outputs) else ()
        """What is odd about where lines go, told at the start."""
        self._canonical = FastAccessLine(self._completed, self._format, redaction.readable, recent)
        # Lines that are kept as well are kept by their own names.
        has_own_names = recent is not None and self._format is not json_format
        self._gather = self._output if isinstance(self._output, BatchingOutput) and not has_own_names else None
        self._at_end = AtEnd(self.close, self._write_out)
        self._follow_levels()

    def start(self) -> None:
        """Open the output and take over logging."""
        self._output.open()
        if self._settings.format == "console":
            self._format = console_format(self._output.is_terminal)
        # For programs that end without a close.
        self._at_end.watch()
        takeover.take_over(self)

    def close(self) -> None:
        """Give logging back, and close the output, which may wait for as long as the settings allow."""
        self._at_end.leave()
        with ExitStack() as last:
            last.callback(self._output.close, self._settings.shutdown_seconds)
            last.callback(takeover.give_back, self)
            self.levels.close()

    def _write_out(self) -> None:
        """Write what waits, in a process that may end now."""
        self._output.settle(self._settings.shutdown_seconds)

    def request_finished(self, exchange: Exchange) -> None:
        """Write the canonical line."""
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
            and not takeover.others_listen()
        ):
            values = (
                exchange.wall_ns,
                exchange.duration_us,
                exchange.request_id,
                exchange.correlation_id,
                exchange.trace_id,
                exchange.span_id,
                exchange.sampled,
                exchange.method,
                exchange.path,
                exchange.route,
                exchange.status,
                exchange.received_bytes,
                exchange.sent_bytes,
            )
            write_later((self._canonical, values))
        else:
            self._write_canonical(exchange)

    def _write_canonical(self, exchange: Exchange) -> None:
        """Write the canonical line now, whatever it says."""
        level = _level(exchange)
        missing = None if exchange.held_lines is None else self._settle(exchange, wanted=None)
        if LEVELS[level] < self.threshold and missing is None and not takeover.others_listen():
            return
        at = (exchange.wall_ns // 1_000 + exchange.duration_us) / 1_000_000
        message = "request failed" if exchange.failed and exchange.error is not None else "request completed"
        if exchange.kind == "websocket":
            message = "websocket failed" if exchange.failed else "websocket closed"
        error = exchange.error if exchange.failed else None
        fields = _describe(exchange, (exchange.bound_fields or {}).copy(), self._readable)
        if missing is not None:
            fields.update(missing)
        self.emit(at, level, message, ACCESS_LOGGER, fields, error, always=missing is not None)

    def background_finished(self, exchange: Exchange) -> None:
        """Write a line about the work after the response: debug, or error when it failed."""
        background = exchange.background
        if background is None:
            return
        error = background.error
        level, message = ("debug", "background work finished") if error is None else ("error", "background work failed")
        fields: dict[str, Any] = {"method": exchange.method, "path": self._readable(exchange.path), "route": exchange.route}
        fields["background_ms"] = background.duration_us / 1_000
        if exchange.held_lines is not None and (missing := self._settle(exchange, wanted=error is not None)) is not None:
            fields.update(missing)
        fields = _describe_ids(exchange, {}) | fields
        self.emit(self._wall_clock() / 1_000_000_000, level, message, ACCESS_LOGGER, fields, error)

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
        """Write a line of our own, if its level allows or `always`; the application's sinks in loguru are told of all."""
        if always or LEVELS[level] >= self.levels.of(logger):
            self.write(at, level, message, logger, fields, error)
        if takeover.others_listen():
            takeover.tell_loguru(level, message, logger, fields, error)

    def take(
        self, at: float, severity: int, message: str, logger: str | None, fields: Mapping[str, Any], error: BaseException | None
    ) -> None:
        """Write a line of the application's, or hold it until its request has ended, or let it go."""
        if severity >= self.levels.of(logger):
            self.write(at, level_name(severity), message, logger, fields, error)
            return
        exchange = current_exchange.get()
        if exchange is None or exchange.observer is not self.observer or severity < HELD_FROM or logger in _OWN:
            return
        if self._is_asked_for(exchange):
            self.write(at, level_name(severity), message, logger, fields, error)
        elif self.flight is not None and not exchange.excluded and not exchange.has_returned:
            try:
                laid = self._layout(at, level_name(severity), message, logger, fields, error)
                # Encoded now: after this nothing can change it any more.
                self.flight.hold(exchange, json_format(laid))
            except Exception as fault:
                self._count_fault(fault)

    def write(
        self, at: float, level: str, message: str, logger: str | None, fields: Mapping[str, Any], error: BaseException | None
    ) -> None:
        """Write a line; a fault is counted, never raised."""
        try:
            self._put(self._layout(at, level, message, logger, fields, error))
            if level in AT_ONCE:
                self._output.flush()
        except Exception as fault:
            self._count_fault(fault)

    def leads_to(self, target: object) -> bool:
        """Tell whether what is written to a stream, or to the file of a path, ends up where these lines do."""
        return self._output.leads_to(target)

    def flush(self) -> None:
        """Write what has gathered."""
        self._output.flush()

    @property
    def keeps_lines(self) -> bool:
        """Whether recent lines are kept."""
        return self._recent is not None

    def recent(self, wanted: str, limit: int) -> list[LogEntry]:
        """Return the newest lines that were kept of a correlation, request or trace id, the oldest first."""
        if self._recent is None:
            return []
        # Some of them may not have been laid out yet.
        self.flush()
        return self._recent.find(wanted, limit)

    def complain(self, message: str, fields: Mapping[str, Any]) -> None:
        """Write a warning about what is sent to servers: to the stream or file alone, so that it causes no sending."""
        try:
            output = self._output
            write = output.write_near if isinstance(output, Outputs) else output.write
            write(*self._notice(message, fields))
        except Exception as fault:
            self._count_fault(fault)

    def _count_fault(self, fault: Exception) -> None:
        self._faults.count(component_of(self), fault)

    def _put(self, laid: Line) -> None:
        form = self._format
        shown = form(laid)
        if self._recent is not None:
            self._recent.keep(entry(laid, shown if form is json_format else json_format(laid)))
        self._output.write(laid, shown)

    def change_level(self, logger: str | None, level: str | None, seconds: float) -> None:
        """Change the level of a logger and those below it, or of all, for a while; None gives the configured one back."""
        before = self.levels.level_of(logger)
        self.levels.change(logger, level, seconds)
        fields: dict[str, Any] = {"changed_logger": logger, "from": before, "to": self.levels.level_of(logger)}
        if level is not None:
            fields["seconds"] = seconds
        self._tell("log level changed", fields)

    def _level_ended(self, change: Change) -> None:
        fields = {"changed_logger": change.logger, "from": change.level, "to": self.levels.level_of(change.logger)}
        self._tell("log level given back", fields)

    def _tell(self, message: str, fields: dict[str, Any]) -> None:
        exchange = current_exchange.get()
        ids = {} if exchange is None else _describe_ids(exchange, {})
        self.emit(self._wall_clock() / 1_000_000_000, "info", message, OWN_LOGGER, {**ids, **fields}, always=True)

    def _levels_changed(self) -> None:
        self._follow_levels()
        takeover.levels_changed()

    def _follow_levels(self) -> None:
        self.threshold = self.levels.of(ACCESS_LOGGER)
        gather = self._gather if self.threshold <= LEVELS["info"] else None
        self._write_later = None if gather is None else gather.write_later
        wanted = [self.levels.lowest]
        if self.flight is not None or self._debug_token is not None:
            wanted.append(HELD_FROM)
        self.lowest = min(wanted)

    def _is_asked_for(self, exchange: Exchange) -> bool:
        given = exchange.headers.get(DEBUG_HEADER)
        return self._debug_token is not None and given is not None and hmac.compare_digest(given, self._debug_token)

    def _settle(self, exchange: Exchange, *, wanted: bool | None) -> dict[str, int] | None:
        """Write what a request holds, or drop it; return what is to be said about that, None when nothing is wanted of it.

        `wanted` None leaves it to the exchange.
        """
        assert self.flight is not None
        wanted = self.flight.wants(exchange) if wanted is None else wanted
        lines, missing = self.flight.settle(exchange, wanted=wanted)
        for encoded in lines:
            try:
                self._put(orjson.loads(encoded))
            except Exception as fault:
                self._count_fault(fault)
        if not wanted:
            return None
        return {"held_lines_dropped": missing} if missing else {}

    def _completed(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Lay out an ordinary canonical line."""
        level = "info" if fields["status"] < 400 else "warn"
        return self._layout(0.0, level, "request completed", ACCESS_LOGGER, fields, None)

    def _notice(self, message: str, fields: Mapping[str, Any]) -> tuple[Line, bytes]:
        """Make a line about the lines."""
        laid = self._layout(self._wall_clock() / 1_000_000_000, "warn", message, OWN_LOGGER, fields, None)
        return laid, self._format(laid)


def _level(exchange: Exchange) -> str:
    if exchange.excluded:
        return "debug"
    if exchange.error_type is None:
        return "info" if exchange.status < 400 else "warn"
    return "error" if exchange.failed else "warn"


def _describe_ids(exchange: Exchange, into: dict[str, Any]) -> dict[str, Any]:
    into["request_id"] = exchange.request_id
    into["correlation_id"] = exchange.correlation_id
    if exchange.trace_id:
        into["trace_id"] = exchange.trace_id
        into["span_id"] = exchange.span_id
        into["trace_flags"] = "01" if exchange.sampled else "00"
    return into


def _describe(exchange: Exchange, into: dict[str, Any], readable: Callable[[str], str]) -> dict[str, Any]:
    """Add what a canonical line says of an exchange, in the order in which a line says it."""
    _describe_ids(exchange, into)
    method = exchange.method
    into["method"] = method if method in KNOWN_METHODS else readable(method)
    into["path"] = readable(exchange.path)
    into["route"] = exchange.route
    into["status"] = exchange.status
    into["duration_ms"] = exchange.duration_us / 1_000
    if exchange.streamed and exchange.first_byte_us is not None:
        into["first_byte_ms"] = exchange.first_byte_us / 1_000
    socket = exchange.socket
    if socket is not None and socket.handshake_us is not None:
        into["handshake_ms"] = socket.handshake_us / 1_000
    into["request_bytes"] = exchange.received_bytes
    into["response_bytes"] = exchange.sent_bytes
    if socket is not None and socket.handshake_us is not None:
        into["close_code"] = socket.close_code
        into["messages_received"] = socket.received_messages
        into["messages_sent"] = socket.sent_messages
    if b"x-client-type" in exchange.headers:
        into["client_type"] = exchange.headers[b"x-client-type"][:32].decode("latin-1")
    if exchange.error_type is not None:
        into["error_type"] = exchange.error_type
    return into

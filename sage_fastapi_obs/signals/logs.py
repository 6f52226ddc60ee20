"""One canonical line per request, and the lines an application writes, in one format on one output."""

import atexit
from collections.abc import Callable, Mapping
from typing import Any

from sage_fastapi_obs.request.exchange import Exchange
from sage_fastapi_obs.request.recorder import Faults, Recorder
from sage_fastapi_obs.settings import LoggingSettings, ServiceSettings
from sage_fastapi_obs.signals import handover
from sage_fastapi_obs.signals.catalog import KNOWN_METHODS
from sage_fastapi_obs.signals.lines import LEVELS, Line, Timestamps, aliased, console_format, layout
from sage_fastapi_obs.signals.outputs import Losses, outputs
from sage_fastapi_obs.signals.redaction import Redaction, readable

__all__ = ["Logs"]

ACCESS_LOGGER = "sage_fastapi_obs.access"
OWN_LOGGER = "sage_fastapi_obs"
AT_ONCE = frozenset({"error", "critical"})
"""Levels of lines that may be the last ones of this process."""


class Logs(Recorder):
    """Writes the lines of one `Observability`."""

    def __init__(
        self,
        settings: LoggingSettings,
        service: ServiceSettings,
        faults: Faults,
        wall_clock: Callable[[], int],
        observer: object,
        redaction: Redaction,
    ) -> None:
        self.observer = observer
        """Whose exchanges these lines are of."""
        self.threshold = LEVELS[settings.level]
        self._settings = settings
        self._faults = faults
        self._wall_clock = wall_clock
        self._layout = layout(service, redaction)
        self._timestamp = Timestamps()
        # What all canonical lines have alike, in the order of every line.
        self._canonical = self._layout(0.0, "info", "request completed", ACCESS_LOGGER, {}, None)
        self.losses = Losses()
        """What the outputs have lost."""
        self._output = outputs(settings, service, self.losses, self._notice, wall_clock, self._count_fault)
        self._format: Callable[[Line], bytes] = aliased(settings.field_aliases)

    def start(self) -> None:
        """Open the output and take over logging."""
        self._output.open()
        if self._settings.format == "console":
            self._format = console_format(self._output.is_terminal)
        # For programs that end without a close.
        atexit.register(self.close)
        handover.attach(self)

    def close(self) -> None:
        """Give logging back, and close the output, which may wait for as long as the settings allow."""
        atexit.unregister(self.close)
        handover.detach(self)
        self._output.close(self._settings.shutdown_seconds)

    def request_finished(self, exchange: Exchange) -> None:
        """Write the canonical line."""
        level = _level(exchange) if exchange.status >= 400 or exchange.error_type is not None or exchange.excluded else "info"
        others_listen = handover.others_listen()
        if LEVELS[level] < self.threshold and not others_listen:
            return
        if _is_ordinary(exchange) and not others_listen:
            self._put(self._ordinary(exchange, level))
            return
        at = (exchange.wall_ns // 1_000 + exchange.duration_us) / 1_000_000
        message = "request failed" if exchange.failed and exchange.error is not None else "request completed"
        if exchange.kind == "websocket":
            message = "websocket failed" if exchange.failed else "websocket closed"
        error = exchange.error if exchange.failed else None
        self.emit(at, level, message, ACCESS_LOGGER, _describe(exchange, exchange.fields.copy()), error)

    def background_finished(self, exchange: Exchange) -> None:
        """Write a line about the work after the response: debug, or error when it failed."""
        error = exchange.background_error
        level, message = ("debug", "background work finished") if error is None else ("error", "background work failed")
        fields: dict[str, Any] = {"method": exchange.method, "path": readable(exchange.path), "route": exchange.route}
        fields["background_ms"] = (exchange.background_us or 0) / 1_000
        fields = _describe_ids(exchange, {}) | fields
        self.emit(self._wall_clock() / 1_000_000_000, level, message, ACCESS_LOGGER, fields, error)

    def emit(
        self, at: float, level: str, message: str, logger: str, fields: Mapping[str, Any], error: BaseException | None = None
    ) -> None:
        """Write a line of our own; through loguru only when somebody else listens there, which costs more."""
        if handover.others_listen():
            handover.tell_loguru(level, message, logger, fields, error)
            if handover.we_listen():
                return
        if LEVELS[level] >= self.threshold:
            self.write(at, level, message, logger, fields, error)

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

    def _ordinary(self, exchange: Exchange, level: str) -> Line:
        """Lay out nearly every line of nearly every service at once, instead of sorting its fields into their order."""
        timestamp = self._timestamp
        return {
            **self._canonical,
            "timestamp": timestamp((exchange.wall_ns // 1_000 + exchange.duration_us) / 1_000_000),
            "level": level,
            "request_id": exchange.request_id,
            "correlation_id": exchange.correlation_id,
            "trace_id": exchange.trace_id,
            "span_id": exchange.span_id,
            "trace_flags": "01" if exchange.sampled else "00",
            "method": exchange.method,
            "path": readable(exchange.path),
            "route": exchange.route,
            "status": exchange.status,
            "duration_ms": exchange.duration_us / 1_000,
            "request_bytes": exchange.received_bytes,
            "response_bytes": exchange.sent_bytes,
        }

    def flush(self) -> None:
        """Write what has gathered."""
        self._output.flush()

    def _count_fault(self, fault: Exception) -> None:
        self._faults.count(type(self).__name__, fault)

    def _put(self, laid: Line) -> None:
        form = self._format
        self._output.write(laid, form(laid))

    def _notice(self, message: str, fields: Mapping[str, Any]) -> tuple[Line, bytes]:
        """Make a line about the lines."""
        laid = self._layout(self._wall_clock() / 1_000_000_000, "warn", message, OWN_LOGGER, fields, None)
        return laid, self._format(laid)


def _is_ordinary(exchange: Exchange) -> bool:
    """Tell whether a request ended as most do, with nothing to say but what all have to say."""
    return (
        exchange.error_type is None
        and not exchange.fields
        and not exchange.streamed
        and exchange.handshake_us is None
        and exchange.trace_id != ""
        and exchange.method in KNOWN_METHODS
        and b"x-client-type" not in exchange.headers
    )


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


def _describe(exchange: Exchange, into: dict[str, Any]) -> dict[str, Any]:
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
    if exchange.handshake_us is not None:
        into["handshake_ms"] = exchange.handshake_us / 1_000
    into["request_bytes"] = exchange.received_bytes
    into["response_bytes"] = exchange.sent_bytes
    if exchange.handshake_us is not None:
        into["close_code"] = exchange.close_code
        into["messages_received"] = exchange.received_messages
        into["messages_sent"] = exchange.sent_messages
    if b"x-client-type" in exchange.headers:
        into["client_type"] = exchange.headers[b"x-client-type"][:32].decode("latin-1")
    if exchange.error_type is not None:
        into["error_type"] = exchange.error_type
    return into

"""What a log line looks like: one JSON object for machines, or a coloured line for people."""

import math
import time
import traceback
from collections.abc import Callable, Mapping
from datetime import datetime
from itertools import islice
from typing import Any

import orjson

from sage_fastapi_obs.settings import ServiceSettings
from sage_fastapi_obs.signals.redaction import readable

__all__ = ["LEVELS", "Line", "Timestamps", "console_format", "json_format", "layout", "level_name"]

LEVELS = {"trace": 5, "debug": 10, "info": 20, "warn": 30, "error": 40, "critical": 50}

TOP_LEVEL = (
    *("request_id", "correlation_id", "trace_id", "span_id", "trace_flags"),
    *("method", "path", "route", "status", "duration_ms", "first_byte_ms", "background_ms", "handshake_ms"),
    *("request_bytes", "response_bytes", "close_code", "messages_received", "messages_sent", "client_type"),
    *("session_id", "client_did", "server_did", "key_type", "operation", "event_id", "error_type"),
)
"""Fields with a place of their own, in the order they are written; all others go into `data`."""
DEEPEST = 8
LONGEST_BYTES = 256 * 1024
"""Of one line; a longer one keeps the beginning of each value, so that it stays one whole object."""
MOST_ITEMS = 100
"""Of each mapping and list in a line that was too long."""
Line = Mapping[str, Any]


def level_name(number: int) -> str:
    """Name a loguru level by severity: TRACE (5) is debug, SUCCESS (25) is info, WARNING is warn."""
    return next(name for name, severity in reversed(LEVELS.items()) if number >= severity or name == "debug")


def layout(service: ServiceSettings) -> Callable[..., dict[str, Any]]:
    """Return a function that lays out the fields of a line for one service."""
    clock = Timestamps()
    constant = {"service": service.name, "environment": service.environment, "version": service.version}

    def lay_out(
        at: float, level: str, message: str, logger: str | None, fields: Mapping[str, Any], error: BaseException | None
    ) -> dict[str, Any]:
        laid: dict[str, Any] = {"timestamp": clock(at), "level": level, "message": message, **constant}
        if logger:
            laid["logger"] = logger
        rest = dict(fields)
        for name in TOP_LEVEL:
            if name in rest:
                laid[name] = rest.pop(name)
        if rest:
            laid["data"] = rest
        if error is not None:
            laid["error"] = described(error)
        return laid

    return lay_out


class Timestamps:
    """ISO 8601 in UTC with milliseconds; the seconds' part is made once a second."""

    def __init__(self) -> None:
        # One value, because several threads read and replace it.
        self._last = (-1, "")

    def __call__(self, at: float) -> str:
        """Write a Unix time."""
        second = int(at)
        made, prefix = self._last
        if second != made:
            prefix = time.strftime("%Y-%m-%dT%H:%M:%S.", time.gmtime(second))
            self._last = (second, prefix)
        return f"{prefix}{int((at - second) * 1_000):03d}Z"


def described(error: BaseException) -> dict[str, str]:
    """Describe an exception by type, message and stack; without the values of local variables."""
    try:
        message = str(error)
    except Exception as fault:
        message = f"<unprintable: {type(fault).__name__}>"
    try:
        stack = "".join(traceback.format_exception(error))
    except Exception as fault:
        stack = f"<unprintable: {type(fault).__name__}>"
    return {"type": type(error).__qualname__, "message": message, "stack_trace": stack}


_dumps = orjson.dumps
_ONE_LINE = orjson.OPT_APPEND_NEWLINE


def json_format(laid: Line) -> bytes:
    """Encode a line as one JSON object of bounded length; any value becomes something writable."""
    try:
        encoded = _dumps(laid, _shown, _ONE_LINE)
    except (TypeError, ValueError, RecursionError):
        encoded = _dumps(_plain(laid, DEEPEST), None, _ONE_LINE)
    if len(encoded) <= LONGEST_BYTES:
        return encoded
    # Deep enough for the fields and the bound values; what nests in those is left out.
    return orjson.dumps(_plain(laid, 2, short=True), option=orjson.OPT_APPEND_NEWLINE)


def _shown(value: object) -> str:
    """Show what JSON has no form for."""
    try:
        return value.decode("utf-8", "replace") if isinstance(value, bytes) else readable(str(value))
    except Exception as fault:
        return f"<unprintable: {type(fault).__name__}>"


def _plain(value: Any, depth: int, *, short: bool = False) -> Any:
    """Rebuild a value from what is surely writable, cut where it nests too deep or runs in circles."""
    match value:
        case None | bool():
            return value
        case int():
            return value if -(2**53) <= value <= 2**53 else _shown(value)
        case float():
            return value if math.isfinite(value) else str(value)
        case str():
            return readable(value) if short else str.encode(value, "utf-8", "replace").decode()
        case _ if depth == 0:
            return "…"
        case Mapping() | list() | tuple() | set() | frozenset():
            try:
                return _plain_items(value, depth - 1, short=short)
            except Exception as fault:
                return f"<unprintable: {type(fault).__name__}>"
    return _shown(value)


def _plain_items(values: Any, depth: int, *, short: bool) -> Any:
    most = MOST_ITEMS if short else None
    if isinstance(values, Mapping):
        return {_shown(key): _plain(item, depth, short=short) for key, item in islice(values.items(), most)}
    return [_plain(item, depth, short=short) for item in islice(values, most)]


_COLOURS = {"debug": "2", "info": "32", "warn": "33", "error": "31", "critical": "1;31"}
_NOT_SHOWN = {"timestamp", "level", "message", "service", "environment", "version", "logger", "data", "error"}
_ACCESS = {"method", "path", "route", "status", "duration_ms"}
_LONG_IDS = {"correlation_id", "trace_id", "span_id", "trace_flags", "request_bytes", "response_bytes"}


def console_format(colours: bool) -> Callable[[Line], bytes]:
    """Return a format for people: time, level, what happened, then the fields."""

    def paint(code: str, text: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if colours else text

    def format_line(laid: Line) -> bytes:
        at = datetime.fromisoformat(laid["timestamp"]).astimezone().strftime("%H:%M:%S.%f")[:-3]
        level = laid["level"]
        shown = {key: value for key, value in laid.items() if key not in _NOT_SHOWN and key not in _LONG_IDS}
        said = laid["message"]
        if laid.keys() >= _ACCESS and isinstance(laid["duration_ms"], float):
            said = f"{laid['method']} {laid['path']} {laid['status']} {laid['duration_ms']:.1f} ms"
            shown = {key: value for key, value in shown.items() if key not in _ACCESS}
        shown.update(laid.get("data", {}))
        fields = " ".join(f"{_printable(key)}={_printable(value)}" for key, value in shown.items())
        text = f"{paint('2', at)} {paint(_COLOURS[level], f'{level:<8}')} {_printable(said)} {paint('2', fields)}\n"
        if "error" in laid:
            stack = laid["error"]["stack_trace"] or laid["error"]["message"]
            text += "".join(f"    {_printable(row)}\n" for row in stack.splitlines())
        return text.encode("utf-8", "replace")

    return format_line


def _printable(value: object) -> str:
    """Show a value on one line, cut; control characters, which could forge lines or drive the terminal, are escaped."""
    text = str.__str__(readable(value)) if isinstance(value, str) else _shown(value)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)

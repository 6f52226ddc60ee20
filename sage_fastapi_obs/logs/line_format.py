"""What a log line looks like: one JSON object for machines, or a coloured line for people."""

import time
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

import orjson

from sage_fastapi_obs.errors import SettingsError
from sage_fastapi_obs.privacy.exception_text import ErrorText, exception_fields
from sage_fastapi_obs.privacy.json_values import Sanitizer, escaped, unprintable
from sage_fastapi_obs.privacy.redaction import BUILT_IN, Redaction, readable
from sage_fastapi_obs.settings import ServiceSettings

__all__ = [
    "LEVELS",
    "Line",
    "Timestamps",
    "console_format",
    "json_format",
    "json_text",
    "level_name",
    "line_builder",
    "with_renamed_fields",
]

LEVELS = {"trace": 5, "debug": 10, "info": 20, "warn": 30, "error": 40, "critical": 50}

TOP_LEVEL = (
    *("request_id", "correlation_id", "trace_id", "span_id", "trace_flags"),
    *("method", "path", "route", "status", "duration_ms", "first_byte_ms", "background_ms", "handshake_ms"),
    *("request_bytes", "response_bytes", "close_code", "messages_received", "messages_sent", "client_type"),
    *("session_id", "client_did", "server_did", "key_type", "operation", "event_id"),
    *("step", "step_status", "step_started_at", "step_finished_at", "data_type", "data_size"),
    *("context", "performance", "error_type"),
)
"""Fields with a place of their own, in the order they are written; all others go into `data`."""
FIELDS = ("timestamp", "level", "message", "service", "environment", "version", "logger", *TOP_LEVEL, "data", "error")
"""All that a line can have, in order."""
_OWN = (*FIELDS[: FIELDS.index("client_type")], "error_type", "data", "error")
"""Those that are written here, and not by applications."""
LONGEST_BYTES = 256 * 1024
"""Of one line; a longer one keeps the beginning of each value, so that it stays one whole object."""
Line = Mapping[str, Any]

_LINE_VALUES = Sanitizer(BUILT_IN, LONGEST_BYTES)


def level_name(number: int) -> str:
    """Name a loguru level by severity: TRACE (5) is debug, SUCCESS (25) is info, WARNING is warn."""
    return next(name for name, severity in reversed(LEVELS.items()) if number >= severity or name == "debug")


def line_builder(service: ServiceSettings, redaction: Redaction | None = None) -> Callable[..., dict[str, Any]]:
    """Return a function that lays out the fields of a line for one service: plain values of bounded size, without secrets."""
    redaction = BUILT_IN if redaction is None else redaction
    if hidden := [name for name in _OWN if redaction.hides(name)]:
        raise SettingsError(f"logging.redact: {hidden[0]!r} is on every line, and its value cannot be hidden")
    clock = Timestamps()
    constant = {"service": service.name, "environment": service.environment, "version": service.version}
    values = Sanitizer(redaction, LONGEST_BYTES)

    def lay_out(
        at: float, level: str, message: str, logger: str | None, fields: Mapping[str, Any], error: BaseException | None
    ) -> dict[str, Any]:
        laid: dict[str, Any] = {"timestamp": clock(at), "level": level, "message": values.text(message), **constant}
        if logger:
            laid["logger"] = logger
        failure = fields.get("error")
        rest = values.fields(fields)
        for name in TOP_LEVEL:
            if name in rest:
                laid[name] = rest.pop(name)
        if error is None and type(failure) is ErrorText:
            laid["error"] = rest.pop("error")
        if rest:
            laid["data"] = redaction.only_shown(rest)
        if type(context := laid.get("context")) is dict:
            laid["context"] = redaction.only_shown(context)
        if error is not None:
            laid["error"] = exception_fields(error, redaction)
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


_dumps = orjson.dumps
_ONE_LINE = orjson.OPT_APPEND_NEWLINE


def json_format(laid: Line) -> bytes:
    """Encode a line as one JSON object of bounded length; any value becomes something writable."""
    try:
        encoded = _dumps(laid, None, _ONE_LINE)
    except Exception:
        encoded = _dumps(_LINE_VALUES.rebuilt_fields(laid), None, _ONE_LINE)
    encoded = escaped(encoded)
    return encoded if len(encoded) <= LONGEST_BYTES else escaped(_dumps(_shortened(laid), None, _ONE_LINE))


def json_text(text: str) -> str:
    """Encode a text of bounded length as lines do, with its quotes."""
    return escaped(_dumps(text)).decode()


def _shortened(laid: Line) -> dict[str, Any]:
    """Give each field its share of the length, so that a long one leaves the others what they need."""
    large = {"data": LONGEST_BYTES // 2, "error": LONGEST_BYTES // 4}
    share = LONGEST_BYTES // 5 // len(laid)
    return {name: Sanitizer(BUILT_IN, large.get(name, share)).rebuilt(value, short=True) for name, value in laid.items()}


def with_renamed_fields(aliases: Mapping[str, str]) -> Callable[[Line], bytes]:
    """Return a JSON format that calls fields by other names; refuse unknown fields, and names that would meet."""
    if not aliases:
        return json_format
    if unknown := sorted(aliases.keys() - set(FIELDS)):
        raise SettingsError(f"logging.field_aliases: {unknown[0]!r} is no field of a line; there are: {', '.join(FIELDS)}")
    named = [aliases.get(name, name) for name in FIELDS]
    for name, alias in aliases.items():
        if not alias:
            raise SettingsError(f"logging.field_aliases: {name!r} needs another name, such as '@{name}'")
        if named.count(alias) > 1:
            raise SettingsError(f"logging.field_aliases: {name!r} cannot be called {alias!r}, as another field has that name")

    def format_line(laid: Line) -> bytes:
        return json_format({aliases.get(name, name): value for name, value in laid.items()})

    return format_line


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
            stack = laid["error"].get("stack_trace") or laid["error"]["message"]
            text += "".join(f"    {_printable(row)}\n" for row in stack.splitlines())
        return text.encode("utf-8", "replace")

    return format_line


def _printable(value: object) -> str:
    """Show a value on one line, cut; control characters, which could forge lines or drive the terminal, are escaped."""
    try:
        text = readable(str.__str__(value) if isinstance(value, str) else str(value))
    except Exception as fault:
        text = unprintable(fault)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)

"""What a log line looks like: one JSON object for machines, or a coloured line for people."""

import re
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, TypeAlias

import orjson

from sage_fastapi_obs.errors import SettingsError
from sage_fastapi_obs.log_levels import LEVEL_DETAILS
from sage_fastapi_obs.logs.access_line import ACCESS_FIELDS, CLIENT_TYPE, DURATION, METHOD, PATH, ROUTE, STATUS
from sage_fastapi_obs.logs.application_fields import FIELD_SPAN_ID
from sage_fastapi_obs.privacy.exception_text import ErrorText, exception_fields
from sage_fastapi_obs.privacy.json_values import Sanitizer, escaped, unprintable
from sage_fastapi_obs.privacy.redaction import BUILT_IN, Redaction, readable
from sage_fastapi_obs.settings import ServiceSettings

_OF_REQUESTS = tuple(field.name for field in ACCESS_FIELDS)
_OF_APPLICATIONS = (
    *("session_id", "client_did", "server_did", "key_type", "operation", "event_id"),
    *("step", "step_status", "step_started_at", "step_finished_at", "data_type", "data_size"),
    *("context", "performance"),
)
TOP_LEVEL = (*_OF_REQUESTS[:-1], *_OF_APPLICATIONS, _OF_REQUESTS[-1])
"""Fields with a place of their own, in the order they are written; all others go into `data`."""
LINE_FIELDS = ("timestamp", "level", "message", "service", "environment", "version", "logger", *TOP_LEVEL, "data", "error")
"""All that a line can have, in order."""
_NEVER_HIDDEN = set(LINE_FIELDS) - {*_OF_APPLICATIONS, *(field.name for field in ACCESS_FIELDS if field.kind is CLIENT_TYPE)}
_SPAN_ID = re.compile(r"[0-9a-f]{16}")
LONGEST_BYTES = 256 * 1024
"""Of one line; a longer one keeps the beginning of each value, so that it stays one whole object."""
Line: TypeAlias = Mapping[str, Any]
Encode: TypeAlias = Callable[[Line], bytes]
LineBuilder: TypeAlias = Callable[..., dict[str, Any]]
"""Takes Unix time, level, message, logger, fields and exception."""

_LINE_VALUES = Sanitizer(BUILT_IN, LONGEST_BYTES)


def line_builder(service: ServiceSettings, redaction: Redaction | None = None) -> LineBuilder:
    """Return a function that builds the lines of one service: plain values of bounded size, without secrets."""
    redaction = BUILT_IN if redaction is None else redaction
    if hidden := [name for name in LINE_FIELDS if name in _NEVER_HIDDEN and redaction.hides(name)]:
        raise SettingsError(f"logging.redact: {hidden[0]!r} is on every line, and its value cannot be hidden")
    clock = Timestamps()
    constant = {"service": service.name, "environment": service.environment, "version": service.version}
    values = Sanitizer(redaction, LONGEST_BYTES)

    def build(
        at: float, level: str, message: str, logger: str | None, fields: Mapping[str, Any], error: BaseException | None
    ) -> dict[str, Any]:
        line: dict[str, Any] = {"timestamp": clock(at), "level": level, "message": values.text(message), **constant}
        if logger:
            line["logger"] = logger
        failure = fields.get("error")
        rest = values.fields(fields)
        _restore_span_id(rest, fields.get(FIELD_SPAN_ID))
        for name in TOP_LEVEL:
            if name in rest:
                line[name] = rest.pop(name)
        if error is None and type(failure) is ErrorText:
            line["error"] = rest.pop("error")
        if rest:
            line["data"] = redaction.only_listed(rest)
        if type(context := line.get("context")) is dict:
            line["context"] = redaction.only_listed(context)
        if error is not None:
            line["error"] = exception_fields(error, redaction)
        return line

    return build


def _restore_span_id(line: dict[str, Any], span_id: Any) -> None:
    """Show a span id also where it looks like the number of a card: one in some ten thousand does, having digits only."""
    if span_id is not None and line.get(FIELD_SPAN_ID) != span_id and type(span_id) is str and _SPAN_ID.fullmatch(span_id):
        line[FIELD_SPAN_ID] = span_id


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


def json_format(line: Line) -> bytes:
    """Encode a line as one JSON object of bounded length; any value becomes something writable."""
    try:
        encoded = _dumps(line, None, _ONE_LINE)
    except Exception:
        encoded = _dumps(_LINE_VALUES.rebuilt_fields(line), None, _ONE_LINE)
    encoded = escaped(encoded)
    return encoded if len(encoded) <= LONGEST_BYTES else escaped(_dumps(_shortened(line), None, _ONE_LINE))


def json_text(text: str) -> str:
    """Encode a text of bounded length as lines do, with its quotes."""
    encoded = _dumps(text)
    return (encoded if encoded.isascii() else escaped(encoded)).decode()


def _shortened(line: Line) -> dict[str, Any]:
    """Give each field its share of the length, so that a long one leaves the others what they need."""
    large = {"data": LONGEST_BYTES // 2, "error": LONGEST_BYTES // 4}
    share = LONGEST_BYTES // 5 // len(line)
    return {name: Sanitizer(BUILT_IN, large.get(name, share)).rebuilt(value, short=True) for name, value in line.items()}


def with_renamed_fields(aliases: Mapping[str, str]) -> Encode:
    """Return a JSON format that calls fields by other names; refuse unknown fields, and names that would meet."""
    if not aliases:
        return json_format
    if unknown := sorted(aliases.keys() - set(LINE_FIELDS)):
        raise SettingsError(f"logging.field_aliases: {unknown[0]!r} is no field of a line; there are: {', '.join(LINE_FIELDS)}")
    named = [aliases.get(name, name) for name in LINE_FIELDS]
    for name, alias in aliases.items():
        if not alias:
            raise SettingsError(f"logging.field_aliases: {name!r} needs another name, such as '@{name}'")
        if named.count(alias) > 1:
            raise SettingsError(f"logging.field_aliases: {name!r} cannot be called {alias!r}, as another field has that name")

    def format_line(line: Line) -> bytes:
        return json_format({aliases.get(name, name): value for name, value in line.items()})

    return format_line


_NOT_FOR_PEOPLE = frozenset(
    {
        *("timestamp", "level", "message", "service", "environment", "version", "logger", "data", "error"),
        *(field.name for field in ACCESS_FIELDS if not field.is_for_people),
    }
)
_SUMMARY = frozenset({METHOD, PATH, ROUTE, STATUS, DURATION})
"""Fields of an access line that its message for people has."""


def console_format(colours: bool) -> Encode:
    """Return a format for people: time, level, what happened, then the fields."""

    def paint(code: str, text: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if colours else text

    def format_line(line: Line) -> bytes:
        at = datetime.fromisoformat(line["timestamp"]).astimezone().strftime("%H:%M:%S.%f")[:-3]
        level = line["level"]
        message, hidden = line["message"], _NOT_FOR_PEOPLE
        if line.keys() >= _SUMMARY and isinstance(line[DURATION], float):
            message = f"{line[METHOD]} {line[PATH]} {line[STATUS]} {line[DURATION]:.1f} ms"
            hidden |= _SUMMARY
        fields = {name: value for name, value in line.items() if name not in hidden} | line.get("data", {})
        shown = " ".join(f"{_printable(name)}={_printable(value)}" for name, value in fields.items())
        text = (
            f"{paint('2', at)} {paint(LEVEL_DETAILS[level].colour, f'{level:<8}')} {_printable(message)} {paint('2', shown)}\n"
        )
        if "error" in line:
            stack = line["error"].get("stack_trace") or line["error"]["message"]
            text += "".join(f"    {_printable(row)}\n" for row in stack.splitlines())
        return text.encode("utf-8", "replace")

    return format_line


def _printable(value: object) -> str:
    """Show a value on one line, cut."""
    try:
        text = readable(str.__str__(value) if isinstance(value, str) else str(value))
    except Exception as fault:
        text = unprintable(fault)
    return escape_controls(text)


def escape_controls(text: str, but: str = "") -> str:
    """Escape the characters that could forge lines or drive a terminal, `but` for some."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in but else c.encode("unicode_escape").decode("ascii") for c in text)

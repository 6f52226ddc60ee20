"""The access line: its fields, its level and its message. Each field is named here and nowhere else.

`fast_access_line` makes the bytes of ordinary lines from this table, `access_recorder` says when a line is written.
"""

from collections.abc import Callable, Iterable
from functools import cache
from itertools import groupby
from operator import attrgetter
from types import CodeType
from typing import Any, NamedTuple, TypeAlias

from sage_fastapi_obs.log_levels import LevelName
from sage_fastapi_obs.logs.application_fields import (
    FIELD_CORRELATION_ID,
    FIELD_REQUEST_ID,
    FIELD_SPAN_ID,
    FIELD_TRACE_ID,
    TRACE_FLAGS,
)
from sage_fastapi_obs.request.exchange import Exchange
from sage_fastapi_obs.retention_reasons import UNDECIDED

ACCESS_LOGGER = "sage_fastapi_obs.access"
Condition: TypeAlias = Callable[[Exchange], bool]
METHOD = "method"
PATH = "path"
ROUTE = "route"
STATUS = "status"
DURATION = "duration_ms"


class FieldKind(NamedTuple):
    """What sort of value a field has."""

    mapping: str
    """Its type in Elasticsearch."""
    convert: Callable[[Any], Any] | None = None
    """Converts the exchange's value into the line's; None: they are the same."""
    is_foreign: bool = False
    """Whether it is a text of the caller's, in which secrets are hidden."""


TEXT = FieldKind("keyword")
_FOREIGN_TEXT = FieldKind("keyword", is_foreign=True)
_STATUS_CODE = FieldKind("short")
_COUNT = FieldKind("long")
_MILLISECONDS = FieldKind("float", lambda microseconds: microseconds / 1_000)
_OBJECT = FieldKind("object")
_FLAGS = FieldKind("keyword", lambda is_sampled: "01" if is_sampled else "00")
CLIENT_TYPE = FieldKind("keyword", lambda headers: headers[b"x-client-type"][:32].decode("latin-1"))


def _is_traced(exchange: Exchange) -> bool:
    """Tell whether the request has a span."""
    return exchange.trace_id != ""


def _is_stream(exchange: Exchange) -> bool:
    return exchange.streamed and exchange.first_byte_us is not None


def _has_handshake(exchange: Exchange) -> bool:
    return exchange.socket is not None and exchange.socket.handshake_us is not None


def _is_decided(exchange: Exchange) -> bool:
    return exchange.kept != UNDECIDED


def _has(attribute: str) -> Condition:
    """Return whether the explanation of a request says something."""

    def has(exchange: Exchange) -> bool:
        return exchange.explanation is not None and bool(getattr(exchange.explanation, attribute))

    return has


def _has_queue(exchange: Exchange) -> bool:
    return exchange.queue_us is not None


def _has_client_type(exchange: Exchange) -> bool:
    return b"x-client-type" in exchange.headers


def _has_error_type(exchange: Exchange) -> bool:
    return exchange.error_type is not None


class AccessField(NamedTuple):
    """One field."""

    name: str
    attribute: str
    """Where the exchange has it."""
    kind: FieldKind
    when: Condition | None = None
    """Which exchanges have it; None: all."""
    is_for_people: bool = True
    """Whether lines for people show it."""
    is_on_access_line: bool = True
    is_on_background_line: bool = False
    """Whether it is on the line about the work after the response."""


ACCESS_FIELDS = (
    AccessField(FIELD_REQUEST_ID, "request_id", TEXT, is_on_background_line=True),
    AccessField(FIELD_CORRELATION_ID, "correlation_id", TEXT, is_for_people=False, is_on_background_line=True),
    AccessField(FIELD_TRACE_ID, "trace_id", TEXT, _is_traced, is_for_people=False, is_on_background_line=True),
    AccessField(FIELD_SPAN_ID, "span_id", TEXT, _is_traced, is_for_people=False, is_on_background_line=True),
    AccessField(TRACE_FLAGS, "sampled", _FLAGS, _is_traced, is_for_people=False, is_on_background_line=True),
    AccessField(METHOD, "method", _FOREIGN_TEXT, is_on_background_line=True),
    AccessField(PATH, "path", _FOREIGN_TEXT, is_on_background_line=True),
    AccessField(ROUTE, "route", TEXT, is_on_background_line=True),
    AccessField(STATUS, "status", _STATUS_CODE),
    AccessField(DURATION, "duration_us", _MILLISECONDS),
    AccessField("first_byte_ms", "first_byte_us", _MILLISECONDS, _is_stream),
    AccessField("background_ms", "background.duration_us", _MILLISECONDS, is_on_access_line=False, is_on_background_line=True),
    AccessField("handshake_ms", "socket.handshake_us", _MILLISECONDS, _has_handshake),
    AccessField("request_bytes", "received_bytes", _COUNT, is_for_people=False),
    AccessField("response_bytes", "sent_bytes", _COUNT, is_for_people=False),
    AccessField("close_code", "socket.close_code", _COUNT, _has_handshake),
    AccessField("messages_received", "socket.received_messages", _COUNT, _has_handshake),
    AccessField("messages_sent", "socket.sent_messages", _COUNT, _has_handshake),
    AccessField("kept", "kept", TEXT, _is_decided, is_for_people=False),
    AccessField("why", "explanation.why", TEXT, _has("findings")),
    AccessField("cause", "explanation.cause", TEXT, _has("findings"), is_for_people=False),
    AccessField("blocked_loop_ms", "explanation.blocked_loop_us", _MILLISECONDS, _has("blocked_loop_us")),
    AccessField("blocked_loop_at", "explanation.blocked_loop_at", TEXT, _has("blocked_loop_at")),
    AccessField("delayed_by", "explanation.delayed_by", TEXT, _has("delayed_by")),
    AccessField("delayed_up_to_ms", "explanation.delayed_up_to_us", _MILLISECONDS, _has("delayed_up_to_us")),
    AccessField("queued_up_to_ms", "explanation.queued_up_to_us", _MILLISECONDS, _has("queued_up_to_us")),
    AccessField("queue_ms", "queue_us", _MILLISECONDS, _has_queue),
    AccessField("validation", "explanation.validation", TEXT, _has("validation")),
    AccessField("timings", "explanation.timings_ms", _OBJECT, _has("timings"), is_for_people=False),
    AccessField("client_type", "headers", CLIENT_TYPE, _has_client_type),
    AccessField("error_type", "error_type", TEXT, _has_error_type),
)
"""In the order of a line; the fields of applications stand before the last one."""


def access_level(exchange: Exchange) -> LevelName:
    """Return the level of a request's line."""
    if exchange.excluded:
        return "debug"
    if exchange.failed:
        return "error"
    # Where the service is not to blame: a 4xx, or a client that left.
    return "warn" if exchange.error_type is not None or exchange.status >= 400 else "info"


def access_message(exchange: Exchange) -> str:
    """Return the message of a request's line."""
    if exchange.kind == "websocket":
        return "websocket failed" if exchange.failed else "websocket closed"
    return "request failed" if exchange.failed and exchange.error is not None else "request completed"


def background_level(error: BaseException | None) -> LevelName:
    """Return the level of the line about the work after the response."""
    return "debug" if error is None else "error"


def field_reader(
    fields: Iterable[AccessField], readable: Callable[[str], str] = str
) -> Callable[[dict[str, Any], Exchange], dict[str, Any]]:
    """Return a function that adds the fields which an exchange has to a line, and returns the line.

    `readable` cuts and redacts a text of the caller's. The function is compiled, as `namedtuple` compiles its own: a loop
    over the table would cost each line three times as much.
    """
    rows = ["def add_fields(line, exchange):"]
    names: dict[str, Any] = {}
    for number, (condition, group) in enumerate(groupby(fields, attrgetter("when"))):
        names[f"has{number}"] = condition
        rows.append(f"    if has{number} is None or has{number}(exchange):")
        for position, field in enumerate(group):
            value = f"exchange.{field.attribute}"
            if convert := readable if field.kind.is_foreign else field.kind.convert:
                names[f"convert{number}_{position}"] = convert
                value = f"convert{number}_{position}({value})"
            rows.append(f"        line[{field.name!r}] = {value}")
    exec(_compiled("\n".join([*rows, "    return line"])), names)  # noqa: S102 - of our own table
    add_fields: Callable[[dict[str, Any], Exchange], dict[str, Any]] = names["add_fields"]
    return add_fields


@cache
def _compiled(source: str) -> CodeType:
    return compile(source, "<fields of an exchange>", "exec")


add_exchange_ids = field_reader(ACCESS_FIELDS[:5])

"""What a line looks like: fields and their order, JSON and console, and that any value stays one whole line."""

import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

import pytest
from fastapi import FastAPI
from hypothesis import given, settings
from hypothesis import strategies as st
from support import Watched, client, times

from sage_fastapi_obs import Observability, Settings
from sage_fastapi_obs.errors import SettingsError
from sage_fastapi_obs.log_levels import level_name
from sage_fastapi_obs.logs.line_format import (
    LONGEST_BYTES,
    TOP_LEVEL,
    console_format,
    json_format,
    line_builder,
    with_renamed_fields,
)
from sage_fastapi_obs.privacy.exception_text import exception_fields
from sage_fastapi_obs.privacy.redaction import BUILT_IN, Redaction
from sage_fastapi_obs.settings import ServiceSettings

SERVICE = ServiceSettings(name="shop", environment="production", version="1.2.3")
AT = 1_759_914_927.482
ACCESS = {"method": "POST", "path": "/identify", "route": "/identify", "status": 200, "duration_ms": 12.417}


def line(
    message: str = "said", *, level: str = "info", at: float = AT, error: Any = None, logger: Any = "app", **fields: Any
) -> Any:
    return line_builder(SERVICE)(at, level, message, logger, fields, error)


def parsed(encoded: bytes) -> dict[str, Any]:
    """Read one JSON line, holding it to be one."""
    assert encoded.count(b"\n") == 1
    assert encoded.endswith(b"\n")
    text = encoded.decode("utf-8")
    assert text.splitlines() == [text[:-1]]
    found = json.loads(text)
    assert isinstance(found, dict)
    return found


def console(laid: Any, *, colours: bool = False) -> str:
    return console_format(colours)(laid).decode()


def test_fields_come_in_a_fixed_order() -> None:
    """Who and when first, then the ids, then the request, whatever order they were given in; the rest is in `data`."""
    ids = {"trace_flags": "01", "span_id": "b" * 16, "trace_id": "a" * 32, "correlation_id": "c", "request_id": "r"}
    laid = line(
        customer="x", **dict(reversed(ACCESS.items())), **ids, error_type="500", operation="sign", error=ValueError("v")
    )
    assert list(parsed(json_format(laid))) == [
        *("timestamp", "level", "message", "service", "environment", "version", "logger"),
        *("request_id", "correlation_id", "trace_id", "span_id", "trace_flags"),
        *("method", "path", "route", "status", "duration_ms"),
        *("operation", "error_type", "data", "error"),
    ]
    assert laid["data"] == {"customer": "x"}


def test_a_line_without_extras_has_no_empty_fields() -> None:
    """What is not there is left out, and does not stand there as null."""
    assert parsed(json_format(line(logger=None))) == {
        "timestamp": "2025-10-08T09:15:27.482Z",
        "level": "info",
        "message": "said",
        "service": "shop",
        "environment": "production",
        "version": "1.2.3",
    }


@pytest.mark.parametrize(
    "name", ["level", "message", "timestamp", "service", "environment", "version", "logger", "data", "error"]
)
def test_a_field_cannot_take_the_place_of_a_standard_one(name: str) -> None:
    """What an application binds under the name of a standard field goes into `data`."""
    laid = line_builder(SERVICE)(AT, "info", "said", "app", {name: "forged"}, None)
    assert laid.get(name) != "forged"
    assert laid["data"][name] == "forged"


@pytest.mark.parametrize(
    ("severity", "name"),
    [
        *((0, "debug"), (5, "debug"), (9, "debug"), (10, "debug"), (19, "debug"), (20, "info"), (25, "info"), (29, "info")),
        *((30, "warn"), (39, "warn"), (40, "error"), (49, "error"), (50, "critical"), (99, "critical"), (-1, "debug")),
    ],
)
def test_levels_between_the_known_ones_round_down(severity: int, name: str) -> None:
    """SUCCESS is info, WARNING is warn, and a level of the application's own is the next lower one."""
    assert level_name(severity) == name


@given(st.floats(0, 4_000_000_000))
def test_timestamps_are_utc_in_milliseconds(at: float) -> None:
    """A timestamp is within a millisecond of the clock, ISO 8601, in UTC, of fixed length."""
    shown = line(at=at)["timestamp"]
    assert len(shown) == 24
    assert shown.endswith("Z")
    assert abs(datetime.fromisoformat(shown).timestamp() - at) <= 0.001001


def test_timestamps_are_right_from_several_threads() -> None:
    """Threads that write in different seconds do not borrow each other's."""
    lay_out = line_builder(SERVICE)
    wrong = []

    def write(second: int) -> None:
        expected = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
        for _ in range(5_000):
            if (shown := lay_out(float(second), "info", "m", None, {}, None)["timestamp"]) != expected:
                wrong.append(shown)

    threads = [threading.Thread(target=write, args=(second,)) for second in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_an_error_is_told_without_values_of_variables() -> None:
    """Type, message and stack with its causes; not what local variables held."""
    password = "hunter2"

    def fail() -> None:
        secret = password + password
        try:
            raise KeyError("inner")
        except KeyError as error:
            raise ValueError("outer") from error
        finally:
            assert secret

    with pytest.raises(ValueError) as caught:
        fail()
    described = exception_fields(caught.value, Redaction())
    assert (described["type"], described["message"]) == ("ValueError", "outer")
    assert "KeyError: 'inner'" in described["stack_trace"]
    assert "direct cause" in described["stack_trace"]
    assert "hunter2hunter2" not in described["stack_trace"]


class Unprintable:
    def __str__(self) -> str:
        raise RuntimeError("no")

    __repr__ = __str__


class UnprintableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no")


def test_an_unprintable_error_is_still_told() -> None:
    """An exception whose message raises has its type and a placeholder."""
    described = parsed(json_format(line(error=UnprintableError())))["error"]
    assert described["type"] == "UnprintableError"
    assert described["message"] == "<unprintable: RuntimeError>"


class Colour(Enum):
    RED = "red"


@dataclass
class Point:
    x: int = 1
    y: Any = None


class Broken(Mapping[str, Any]):
    def __getitem__(self, key: str) -> Any:
        raise RuntimeError

    def __iter__(self) -> Any:
        raise RuntimeError

    def __len__(self) -> int:
        return 1


class BrokenText(str):
    __slots__ = ()

    def __str__(self) -> str:
        raise RuntimeError


def nested(depth: int) -> list[Any]:
    top: list[Any] = []
    inner = top
    for _ in range(depth):
        inner.append([])
        inner = inner[0]
    return top


def circular() -> list[Any]:
    ring: list[Any] = []
    ring.append(ring)
    return ring


ODD_VALUES = [
    *(None, True, 1.5, -1, 2**53, 2**64, 10**5000, -(2**70), float("nan"), float("inf"), 1 + 2j, Decimal("1.10"), b"\xff\x00"),
    *(object(), {1, 2}, frozenset("a"), (1, 2), datetime.now(UTC), UUID(int=7), Colour.RED, Point(), Point(y=Unprintable())),
    *(
        {(1, 2): 3, None: 4, b"x": 5},
        {Unprintable(): 1},
        {"\ud800": "\ud800"},
        "\ud800",
        "\x00",
        "\x1b[31m",
        "\u2028",
        "",
        "é" * 10,
    ),
    *(Unprintable(), UnprintableError(), Broken(), {"a": Broken(), "b": "\ud800"}, BrokenText("x"), BrokenText("\ud800")),
    *(
        nested(100),
        nested(100_000),
        circular(),
        {"a": circular()},
        lambda: None,
        int,
        iter(()),
        memoryview(b"x"),
        NotImplemented,
    ),
]


@pytest.mark.parametrize("value", ODD_VALUES, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("beside", ["plain", "\ud800"], ids=["fast", "rebuilt"])
def test_any_value_keeps_the_line(value: Any, beside: str) -> None:
    """A value without a JSON form, or that cannot even be printed, becomes something else; the line stays."""
    laid = line(bound=value, stays="yes", beside=beside)
    found = parsed(json_format(laid))
    assert found["message"] == "said"
    assert set(found["data"]) == {"bound", "stays", "beside"}
    assert found["data"]["stays"] == "yes"
    assert "stays=yes" in console(laid)


@pytest.mark.parametrize(
    "fields",
    [
        {"message": "x" * 5_000_000},
        {"value": "x" * 5_000_000},
        {"value": ["x" * 3_000] * 1_000},
        {"value": {str(number): "x" * 1_000 for number in range(1_000)}},
        {str(number): "é" * 3_000 for number in range(1_000)},
        {"value": "\x00" * 5_000_000},
        {"value": b"x" * 5_000_000},
    ],
    ids=["message", "text", "list", "mapping", "fields", "escapes", "bytes"],
)
def test_a_long_line_is_cut(fields: dict[str, Any]) -> None:
    """A line beyond the limit keeps the beginning of each value, marked as cut, and all that identifies it."""
    message = fields.pop("message", "said")
    encoded = json_format(line(message, request_id="r-1", duration_ms=1.5, **fields))
    assert len(encoded) <= LONGEST_BYTES
    found = parsed(encoded)
    assert (found["request_id"], found["duration_ms"], found["service"]) == ("r-1", 1.5, "shop")
    assert "…" in encoded.decode()


def test_a_line_within_the_limit_is_whole() -> None:
    """Nothing is cut from a line that is long but not too long."""
    text = "x" * 100_000
    assert parsed(json_format(line(text, value=[text])))["data"]["value"] == [text]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()) | st.binary() | st.builds(object),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters()) | st.integers(), inner, max_size=4),
    max_leaves=12,
)


@given(st.text(st.characters()), st.dictionaries(st.text(st.characters()), VALUES, max_size=5))
def test_every_json_line_parses(message: str, fields: dict[str, Any]) -> None:
    """Whatever is said with whatever fields, it is one line and one JSON object with the message in it."""
    found = parsed(json_format(line_builder(SERVICE)(AT, "info", message, "app", fields, None)))
    assert found["message"] == Redaction().text(message).encode("utf-8", "replace").decode()


@given(st.text(st.characters()), st.dictionaries(st.text(st.characters()), VALUES, max_size=5), st.booleans())
def test_every_console_line_is_one_line_without_control_characters(message: str, fields: dict[str, Any], colours: bool) -> None:
    """Whatever is said, a console line is one line, and its only control characters are our colours."""
    shown = console(line_builder(SERVICE)(AT, "info", message, "app", fields, None), colours=colours)
    if colours:
        for code in ("2", "32"):
            shown = shown.replace(f"\x1b[{code}m", "")
        shown = shown.replace("\x1b[0m", "")
    assert shown.endswith("\n")
    assert shown[:-1].isprintable()


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=200).filter(lambda text: BUILT_IN.is_plain_text(text + "}")))
def test_braces_and_percents_are_text(message: str) -> None:
    """A message is never a template; what could be a secret is for other tests."""
    for text in (message, f"{{{message}}}", "{0.__class__} %s {", "%(x)s"):
        assert parsed(json_format(line(text, x="filled in")))["message"] == text


@pytest.mark.parametrize(
    "hostile",
    ["a\nb", "a\r\nb", "a\x1b[31mb", "a\x1b]0;title\x07b", "a\x9b31mb", "a\x85b", "a\u2028b", "a\x00b", "a\u202eb", "a\x7fb"],
)
def test_the_console_escapes_what_could_forge(hostile: str) -> None:
    """Line breaks, terminal escapes and directional overrides are shown escaped, in message, field, name and stack."""
    try:
        raise ValueError(hostile)
    except ValueError as error:
        shown = console(line(hostile, error=error, **{hostile: hostile}))
    assert all(row.isprintable() for row in shown.split("\n"))
    assert not any(row.startswith("b") for row in shown.split("\n"))
    assert hostile not in shown
    escaped = f"a{hostile[1].encode('unicode_escape').decode()}"
    assert shown.split("\n")[0].count(escaped) == 3


def test_the_console_shows_a_request_by_what_matters() -> None:
    """The access line says method, path, status and duration first, and leaves the long ids out."""
    shown = console(line("request completed", **ACCESS, request_id="r-1", trace_id="a" * 32, tenant="acme"))
    assert "POST /identify 200 12.4 ms" in shown
    assert "request_id=r-1" in shown
    assert "tenant=acme" in shown
    assert "a" * 32 not in shown
    assert "request completed" not in shown


@pytest.mark.parametrize(
    "fields", [{"status": "ok", "duration_ms": "fast"}, {"status": 1, "duration_ms": 2}, {**ACCESS, "duration_ms": "x"}]
)
def test_the_console_takes_no_other_line_for_a_request(fields: dict[str, Any]) -> None:
    """An application's own fields of those names are fields."""
    shown = console(line("shipped", **fields))
    assert "shipped" in shown
    assert f"status={fields['status']}" in shown


def test_the_console_shows_an_error_with_its_stack() -> None:
    """Below the line comes the stack, indented."""
    try:
        raise ValueError("broken")
    except ValueError as error:
        rows = console(line("failed", level="error", error=error)).splitlines()
    assert rows[1].startswith("    Traceback")
    assert rows[-1] == "    ValueError: broken"


@pytest.mark.parametrize("level", ["debug", "info", "warn", "error", "critical"])
def test_every_level_has_a_colour(level: str) -> None:
    """With colours each level can be shown; without them there is no escape sequence."""
    assert console(line(level=level), colours=True).count("\x1b[0m") == 3
    assert "\x1b" not in console(line(level=level))


def test_fields_of_steps_and_operations_have_their_places() -> None:
    """What operations and their steps say is at the top, in the documented order."""
    steps = ("step", "step_status", "step_started_at", "step_finished_at", "data_type", "data_size")
    names = ("operation", "event_id", *steps, "context", "performance")
    found = parsed(json_format(line(**{name: {"a": 1} for name in reversed(names)}, error_type="500")))
    assert [name for name in found if name in (*names, "error_type", "data")] == [*names, "error_type"]


def test_fields_may_be_called_otherwise() -> None:
    """Aliases rename fields in their places, and nothing else; two may swap their names."""
    form = with_renamed_fields({"timestamp": "@timestamp", "message": "msg", "span_id": "trace_id", "trace_id": "span_id"})
    found = parsed(form(line(trace_id="t", span_id="s", x={"message": 1})))
    assert list(found)[:3] == ["@timestamp", "level", "msg"]
    assert (found["trace_id"], found["span_id"], found["data"]) == ("s", "t", {"x": {"message": 1}})
    assert with_renamed_fields({}) is json_format


@pytest.mark.parametrize(
    ("aliases", "said"),
    [
        ({"timestmp": "@timestamp"}, "'timestmp' is no field of a line; there are: timestamp, level"),
        ({"message": "level"}, "'message' cannot be called 'level', as another field has that name"),
        ({"message": "msg", "logger": "msg"}, "'message' cannot be called 'msg'"),
        ({"message": "data"}, "'message' cannot be called 'data'"),
        ({"message": ""}, "'message' needs another name, such as '@message'"),
    ],
)
def test_aliases_that_lose_a_field_are_refused(aliases: dict[str, str], said: str) -> None:
    """While building, with what is wrong: no field of that name, or two fields with one name."""
    with pytest.raises(SettingsError) as refused:
        Observability(Settings(logging={"field_aliases": aliases}))
    assert said in str(refused.value)
    assert "logging.field_aliases" in str(refused.value)


@pytest.mark.parametrize("name", ["path", "Trace-ID", "data", "duration_ms"])
def test_what_is_on_every_line_cannot_be_hidden(name: str) -> None:
    """A name in `redact` that could not be honoured everywhere is refused; one of the application's is not."""
    with pytest.raises(SettingsError, match=r"logging\.redact: .* is on every line"):
        Observability(Settings(logging={"redact": [name]}))
    Observability(Settings(logging={"redact": ["session_id"]}))


async def test_aliases_hold_for_every_line(tmp_path: Any) -> None:
    """Also for those of requests, which are laid out at once."""
    watched = Watched(tmp_path, logging={"field_aliases": {"duration_ms": "took", "message": "msg"}})
    app = FastAPI()
    watched.obs.install(app)
    async with watched.obs, client(app) as http:
        await http.get("/monitoring/health")
        await http.get("/nowhere")
    assert all("msg" in line and "message" not in line for line in watched.lines)
    assert [line["status"] for line in watched.lines if "took" in line] == [200, 404]


def test_a_long_line_gives_every_field_its_share() -> None:
    """However long they all are, the ids, the beginning of each value and the end of the stack are there."""
    known = dict.fromkeys(TOP_LEVEL[5:], "\x00" * 100_000)
    ids = {name: f"id of {name}" for name in TOP_LEVEL[:5]}
    try:
        raise ValueError("x" * 100_000)
    except ValueError as error:
        laid = line("\x00" * 100_000, **ids, **known, **{str(n): "é" * 10_000 for n in range(500)}, error=error)
    encoded = json_format(laid)
    found = parsed(encoded)
    assert len(encoded) <= LONGEST_BYTES
    assert {name: found[name] for name in ids} == ids
    assert all(found[name].startswith("\x00") for name in known)
    assert found["data"]["0"].startswith("é")
    assert found["error"]["type"] == "ValueError"


@pytest.mark.parametrize("text", ["\x80", "\u2028", "\U0001f986", "\x00", "a"])
def test_what_is_written_in_more_bytes_counts_as_those(text: str) -> None:
    """The limit is one of the line as it is written, whichever of its characters have to be escaped."""
    for many in (dict.fromkeys(TOP_LEVEL, text * 20_000), {str(n): text * 2_000 for n in range(30)}):
        assert len(json_format(line(**many))) <= LONGEST_BYTES
        assert len(json_format({**line(), **many})) <= LONGEST_BYTES


@given(st.dictionaries(st.sampled_from(TOP_LEVEL), st.text(st.characters(), min_size=1, max_size=20), max_size=20))
@settings(max_examples=times(20), deadline=None)
def test_no_line_is_longer_than_the_limit(fields: dict[str, str]) -> None:
    """Whatever is in it, and by whichever way it was laid out."""
    long = {name: text * 9_999 for name, text in fields.items()}
    for laid in (line(**long), {**line(), **long}):
        assert len(json_format(laid)) <= LONGEST_BYTES
        parsed(json_format(laid))


@pytest.mark.parametrize("span_id", ["4111111111111111", "0000000000000000", "abcdef0123456789"])
def test_a_span_id_is_never_taken_for_a_secret(span_id: str) -> None:
    """Some have digits only, and are valid as the number of a card; elsewhere such a number is hidden."""
    laid = line(span_id=span_id, card="4111111111111111")
    assert laid["span_id"] == span_id
    assert laid["data"]["card"] == "REDACTED"
    assert line(span_id="4111 1111 1111 1111")["span_id"] == "REDACTED"

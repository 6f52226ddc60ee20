"""Any value at all: it is written as one line that parses, bounded, and without what its names say is secret."""

import asyncio
import json
import logging
import random
import sqlite3
import threading
import traceback
from collections import ChainMap, OrderedDict, UserDict, UserList, defaultdict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from fractions import Fraction
from ipaddress import ip_network
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple
from uuid import UUID

import attrs
import httpx
import loguru
import pytest
import sqlalchemy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from odd_errors import ODD_ERRORS, NamelessError, shared
from pydantic import BaseModel, Field, SecretStr
from starlette.requests import Request
from support import Watched

from sage_fastapi_obs import create_logger
from sage_fastapi_obs.logs.line_format import LONGEST_BYTES, console_format, json_format, line_builder
from sage_fastapi_obs.logs.loggers import BoundLogger
from sage_fastapi_obs.privacy.exception_name import class_name
from sage_fastapi_obs.privacy.exception_text import LONGEST_MESSAGE, LONGEST_STACK, exception_fields
from sage_fastapi_obs.privacy.json_values import MORE, MOST_LOOKED_THROUGH, Sanitizer
from sage_fastapi_obs.privacy.redaction import REDACTED, Redaction
from sage_fastapi_obs.request.exchange import Exchange
from sage_fastapi_obs.settings import LoggingSettings, ServiceSettings

SERVICE = ServiceSettings(name="shop")
AT = 1_759_914_927.482


class Raises:
    """Fails at whatever is asked of it."""

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(name)

    def __str__(self) -> str:
        raise RuntimeError

    __repr__ = __str__

    def __len__(self) -> int:
        raise RuntimeError

    def __iter__(self) -> Any:
        raise RuntimeError


class HostileText(str):
    __slots__ = ()

    def __str__(self) -> Any:
        raise RuntimeError

    __repr__ = encode = lower = __len__ = __getitem__ = __contains__ = isascii = __str__


class HostileNumber(int):
    def __str__(self) -> Any:
        raise RuntimeError

    __repr__ = __index__ = __int__ = __abs__ = bit_length = __str__

    def __lt__(self, other: object) -> bool:
        raise RuntimeError

    __le__ = __gt__ = __ge__ = __lt__


class HostileDict(dict[Any, Any]):
    def items(self) -> Any:
        raise RuntimeError

    keys = values = __iter__ = __len__ = __getitem__ = items


class HostileList(list[Any]):
    def __getitem__(self, index: Any) -> Any:
        raise RuntimeError


class LyingMapping(Mapping[str, Any]):
    def __getitem__(self, key: str) -> Any:
        return key * 2

    def __iter__(self) -> Any:
        return iter(["a", "b"])

    def __len__(self) -> int:
        return 10**15


class Endless(Mapping[int, Any]):
    def __getitem__(self, key: int) -> Any:
        return key

    def __iter__(self) -> Any:
        number = 0
        while True:
            yield (number := number + 1)

    def __len__(self) -> int:
        return 1


class Array:
    """An array as numerical libraries have them, of more than anyone can write."""

    def __init__(self, *items: Any) -> None:
        self.items = items

    def __len__(self) -> int:
        return 10**9

    def __iter__(self) -> Any:
        yield from self.items * 10**6

    def __contains__(self, item: object) -> bool:
        return False


class Colour(Enum):
    RED = "red"
    NESTED = ("a", {"password": "hunter2"})


class Level(IntEnum):
    HIGH = 3


class Kind(StrEnum):
    GOOD = "good"


@dataclass
class Login:
    user: str = "bob"
    password: str = "hunter2"
    hint: str = field(default="hunter2", repr=False)
    extra: Any = None


@dataclass(slots=True)
class Slotted:
    set_: int = 1
    unset: int = field(init=False)


class Model(BaseModel, extra="allow"):
    user: str = "bob"
    api_key: str = "hunter2"
    hint: str = Field(default="hunter2", repr=False)
    secret_text: SecretStr = SecretStr("hunter2")
    inner: Any = None


@attrs.define
class Attributes:
    user: str = "bob"
    password: str = "hunter2"
    hint: str = attrs.field(default="hunter2", repr=False)


class Access(NamedTuple):
    user: str = "bob"
    password: str = "hunter2"
    more: Any = None


def rows() -> tuple[Any, Any]:
    """Read a row by SQLAlchemy, and one by the standard library."""
    statement = "SELECT 'bob' AS user, 'hunter2' AS password"
    engine = sqlalchemy.create_engine("sqlite://")
    with engine.connect() as connection:
        row = connection.execute(sqlalchemy.text(statement)).one()
    engine.dispose()
    connection = sqlite3.connect(":memory:")
    connection.row_factory = sqlite3.Row
    plain = connection.execute(statement).fetchone()
    connection.close()
    return row, plain


class Point(NamedTuple):
    x: Any
    y: Any


def circular() -> Any:
    ring: dict[str, Any] = {"a": []}
    ring["a"].append(ring)
    return ring


def nested(depth: int, wrap: Callable[[Any], Any] = lambda inner: [inner]) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = wrap(value)
    return value


class RaisesNameless:
    """Whose texts raise an exception that has no name itself."""

    def __repr__(self) -> str:
        raise NamelessError


HOSTILE: list[Callable[[], Any]] = [
    *(Raises, lambda: HostileText("x"), lambda: HostileText("\ud800"), lambda: HostileNumber(7), lambda: HostileDict(a=1)),
    RaisesNameless,
    *(lambda: HostileList([1]), LyingMapping, Endless, lambda: Array(1.5), lambda: Array(Raises()), object, lambda: Raises),
    *(
        circular,
        lambda: nested(300),
        lambda: nested(100_000),
        lambda: nested(5_000, lambda v: {"a": v}),
        lambda: nested(9, Login),
    ),
    *(lambda: float("nan"), lambda: float("inf"), lambda: -float("inf"), lambda: 10**5_000, lambda: -(2**80), lambda: 2**63),
    *(lambda: 2**64, lambda: 1 + 2j, lambda: Decimal("NaN"), lambda: Decimal("1.1"), lambda: Fraction(1, 3), lambda: True),
    *(lambda: b"\xff\x00", lambda: bytearray(b"a"), lambda: memoryview(b"a"), lambda: memoryview(b"abcd").cast("i")),
    *(lambda: {1: 1, "1": 2, 1.5: 3, "1.5": 4, "true": 5, None: 6, "null": 7, (1, 2): 8, "[1,2]": 9},),
    *(lambda: {b"x": 1, "x": 2, Kind.GOOD: 3, "good": 4}, lambda: {"\ud800": 1, "?": 2}, lambda: {"": {}, "x": []}),
    *(
        lambda: {Colour.RED: 1, True: 0, frozenset({1}): 2, UUID(int=1): 3, date(2025, 1, 1): 4},
        lambda: {object(): object()},
    ),
    *(
        lambda: {1, 2},
        lambda: deque([1]),
        lambda: range(10**12),
        lambda: iter(()),
        lambda: {}.values(),
        lambda: (n for n in ()),
    ),
    *(lambda: Colour.RED, lambda: Colour.NESTED, lambda: Level.HIGH, lambda: Kind.GOOD, Login, lambda: Login(extra=circular())),
    *(Slotted, Model, lambda: Model(inner=Raises(), more=1), lambda: Point(1, Raises()), lambda: ChainMap({"a": 1}, {"b": 2})),
    *(lambda: OrderedDict(a=1), lambda: defaultdict(list, a=[1]), lambda: UserDict(a=1), lambda: UserList([1])),
    *(lambda: MappingProxyType({"a": 1}), lambda: httpx.Headers({"Cookie": "a=b"}), lambda: httpx.URL("http://u:p@h/?token=x")),
    *(
        lambda: datetime.now(UTC),
        lambda: datetime.min.replace(tzinfo=UTC),
        lambda: time(1),
        lambda: timedelta(1),
        lambda: date(2025, 1, 1),
    ),
    *(
        lambda: datetime(2025, 1, 1, tzinfo=timezone(timedelta(seconds=1))),
        lambda: ip_network("10.0.0.0/8"),
        lambda: Path("/a"),
    ),
    *(
        lambda: ValueError("\ud800"),
        lambda: ExceptionGroup("g", [KeyError(1)]),
        lambda: SystemExit(1),
        lambda: int,
        lambda: len,
    ),
    *(lambda: threading.Lock(), lambda: NotImplemented, lambda: ..., lambda: __builtins__, lambda: Request({"type": "http"})),
    *(
        lambda: "\x00\x1b[31m\r\n",
        lambda: "\u2028\u2029\x85\x9b\u202e",
        lambda: "\ud800",
        lambda: "{0.__class__} %s {",
        lambda: "",
    ),
    *(lambda: "é" * 200_000, lambda: "\x00" * 300_000, lambda: b"x" * 3_000_000, lambda: ["x" * 9_000] * 9_000),
    *(
        lambda: list(range(100_000)),
        lambda: {str(n): n for n in range(50_000)},
        lambda: [{}] * 100_000,
        lambda: [[[]] * 999] * 999,
    ),
]


HIDDEN = {"user": "bob", "password": REDACTED}


def laid(fields: Mapping[str, Any], message: str = "said", **settings: Any) -> dict[str, Any]:
    return line_builder(SERVICE, Redaction(LoggingSettings(**settings)))(AT, "info", message, "app", fields, None)


def parsed(encoded: bytes) -> dict[str, Any]:
    """Read one JSON line strictly, holding it to be one, whoever breaks lines."""
    assert len(encoded) <= LONGEST_BYTES
    text = encoded.decode("utf-8")
    assert text.splitlines() == [text[:-1]]

    def only_numbers(constant: str) -> Any:
        raise AssertionError(constant)

    def no_name_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len(dict(pairs)) == len(pairs)
        return dict(pairs)

    found = json.loads(text, parse_constant=only_numbers, object_pairs_hook=no_name_twice)
    assert isinstance(found, dict)
    return found


def shown(value: Any, **settings: Any) -> Any:
    """Return what a reader of the line finds in place of a value."""
    return parsed(json_format(laid({"value": value}, **settings)))["data"]["value"]


@pytest.mark.parametrize("make", HOSTILE, ids=range(len(HOSTILE)))
@pytest.mark.parametrize(
    "place",
    [lambda v: {"value": v}, lambda v: {"value": [v]}, lambda v: {"value": {"in": (v,)}}, lambda v: {"operation": v, "x": v}],
    ids=["field", "list", "mapping", "known"],
)
def test_any_value_keeps_the_line(make: Callable[[], Any], place: Callable[[Any], dict[str, Any]]) -> None:
    """Whatever a value does when it is looked at, the line is there, with the other fields."""
    fields = {**place(make()), "beside": "yes"}
    line = laid(fields)
    found = parsed(json_format(line))
    assert found["message"] == "said"
    assert found["data"].get("beside") in ("yes", None)
    assert "beside" in found["data"] or MORE in found["data"]
    text = console_format(colours=False)(line).decode()
    assert text.endswith("\n")
    assert text[:-1].isprintable()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (Decimal("1.10"), "1.10"),
        (Fraction(1, 3), "1/3"),
        (b"\xffab", "\ufffdab"),
        (float("nan"), None),
        ([float("inf"), {1}], [None, [1]]),
        (2**63, 2**63),
        (2**64, hex(2**64)),
        (UUID(int=7), str(UUID(int=7))),
        (date(2025, 1, 2), "2025-01-02"),
        (datetime(2025, 1, 2, tzinfo=UTC), "2025-01-02T00:00:00+00:00"),
        ((datetime(2025, 1, 2, tzinfo=UTC), {1}), ["2025-01-02T00:00:00+00:00", [1]]),
        (Colour.RED, "red"),
        (Level.HIGH, 3),
        (Kind.GOOD, "good"),
        (HostileText("x"), "x"),
        (HostileNumber(7), 7),
        (HostileDict(a=1), {"a": 1}),
        (Point(1, 2), {"x": 1, "y": 2}),
        (deque([1]), [1]),
        (range(3), [0, 1, 2]),
        ({1: "a", "1": "b", 1.5: "c", "1 (2)": "d"}, {"1": "a", "1 (2)": "b", "1.5": "c", "1 (2) (2)": "d"}),
        ({(1, 2): 3, None: 4, b"x": 5, True: 6}, {"[1,2]": 3, "null": 4, "x": 5, "true": 6}),
        (ValueError("no"), "ValueError: no"),
        (Path("/a"), "/a"),
        (Raises(), "<unprintable: RuntimeError>"),
        (int, "<class 'int'>"),
        ("\ud800", "?"),
        ("\u2028\x85", "\u2028\x85"),
        (Login(), {"user": "bob", "password": REDACTED, "extra": None}),
        (Access(more=Access("x", "y")), {**HIDDEN, "more": {"user": "x", "password": REDACTED, "more": None}}),
        ([Attributes()], [HIDDEN]),
        (rows()[0], HIDDEN),
        (rows()[1], HIDDEN),
        ({"row": rows()[0], "mapping": rows()[0]._mapping}, {"row": HIDDEN, "mapping": HIDDEN}),
        ({"name": "DB_PASSWORD", "value": "hunter2"}, {"name": "DB_PASSWORD", "value": REDACTED}),
        (
            [{"key": "Authorization", "value": "x"}, {"name": "x", "value": 1}],
            [{"key": "Authorization", "value": REDACTED}, {"name": "x", "value": 1}],
        ),
        (["mysql", "--password", "hunter2", "-v", "shop"], ["mysql", "--password", REDACTED, "-v", "shop"]),
        (Model(a=1), {"user": "bob", "api_key": REDACTED, "secret_text": "**********", "inner": None, "a": 1}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_becomes_of_values(value: Any, expected: Any) -> None:
    """Numbers stay numbers, containers keep their form, and what JSON has no word for is text."""
    assert shown(value) == expected


def test_errors_of_a_validation_are_shown_without_its_input() -> None:
    """What pydantic lists of a failed validation keeps place and kind, and loses the input and what validators say of it."""
    listed = [
        {"type": "value_error", "loc": ("a",), "msg": "Value error, hunter2", "input": "hunter2", "ctx": {"error": "hunter2"}},
        {"type": "missing", "loc": ("b",), "msg": "Field required", "input": {"a": "hunter2"}},
    ]
    assert shown(listed) == [
        {"type": "value_error", "loc": ["a"], "msg": "Value error", "input": REDACTED, "ctx": REDACTED},
        {"type": "missing", "loc": ["b"], "msg": "Field required", "input": REDACTED},
    ]
    fields = {"loc": Raises(), "input": "hunter2", "type": ["x"], "msg": "hunter2", "name": {}, "value": 1}
    assert "hunter2" not in str(parsed(json_format(laid(fields))))


def test_a_client_of_a_server_is_not_asked_for_its_keys() -> None:
    """What has `keys`, and is no row, may be a client of a server that would be asked for all it has."""

    class Client:
        def keys(self) -> Any:
            raise AssertionError

        def __getitem__(self, name: str) -> Any:
            raise AssertionError

        def __str__(self) -> str:
            return "client"

    assert shown(Client()) == "client"


def test_what_is_looked_through_for_a_line_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of texts that may have secrets a line takes so much as can be looked through in time; each keeps its beginning."""
    looked_through = 0
    scrubbed = Redaction._scrubbed

    def counting(redaction: Redaction, text: str, **how: Any) -> str:
        nonlocal looked_through
        looked_through += len(text)
        return scrubbed(redaction, text, **how)

    monkeypatch.setattr(Redaction, "_scrubbed", counting)
    for texts in (["password=x " * 20_000], ["password=x " * 200] * 100, ["a: password=x " * 20] * 990, ["a: " * 10_000] * 2):
        looked_through = 0
        found = parsed(json_format(laid({f"f{number}": text for number, text in enumerate(texts)}, texts[0])))
        assert looked_through < 5 * MOST_LOOKED_THROUGH
        assert found["data"]["f0"].startswith(("password=REDACTED", "a: "))
        assert "=x" not in str(found)
    text = "a: " * (MOST_LOOKED_THROUGH // 3)
    assert shown(text) == text
    assert parsed(json_format(laid({}, text)))["message"] == text
    long = shown(["plain" * 20_000, "a: " * 20_000])
    assert [len(part) for part in long] == [2049, 2049]


def test_one_of_several_million_is_not_looked_at() -> None:
    """The work for a value is bounded, however much there is of it: a value of fifty megabytes is cut, not encoded first."""
    looked_at = 0

    class Counting(list[Any]):
        def __iter__(self) -> Any:
            nonlocal looked_at
            for number in range(10_000_000):
                looked_at += 1
                yield number

    assert shown(Counting())[-1] == MORE
    assert looked_at < 20_000
    text = shown("x" * 50_000_000)
    assert text == "x" * 2048 + MORE
    assert shown([b"x" * 50_000_000]) == ["x" * 2048 + MORE]


@pytest.mark.parametrize("name", ["password", "apiKey", "IBAN"])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda name: {name: "hunter2"},
        lambda name: {"operation": {name: "hunter2"}},
        lambda name: {"context": {"a": [{name: ["hunter2"]}]}},
        lambda name: {"x": {name.encode(): {"deep": "hunter2"}}},
        lambda name: {"x": [(name, "hunter2"), (name.encode(), b"hunter2")]},
        lambda name: {"x": httpx.Headers({name: "hunter2"})},
        lambda name: {"x": {name: 12345678, "y": {1}}},
        lambda name: {"x": f'{{"{name}": "hunter2"}}'},
        lambda name: {"x": [{"y": f"{name}=hunter2"}]},
        lambda name: {"x": ValueError(f"{name}: hunter2")},
        lambda name: {f"{name}=hunter2": 1},
    ],
)
def test_secrets_are_hidden_at_any_depth(name: str, wrap: Callable[[str], Any]) -> None:
    """By name in mappings, objects and pairs; by shape in texts, and in names."""
    line = laid(wrap(name), redact=["iban"])
    for written in (json_format(line), console_format(colours=False)(line)):
        assert b"hunter2" not in written
        assert b"12345678" not in written
        assert REDACTED.encode() in written


def test_a_list_of_what_may_be_shown() -> None:
    """With `show_only` extra fields are hidden unless they are listed; known fields, and secrets in what is listed, as ever."""
    fields = {"order": {"id": 1, "password": "x"}, "customerName": "bob", "operation": "sign", "context": {"order": 2, "b": 3}}
    found = parsed(json_format(laid(fields, show_only=["order"])))
    assert found["data"] == {"order": {"id": 1, "password": REDACTED}, "customerName": REDACTED}
    assert (found["operation"], found["context"]) == ("sign", {"order": 2, "b": REDACTED})
    assert parsed(json_format(laid({"a": 1}, show_only=[])))["data"] == {"a": REDACTED}


def random_value(pick: random.Random, depth: int = 0) -> Any:
    """Make a value, now and then a hostile one."""
    kind = pick.randrange(40)
    if kind < 12 or depth > 4:
        return pick.choice((None, True, pick.random(), pick.getrandbits(pick.randrange(1, 90)), pick.randbytes(5), Decimal(1)))
    if kind < 26:
        return "".join(map(chr, pick.choices(range(0x2100), k=pick.randrange(9)))) + pick.choice(
            ("", "\ud800", "password=x", "=")
        )
    if kind < 31:
        return [random_value(pick, depth + 1) for _ in range(pick.randrange(5))]
    if kind < 36:
        names = ("a", "password", 1, "1", None, (1,), b"a", "\ud800", 1.5, "\n", HostileText("h"))
        return {pick.choice(names): random_value(pick, depth + 1) for _ in range(pick.randrange(5))}
    if kind == 39:
        return pick.choice(HOSTILE[:45])() if pick.random() < 0.2 else Raises()
    return pick.choice((Login(), Model.model_construct(), Colour.NESTED, {1}, Point(1, 2), 2**63, HostileDict(a=1)))


def test_twenty_thousand_random_values() -> None:
    """Each is written in one valid line, and no value of the name `password` is in it."""
    pick = random.Random(20251008)
    lay_out = line_builder(SERVICE)
    for number in range(2_000):
        fields = {f"f{n}": random_value(pick) for n in range(10)}
        found = parsed(json_format(lay_out(AT, "info", "said", "app", fields, None)))
        assert set(found["data"]) == set(fields), number
        assert "hunter2" not in str(found)


NAMES = st.text(st.characters(), max_size=8) | st.sampled_from(
    ["message", "data", "error", "password", "operation", "self", "1"]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()) | st.binary() | st.sampled_from(HOSTILE),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters()) | st.integers() | st.none(), inner, max_size=4)
        | st.builds(Login, extra=inner)
        | st.tuples(inner, inner)
    ),
    max_leaves=12,
)


def made(value: Any) -> Any:
    """Call what makes hostile values, wherever in a value it stands."""
    if callable(value):
        return value()
    if isinstance(value, dict):
        return {key: made(item) for key, item in value.items()}
    return [made(item) for item in value] if isinstance(value, list) else value


@given(st.text(st.characters()), st.dictionaries(NAMES, VALUES.map(made), max_size=4))
@settings(suppress_health_check=list(HealthCheck), deadline=None)
def test_every_line_is_one(message: str, fields: dict[str, Any]) -> None:
    """Whatever is said with whatever fields, each format writes one line, and JSON parses."""
    line = laid(fields, message)
    assert parsed(json_format(line))["level"] == "info"
    assert console_format(colours=False)(line)[:-1].decode().isprintable()


def entries(fields: dict[str, Any], message: str) -> None:
    """Write a line by each of the ways in."""
    loguru.logger.bind(**fields).info(message)
    logging.getLogger("library").info("%s", message, extra={"more": fields})
    exchange = Exchange({"type": "http"}, started_ns=0, wall_ns=0)
    log = BoundLogger(exchange)
    log.bind(**{f"b{name}": value for name, value in fields.items()}).info(message, **{f"f{n}": v for n, v in fields.items()})
    log.error(message, ValueError(message, list(fields)))
    component = create_logger("component").with_fields(fields)
    component.event(message, **{f"e{name}": value for name, value in fields.items()})
    component.with_context(session_id=fields).exception(message)


async def test_every_way_in_writes_every_value(tmp_path: Path) -> None:
    """Loguru, the standard library, named loggers and the request's write a line each for anything; nothing is raised."""
    watched = Watched(tmp_path)
    pick = random.Random(7)
    async with watched.obs:
        for number in range(300):
            message = random_value(random.Random(number), 9)
            entries({f"v{n}": random_value(pick) for n in range(3)}, f"no {number}: {message!r:.50}")
        for make in HOSTILE:
            entries({"value": make()}, "no hostile")
    rows = watched.path.read_bytes().splitlines(keepends=True)
    said = [line for line in map(parsed, rows) if line["message"].startswith("no ")]
    assert len(said) == 6 * (300 + len(HOSTILE))
    assert watched.obs.internal_errors.counts == {}


@pytest.mark.soak
def test_every_way_in_writes_one_line(tmp_path: Path) -> None:
    """Whatever is said with whatever fields, by whichever logger: six lines are said, and six can be parsed."""
    watched = Watched(tmp_path)

    def written() -> int:
        watched.obs.logs.flush()
        return watched.path.stat().st_size

    @given(st.text(st.characters()), st.dictionaries(NAMES, VALUES.map(made), max_size=4))
    @settings(suppress_health_check=list(HealthCheck), deadline=None)
    def check(message: str, fields: dict[str, Any]) -> None:
        before = written()
        entries(fields, f"said {message}")
        rows = map(parsed, watched.path.read_bytes()[before : written()].splitlines(keepends=True))
        # Whatever else is logged in this process comes here, too.
        levels = [row["level"] for row in rows if row["message"].startswith("said ")]
        assert levels == ["info", "info", "info", "error", "info", "error"]

    watched.obs.start()
    try:
        check()
    finally:
        asyncio.run(watched.obs.close())
    assert watched.obs.internal_errors.counts == {}


class UnprintableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError

    __repr__ = __str__


class UnrelatedError(Exception):
    @property
    def __cause__(self) -> Any:
        raise RuntimeError


def caused(length: int) -> BaseException:
    error: BaseException = ValueError("first")
    for number in range(length):
        later = ValueError(f"{number} password=hunter2")
        later.__cause__ = error
        error = later
    return error


def in_circles() -> BaseException:
    one, two = ValueError("one"), ValueError("two")
    one.__cause__, two.__context__ = two, one
    return one


def endless() -> Any:
    return endless()


def endless_pair() -> Any:
    return one_of_a_pair()


def one_of_a_pair() -> Any:
    return endless_pair()


def raised(function: Callable[..., Any], *arguments: Any) -> BaseException:
    try:
        function(*arguments)
    except BaseException as error:
        return error
    raise AssertionError


def grouped(depth: int) -> BaseException:
    error: Any = ValueError("innermost")
    for _ in range(depth):
        error = ExceptionGroup("group", [error])
    return error


def noted(notes: Any) -> BaseException:
    error = ValueError("with notes")
    error.__notes__ = notes
    return error


ERRORS: list[Callable[[], BaseException]] = [
    *(UnprintableError, UnrelatedError, in_circles, lambda: caused(30), lambda: caused(20_000), lambda: grouped(5)),
    *(lambda: grouped(2_000), lambda: ExceptionGroup("wide", [ValueError(str(n)) for n in range(20_000)])),
    *(lambda: raised(endless), lambda: raised(endless_pair), lambda: raised(compile, "a b(", "\u2028x\n", "exec")),
    *(
        lambda: raised(compile, "x" * 100_000 + " y", "x", "exec"),
        lambda: SyntaxError("no", (1, 2, 3, 4)),
        lambda: SyntaxError(Raises()),
    ),
    *(
        lambda: ValueError("x" * 50_000_000),
        lambda: ValueError("\ud800\n\x1b[31m"),
        lambda: KeyError(Raises()),
        KeyboardInterrupt,
    ),
    *(
        lambda: noted(["n" * 3_000_000]),
        lambda: noted([Raises()]),
        lambda: noted("text"),
        lambda: noted(7),
        lambda: noted(["a"] * 10**5),
    ),
    *ODD_ERRORS.values(),
    *(lambda: UnicodeDecodeError("utf-8", b"\xff" * 10**6, 0, 1, "no"), lambda: raised(exec, "raise ValueError('x')")),
]


@pytest.mark.parametrize("make", ERRORS, ids=range(len(ERRORS)))
def test_any_exception_keeps_the_line(make: Callable[[], BaseException]) -> None:
    """Whatever an exception does, or however much hangs on it, the line tells its type, in bounded time and length."""
    error = make()
    line = line_builder(SERVICE)(AT, "error", "failed", "app", {}, error)
    described = parsed(json_format(line))["error"]
    assert described["type"] == class_name(error)
    assert len(described["message"]) <= LONGEST_MESSAGE + 1
    assert 0 < len(described["stack_trace"]) <= LONGEST_STACK + 3
    assert "hunter2" not in str(described)
    rows = console_format(colours=False)(line).decode().split("\n")
    assert all(row.isprintable() for row in rows)
    assert all(row.startswith("    ") for row in rows[1:-1])


def throw(error: BaseException) -> None:
    raise error


def test_an_ordinary_exception_is_told_as_python_tells_it() -> None:
    """With all causes and groups, to the letter."""
    never_raised = (caused(0), in_circles(), grouped(3), shared(ValueError("x"), 4))
    faults = (raised(int, "x"), raised(endless), raised(compile, "a b(", "x", "exec"))
    for error in (*(raised(throw, error) for error in never_raised), *faults):
        assert exception_fields(error, Redaction())["stack_trace"] == "".join(traceback.format_exception(error))


def test_of_too_many_causes_the_nearest_are_told() -> None:
    """The exception itself comes last, as always, after its nearest causes; what is left out is marked."""
    stack = exception_fields(caused(20_000), Redaction())["stack_trace"]
    assert stack.startswith("… and more exceptions before these")
    assert [row.split()[1] for row in stack.splitlines() if row.startswith("ValueError")] == [
        "19996",
        "19997",
        "19998",
        "19999",
    ]


def test_a_value_that_changes_meanwhile_keeps_the_line() -> None:
    """Another thread may be filling a mapping while it is written."""
    shared: dict[str, int] = {}
    done = threading.Event()

    def fill() -> None:
        while not done.is_set():
            for number in range(200):
                shared[str(number)] = number
            shared.clear()

    thread = threading.Thread(target=fill)
    thread.start()
    try:
        for _ in range(2_000):
            assert "value" in parsed(json_format(laid({"value": shared, "odd": {1}})))["data"]
            assert "value" in parsed(json_format(laid({"value": shared})))["data"]
    finally:
        done.set()
        thread.join()


def test_a_plain_line_is_not_rebuilt() -> None:
    """Small values of the usual types are those that were given."""
    fields = {"a": 1, "b": [1, {"c": "text"}], "d": None, "e": 1.5, "f": datetime.now(UTC), "g": (True,)}
    copied = Sanitizer(Redaction(), LONGEST_BYTES).fields(fields)
    assert copied is not fields
    assert all(copied[name] is value for name, value in fields.items())

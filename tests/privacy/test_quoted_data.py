"""Exceptions whose text quotes data: what they are about is in no line and no span, however they are wrapped."""

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal
from uuid import UUID

import jsonschema
import pydantic_core
import pytest
import sqlalchemy
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from loguru import logger
from pydantic import BaseModel, Field, TypeAdapter, field_validator
from pydantic.dataclasses import dataclass as pydantic_dataclass
from support import Watched, client

from sage_fastapi_obs import RequestLogger, operation
from sage_fastapi_obs.privacy.exception_text import LONGEST_STACK, LONGEST_TEXTS, exception_event, exception_fields
from sage_fastapi_obs.privacy.quoted_data import exception_text
from sage_fastapi_obs.privacy.redaction import REDACTED, Redaction

SECRET = "hunter2-0815"


class Cat(BaseModel):
    kind: Literal["cat"]


class Dog(BaseModel):
    kind: Literal["dog"]


class Login(BaseModel, extra="forbid"):
    user: str = "bob"
    pin: int = 1
    phrase: str = Field(default="x" * 20, min_length=20)
    id: UUID = UUID(int=1)
    pet: Cat | Dog | None = Field(default=None, discriminator="kind")

    @field_validator("user")
    @classmethod
    def _known(cls, user: str) -> str:
        if user == SECRET:
            raise ValueError(f"{user} is unknown")
        return user


@pydantic_dataclass
class Card:
    number: int


def engine() -> sqlalchemy.Engine:
    """Build an engine for a table with one unique column."""
    built = sqlalchemy.create_engine("sqlite://")
    with built.begin() as connection:
        connection.execute(sqlalchemy.text("CREATE TABLE users (email TEXT PRIMARY KEY)"))
        connection.execute(sqlalchemy.text("INSERT INTO users VALUES (:email)"), {"email": SECRET})
    return built


def insert_again(statement: str = "INSERT INTO users VALUES (:email)") -> None:
    built = engine()
    try:
        with built.begin() as connection:
            connection.execute(sqlalchemy.text(statement), {"email": SECRET} if ":email" in statement else {})
    finally:
        built.dispose()


def custom() -> None:
    raise pydantic_core.ValidationError.from_exception_data(
        "Login",
        [{"type": pydantic_core.PydanticCustomError("taken", "{name} is taken", {"name": SECRET}), "input": SECRET}],
    )


Raising = Callable[[], Any]
"""Raises an exception of a library whose own text has the secret."""
KNOWN: dict[str, tuple[Raising, str]] = {
    "pydantic": (
        lambda: Login(pin=SECRET),
        "pin\n  Input should be a valid integer, unable to parse string as an integer [type=int_parsing]",
    ),
    "pydantic: length": (
        lambda: Login(phrase=SECRET),
        "phrase\n  String should have at least 20 characters [type=string_too_short]",
    ),
    "pydantic: JSON": (lambda: Login.model_validate_json(json.dumps({"pin": SECRET})), "[type=int_parsing]"),
    "pydantic: validator": (lambda: Login(user=SECRET), "user\n  Value error [type=value_error]"),
    "pydantic: union": (lambda: Login(pet={"kind": SECRET}), "pet\n  Input tag [type=union_tag_invalid]"),
    "pydantic: UUID": (lambda: Login(id=SECRET), "id\n  Input should be a valid UUID [type=uuid_parsing]"),
    "pydantic: adapter": (
        lambda: TypeAdapter(list[int]).validate_python([1, SECRET]),
        "1 validation error for list[int]\n1\n  Input",
    ),
    "pydantic: dataclass": (lambda: Card(SECRET), "1 validation error for Card\n0\n  Input"),
    "pydantic: custom": (custom, "[type=taken]"),
    "pydantic: many": (
        lambda: TypeAdapter(list[int]).validate_python([SECRET] * 1_000),
        "1000 validation errors for list[int]",
    ),
    "sqlalchemy": (
        insert_again,
        "(sqlite3.IntegrityError) UNIQUE constraint failed: users.email\n[SQL: INSERT INTO users VALUES (?)]",
    ),
    "sqlalchemy: literal": (
        lambda: insert_again(f"INSERT INTO users VALUES ('{SECRET}')"),
        "[SQL: INSERT INTO users VALUES (?)]",
    ),
    "jsonschema": (
        lambda: jsonschema.validate({"pin": SECRET}, {"properties": {"pin": {"type": "integer"}}}),
        "$.pin does not fit 'type' of its schema",
    ),
}
ONLY_THEMSELVES = {"pydantic: custom", "jsonschema"}
"""Of these an exception that has their text in its own cannot be distinguished from any other."""


def raised(function: Raising) -> Exception:
    try:
        function()
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


def from_it(error: Exception) -> Exception:
    def wrap() -> None:
        raise RuntimeError("no login") from error

    return raised(wrap)


def while_handling(error: Exception) -> Exception:
    def wrap() -> None:
        try:
            raise error
        except Exception:
            raise KeyError("user")  # noqa: B904 - the context is the point

    return raised(wrap)


def noted(text: str) -> Exception:
    error = ValueError("no login")
    error.add_note(text)
    return error


WRAPPED: dict[str, Callable[[Exception], BaseException]] = {
    "itself": lambda error: error,
    "cause": from_it,
    "context": while_handling,
    "cause of a cause": lambda error: from_it(while_handling(error)),
    "group": lambda error: ExceptionGroup("all", [ValueError("x"), ExceptionGroup("in", [from_it(error)])]),
    "argument": RuntimeError,
    "argument of an argument": lambda error: RuntimeError(LookupError(error)),
}
QUOTED: dict[str, Callable[[Exception], BaseException]] = {
    "text": lambda error: RuntimeError(f"no login: {error}"),
    "arguments": lambda error: RuntimeError("no login", error),
    "note": lambda error: noted(f"because {error}"),
    "note of a group": lambda error: ExceptionGroup("all", [noted(str(error))]),
}


def everywhere(error: BaseException) -> list[str]:
    """List all texts of an exception, in a line and in a span."""
    redaction = Redaction()
    return [*exception_fields(error, redaction).values(), *exception_event(error, redaction).values()]


@pytest.mark.parametrize("name", KNOWN)
def test_known_exceptions_have_no_data(name: str) -> None:
    """Of libraries that quote data in their texts the place and the kind of the fault are shown, and the data is not."""
    make, shown = KNOWN[name]
    error = raised(make)
    assert SECRET in str(error)
    described = exception_fields(error, Redaction())
    assert shown in described["message"]
    assert shown in described["stack_trace"]
    for wrap in WRAPPED.values():
        assert [text for text in everywhere(wrap(error)) if SECRET in text] == []


@pytest.mark.parametrize("name", sorted(KNOWN.keys() - ONLY_THEMSELVES))
def test_texts_with_their_texts_have_no_data(name: str) -> None:
    """Also in a text of another exception, in its notes, and in a message, what these libraries quote is known by its form."""
    error = raised(KNOWN[name][0])
    for wrap in QUOTED.values():
        assert [text for text in everywhere(wrap(error)) if SECRET in text] == []
    assert SECRET not in Redaction().text(f"no login: {error}")


@pytest.mark.parametrize(
    "text",
    [
        f"invalid value: {SECRET}",
        f"invalid value: '{SECRET}' for x",
        f"Invalid type for parameter X, value: {SECRET}, type: str",
        f"cannot parse input={SECRET}",
        f"{{'input': '{SECRET}', 'x': 1}}",
        f"bad request, body: {{'a': '{SECRET}'}}",
        f"query failed, params=('{SECRET}',)",
        f"(1062, \"Duplicate entry '{SECRET}' for key 'users.email'\")",
        f"(1366, \"Incorrect integer value: '{SECRET}' for column 'x' at row 1\")",
        f"The duplicate key value is ({SECRET}).",
        f"Conversion failed when converting the varchar value '{SECRET}' to data type int.",
        f'E11000 duplicate key error collection: db.c index: email_1 dup key: {{ email: "{SECRET}" }}',
        f"ORA-00001: unique constraint (A.B) violated: row with column values (EMAIL:'{SECRET}') already exists",
    ],
)
def test_what_an_exception_announces_is_hidden(text: str) -> None:
    """The rule for all other libraries: data under names such as `value` and `params`, and what databases are known to say."""
    for output in everywhere(ValueError(text)):
        assert SECRET not in output
    assert REDACTED in exception_fields(ValueError(text), Redaction())["message"]


def test_what_an_exception_announces_is_shown_elsewhere() -> None:
    """In a message of the application these names are like any other."""
    assert Redaction().text("the value: 3, input=4") == "the value: 3, input=4"


def test_a_note_is_no_row_of_a_traceback() -> None:
    """A note that looks like a frame is looked through as a text, and one of several lines as a whole."""
    key = f"-----BEGIN PRIVATE KEY-----\n{SECRET}\n-----END PRIVATE KEY-----"
    for note in (f'  File "x", line 1, in f\n    password={SECRET}', key, f"a\nb\npassword: x {SECRET}"):
        for error in (noted(note), ExceptionGroup("all", [noted(note)])):
            assert SECRET not in exception_fields(error, Redaction())["stack_trace"]


def test_a_syntax_error_has_a_text_too() -> None:
    """The source of a syntax error may be data."""
    error = raised(lambda: compile(f"password = '{SECRET}' x(", "password=" + SECRET, "exec"))
    assert SECRET not in exception_fields(error, Redaction())["stack_trace"]


def test_texts_of_many_exceptions_share_their_room() -> None:
    """However many exceptions with however long texts and notes there are, what is looked through is bounded."""
    looked_through = 0

    class Counting(Redaction):
        def error_text(self, text: str) -> str:
            nonlocal looked_through
            looked_through += len(text)
            return super().error_text(text)

    errors = [noted("password=x " * 10_000) for _ in range(40)]
    for error in errors:
        error.args = ("value: x " * 10_000,)
    stack = exception_fields(ExceptionGroup("all", errors), Counting())["stack_trace"]
    assert len(stack) <= LONGEST_STACK + 3
    assert looked_through < 4 * LONGEST_TEXTS + 100 * 1_300


def test_an_exception_that_is_its_own_argument_has_a_text() -> None:
    """Exceptions with nothing but each other to say have the name of their type."""
    error = RuntimeError("x")
    error.args = (error,)
    assert exception_text(error) == "RuntimeError"


async def test_no_data_of_a_validation_gets_out(tmp_path: Path) -> None:
    """Through an app: what FastAPI refuses of a request or of an answer, and what is raised in operations."""
    watched = Watched(tmp_path)
    app = FastAPI()
    watched.obs.install(app)

    @app.exception_handler(RequestValidationError)
    async def refused(request: Request, error: RequestValidationError) -> Any:
        logger.warning("refused", errors=error.errors(), error_itself=error)
        logger.bind(details=error.errors()).warning(f"refused: {error}")
        raise RuntimeError("refused") from error

    @app.post("/request")
    async def request(login: Login) -> None:
        raise AssertionError

    @app.get("/response", response_model=Login)
    async def response(log: RequestLogger) -> Any:
        log.info("answering", pin=1)
        return {"pin": SECRET}

    @app.get("/operation")
    async def within() -> None:
        with operation("login", count=1):
            Login(pin=SECRET)

    @app.get("/database")
    def database(log: RequestLogger) -> None:
        try:
            insert_again()
        except sqlalchemy.exc.IntegrityError as error:
            log.error("cannot insert", exc=error, value=error, text=f"{error}")
            raise RuntimeError(error) from error

    async with watched.obs, client(app) as http:
        assert (await http.post("/request", json={"pin": SECRET})).status_code == 500
        for path in ("/response", "/operation", "/database"):
            assert (await http.get(path)).status_code == 500
    failures = [line["error"] for line in watched.access]
    assert [failure["type"] for failure in failures] == [
        "RuntimeError",
        "ResponseValidationError",
        "ValidationError",
        "RuntimeError",
    ]
    assert failures[1]["message"].startswith("1 validation error\nresponse.pin\n  Input should be a valid integer")
    written = watched.path.read_text()
    spans = [span.to_json() for span in watched.spans]
    assert sum("exception.message" in span for span in spans) >= 5
    assert all(span.status.description is None for span in watched.spans)
    assert [text for text in (written, *spans) if SECRET in text] == []
    assert watched.obs.internal_errors.counts == {}


def test_what_sqlite_says_of_names_is_shown() -> None:
    """An exception of a database that quotes no data is shown to the letter."""
    with sqlite3.connect(":memory:") as connection:
        error = raised(lambda: connection.execute("SELECT x FROM y"))
    connection.close()
    assert exception_fields(error, Redaction())["message"] == "no such table: y"

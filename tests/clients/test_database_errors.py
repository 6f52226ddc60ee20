"""Errors of PostgreSQL through each of its clients, against a real one: none of the data that they quote is told."""

from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import psycopg
import pytest
import sqlalchemy
from servers import Postgres
from sqlalchemy.ext.asyncio import create_async_engine

from sage_fastapi_obs.logs.line_format import LONGEST_BYTES
from sage_fastapi_obs.privacy.exception_text import exception_event, exception_fields
from sage_fastapi_obs.privacy.json_values import Sanitizer
from sage_fastapi_obs.privacy.redaction import REDACTED, Redaction

SECRET = 'hunter2"0815"\n0815'
TABLE = (
    "CREATE TEMP TABLE users (email text PRIMARY KEY, pin int, age int CHECK (age > 0)); INSERT INTO users VALUES ($1, 1, 1)"
)
FAILING = {
    "23505": "INSERT INTO users VALUES ($1, 1, 1)",
    "23514": "INSERT INTO users VALUES ($1 || 'x', 1, 0)",
    "23502": "INSERT INTO users (pin, email) VALUES (length($1), NULL)",
    "22P02": "SELECT CAST(CAST($1 AS text) AS int)",
    "22007": "SELECT CAST(CAST($1 AS text) AS date)",
    "42601": "SELECT 1 AS '{secret}'",
}


async def by_asyncpg(dsn: str, statements: list[str]) -> Any:
    connection = await asyncpg.connect(dsn)
    try:
        for statement in statements:
            await connection.fetch(statement, *[SECRET] * ("$1" in statement))
    finally:
        await connection.close()


async def by_psycopg(dsn: str, statements: list[str]) -> Any:
    with psycopg.connect(dsn) as connection:
        for statement in statements:
            values = [SECRET] * ("$1" in statement)
            connection.execute(statement.replace("$1", "%s::text") if values else statement, values or None)


async def by_sqlalchemy(dsn: str, statements: list[str]) -> Any:
    engine = sqlalchemy.create_engine(dsn.replace("postgresql", "postgresql+psycopg"))
    try:
        with engine.begin() as connection:
            for statement in statements:
                connection.execute(
                    sqlalchemy.text(statement.replace("$1", "CAST(:it AS text)")), {"it": SECRET} if "$1" in statement else {}
                )
    finally:
        engine.dispose()


async def by_sqlalchemy_and_asyncpg(dsn: str, statements: list[str]) -> Any:
    engine = create_async_engine(dsn.replace("postgresql", "postgresql+asyncpg"))
    try:
        async with engine.begin() as connection:
            for statement in statements:
                text = sqlalchemy.text(statement.replace("$1", "CAST(:it AS text)"))
                await connection.execute(text, {"it": SECRET} if "$1" in statement else {})
    finally:
        await engine.dispose()


CLIENTS: list[Callable[[str, list[str]], Awaitable[Any]]] = [by_asyncpg, by_psycopg, by_sqlalchemy, by_sqlalchemy_and_asyncpg]


def leaks(error: BaseException) -> list[str]:
    """List what is told of an exception, in a line, in a span and as a value, and has a piece of the secret."""
    redaction = Redaction()
    wrapped = [error, RuntimeError(error), RuntimeError(f"failed: {error}"), ExceptionGroup("all", [RuntimeError(error)])]
    told = [
        text
        for one in wrapped
        for text in (*exception_fields(one, redaction).values(), *exception_event(one, redaction).values())
    ]
    told += map(str, Sanitizer(redaction, LONGEST_BYTES).fields({"a": error, "b": [RuntimeError(error)]}).values())
    told += [redaction.text(f"failed: {error}")]
    return [text for text in told if "hunter2" in text or "0815" in text]


@pytest.mark.parametrize("client", CLIENTS)
async def test_errors_of_databases_are_told_without_data(client: Callable[..., Any], postgres_at: Postgres) -> None:
    """What the database quotes of rows, keys, parameters and statements is not told; the state and the names are."""
    for state, statement in FAILING.items():
        with pytest.raises(Exception) as raised:
            await client(postgres_at.dsn, [*TABLE.split("; "), statement.format(secret=SECRET)])
        error = raised.value
        assert "hunter2" in f"{error}" or state == "23502", error
        assert leaks(error) == [], f"{state}: {error}"
        message = exception_fields(error, Redaction())["message"]
        assert f"[sqlstate={state}]" in message, message
        assert "users" in message or state.startswith(("22", "42")), message


async def test_a_wrong_argument_is_not_shown(postgres_at: Postgres) -> None:
    """What asyncpg says of arguments before it sends them."""
    connection = await asyncpg.connect(postgres_at.dsn)
    try:
        with pytest.raises(asyncpg.DataError) as raised:
            await connection.fetch("SELECT $1::int", SECRET)
        records = await connection.fetch("SELECT 'bob' AS user, 'hunter2' AS password")
    finally:
        await connection.close()
    assert "hunter2" in str(raised.value)
    assert leaks(raised.value) == []
    shown = Sanitizer(Redaction(), LONGEST_BYTES).fields({"records": records})
    assert shown == {"records": [{"user": "bob", "password": REDACTED}]}

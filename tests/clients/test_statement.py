"""Statements without what is in them."""

import re
import string

import psycopg
import pytest
import sqlglot
from hypothesis import example, given
from hypothesis import strategies as st
from psycopg import sql
from servers import Postgres

from sage_fastapi_obs.clients import sql_text as module
from sage_fastapi_obs.clients.sql_text import statement

SUMMARIES = [
    ("SELECT * FROM wuser_table WHERE username = ?", "SELECT wuser_table"),
    (
        "INSERT INTO shipping_details (order_id, address) SELECT order_id, address FROM orders WHERE order_id = ?",
        "INSERT shipping_details SELECT orders",
    ),
    ("SELECT * FROM songs, artists WHERE songs.artist_id == artists.id", "SELECT songs artists"),
    (
        "SELECT order_date FROM (SELECT * FROM orders o JOIN customers c ON o.customer_id = c.customer_id)",
        "SELECT SELECT orders customers",
    ),
    ('SELECT * FROM "song list", artists', 'SELECT "song list" artists'),
]
"""The examples of the OpenTelemetry conventions."""
OTHERS = [
    ("select a.b, c d from public.t as x, only u y where 1 = 2", "select public.t u"),
    ("select extract(epoch from now()), trim(both from x) from t", "select t"),
    ("with x as (select 1 from y) delete from z using w", "with select y delete z"),
    ("update only t set a = 1 from other", "update t"),
    ("create table if not exists foo (x int)", "create table foo"),
    ("CREATE UNIQUE INDEX i ON foo (bar)", "CREATE UNIQUE"),
    ("truncate table a, b", "truncate a b"),
    ("COPY t (a) FROM STDIN", "COPY t"),
    ("call proc(1)", "call proc"),
    ("begin; insert into a values (1); commit", "begin insert a commit"),
    ("SAVEPOINT s1", "SAVEPOINT"),
    ("-- only a comment", ""),
    ("", ""),
]


@pytest.mark.parametrize(("query", "summary"), SUMMARIES + OTHERS)
def test_a_summary_has_commands_and_tables(query: str, summary: str):
    """Commands and what they are about, in order and as they are written."""
    assert statement(query).summary == summary


def test_a_summary_is_cut_between_words():
    """What does not fit into 255 characters is left out whole."""
    summary = statement("select * from " + ", ".join(f"table_{number:03d}" for number in range(100))).summary
    assert len(summary) <= 255
    assert re.fullmatch(r"select( table_\d{3})+", summary)
    assert len(summary) > 240


@pytest.mark.parametrize(
    ("query", "operation"),
    [
        ("select 1", "select"),
        ("  /* x */ INSERT into a values (1)", "insert"),
        ("Update a set b = 1", "update"),
        ("delete from a", "delete"),
        ("with x as (insert into y values (1) returning *) select * from x", "select"),
        ("with recursive x as (select 1) delete from y", "delete"),
        ("merge into a using b on true when matched then delete", "other"),
        ("begin", "other"),
        ("create table a as select 1", "other"),
        ("", "other"),
    ],
)
def test_the_operation_is_the_command_that_decides(query: str, operation: str):
    """One of five words, whatever the statement is."""
    assert statement(query).operation == operation


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("select * from t where a = 'x' and b = 5", "select * from t where a = ? and b = ?"),
        ("select 'it''s', E'it\\'s', N'n', B'01', X'1F', U&'\\0041'", "select ?, ?, ?, ?, ?, ?"),
        ("select $$a 'b'$$, $tag$ $$ 'x' $tag$, $1", "select ?, ?, $1"),
        ("select -1, +2.5e-3, .5, 1., 0x1F, 1_000", "select -?, +?, ?, ?, ?, ?"),
        ("where a in (1, 2, 'three') and b in ($1, $2)", "where a in (?) and b in ($1, $2)"),
        ("select true, FALSE, null", "select ?, ?, null"),
        ("select a1, b$2, \"q 'x' 5\", t.c2::int[3]", "select a1, b$2, \"q 'x' 5\", t.c2::int[?]"),
        ("select %s, %(name)s, :name, ?", "select %s, %(name)s, :name, ?"),
        ("select 1 /* 'a' /* nested */ 5 */ -- rest 'b'\n, 2", "select ? , ?"),
        ("select   1\n\t+ 2", "select ? + ?"),
        ("select date '2020-01-01', interval '1 day'", "select date ?, interval ?"),
        ("select 'never closed", "select ?"),
        ('select "never closed', "select ?"),
        ("select 1 /* never closed", "select ?"),
        ("select $x$ never closed $y$", "select ?"),
        ("select a from t where b like 'x\\' or 'secret'", "select a from t where b like ?"),
        ("select `it's`", "select `it?"),
    ],
)
def test_literals_and_comments_are_gone(query: str, text: str):
    """All forms of literals are `?`; names, parameters and the rest stay; what is not closed goes on to the end."""
    assert statement(query).text == text


def test_mysql_has_strings_in_double_quotes():
    """There, double quotes hold a string, and a `#` begins a comment."""
    assert statement('select "a", `b c` # \'x\n, 1', mysql=True).text == "select ?, `b c` , ?"
    assert statement('select "a\\" or secret "', mysql=True).text == "select ?"


def test_what_is_long_is_cut():
    """A long text is told as its beginning; of a very long one only the beginning is read."""
    told = statement("select " + ", ".join(f"column_{number}" for number in range(10_000)) + " from t where a = 'secret'")
    assert len(told.text) == module.MOST_SHOWN
    assert told.operation == "select"
    assert statement("select '" + "x" * 1_000_000 + "' from t").text == "select ?"


def test_statements_are_remembered_up_to_a_number():
    """The same text is read once; however many texts there are, few are kept."""
    for number in range(module.REMEMBERED + 100):
        statement(f"select {number}")
    assert module._remembered.cache_info().currsize == module.REMEMBERED


SECRET = st.text(min_size=1, max_size=30)
QUOTED = [
    lambda value: sql.Literal(value).as_string(None),
    lambda value: "'" + value.replace("'", "''") + "'" if "\\" not in value else sql.Literal(value).as_string(None),
    lambda value: f"$s$ {value} $s$" if "$s$" not in f" {value} " else sql.Literal(value).as_string(None),
]


@given(SECRET, st.sampled_from(QUOTED), st.sampled_from(["{} = a", "a in ({}, {})", "f({})", "a || {}", "/**/{}--x"]))
@example("'", QUOTED[1], "a || {}")
@example("\\", QUOTED[0], "a || {}")
@example("$s", QUOTED[2], "f({})")
def test_no_value_is_told(value: str, quote, around: str):
    """Whatever a value is and however it is quoted, of it nothing is told, and what stands around it is."""
    value = f"geheim{value}geheim".replace("\0", "")
    told = statement("select b from t where " + around.replace("{}", quote(value)) + " and zzz")
    assert "geheim" not in told.text
    assert "geheim" not in told.summary
    assert told.text.endswith("zzz") or around.endswith("--x")
    assert told.summary == "select t"


@given(st.text(alphabet=string.printable + "é☕\x00", max_size=200))
def test_any_text_is_read(text: str):
    """Nothing makes us fail; what is told has no digit outside of names, and telling it again changes nothing."""
    told = statement(text)
    assert statement(told.text).text == told.text
    assert not re.search(r"(?<![\w$\"`\[.])\d", re.sub(r'"[^"]*"|`[^`]*`|\$\d+', "", told.text))


NAMES = st.sampled_from(["orders", "public.items", '"song list"', "ähm"])
VALUES = st.one_of(st.integers(0, 10**9), st.floats(0, 1e9, allow_nan=False), SECRET.filter(lambda text: "\0" not in text))


@given(st.lists(VALUES, min_size=1, max_size=4), NAMES)
def test_another_parser_finds_the_same_literals(values: list[object], name: str):
    """sqlglot, which parses what we only tokenize, finds as many literals as there are placeholders."""
    literals = [sql.Literal(value).as_string(None).strip() if isinstance(value, str) else repr(value) for value in values]
    query = f"SELECT a FROM {name} WHERE f({' + '.join(literals)}) > b"
    theirs = sqlglot.parse_one(query, dialect="postgres")
    found = sum(1 for _ in theirs.find_all(sqlglot.exp.Literal))
    told = statement(query)
    assert told.text.count("?") == found + sum(text.startswith("E") for text in literals)
    assert told.text == f"SELECT a FROM {name} WHERE f({' + '.join('?' for _ in values)}) > b"


def test_postgres_reads_as_we_do(postgres_at: Postgres):
    """A statement with its literals replaced by what PostgreSQL itself says they are gives the same value."""
    forms = ["'it''s'", "E'a\\'b'", "$$x 'y'$$", "$t$ $$ $t$", "'a'\n'b'", "U&'\\0041'", "E'\\\\'", "'\"'", "$_$'$_$"]
    with psycopg.connect(postgres_at.dsn) as connection:
        for form in forms:
            (value,) = connection.execute(f"select {form} || ''").fetchone()
            assert isinstance(value, str)
            assert re.fullmatch(r"select \?( \?)? \|\| \?", statement(f"select {form} || ''").text)

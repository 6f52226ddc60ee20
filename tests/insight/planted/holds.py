"""Ways to hold the event loop. Lines with `# plant: NAME` are those that have to be named."""

import json
import os
import random
import re
import sqlite3
import time
from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

HELD_SECONDS = 0.25
"""How long calls hold the loop whose length can only be measured."""
DSN = os.environ.get("PLANTED_DSN", "")
"""A PostgreSQL, if there is one."""
psycopg: Any = DSN and import_module("psycopg")


def calibrated(run: Callable[[int], object], size: int) -> partial[object]:
    """Find the size at which a call computes long enough, and return the call."""
    while True:
        started = time.thread_time()
        run(size)
        took = time.thread_time() - started
        if took >= HELD_SECONDS:
            return partial(run, size)
        size = int(size * min(2.0, max(1.1, HELD_SECONDS / max(took, 0.001)))) + 1


# Calls in C that hold the interpreter; each prepares its input before.
values = [random.random() for _ in range(1_500_000)]
database = sqlite3.connect(":memory:", check_same_thread=False)
COUNT = "with recursive n(i) as (select 1 union all select i + 1 from n where i < ?) select count(*) from n"


def multiply(bits: int) -> object:
    number = (1 << bits) - 1
    return pow(number, 2)  # plant: multiply


def operate(bits: int) -> object:
    """Multiply without a call: the interpreter looks up again only in the line after."""
    number = (1 << bits) - 1
    return number * number  # plant: operate


def match(length: int) -> object:
    return re.match("(a|aa)+$", "a" * length + "b")  # plant: match


def parse(count: int) -> object:
    numbers = f"[{'1.5,' * count}1]"
    return json.loads(numbers)  # plant: parse


def sort(count: int) -> object:
    return sorted(values[:count])  # plant: sort


def query(count: int) -> object:
    return database.execute(COUNT, [count]).fetchone()  # plant: query


def calibrated_match() -> Callable[[], object]:
    """Find the length; each character more takes 1.6 times as long."""
    length = 20
    while True:
        started = time.thread_time()
        match(length)
        if time.thread_time() - started >= HELD_SECONDS / 1.3:
            return lambda: match(length)
        length += 1


def sleep(seconds: float) -> None:
    time.sleep(seconds)  # plant: sleep


def loop(seconds: float) -> None:
    ends, count = time.monotonic() + seconds, 0
    while time.monotonic() < ends:  # plant: loop
        count += 1  # plant: loop


def server_query(seconds: float) -> None:
    with psycopg.connect(DSN) as connection:  # plant: psycopg
        connection.execute("select pg_sleep(%s)", [seconds])  # plant: psycopg


HELD = {
    "multiply": (found := calibrated(multiply, 400_000)),
    "operate": lambda: operate(found.args[0]),
    "match": calibrated_match(),
    "parse": calibrated(parse, 1_000_000),
    "sort": calibrated(sort, 300_000),
    "query": calibrated(query, 300_000),
}


def hold(kind: str, seconds: float) -> None:
    """Hold the event loop."""
    if kind in HELD:
        HELD[kind]()
    else:
        {"sleep": sleep, "loop": loop, "psycopg": server_query}[kind](seconds)

"""Stores for tests, and what is stored in them."""

import itertools
import random
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson

from sage_fastapi_obs.settings import StoreSettings
from sage_fastapi_obs.store.location import StoreKey, find_file
from sage_fastapi_obs.store.records import StoredRequest, Supplement
from sage_fastapi_obs.store.store import Store

KEY = StoreKey("shop", "main:app")
MIB = 1024 * 1024
_numbers = itertools.count(1)


def request(**given: Any) -> StoredRequest:
    """Return a fine request, but for what is given; `details` may be an object."""
    number = next(_numbers)
    values: dict[str, Any] = {
        "started_ns": 1_800_000_000_000_000_000 + number,
        "duration_us": 1500,
        "kind": "http",
        "method": "GET",
        "route": "/items/{id}",
        "path": f"/items/{number}",
        "status": 200,
        "failed": False,
        "kept": "ratio",
        "request_id": f"request-{number}",
        "correlation_id": f"correlation-{number}",
        "trace_id": f"{number:032x}",
        "span_id": f"{number:016x}",
        "error_type": None,
        "cause": None,
        "why": None,
        "details": {},
        **given,
    }
    if not isinstance(values["details"], bytes):
        values["details"] = orjson.dumps(values["details"])
    return StoredRequest(**values)


def failure(**given: Any) -> StoredRequest:
    """Return a failed request."""
    return request(**{"failed": True, "kept": "failed", "status": 500, "error_type": "ValueError", **given})


def supplement(**given: Any) -> Supplement:
    """Return lines or spans that came later."""
    values = {"at_ns": 1_900_000_000_000_000_000, "request_id": "", "correlation_id": "", "trace_id": "", **given}
    return Supplement(**{**values, "details": orjson.dumps(values.get("details", {}))})


def incompressible(size_bytes: int, seed: int = 0) -> dict[str, Any]:
    """Return details of so many bytes, which take more than half as many in the file."""
    text = random.Random(seed).randbytes(size_bytes // 2).hex()
    return {"lines": [{"timestamp": "2027-01-01T00:00:00Z", "message": text}]}


class Said(list[tuple[str, dict[str, Any]]]):
    """What a store logs."""

    def __call__(self, message: str, fields: Any) -> None:
        self.append((message, dict(fields)))


def new_store(folder: Path, key: StoreKey = KEY, **given: Any) -> Store:
    """Return a store that has started, of records that need no encoding; settings of the store go by their names."""
    names = {name: given.pop(name) for name in ("max_bytes", "max_age_days") if name in given}
    options = {"encode": lambda record: record, "log": Said(), "failed": raise_it, **given}
    # Not validated: a smaller file than settings allow is filled sooner.
    settings = StoreSettings.model_construct(path=str(folder), **names)
    store = Store(settings, key, **options)
    store.start()
    return store


@contextmanager
def opened(folder: Path, **given: Any) -> Iterator[Store]:
    """Start a store, and close it afterwards."""
    store = new_store(folder, **given)
    try:
        yield store
    finally:
        store.close(time.monotonic() + 300)


def raise_it(error: Exception) -> None:
    """See that there is no internal error; the thread would only count it."""
    raise error


def file_of(folder: Path, key: StoreKey = KEY) -> Path:
    """Return the path of a store's file."""
    return find_file(StoreSettings(path=str(folder)), key)


def bytes_on_disk(folder: Path) -> int:
    """Return the sizes of all files, added up; a journal that goes meanwhile has none."""
    sizes = {}
    for path in folder.rglob("*"):
        try:
            found = path.lstat()
        except FileNotFoundError:
            continue
        sizes[found.st_ino] = found.st_size if stat.S_ISREG(found.st_mode) else 0
    return sum(sizes.values())

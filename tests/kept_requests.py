"""Kept requests with spans and lines that can be read, in real stores."""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stored import opened
from support import PATIENCE_SECONDS

from sage_fastapi_obs.settings import StoreSettings
from sage_fastapi_obs.store.location import StoreKey, stored_files
from sage_fastapi_obs.store.records import StoredRequest, Supplement
from sage_fastapi_obs.store.store import Store

BEGIN_NS = 1_795_998_000_000_000_000
"""2026-11-30T00:20:00Z."""
MS = 1_000_000


def span(span_id: str, parent_id: str | None = None, at_ms: float = 0, ms: float = 1, **more: Any) -> dict[str, Any]:
    """Make a span of a request that starts at `BEGIN_NS`."""
    times = {"started_ns": BEGIN_NS + int(at_ms * MS), "duration_us": int(ms * 1_000)}
    fixed = {"name": span_id, "kind": "INTERNAL", "status": "UNSET", "attributes": {}}
    return {**fixed, "span_id": span_id, "parent_id": parent_id, **times, **more}


def line(message: str, at_ms: int = 0, level: str = "info", **more: Any) -> dict[str, Any]:
    """Make a log line."""
    return {"timestamp": f"2026-11-30T00:20:00.{at_ms:03}Z", "level": level, "message": message, **more}


def kept(number: int = 0, *, spans: Iterable[Any] = (), lines: Iterable[Any] = (), **more: Any) -> StoredRequest:
    """Make a kept request, each a second after the one before."""
    fields: dict[str, Any] = {
        "started_ns": BEGIN_NS + number * 1_000 * MS,
        "duration_us": 12_500,
        "kind": "http",
        "method": "GET",
        "route": "/items/{item_id}",
        "path": f"/items/{number}",
        "status": 200,
        "failed": False,
        "kept": "ratio",
        "request_id": f"request-{number}",
        "correlation_id": f"job-{number}",
        "trace_id": f"{number + 1:032x}",
        "span_id": "root",
        "error_type": None,
        "cause": None,
        "why": None,
        "details": json.dumps({"spans": [*spans], "lines": [*lines]}).encode(),
    }
    return StoredRequest(**{**fields, **more})


@contextmanager
def filled(folder: Path, *records: StoredRequest | Supplement, service: str = "shop") -> Iterator[Store]:
    """Start a store with some requests in it, and close it afterwards."""
    folder.mkdir(exist_ok=True)
    with opened(folder, key=StoreKey(service, str(folder))) as store:
        put(store, *records)
        yield store


def put(store: Store, *records: StoredRequest | Supplement) -> None:
    """Store some more."""
    for record in records:
        store.keep(record)
    assert store.flush(PATIENCE_SECONDS)


def path_of(folder: Path) -> Path:
    """Find the one store below a folder."""
    (path,) = stored_files(StoreSettings(path=str(folder)))
    return path

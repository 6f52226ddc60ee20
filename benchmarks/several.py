"""What it costs to answer for several workers, beside prometheus_client's multi-process mode: a scrape, and a save."""

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import ExitStack
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from benchmarks.effort import Effort
from benchmarks.scrape import CHANGED, fill
from benchmarks.workers import Worker, answer
from sage_fastapi_obs.internal_errors import InternalErrors
from sage_fastapi_obs.metrics.exposition.exposition import exposition_of
from sage_fastapi_obs.workers.merged_registry import MergedRegistry
from sage_fastapi_obs.workers.saved_numbers import SavedNumbers
from sage_fastapi_obs.workers.siblings import Parent
from sage_fastapi_obs.workers.slot import Slot

__all__ = ["measure"]

WORKERS = 8
_PEERS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
Reply = Callable[[Any], Awaitable[Any]]


def measure(effort: Effort) -> dict[str, float]:
    """Fill the metrics of so many processes of either kind, change some before each scrape, and compare the scrapes."""
    lines, scrapes = effort.scraped_series, effort.series[-2][1]
    with tempfile.TemporaryDirectory() as base, ExitStack() as stack:
        folders = {kind: Path(base) / kind for kind in ("ours", "peer")}
        for folder in folders.values():
            folder.mkdir()

        def start(kind: str, *role: object) -> Worker:
            os.environ.pop(_PEERS_FOLDER, None)
            if kind == "peer":
                os.environ[_PEERS_FOLDER] = str(folders[kind])
            return stack.enter_context(Worker("several", kind, folders[kind], *role))

        fillers = {kind: [start(kind, lines, number) for number in range(WORKERS)] for kind in folders}
        for one in (*fillers["ours"], *fillers["peer"]):
            one.read()
        askers = {kind: start(kind) for kind in folders}
        for one in askers.values():
            one.read()
        os.environ.pop(_PEERS_FOLDER, None)
        return _measured(fillers, askers, scrapes)


def _measured(fillers: dict[str, list[Worker]], askers: dict[str, Worker], scrapes: int) -> dict[str, float]:
    saves: list[float] = []
    times: dict[str, list[float]] = {"ours": [], "peer": []}
    found: dict[str, Any] = {}
    first = {kind: asker.ask(None)["seconds"] for kind, asker in askers.items()}
    for _ in range(scrapes):
        for kind, asker in askers.items():
            changed = [filler.ask(None) for filler in fillers[kind]]
            saves += changed if kind == "ours" else []
            found[kind] = asker.ask(None)
            times[kind].append(found[kind]["seconds"])
    pairs = zip(times["ours"], times["peer"], strict=True)
    return {
        "workers": WORKERS,
        "lines": found["ours"]["lines"],
        "lines_of_peer": found["peer"]["lines"],
        "first_ms": first["ours"] * 1e3,
        "ours_ms": statistics.median(times["ours"]) * 1e3,
        "peer_ms": statistics.median(times["peer"]) * 1e3,
        "ratio": statistics.median(one / other for one, other in pairs),
        "save_ms": statistics.median(saves) * 1e3,
    }


async def _filler(kind: str, folder: Path, lines: int, number: int) -> Reply:
    """Be one of the workers; to a question, change some series, and return the CPU seconds of saving them."""
    registry = CollectorRegistry()
    changes = fill(registry, lines)
    order, some = cycle(changes), max(1, int(len(changes) * CHANGED))
    saved = None
    if kind == "ours":
        slot = Slot(folder / f"{number}.slot", writable=True)
        slot.own(Parent(0, 0), 0)
        saved = SavedNumbers(registry, slot.blocks, InternalErrors(), interval_seconds=15.0)
        saved.save()

    async def reply(_: Any) -> float:
        for change in islice(order, some):
            change()
        return 0.0 if saved is None else _cpu(saved.save)[0]

    return reply


async def _asker(kind: str, folder: Path) -> Reply:
    """Be the worker that is scraped."""
    write = _ours(folder) if kind == "ours" else _peers(folder)

    async def reply(_: Any) -> dict[str, float]:
        seconds, text = _cpu(lambda: b"".join(write()))
        return {"seconds": seconds, "lines": sum(not line.startswith(b"#") for line in text.splitlines())}

    return reply


def _ours(folder: Path) -> Callable[[], Iterable[bytes]]:
    slots = [Slot(path) for path in sorted(folder.glob("*.slot"))]
    errors = InternalErrors()
    merged = MergedRegistry(lambda: slots, errors, interval_seconds=15.0, wall_clock=time.time)
    exposition = exposition_of(generate_latest, merged.registry, errors)

    def write() -> Iterable[bytes]:
        merged.refresh()
        return exposition.pieces(lambda: None)

    return write


def _peers(folder: Path) -> Callable[[], Iterable[bytes]]:
    registry = CollectorRegistry()
    MultiProcessCollector(registry, str(folder))  # type: ignore[no-untyped-call]
    return lambda: [generate_latest(registry)]


def _cpu(work: Callable[[], Any]) -> tuple[float, Any]:
    started = time.process_time()
    done = work()
    return time.process_time() - started, done


def main() -> None:
    """Be one of the processes."""
    kind, folder, *role = sys.argv[1:]
    if role:
        lines, number = map(int, role)
        answer(lambda: _filler(kind, Path(folder), lines, number))
    else:
        answer(lambda: _asker(kind, Path(folder)))


if __name__ == "__main__":
    main()

"""CPU time that each variant adds to one request, in a process of its own, beside an uninstrumented twin of its app.

Blocks of requests alternate between the two. The variants' processes take turns, several times in a round, so that a
ratio between variants compares what was measured within the same seconds; figures are medians over rounds.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from opentelemetry import trace

from benchmarks.drive import app_maker, block
from benchmarks.place import Place
from benchmarks.variants import VARIANTS
from benchmarks.workers import Worker, answer, receiver

__all__ = ["Pair", "measure", "say", "summarise"]

Pair = tuple[float, float]
"""CPU seconds of a request: of the bare twin, and watched."""
ROUTES = 31
QUIET = 0.25
"""The percentile that shows what a request costs when the machine is left alone."""


def say(text: str) -> None:
    """Tell how far it is."""
    print(text, flush=True)


def measure(names: Sequence[str], *, rounds: int, passes: int, pairs: int, requests: int) -> dict[str, Any]:
    """Measure variants; return the figures of each.

    In a round, made of new processes, each variant has its turn `passes` times, of `pairs` blocks of `requests` each.
    """
    measured: list[dict[str, list[Pair]]] = []
    with receiver() as endpoint:
        for number in range(rounds):
            started = time.monotonic()
            measured.append(_round(names, endpoint, passes, pairs, requests))
            say(f"  cost: round {number + 1} of {rounds}, {time.monotonic() - started:.0f} s")
    return summarise(measured)


def _round(names: Sequence[str], endpoint: str, passes: int, pairs: int, requests: int) -> dict[str, list[Pair]]:
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="benchmarks-"))
        workers = {
            name: stack.enter_context(Worker("cost", name, ROUTES, requests, Path(folder, f"{name}.log"), endpoint))
            for name in names
        }
        for worker in workers.values():
            worker.read()
        found: dict[str, list[Pair]] = {name: [] for name in names}
        for _ in range(passes):
            for name, worker in workers.items():
                found[name] += worker.ask(pairs)
        return found


def summarise(measured: Sequence[dict[str, list[Pair]]]) -> dict[str, Any]:
    """Reduce the pairs of all rounds: microseconds added, and ratios, each the median over rounds."""
    added = [{name: _median_added(pairs) for name, pairs in one.items()} for one in measured]
    bare = [{name: statistics.median(without for without, _ in pairs) for name, pairs in one.items()} for one in measured]

    def figures(name: str) -> dict[str, Any]:
        ratios = {
            f"to_{key}": statistics.median(one[name] / one[other] for one in added)
            for key, other in (("instrumentator", "instrumentator"), ("usual", "usual-100"))
            if other in added[0]
        }
        return {
            "label": VARIANTS[name].label,
            "added_us": statistics.median(one[name] for one in added) * 1e6,
            "quiet_us": statistics.median(_quiet(one[name]) for one in measured) * 1e6,
            "to_bare": statistics.median(one[name] / base[name] for one, base in zip(added, bare, strict=True)),
            **ratios,
        }

    return {name: figures(name) for name in measured[0]}


def _median_added(pairs: Sequence[Pair]) -> float:
    return statistics.median(watched - without for without, watched in pairs)


def _quiet(pairs: Sequence[Pair]) -> float:
    without, watched = (sorted(times) for times in zip(*pairs, strict=True))
    at = int(len(pairs) * QUIET)
    return watched[at] - without[at]


def table(figures: dict[str, Any]) -> str:
    """Lay the figures out for a terminal."""
    rows = [f"{'':<44}{'added':>9}{'quiet':>9}{'to bare':>9}{'to instr.':>11}{'to usual':>10}"]
    for one in figures.values():
        ratios = f"{one.get('to_instrumentator', float('nan')):>11.2f}{one.get('to_usual', float('nan')):>10.3f}"
        rows.append(f"{one['label']:<44}{one['added_us']:>6.1f} µs{one['quiet_us']:>6.1f} µs{one['to_bare']:>9.2f}{ratios}")
    return "\n".join(rows)


async def _prepare(name: str, routes: int, requests: int, place: Place) -> Callable[[int], Awaitable[list[Pair]]]:
    make = app_maker(routes)
    bare = make()
    watched = VARIANTS[name].build(make, place)
    # With a global one, FastAPI would watch the twin too.
    assert isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider), f"{name} has set a global tracer provider"

    async def pair() -> Pair:
        return await block(bare, _nothing, requests), await block(watched.app, watched.flush, requests)

    async def reply(pairs: int) -> list[Pair]:
        return [await pair() for _ in range(pairs)]

    await reply(2)
    return reply


def _nothing() -> None:
    """Finish nothing: a bare app has no background threads."""


def main() -> None:
    """Be the process of one variant."""
    parser = argparse.ArgumentParser(prog="benchmarks.cost", description="one variant's process")
    parser.add_argument("variant", choices=VARIANTS)
    parser.add_argument("routes", type=int)
    parser.add_argument("requests", type=int)
    parser.add_argument("lines", type=Path)
    parser.add_argument("otlp_endpoint")
    given = parser.parse_args()
    answer(lambda: _prepare(given.variant, given.routes, given.requests, Place(given.lines, given.otlp_endpoint)))


if __name__ == "__main__":
    main()

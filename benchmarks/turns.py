"""CPU time that a variant adds to a request, in a process of its own, beside an uninstrumented twin of its app.

Blocks of requests alternate between the two. The processes take turns, several times in a round, so that a ratio between
variants compares what was measured within the same seconds.
"""

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from itertools import cycle, islice
from pathlib import Path

from opentelemetry import trace

from benchmarks.asked import REQUESTS
from benchmarks.drive import app_maker, ask, block
from benchmarks.effort import Turns
from benchmarks.place import Place
from benchmarks.proof import signals_given
from benchmarks.variants import variant_of
from benchmarks.workers import Worker, answer, receiver, say

__all__ = ["Job", "Pair", "Round", "added", "bare", "least", "quiet", "take_turns"]

Pair = tuple[float, float]
"""CPU seconds of a request: of the bare twin, and watched."""
Round = Mapping[str, Sequence[Pair]]
QUIET = 0.25
"""The percentile that shows what a request costs while the machine is left alone."""


@dataclass(frozen=True, slots=True)
class Job:
    """What one process measures."""

    variant: str
    routes: int = 31
    paths: tuple[str, ...] = ("/items/42",)
    """Asked for in turn."""
    requests: int = 512
    """In a block; 512 spans are a full batch for an exporter."""
    after: int = 0
    """How many routes stand behind the one that is asked for."""
    request: str = "plain"
    """Which kind of request."""
    beside: str = "bare"
    """The variant that it takes turns with, in the same process."""
    beside_request: str | None = None
    """Which kind of request that one gets, if another."""
    times: int = 1
    """How many times as many blocks as usual."""


def take_turns(part: str, jobs: Mapping[str, Job], turns: Turns) -> list[Round]:
    """Measure jobs in rounds, each with processes of its own."""
    measured = []
    with receiver() as endpoint:
        for number in range(turns.rounds):
            started = time.monotonic()
            measured.append(_round(jobs, endpoint, turns))
            say(f"  {part}: round {number + 1} of {turns.rounds} took {time.monotonic() - started:.0f} s")
    return measured


def _round(jobs: Mapping[str, Job], endpoint: str, turns: Turns) -> Round:
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="benchmarks-"))
        workers = {
            name: stack.enter_context(
                Worker("turns", json.dumps(asdict(job)), Path(folder, f"{number}.log"), f"{endpoint}/{number}")
            )
            for number, (name, job) in enumerate(jobs.items())
        }
        for worker in workers.values():
            worker.read()
        found: dict[str, list[Pair]] = {name: [] for name in jobs}
        for _ in range(turns.passes):
            for name, worker in workers.items():
                found[name] += worker.ask(turns.pairs * jobs[name].times)
        return found


def added(pairs: Sequence[Pair]) -> float:
    """CPU seconds that a request gains."""
    return statistics.median(watched - without for without, watched in pairs)


def bare(pairs: Sequence[Pair]) -> float:
    """CPU seconds of a bare request."""
    return statistics.median(without for without, _ in pairs)


def least(pairs: Sequence[Pair]) -> float:
    """CPU seconds that a request gains in the best of many short blocks: shows differences that noise would hide."""
    return min(watched for _, watched in pairs) - min(without for without, _ in pairs)


def quiet(pairs: Sequence[Pair]) -> float:
    """CPU seconds that a request gains in the quieter blocks."""
    without, watched = sorted(pair[0] for pair in pairs), sorted(pair[1] for pair in pairs)
    at = int(len(pairs) * QUIET)
    return watched[at] - without[at]


async def _prepare(job: Job, place: Place) -> Callable[[int], Awaitable[list[Pair]]]:
    make, variant = app_maker(job.routes, after=job.after), variant_of(job.variant)
    twin = variant_of(job.beside).build(make, replace(place, lines=place.lines.with_suffix(".beside")))
    watched = variant.build(make, place)
    # With a global one, FastAPI would watch the twin too.
    assert isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider), f"{job.variant} set a global tracer provider"
    for path in job.paths:
        assert await ask(twin.app, path) == await ask(watched.app, path), f"{job.variant} changed the answer of {path}"
    paths = tuple(islice(cycle(job.paths), job.requests))

    async def pair() -> Pair:
        requests = [*map(REQUESTS[job.request], paths)]
        others = requests if job.beside_request is None else [*map(REQUESTS[job.beside_request], paths)]
        return await block(twin.app, twin.flush, others), await block(watched.app, watched.flush, requests)

    async def reply(pairs: int) -> list[Pair]:
        return [await pair() for _ in range(pairs)]

    await reply(2)
    given = await signals_given(watched, place)
    # Spans that are thrown away are counted for the process.
    assert variant.gives <= given <= variant.gives | variant_of(job.beside).gives, f"{job.variant} gives {given}"
    return reply


def main() -> None:
    """Be the process of one job."""
    job, lines, endpoint = sys.argv[1:]
    answer(lambda: _prepare(Job(**json.loads(job)), Place(Path(lines), endpoint)))


if __name__ == "__main__":
    main()

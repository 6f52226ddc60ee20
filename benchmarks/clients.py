"""`python -m benchmarks.clients`: CPU time that `operation` and each watched client add to a call, beside OpenTelemetry's.

The servers are those of the tests. A bare call and its two watched twins take turns, in blocks; read the ratios.
"""

import argparse
import asyncio
import os
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from opentelemetry.sdk.trace import TracerProvider

from benchmarks import machine
from benchmarks.drive import ask
from benchmarks.place import discarded, discarding
from benchmarks.report import where
from benchmarks.turns import added, bare
from sage_fastapi_obs import Observability, Settings

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from servers import Server, running  # type: ignore[import-not-found]

from benchmarks.calls import CASES, WATCHES, Calls, Case, Twin, Watch

__all__ = ["Figures", "main"]

Block = Mapping[Watch, float]
"""CPU seconds of one call, of each twin, measured one after the other."""
PROOF = 8
NOTHING = 1e-6
"""CPU seconds of a bare call that does nothing, so that a ratio to it says nothing."""
PACKAGES = (
    *("redis", "asyncpg", "psycopg", "SQLAlchemy", "aiokafka", "confluent-kafka", "httpx", "grpcio", "prometheus-client"),
    *("opentelemetry-sdk", "opentelemetry-instrumentation"),
)
COLUMNS = ("call", "sampled", "bare, µs", "ours adds", "theirs adds", "ours / theirs", "ours / bare", "theirs / bare")


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is measured."""

    calls: int
    """In a block."""
    rounds: int


FULL, SHORT = Effort(calls=256, rounds=30), Effort(calls=8, rounds=2)


@dataclass(frozen=True, slots=True)
class Figures:
    """What calls cost, in CPU seconds of one."""

    bare: float
    ours: float
    """What is added."""
    theirs: float

    @classmethod
    def of(cls, blocks: Sequence[Block]) -> "Figures":
        """Compare within each round, and take the median of the rounds."""
        pairs = {watch: [(one["bare"], one[watch]) for one in blocks] for watch in WATCHES}
        return cls(bare(pairs["bare"]), added(pairs["ours"]), added(pairs["theirs"]))

    def row(self, name: str, sampled: bool) -> str:
        """Show them, as a line of a table."""
        times = (f"{seconds * 1e6:.1f}" for seconds in (self.bare, self.ours, self.theirs))
        to_bare = (f"{1 + more / self.bare:.2f}" if self.bare > NOTHING else "–" for more in (self.ours, self.theirs))
        return line(f"`{name}`", "yes" if sampled else "no", *times, f"{self.ours / self.theirs:.2f}", *to_bare)


def line(*cells: str) -> str:
    """Lay out a line of a table."""
    return f"| {' | '.join(cells)} |"


async def block(calls: Calls, provider: TracerProvider, number: int) -> float:
    """Make calls, and finish what they left to background threads; return CPU seconds of the whole process per call."""
    started = time.process_time()
    await calls(number)
    provider.force_flush()
    return (time.process_time() - started) / number


async def take_turns(twins: Mapping[Watch, Calls], provider: TracerProvider, effort: Effort) -> list[Block]:
    """Measure blocks of each twin, each of them first as often as the others."""
    rounds: list[Block] = []
    for number in range(1 + effort.rounds):
        order = [*twins][number % len(twins) :] + [*twins][: number % len(twins)]
        rounds.append({watch: await block(twins[watch], provider, effort.calls) for watch in order})
    # The first has opened connections and filled caches.
    return rounds[1:]


async def prove(twins: Mapping[Watch, Calls], provider: TracerProvider, sampled: bool) -> None:
    """Make sure that each call was watched, or not, as it should be: by one span."""
    for watch, calls in twins.items():
        before, wanted = discarded[0], PROOF if sampled and watch != "bare" else 0
        await block(calls, provider, PROOF)
        assert discarded[0] - before == wanted, f"{watch}: {discarded[0] - before} spans of {PROOF} calls"


async def in_request(observability: Observability, work: Callable[[], Awaitable[list[Block]]]) -> list[Block]:
    """Work while a request is served."""
    app, done = FastAPI(openapi_url=None), []

    @app.get("/work")
    async def request() -> None:
        done.append(await work())

    observability.install(app)
    await ask(app, "/work")
    return done[0]


async def measure(case: Case, server: Any, sampled: bool, effort: Effort) -> Figures:
    """Open the three twins, and let them take turns in a request."""
    observability = Observability(Settings(logging={"enabled": False}, tracing={"sample_rate": float(sampled)}))
    async with observability, AsyncExitStack() as stack:
        provider = observability.tracer_provider
        assert isinstance(provider, TracerProvider), "tracing is off"
        provider.add_span_processor(discarding())
        opened = [(watch, case.open(Twin(watch, server, provider, sampled))) for watch in WATCHES]
        twins = {watch: await stack.enter_async_context(twin) for watch, twin in opened}

        async def turns() -> list[Block]:
            blocks = await take_turns(twins, provider, effort)
            await prove(twins, provider, sampled)
            return blocks

        blocks = await in_request(observability, turns)
    return Figures.of(blocks)


@contextmanager
def servers() -> Iterator[Callable[[Callable[[], Server]], Server]]:
    """Start each server when it is first asked for."""
    with ExitStack() as stack:
        yield cache(lambda build: stack.enter_context(running(build())))


def rows(name: str, start: Callable[[Callable[[], Server]], Server], effort: Effort) -> Iterator[str]:
    """Measure one case with each sampling; what is not installed is left out, but never where the tests are what decides."""
    case = CASES[name]
    try:
        server = None if case.server is None else start(case.server)
        for sampled in (True, False):
            yield asyncio.run(measure(case, server, sampled, effort)).row(name, sampled)
    except (ModuleNotFoundError, pytest.skip.Exception) as missing:
        if os.environ.get("CI"):
            raise
        yield f"`{name}` is left out: {missing}"


def main() -> None:
    """Measure what the command line names, and print a table."""
    parser = argparse.ArgumentParser(prog="benchmarks.clients", description=__doc__)
    parser.add_argument("--short", action="store_true", help="a little of everything, to see that it runs")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"any of: {', '.join(CASES)}; default: all")
    given = parser.parse_args()
    if unknown := [name for name in given.names if name not in CASES]:
        parser.error(f"unknown: {', '.join(unknown)}; there are {', '.join(CASES)}")
    print(where(machine.described(PACKAGES)))
    print(line(*COLUMNS), line("---", "---", *["--:"] * (len(COLUMNS) - 2)), sep="\n")
    with servers() as start:
        for name in given.names or CASES:
            for row in rows(name, start, SHORT if given.short else FULL):
                print(row, flush=True)


if __name__ == "__main__":
    main()

"""The case `as-run`: requests as people send them, to a service as people set it up.

A browser's request behind a gateway (12 headers, an id, a query string, a sampled `traceparent`), to a route in the middle of
31. Ours is added with `add_middleware`, keeps requests in its store, and sends its spans over OTLP. Ratios are to the
metrics-only peer, in the same rounds.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from benchmarks import encoding, machine
from benchmarks.effort import Effort, Turns
from benchmarks.serve import Service
from benchmarks.sockets import measure_services
from benchmarks.turns import Job, Round, added, bare, least, quiet, take_turns
from benchmarks.variants import installed, variant_of

__all__ = ["CASES", "SERVICES", "measure", "measure_cost"]

METRICS_ONLY, USUAL = "instrumentator", "usual stack, OTLP"
MINIMAL = "minimal, "
"""Begins the names of bare requests, which have a metrics-only peer of their own."""
SHORTER = 8
"""How many times shorter, and more, the blocks are that show what one thing costs."""
AFTER = 15
PATHS = tuple(f"/items/{number}" for number in range(1_000, 1_512))


def _job(variant: str, request: str = "browser", **beside: Any) -> Job:
    return Job(variant, after=AFTER, paths=PATHS, request=request, **beside)


CASES: Mapping[str, Job] = {
    METRICS_ONLY: _job("instrumentator"),
    USUAL: _job("usual-otlp"),
    "100 %, OTLP": _job("added-otlp"),
    "10 %, OTLP, no traceparent": _job("added-otlp-10", "browser_untraced"),
    "100 %": _job("added"),
    "100 %, no insight": _job("added-unexplained"),
    f"{MINIMAL}{METRICS_ONLY}": Job("instrumentator"),
    f"{MINIMAL}100 %, install, no store": Job("ours-100"),
}
"""What is measured. Spans are sent where it says OTLP; ours has its store and is added with `add_middleware`, unless said."""
DIFFERENCES: Mapping[str, Job] = {
    "traceparent": _job("added", beside="added", beside_request="browser_untraced"),
    "add_middleware": _job("added", beside="installed"),
    "store": _job("installed", beside="ours-100"),
    "OTLP": _job("added-otlp", beside="added"),
}
"""What one thing adds: with it, and without it in the same process."""
BY_PROCESS: Mapping[str, tuple[str, str]] = {"insight": ("100 %", "100 %, no insight")}
"""What something adds that all apps of a process feel: cases with it, and without it."""
SERVICES: Mapping[str, str] = {
    "bare": "bare",
    "100 %": "added",
    "10 %": "added-10",
    "100 %, OTLP": "added-otlp",
    METRICS_ONLY: "instrumentator",
    USUAL: "usual-otlp",
}


def measure(effort: Effort) -> dict[str, Any]:
    """Measure all of the case: CPU of a request and of encoding a span, then over sockets."""
    services = {key: Service(name, after=AFTER) for key, name in SERVICES.items() if installed(variant_of(name))}
    return {
        "made": machine.described(),
        **measure_cost(effort.as_run, effort.cost_requests),
        "encoding": encoding.measure(effort.encoded_spans),
        "sockets": measure_services("as-run over sockets", services, effort.as_run_socket_rounds, "browser"),
    }


def measure_cost(turns: Turns, requests: int) -> dict[str, Any]:
    """Measure what each case adds to a request, and the differences between cases."""
    short = {what: replace(_cut(job, max(1, requests // SHORTER)), times=SHORTER) for what, job in DIFFERENCES.items()}
    jobs = {**{name: _cut(job, requests) for name, job in CASES.items()}, **short}
    jobs = {name: job for name, job in jobs.items() if _can_run(job)}
    rounds = take_turns("as-run", jobs, turns)
    return {
        "cost": {name: _figures(name, rounds) for name in CASES if name in jobs},
        "adds_us": {
            **{what: _median(rounds, partial(_least, what)) * 1e6 for what in DIFFERENCES if what in jobs},
            **{
                what: _median(rounds, partial(_more, *cases)) * 1e6
                for what, cases in BY_PROCESS.items()
                if jobs.keys() >= {*cases}
            },
        },
    }


def _can_run(job: Job) -> bool:
    return installed(variant_of(job.variant)) and installed(variant_of(job.beside))


def _cut(job: Job, requests: int) -> Job:
    return replace(job, paths=job.paths[:requests], requests=requests)


def _least(what: str, one: Round) -> float:
    return least(one[what])


def _more(with_it: str, without_it: str, one: Round) -> float:
    """Return how much more the quieter blocks of one case take than those of another."""
    return quiet([(without, watched) for (_, watched), (_, without) in zip(one[with_it], one[without_it], strict=True)])


def _added(name: str, one: Round) -> float:
    return added(one[name])


def _figures(name: str, rounds: Sequence[Round]) -> dict[str, float]:
    peer = f"{MINIMAL}{METRICS_ONLY}" if name.startswith(MINIMAL) else METRICS_ONLY
    bases = {"to_instrumentator": peer, **({} if name.startswith(MINIMAL) else {"to_usual": USUAL})}
    return {
        "added_us": _median(rounds, partial(_added, name)) * 1e6,
        "quiet_us": _median(rounds, lambda one: quiet(one[name])) * 1e6,
        "bare_us": _median(rounds, lambda one: bare(one[name])) * 1e6,
        **{key: _ratio(name, base, rounds) for key, base in bases.items() if base in rounds[0]},
    }


def _ratio(name: str, base: str, rounds: Sequence[Round]) -> float:
    return _median(rounds, lambda one: added(one[name]) / added(one[base]))


def _median(rounds: Sequence[Round], of: Callable[[Round], float]) -> float:
    return statistics.median(map(of, rounds))

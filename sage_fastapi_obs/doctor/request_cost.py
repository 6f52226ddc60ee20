"""What each layer of an app costs a request in processor time."""

import time
from collections.abc import Iterator, Mapping
from inspect import ismethod
from typing import Any

from starlette.applications import Starlette
from starlette.types import ASGIApp

from sage_fastapi_obs.doctor.observations import LayerCost
from sage_fastapi_obs.inspection.app_layers import layer_name, layers_of
from sage_fastapi_obs.inspection.synthetic_requests import ask

_BATCHES = 5
_REQUESTS = 5
_MOST_SECONDS = 0.3
"""For one layer: a slow one is measured by fewer requests."""


async def layer_costs(app: ASGIApp, path: str, more: Mapping[str, Any]) -> list[LayerCost]:
    """Ask an app, then each layer inside of it by itself; what a layer costs is what is missing then.

    Ends at a layer that does not answer alone, as one that wants something of those around it: that has the rest.
    """
    measured: list[tuple[str, float]] = []
    for layer in _all_layers(app):
        cpu_us = await _cpu_us(layer, path, more)
        if cpu_us is None:
            break
        measured.append((layer_name(layer), cpu_us))
    inner = [*(cpu_us for _, cpu_us in measured[1:]), 0.0]
    measured[-1:] = [(f"{name} and inside", cpu_us) for name, cpu_us in measured[-1:]]
    return [LayerCost(name, max(0.0, cpu_us - rest)) for (name, cpu_us), rest in zip(measured, inner, strict=False)]


def _all_layers(app: ASGIApp) -> Iterator[Any]:
    for layer in layers_of(app):
        yield layer
        if isinstance(layer, Starlette):
            yield from (inner for inner in layers_of(layer.middleware_stack) if not ismethod(inner))


async def _cpu_us(layer: ASGIApp, path: str, more: Mapping[str, Any]) -> float | None:
    """Return the least that requests have taken: other work of the process only ever adds to it."""
    best = float("inf")
    deadline = time.monotonic() + _MOST_SECONDS
    for _ in range(_BATCHES):
        begin = time.process_time_ns()
        answers = [await ask(layer, path, more=more) for _ in range(_REQUESTS)]
        best = min(best, (time.process_time_ns() - begin) / 1_000 / _REQUESTS)
        if any(answer.status != 200 for answer in answers):
            return None
        if time.monotonic() > deadline:
            break
    return best

"""What is measured: each variant instruments an app in place, or returns what wraps it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from sage_fastapi_obs import Observability, Settings

__all__ = ["VARIANTS"]

Instrument = Callable[[FastAPI, Path], Any]


def ours(**sections: Any) -> Instrument:
    """Install everything, or what the sections leave on."""

    def instrument(app: FastAPI, folder: Path) -> None:
        logging = {"output": str(folder / "lines.jsonl"), **sections.get("logging", {})}
        Observability(Settings(**{**sections, "logging": logging})).install(app)

    return instrument


def pass_through(app: FastAPI, _: Path) -> Any:
    """Wrap send as any middleware must, and do nothing."""

    async def wrapped(scope: Any, receive: Any, send: Any) -> None:
        async def watched(message: Any) -> None:
            await send(message)

        await app(scope, receive, watched)

    return wrapped


OFF = {"enabled": False}
VARIANTS: dict[str, Instrument] = {
    "pass-through": pass_through,
    "all four, 100 % sampled": ours(),
    "all four, 10 % sampled": ours(tracing={"sample_rate": 0.1}),
    "all four, 0 % sampled": ours(tracing={"sample_rate": 0.0}),
    "id only": ours(tracing=OFF, metrics=OFF, logging=OFF),
    "id and log line": ours(tracing=OFF, metrics=OFF),
    "id and metrics": ours(tracing=OFF, logging=OFF),
    "id and span, 100 % sampled": ours(metrics=OFF, logging=OFF),
}

try:
    from prometheus_fastapi_instrumentator import Instrumentator
except ImportError:
    pass
else:

    def instrumentator(app: FastAPI, _: Path) -> None:
        """Instrument as its documentation says."""
        Instrumentator().instrument(app)

    VARIANTS["prometheus-fastapi-instrumentator"] = instrumentator

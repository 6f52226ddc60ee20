"""Outcomes as values (`Result`, `MonoResult`, `FluxResult`), with their log lines and metrics."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sage_fastapi_obs.packs.result.logging import *  # noqa: F403
    from sage_fastapi_obs.packs.result.named_metrics import *  # noqa: F403
    from sage_fastapi_obs.packs.result.results import *  # noqa: F403


def __getattr__(name: str) -> Any:
    # Late: the catalog imports the metrics of this folder, and the functions need the catalog.
    for module in ("results", "logging", "named_metrics"):
        found = import_module(f"{__name__}.{module}")
        if name in found.__all__:
            return getattr(found, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

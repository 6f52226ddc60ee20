"""Which packs of metrics there are: every folder below `packs/` is one, and four belong to other parts of the package."""

from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pkgutil import iter_modules
from types import ModuleType

_BUILT_IN = {
    "http": "sage_fastapi_obs.catalog.http",
    "runtime": "sage_fastapi_obs.catalog.runtime",
    "dependencies": "sage_fastapi_obs.clients.metrics",
    "grpc": "sage_fastapi_obs.clients.grpc_metrics",
}
"""Packs without a folder of their own, with the module of their metrics."""
_FOLDERS = "sage_fastapi_obs.packs"


@cache
def pack_names() -> tuple[str, ...]:
    """Return the names of all packs, as `metrics.packs` has them; none of them is imported."""
    folders = iter_modules(import_module(_FOLDERS).__path__)
    return (*_BUILT_IN, *sorted(folder.name.replace("_", "-") for folder in folders if folder.ispkg))


def pack_module(pack: str, part: str) -> ModuleType | None:
    """Import a part of a pack: `metrics`, `default_rules`, `alert_rules` or `dashboard`; None where it has no such part."""
    if pack in _BUILT_IN:
        return import_module(_BUILT_IN[pack]) if part == "metrics" else None
    module = f"{_FOLDERS}.{pack.replace('-', '_')}.{part}"
    return import_module(module) if find_spec(module) else None

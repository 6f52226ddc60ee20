"""What names in other units and spellings mean: milliseconds, megabytes, percent, dots, and the older names of the catalog."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from sage_fastapi_obs.catalog import CATALOG

__all__ = ["MEBIBYTE", "ResolvedName", "resolve_name"]

MEBIBYTE = 1024 * 1024
_OF_OPERATION = {
    ".duration_ms": ("operation_duration_seconds", 1000.0),
    ".memory_usage_mb": ("operation_memory_delta_bytes", 1 / MEBIBYTE),
}
_UNITS = {
    "_ms": ("_seconds", 1000.0),
    "_mb": ("_bytes", 1 / MEBIBYTE),
    "_percent": ("_ratio", 100.0),
    "_percentage": ("_ratio", 100.0),
}
_INVALID = re.compile(r"[^A-Za-z0-9_]")


@dataclass(frozen=True, slots=True)
class ResolvedName:
    """The metric that a name stands for."""

    metric: str
    """Its own name, in seconds, bytes or as a ratio."""
    scale: float = 1.0
    """What its values are multiplied by to be those of the name: 1000 for milliseconds."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """What labels must be."""


def resolve_name(name: str) -> ResolvedName:
    """Find out what a name stands for; `<operation>.duration_ms` is the duration of that operation."""
    for ending, (metric, scale) in _OF_OPERATION.items():
        if name.endswith(ending) and name != ending:
            return ResolvedName(metric, scale, {"operation": name.removesuffix(ending)})
    flat = _INVALID.sub("_", name)
    flat = f"_{flat}" if flat[:1].isdigit() else flat
    if CATALOG.get(flat) is not None:
        return ResolvedName(flat)
    return _of_alias(flat) or _in_units(flat)


def _of_alias(name: str) -> ResolvedName | None:
    """Return what an older name stands for; None for a name that stands for several series of a metric."""
    metric, alias = CATALOG.by_alias.get(name, (None, None))
    if metric is None or alias is None or any(len(values) != 1 for values in alias.only.values()):
        return None
    return ResolvedName(metric.name, alias.factor, {label: values[0] for label, values in alias.only.items()})


def _in_units(name: str) -> ResolvedName:
    base, total = (name.removesuffix("_total"), "_total") if name.endswith("_total") else (name, "")
    for ending, (unit, scale) in _UNITS.items():
        if base.endswith(ending):
            return ResolvedName(f"{base.removesuffix(ending)}{unit}{total}", scale)
    return ResolvedName(name)

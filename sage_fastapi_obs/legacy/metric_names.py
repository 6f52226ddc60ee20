"""What names in other units and spellings mean: milliseconds, megabytes, percent, dots, and the older names of the catalog."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from sage_fastapi_obs.catalog import CATALOG

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
_ESCAPED = re.compile(r"[^A-Za-z0-9]|^[0-9]")
_RESERVED = re.compile(r"(up|ALERTS|ALERTS_FOR_STATE|scrape_\w*|U__\w*)?")
"""Names that Prometheus gives itself, or that an escape would be read back from."""


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
    dotted = name.replace(".", "_")
    if CATALOG.get(dotted) is not None:
        return ResolvedName(dotted)
    return _of_alias(dotted) or _spelled(name, dotted)


def escape_name(name: str) -> ResolvedName:
    """Return the metric of a name in Prometheus' escape for UTF-8 names, which no other name has: `a-b` is `U__a_2d_b`."""
    found = _in_units(name)
    base, total = _without_total(found.metric)
    return replace(found, metric=escape(base) + total)


def escape(text: str) -> str:
    """Escape a text so that it can be read back: `_` is doubled, other signs are their code in hexadecimal digits."""
    return "U__" + _ESCAPED.sub(lambda sign: "__" if sign[0] == "_" else f"_{ord(sign[0]):x}_", text)


def flat_name(name: str) -> str:
    """Write a name in letters, digits and underscores; several names may come to the same."""
    flat = _INVALID.sub("_", name)
    return f"_{flat}" if flat[:1].isdigit() else flat


def spelling(name: str) -> str:
    """Return what a name has in common with its other spellings, by unit and with `_total`."""
    return _without_total(_in_units(name).metric)[0]


def _spelled(name: str, dotted: str) -> ResolvedName:
    """Return the metric of a name that the catalog does not have, in its units; escaped where it cannot be had as it is."""
    in_units = _in_units(dotted)
    found = ResolvedName(flat_name(in_units.metric), in_units.scale)
    # Only dots are another way to write a name of the catalog.
    is_taken = flat_name(name) != dotted and (CATALOG.get(found.metric) or CATALOG.get(f"{found.metric}_total")) is not None
    if not name.isascii() or is_taken or _RESERVED.fullmatch(found.metric):
        return escape_name(name)
    return found


def _of_alias(name: str) -> ResolvedName | None:
    """Return what an older name stands for; None for a name that stands for several series of a metric."""
    metric, alias = CATALOG.by_alias.get(name, (None, None))
    if metric is None or alias is None or any(len(values) != 1 for values in alias.only.values()):
        return None
    return ResolvedName(metric.name, alias.factor, {label: values[0] for label, values in alias.only.items()})


def _in_units(name: str) -> ResolvedName:
    base, total = _without_total(name)
    for ending, (unit, scale) in _UNITS.items():
        if base.endswith(ending):
            return ResolvedName(f"{base.removesuffix(ending)}{unit}{total}", scale)
    return ResolvedName(name)


def _without_total(name: str) -> tuple[str, str]:
    return (name.removesuffix("_total"), "_total") if name.endswith("_total") else (name, "")

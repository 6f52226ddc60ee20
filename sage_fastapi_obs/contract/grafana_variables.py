"""The variables of a dashboard, and what a query is with their values."""

import re
from collections.abc import Iterator, Mapping
from itertools import islice, product
from typing import Any

from sage_fastapi_obs.contract.query_text import MOST_CHARACTERS, STRING

_PIECES = re.compile(f"({STRING.pattern})", STRING.flags)
_REFERENCE = re.compile(r"\$\{(\w+)[^}]*\}|\$(\w+)|\[\[(\w+)[^\]]*\]\]")
_TIMES = {"__range_s": "3600", "__range_ms": "3600000", "__interval_ms": "60000", "__from": "0", "__to": "0"}
_TIME = "5m"
UNKNOWN = "grafana__variable"
"""Stands for a variable whose values only Grafana knows."""
_MOST_TEXTS = 20
"""That are made of one query, from variables with several values."""


class Variables:
    """Knows which values the variables of a dashboard may have, as far as it says so itself."""

    def __init__(self, dashboard: Mapping[str, Any]) -> None:
        self._values: dict[str, list[str]] = {}
        self.source_types: dict[str, str] = {}
        """Types of data sources, by the variable or input that stands for one."""
        for name, kind, text in _declared(dashboard):
            if "datasource" in kind:
                self.source_types[name] = text
            elif kind in ("custom", "constant", "textbox", "interval"):
                texts = [text] if kind in ("constant", "textbox") else text.split(",")
                self._values[name] = [one.rpartition(" : ")[2].strip() for one in texts if one.strip()]
        for given in _maps(dashboard.get("__inputs")):
            self.source_types[str(given.get("name"))] = str(given.get("pluginId", ""))

    def filled_in(self, query: str) -> list[str]:
        """Return a query with each of the values that its variables may have; those in quotes stay, being values of labels."""
        if len(query) > MOST_CHARACTERS:
            return [query]
        pieces = _PIECES.split(query)
        names = {name for piece in pieces[::2] for name in map(_name, _REFERENCE.finditer(piece)) if name in self._values}
        choices = [[(name, value) for value in self._values[name]] for name in sorted(names)]
        return [
            "".join(piece if number % 2 else self._filled(piece, dict(chosen)) for number, piece in enumerate(pieces))
            for chosen in islice(product(*choices), _MOST_TEXTS)
        ]

    def _filled(self, piece: str, chosen: Mapping[str, str]) -> str:
        def value(found: re.Match[str]) -> str:
            name = _name(found)
            if name in chosen:
                return chosen[name]
            before = piece[: found.start()].rstrip()
            is_time = name.startswith("__") or before.endswith(("[", ":", "offset"))
            return _TIMES.get(name, _TIME) if is_time else UNKNOWN

        return _REFERENCE.sub(value, piece)


def _name(found: re.Match[str]) -> str:
    return str(found[1] or found[2] or found[3])


def _maps(value: Any) -> list[Mapping[str, Any]]:
    return [one for one in value if isinstance(one, Mapping)] if isinstance(value, list) else []


def _declared(dashboard: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Yield name, kind and text of each variable, by the first and by the second schema."""
    templating = dashboard.get("templating")
    for one in _maps(templating.get("list") if isinstance(templating, Mapping) else None):
        yield str(one.get("name")), str(one.get("type")), str(one.get("query") or "")
    for one in _maps(dashboard.get("variables")):
        spec = one.get("spec")
        if isinstance(spec, Mapping):
            kind = str(one.get("kind")).removesuffix("Variable").lower()
            yield str(spec.get("name")), kind, str(spec.get("pluginId") or spec.get("query") or "")

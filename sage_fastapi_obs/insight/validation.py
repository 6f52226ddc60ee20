"""Where something was not valid, and how, without a value. A location can have keys of a client: only declared names show."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from pydantic_core.core_schema import ErrorType

from sage_fastapi_obs.privacy.printable import printable
from sage_fastapi_obs.request.fastapi_internals import declared_fields

MOST_SHOWN = 10
_MOST_READ = 200
_MOST_PARTS = 10
_MOST_ROUTES = 2_000
_MOST_NODES = 20_000
_KINDS = frozenset(get_args(ErrorType))
_OWN_KIND = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}")
_PARTS = frozenset({"path", "query", "header", "cookie", "body", "response", "[key]"})
_UNDECLARED = "*"
_LEFT_OUT = frozenset({"metadata", "serialization", "function", "default", "default_factory", "config", "schema_ref"})
"""Parts of a schema in which no names of fields are."""
_TABLES = ("fields", "choices")
"""Parts whose keys are names: of fields, or the tags of a union."""


class Problems:
    """The errors of one request or response."""

    def __init__(self, errors: Sequence[Any], names: frozenset[str]) -> None:
        """`errors`: in the form of pydantic. `names`: those that may be shown."""
        read = [_read(error, names) for error in errors[:_MOST_READ]]
        self.found = [*dict.fromkeys(read)][:MOST_SHOWN]
        """Location and kind of the first ones, each once."""
        self._others = len(errors) - sum(one in self.found for one in read)

    def shown(self, most: int = MOST_SHOWN) -> list[str]:
        """Write them: `body.items.*.price: missing`, and how many others there are."""
        texts = [f"{location}: {kind}" for location, kind in self.found]
        others = self._others + len(texts[most:])
        return texts[:most] + ([f"and {others} more"] if others else [])


def _read(error: Any, names: frozenset[str]) -> tuple[str, str]:
    location, kind = (error.get("loc"), error.get("type")) if isinstance(error, Mapping) else (None, None)
    parts = location if isinstance(location, (tuple, list)) else ()
    kind = _kind(kind)
    if kind == "json_invalid":
        # Followed by the position in the body.
        parts = parts[:1]
    return _location(parts, names), kind


def _location(parts: Sequence[Any], names: frozenset[str]) -> str:
    shown = [part if isinstance(part, str) and part in names else _UNDECLARED for part in parts[:_MOST_PARTS]]
    return printable(".".join(shown + ["…"] * (len(parts) > _MOST_PARTS))) or _UNDECLARED


def _kind(kind: Any) -> str:
    """Return a word of pydantic's, or of the application's own errors."""
    if not isinstance(kind, str):
        return "other"
    return kind if kind in _KINDS or _OWN_KIND.fullmatch(kind) else "other"


class DeclaredNames:
    """Finds the names that the fields of a route have, once for each."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[Any, frozenset[str]]] = {}

    def of(self, route: Any) -> frozenset[str]:
        """Return the names; of a route that is not FastAPI's, only those of the parts of a request."""
        key = id(route)
        if key not in self._known:
            if len(self._known) >= _MOST_ROUTES:
                self._known.clear()
            self._known[key] = route, _names(route)
        return self._known[key][1]


def _names(route: Any) -> frozenset[str]:
    names, schemas = set(_PARTS), dict[int, Any]()
    for name, schema in declared_fields(route):
        # A header is written with dashes.
        names |= {name, name.replace("_", "-")}
        schemas[id(schema)] = schema
    waiting: list[Any] = [*schemas.values()]
    for _ in range(_MOST_NODES):
        if not waiting:
            break
        node = waiting.pop()
        parts = node
        if isinstance(node, Mapping):
            names |= _own_names(node)
            parts = _below(node)
        waiting += [part for part in parts or () if isinstance(part, (Mapping, list, tuple))]
    return frozenset(names)


def _below(node: Mapping[str, Any]) -> list[Any]:
    """Return the parts of a node; of its tables only what they hold, as a field may be named like a part of a schema."""
    parts = [part for key, part in node.items() if key not in _LEFT_OUT and key not in _TABLES]
    return parts + [part for table in _tables(node) for part in table.values()]


def _own_names(node: Mapping[str, Any]) -> set[str]:
    """Return the names in one node of a schema: of its fields with their aliases, and the tags of a union."""
    names = [node.get("name"), node.get("type"), node.get("cls_name"), getattr(node.get("cls"), "__name__", None)]
    names += [getattr(key, "value", key) for table in _tables(node) for key in table]
    names += _aliases(node.get("validation_alias", node.get("alias")))
    return {name for name in names if isinstance(name, str)}


def _tables(node: Mapping[str, Any]) -> list[Mapping[Any, Any]]:
    return [table for key in _TABLES if isinstance(table := node.get(key), Mapping)]


def _aliases(alias: Any) -> set[Any]:
    """Return all words of an alias: a name, a path of names and indexes, or several paths."""
    if isinstance(alias, (list, tuple)):
        return set().union(*map(_aliases, alias))
    return {alias}

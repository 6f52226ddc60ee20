"""Converts the values of a line to what JSON can hold, of bounded size and without secrets."""

import math
import numbers
import re
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from datetime import date, datetime, time
from enum import Enum
from functools import partial
from itertools import islice
from typing import Any
from uuid import UUID

import orjson
from pydantic import BaseModel

from sage_fastapi_obs.privacy.exception_name import class_name
from sage_fastapi_obs.privacy.quoted_data import exception_text, validation_message
from sage_fastapi_obs.privacy.redaction import MARGIN, MOST_CHARACTERS, REDACTED, Redaction, cut

_DEEPEST = 8
_MOST_ITEMS = 100
"""Of each mapping and list that is too large to be shown whole."""
_MOST_FIELDS = 1_000
"""Of one line that is too large to be shown whole."""
_COST = 32
"""Bytes that each value counts for at least, so that many small ones are bounded too."""
MOST_LOOKED_THROUGH = 32 * 1024
"""Characters that are searched for secrets, which takes time: in the fields of a line, and as many in its message. Only texts
that may have secrets count. With more of them only the beginning of each text is kept."""
LEAST_CARD, LEAST_BIG, MOST_BIG = 10**12, -(2**63), 2**64
_NAMING = frozenset({"name", "key"})
"""Fields that name the field `value` beside them."""
_NAMED_BY_OTHERS = frozenset({"value", "input"})
_AS_THEY_ARE = frozenset({bool, type(None), datetime, date, time, UUID})
"""Types that the JSON encoder writes, and that hold no text."""
MORE = "…"
_UNSEEN = re.compile(rb"\xc2[\x80-\x9f]|\xe2\x80[\x8e\x8f\xa8-\xae]|\xe2\x81[\xa6-\xa9]")
"""In UTF-8: C1 controls, line and paragraph separators, and marks that turn the direction of text. JSON allows them, but some
readers of lines break lines there, or obey them. These bytes never begin inside another character."""


class Sanitizer:
    """Makes fields writable, within a number of bytes."""

    def __init__(self, redaction: Redaction, budget: int, look: int = MOST_LOOKED_THROUGH) -> None:
        """`budget`: bytes; `look`: characters that may be looked through for secrets, each time."""
        self._redaction = redaction
        self._budget = budget
        self._look = look
        self._plain_names: set[str] = set()
        """Some that are known to be: the names of fields come again with every line."""

    def fields(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Copy the fields of a line; most are small and plain, and stay as they are."""
        copied = dict(given)
        try:
            plain = self._are_plain(copied)
        except Exception:
            # Another thread is changing a value at this moment; `rebuilt_fields` handles that value by value.
            plain = False
        return copied if plain else self.rebuilt_fields(copied)

    def rebuilt_fields(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Make fields writable: all whole where there is room, else each within its share of it."""
        whole = self._unabridged()
        built: dict[str, Any] = whole.mapping(dict.items(dict(given)), _DEEPEST)
        if whole.budget > 0:
            return built
        parts = min(len(given), _MOST_FIELDS)
        share = Sanitizer(self._redaction, self._budget // parts, self._look // parts)
        names = self._short()
        built = {}
        for name, value in islice(given.items(), _MOST_FIELDS):
            names.add(built, name, partial(share.rebuilt, value))
        return built

    def text(self, text: str) -> str:
        """Make a text one without secrets, cut to what there is room for."""
        if type(text) is str and len(text) <= self._budget and self._redaction.is_plain_text(text):
            return text
        return str(self.rebuilt(text))

    def rebuilt(self, value: Any, *, short: bool = False) -> Any:
        """Make anything writable: whole where there is room, else the beginning of each of its values."""
        if not short:
            whole = self._unabridged()
            built = whole.value(value, _DEEPEST)
            if whole.budget > 0:
                return built
        return self._short().value(value, 2)

    def _unabridged(self) -> "_Rebuilding":
        return _Rebuilding(self._redaction, self._budget, self._look, self._budget, self._budget)

    def _short(self) -> "_Rebuilding":
        return _Rebuilding(self._redaction, self._budget, self._look, MOST_CHARACTERS, _MOST_ITEMS)

    def _are_plain(self, top: dict[str, Any]) -> bool:
        """Tell whether nothing has to be hidden, cut or converted; asks exact types, which cannot be hostile."""
        containers: list[Any] = [top]
        budget = self._budget
        for container in containers:
            budget -= _COST * len(container)
            if budget < 0 or not self._names_are_plain(container):
                return False
            values = container.values() if type(container) is dict else container
            budget = self._budget_after(values, budget, containers)
        return budget >= 0

    def _names_are_plain(self, container: Any) -> bool:
        if type(container) is not dict:
            return not (_is_pair(container) and self._redaction.hides(container[0]))
        known = self._plain_names
        if container.keys() <= known:
            return True
        is_plain = self._redaction.is_plain_name
        if not all(type(name) is str and is_plain(name) for name in container):
            return False
        if len(known) < _MOST_FIELDS:
            known.update(container.keys() - _NAMED_BY_OTHERS)
        return not _names_each_other(container)

    def _budget_after(self, values: Iterable[Any], budget: int, containers: list[Any]) -> int:
        """Take the length of texts off the budget, and note the containers; less than nothing where a value is not plain."""
        is_plain_text = self._redaction.is_plain_text
        for value in values:
            kind = type(value)
            if kind is str:
                budget -= len(value)
                if budget < 0 or not is_plain_text(value):
                    return -1
            elif kind is int:
                if not LEAST_BIG <= value < LEAST_CARD:
                    return -1
            elif kind is dict or kind is list or kind is tuple:
                containers.append(value)
            elif kind is not float and kind not in _AS_THEY_ARE:
                return -1
        return budget


class _Rebuilding:
    """One pass over one value; ends early when the budget is used up."""

    def __init__(self, redaction: Redaction, budget: int, look: int, longest: int, most: int) -> None:
        self.budget = budget
        self._look = look
        self._redaction = redaction
        self._longest = longest
        self._most = most

    def value(self, value: Any, depth: int) -> Any:
        """Rebuild a value; a text replaces one that raises when it is read."""
        self.budget -= _COST
        if self.budget < 0:
            return MORE
        try:
            return self._value(value, depth)
        except Exception as fault:
            return unprintable(fault)

    def _value(self, value: Any, depth: int) -> Any:
        if value is None or value is True or value is False:
            return value
        if isinstance(value, str):
            return self._text(value)
        if isinstance(value, bytes | bytearray | memoryview):
            return self._text(bytes(value[: self._longest + MARGIN]).decode("utf-8", "replace"))
        if isinstance(value, numbers.Number) and not isinstance(value, Enum):
            return self._number(value)
        if isinstance(value, datetime | date | time):
            return self._text(value.isoformat())
        if isinstance(value, Enum):
            return self.value(value.value, depth)
        if isinstance(value, BaseException):
            return self._text(f"{type(value).__name__}: {exception_text(value)}", self._redaction.error_text)
        named = _named_items(value)
        if named is not None:
            return self.mapping(named, depth - 1) if depth > 0 else MORE
        if isinstance(value, Collection | deque) and not isinstance(value, type):
            return self._list(value, depth - 1) if depth > 0 else MORE
        return self._text(str(value))

    def _text(self, text: str, redact: Callable[[str], str] | None = None) -> str:
        # The unbound methods, as a subclass may have changed those of its own.
        text = str.__getitem__(text, slice(self._longest + MARGIN))
        if not self._redaction.is_plain_text(text):
            text = self._looked_through(text, redact or self._redaction.text)
        text = cut(text, self._longest).encode("utf-8", "replace").decode()
        budget = self.budget
        self.budget -= len(escaped(orjson.dumps(text)))
        if self.budget >= 0:
            return text
        # A character takes six bytes at most.
        return f"{text[: max(0, budget) // 6]}{MORE}"

    def _looked_through(self, text: str, redact: Callable[[str], str]) -> str:
        """Hide the secrets of a text; of one that is too long for that, show the beginning, or start again with less."""
        look, length = self._look, len(text)
        self._look = max(0, look - length)
        if length <= look:
            return redact(text)
        if self._longest > MOST_CHARACTERS:
            self.budget = -1
            return MORE
        # Up to before the cut, which may go through a secret.
        return cut(redact(text[:look]), max(look - MARGIN, look // 2)) if look else MORE

    def _number(self, value: Any) -> Any:
        if isinstance(value, numbers.Integral):
            number = int.__index__(value) if isinstance(value, int) else int(value)
            if LEAST_BIG <= number < MOST_BIG:
                return self._redaction.number(number)
            return self._text(f"{number:#x}")
        if isinstance(value, numbers.Real) and not isinstance(value, numbers.Rational):
            real = float.__float__(value) if isinstance(value, float) else float(value)
            return real if math.isfinite(real) else None
        return self._text(str(value))

    def mapping(self, items: Iterable[tuple[Any, Any]], depth: int) -> dict[str, Any]:
        """Rebuild what a mapping holds, until there is enough of it."""
        built: dict[str, Any] = {}
        for number, (key, value) in enumerate(items):
            if number >= self._most or self.budget < 0:
                built[MORE] = MORE
                break
            self.add(built, key, partial(self.value, value, depth))
        return _without_data(built, self._redaction.hides)

    def add(self, built: dict[str, Any], key: Any, value: Callable[[], Any]) -> None:
        """Put a value under its name, if the name lets it be seen."""
        name = self._name(key)
        built[_unused(name, built)] = REDACTED if self._redaction.hides(name) else value()

    def _name(self, key: Any) -> str:
        name = self.value(key, 1)
        if type(name) is str:
            return cut(name, MOST_CHARACTERS)
        # As JSON says it, where it does.
        return cut(orjson.dumps(name).decode(), MOST_CHARACTERS)

    def _list(self, items: Collection[Any], depth: int) -> list[Any]:
        if isinstance(items, list | tuple) and _is_pair(items) and self._redaction.hides(_decoded(items[0])):
            # A header, or another field in a list of them.
            return [self.value(items[0], depth), REDACTED]
        built: list[Any] = []
        for number, item in enumerate(items):
            if number >= self._most or self.budget < 0:
                built.append(MORE)
                break
            hidden = bool(built) and self._is_secret_option(built[-1])
            built.append(REDACTED if hidden else self.value(item, depth))
        return built

    def _is_secret_option(self, item: Any) -> bool:
        """Tell whether an item is an argument such as `--password`, whose value comes next."""
        return type(item) is str and item.startswith("-") and self._redaction.hides(item)


def escaped(encoded: bytes) -> bytes:
    """Escape characters that JSON allows, but that some readers of lines take for line breaks or commands."""
    return encoded if encoded.isascii() else _UNSEEN.sub(_escape, encoded)


def _escape(found: re.Match[bytes]) -> bytes:
    return f"\\u{ord(found[0].decode()):04x}".encode()


def _is_pair(items: list[Any] | tuple[Any, ...]) -> bool:
    return len(items) == 2 and isinstance(items[0], str | bytes)


def _decoded(name: str | bytes) -> str:
    return name.decode("latin-1") if isinstance(name, bytes) else str.__getitem__(name, slice(None))


def _without_data(built: dict[str, Any], hides: Callable[[str], bool]) -> dict[str, Any]:
    """Hide what is named by another field: the value of a header or a variable, and the input that a validation is about."""
    if not _names_each_other(built):
        return built
    if "value" in built and any(hides(name) for name in map(built.get, _NAMING) if type(name) is str):
        built["value"] = REDACTED
    if "input" in built and "loc" in built:
        for name in built.keys() & {"input", "ctx"}:
            built[name] = REDACTED
        built["msg"] = validation_message(built.get("type"), built.get("msg", ""))
    return built


def _names_each_other(fields: Mapping[str, Any]) -> bool:
    return ("value" in fields and not _NAMING.isdisjoint(fields)) or ("input" in fields and "loc" in fields)


def _named_items(value: Any) -> Iterator[tuple[Any, Any]] | None:
    """List what a value holds by name, if it does; not what its author keeps out of its `repr`."""
    kind = type(value)
    if isinstance(value, dict):
        return iter(dict.items(value))
    if isinstance(value, Mapping):
        return iter(value.items())
    if isinstance(value, BaseModel):
        declared = kind.model_fields
        held = {**value.__dict__, **(value.__pydantic_extra__ or {})}
        return ((name, held[name]) for name in held if name not in declared or declared[name].repr)
    if isinstance(value, type):
        return None
    if is_dataclass(value):
        return ((field.name, getattr(value, field.name, None)) for field in fields(value) if field.repr)
    if attributes := getattr(kind, "__attrs_attrs__", None):
        return ((field.name, getattr(value, field.name, None)) for field in attributes if field.repr)
    return _items_of_row(value, kind)


def _items_of_row(value: Any, kind: Any) -> Iterator[tuple[Any, Any]] | None:
    """List the items of a sequence with field names: named tuples and database rows."""
    if hasattr(kind, "_fields") and isinstance(value, Sequence):
        return zip(getattr(value, "_fields"), iter(value), strict=False)  # noqa: B009 - known by the line above
    if hasattr(kind, "keys") and hasattr(kind, "__len__") and hasattr(kind, "__iter__"):
        # Asked of the class, as clients of servers answer to any name, and to `keys` with all that they have.
        return ((name, value[name]) for name in kind.keys(value))
    return None


def _unused(name: str, used: Mapping[str, Any]) -> str:
    """Find a name beside those that say the same: 1 and "1" are two keys."""
    number, free = 1, name
    while free in used:
        number += 1
        free = f"{name} ({number})"
    return free


def unprintable(fault: BaseException) -> str:
    """Return the text that replaces a value which cannot be converted."""
    return f"<unprintable: {class_name(fault)}>"

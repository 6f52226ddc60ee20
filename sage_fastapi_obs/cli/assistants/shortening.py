"""Makes data small enough for an assistant: of what is too large the beginning and the end are kept, and the cut is marked.

Each value of an object, and each kept item of a list, has the same room; what is smaller leaves its rest to the others.
"""

import json
import re
from collections.abc import Iterable, Sequence
from itertools import chain, zip_longest
from typing import Any, NamedTuple

from sage_fastapi_obs.privacy.json_values import MORE
from sage_fastapi_obs.privacy.redaction import REDACTED, Redaction

LEAST_VALUE, LEAST_ITEM = 80, 400
"""Characters that each value has at least, and each item of a list that is no text: with less it says nothing."""
_LONGEST_NAME = 60
_MARK = 60
"""Characters that brackets and the mark of a cut take."""
_LONGEST_NUMBER = 40
_DEEPEST = 100
_UNUSUAL = re.compile("[^ -~]")
_INVISIBLE = re.compile("[\ufe00-\ufe0f\U000e0100-\U000e01ef]")
"""Selectors of variants, which count as printable."""


class _Sized(NamedTuple):
    """A value and the length of its JSON."""

    value: Any
    length: int


def encoded(value: Any) -> str:
    """Write JSON in which each character can be seen: what cannot is escaped, as are halves of characters."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text if text.isascii() and text.isprintable() else _UNUSUAL.sub(_visible, text)


def _visible(found: re.Match[str]) -> str:
    character = found[0]
    if character.isprintable() and not _INVISIBLE.match(character):
        return character
    return json.dumps(character)[1:-1]


class Shortening:
    """One answer, without its secrets and of a bounded length."""

    def __init__(self, redaction: Redaction, secrets: Iterable[str]) -> None:
        """`secrets`: texts that are hidden wherever they stand."""
        self._redaction = redaction
        self._secrets = [secret for secret in secrets if secret]
        self.left_out = 0
        """Items that were left out."""
        self.shortened = 0
        """Texts that were shortened."""

    def shortened_json(self, value: Any, room: int) -> str:
        """Write a value as JSON of at most so many characters."""
        return encoded(self._fitted(self._sized(value, _DEEPEST), room))

    def _sized(self, value: Any, levels: int) -> _Sized:
        """Hide secrets, and measure."""
        if isinstance(value, dict | list) and not levels:
            value = MORE
        if isinstance(value, dict):
            items = {self._text(str(name)): self._named(str(name), inner, levels - 1) for name, inner in value.items()}
            return _Sized(items, 2 + sum(len(encoded(name)) + 2 + inner.length for name, inner in items.items()))
        if isinstance(value, list):
            inners = [self._sized(inner, levels - 1) for inner in value]
            return _Sized(inners, 2 + sum(1 + inner.length for inner in inners))
        if isinstance(value, str):
            value = self._text(value)
        length = len(encoded(value))
        return _Sized(value, length) if isinstance(value, str) or length <= _LONGEST_NUMBER else self._sized(str(value), 1)

    def _named(self, name: str, value: Any, levels: int) -> _Sized:
        return self._sized(REDACTED if value and self._redaction.hides(name) else value, levels)

    def _text(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, REDACTED)
        return self._redaction.text(text)

    def _fitted(self, sized: _Sized, room: int) -> Any:
        value = sized.value
        if sized.length <= room:
            return _whole(value)
        if isinstance(value, dict):
            return self._object(value, room - _MARK)
        if isinstance(value, list):
            return self._list(value, room - _MARK)
        return self._beginning_and_end(value, room - _MARK) if isinstance(value, str) else value

    def _object(self, items: dict[str, _Sized], room: int) -> dict[str, Any]:
        names = [*map(_short_name, items)]
        costs = [len(encoded(name)) + 2 for name in names]
        lengths = [inner.length for inner in items.values()]
        kept = _how_many(costs, lengths, LEAST_VALUE, room)
        rooms = _shares(lengths[:kept], room - sum(costs[:kept]))
        built = {name: self._fitted(inner, its) for name, inner, its in zip(names, items.values(), rooms, strict=False)}
        missing = len(items) - len(built)
        return built | {MORE: self._mark(missing)} if missing else built

    def _list(self, items: list[_Sized], room: int) -> list[Any]:
        places = [*_from_both_ends(len(items))]
        lengths = [items[place].length for place in places]
        least = LEAST_VALUE if all(isinstance(inner.value, str) for inner in items) else LEAST_ITEM
        kept = _how_many([1] * len(items), lengths, least, room)
        rooms = dict(zip(places, _shares(lengths[:kept], room - kept), strict=False))
        built = [self._fitted(items[place], rooms[place]) for place in sorted(rooms)]
        if kept < len(items):
            built.insert((kept + 1) // 2, f"{MORE} {self._mark(len(items) - kept)}")
        return built

    def _mark(self, number: int) -> str:
        self.left_out += number
        return f"{number} left out"

    def _beginning_and_end(self, text: str, room: int) -> str:
        self.shortened += 1
        half = max(0, room) // 2
        while half and len(encoded(text[:half])) + len(encoded(text[-half:])) > room:
            half = half * 9 // 10
        return f"{text[:half]}{MORE}[{len(text) - 2 * half} characters left out]{MORE}{text[-half:] if half else ''}"


def _whole(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _whole(inner.value) for name, inner in value.items()}
    return [_whole(inner.value) for inner in value] if isinstance(value, list) else value


def _short_name(name: str) -> str:
    while len(encoded(name)) > _LONGEST_NAME:
        name = name[: len(name) // 2] + MORE
    return name


def _from_both_ends(number: int) -> Iterable[int]:
    """Yield the places of a list: the first, the last, the second, the last but one, and so on."""
    ends = zip_longest(range((number + 1) // 2), range(number - 1, (number - 1) // 2, -1))
    return (place for place in chain.from_iterable(ends) if place is not None)


def _how_many(costs: Sequence[int], lengths: Sequence[int], least: int, room: int) -> int:
    """Count the first values that have the least room each, or all that they take."""
    for number, (cost, length) in enumerate(zip(costs, lengths, strict=True)):
        room -= cost + min(length, least)
        if room < 0:
            return number
    return len(costs)


def _shares(lengths: Sequence[int], room: int) -> list[int]:
    """Divide room so that what is short has all that it takes, and all others have the same."""
    shares = [0] * len(lengths)
    for done, place in enumerate(sorted(range(len(lengths)), key=lambda place: lengths[place])):
        shares[place] = min(lengths[place], room // (len(lengths) - done))
        room -= shares[place]
    return shares

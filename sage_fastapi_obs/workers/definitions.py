"""What the blocks of a slot say: the definition of a family, the numbers of a child, an exemplar.

The description of a block is JSON: `{"family": [...]}` for a definition, `[family, words]` for a child, `[family, words, 1]`
for an exemplar. `family` is the place of the definition's block. The values of a block are

    definition  when the owner of the slot has declared it; 0: this owner has not
    child       when it has changed, its label values in so many words, the numbers that the definition has, others
    exemplar    when it was saved, label values, place among the numbers of the child, and then the exemplar as text

Times are Unix time; 0 stands for what has gone. Texts are JSON, eight bytes to a number: as they are among the values, a block
can be given to other label values when those that it had have gone. Otherwise a slot would grow with each new one.
"""

import json
from array import array
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

import orjson
from prometheus_client.samples import Exemplar

Key: TypeAlias = tuple[str, ...]
"""Label values of a child in the order of the labels; of a line, its name and then name and value of each label."""
EXEMPLAR_WORDS = 32
"""For labels of 128 characters, which OpenMetrics allows, a number and a time."""
_KEY_STEP = 4
"""Words of a text are a multiple of it, so that a block fits others."""
_ADDED_TYPES = frozenset({"counter", "histogram", "summary"})


class Definition(NamedTuple):
    """One family, or all families of requests."""

    name: str
    """Without `_total`."""
    help: str
    type: str
    """As Prometheus calls it; `requests` for those of HTTP requests."""
    unit: str
    merge: str
    """`sum`, `max`, `min`, `latest` or `each`, of gauges."""
    labels: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()
    """Finite upper bounds of a histogram, or of durations."""
    sizes: tuple[float, ...] = ()
    """Finite upper bounds of the sizes of requests."""
    others: int = 0
    """How many numbers of a child follow those that are added or merged."""
    lines: bool = False
    """Whether a child is one line of the page."""
    on_page: bool = True
    in_windows: bool = True

    @property
    def adds(self) -> bool:
        """Whether numbers go on where another worker has left them."""
        return self.type in _ADDED_TYPES or self.type == "requests"

    @property
    def width(self) -> int:
        """How many numbers of a child are added or merged."""
        if self.lines:
            return 1
        widths = {"summary": 2, "histogram": len(self.bounds) + 2}
        # See `Totals.numbers`.
        widths["requests"] = len(self.bounds) + 2 * len(self.sizes) + 8
        return widths.get(self.type, 1)

    @property
    def identity(self) -> "Definition":
        """What has to be equal in two versions of a service for their numbers to be merged."""
        return self._replace(help="", others=0)


def definition_text(definition: Definition) -> bytes:
    """Return the description of its block."""
    return _json({"family": definition})


@lru_cache(1_024)
def read_description(text: bytes) -> Definition | tuple[int, int, bool] | None:
    """Return a definition; or family, words and whether it is an exemplar; None for what other versions write."""
    try:
        return _description(json.loads(text))
    except (ValueError, TypeError):
        return None


def _description(content: Any) -> Definition | tuple[int, int, bool] | None:
    match content:
        case {"family": [name, help_text, kind, unit, merge, labels, bounds, sizes, others, *shown]}:
            shape = tuple(labels), tuple(bounds), tuple(sizes)
            return Definition(name, help_text, kind, unit, merge, *shape, others, *shown)
        case [int(family), int(words), *rest] if len(rest) < 2:
            return family, words, bool(rest)
    return None


def key_words(key: Key) -> "array[float]":
    """Return label values as numbers."""
    return _words(_json(key), _KEY_STEP)


def key_of(words: "array[float]") -> Key:
    """Undo `key_words`."""
    text = words.tobytes()
    try:
        return tuple(orjson.loads(text))
    except ValueError:
        # Half a surrogate pair.
        return tuple(json.loads(text))


def line_key(name: str, labels: Mapping[str, str]) -> Key:
    """Return the key of one line."""
    return name, *(text for label in labels.items() for text in label)


def line_of(key: Key) -> tuple[str, dict[str, str]]:
    """Return name and labels of a line."""
    return key[0], dict(zip(key[1::2], key[2::2], strict=True))


def exemplar_words(exemplar: Exemplar) -> "array[float] | None":
    """Return an exemplar as numbers; None for one that is too long."""
    words = _words(_json([exemplar.labels, exemplar.value, exemplar.timestamp]), EXEMPLAR_WORDS)
    return words if len(words) == EXEMPLAR_WORDS else None


def exemplar_of(words: "array[float]") -> Exemplar:
    """Undo `exemplar_words`."""
    return Exemplar(*json.loads(words.tobytes()))


def _json(content: Any) -> bytes:
    return json.dumps(content, separators=(",", ":")).encode()


def _words(text: bytes, step: int) -> "array[float]":
    """Fill a text up with spaces. No ASCII text has a number that is no number, which could change on its way."""
    size = 8 * step
    return array("d", text.ljust((len(text) + size - 1) // size * size))

"""Writes samples in one format as the client library does, and faster.

The library's encoder is asked once for each shape of line (a name and its label names). Its answer is the pattern of all lines
of that shape. Samples that are out of the ordinary it writes itself.
"""

import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from prometheus_client.core import Metric
from prometheus_client.samples import Exemplar, Sample
from prometheus_client.utils import floatToGoString

from sage_fastapi_obs.metrics.exposition.library_exposition import Encode, LibraryEncoder

__all__ = ["FastEncoder", "NotByLineError"]

MOST_PATTERNS = 10_000
_MARK = re.compile("\0([0-9]+)\0")
_TAKES_EXEMPLARS = {"counter": "_total", "histogram": "_bucket", "gaugehistogram": "_bucket"}


class NotByLineError(Exception):
    """The text of a family is not that of its samples, one after the other."""


class FastEncoder(LibraryEncoder):
    """Writes headers and samples in one format."""

    def __init__(self, encode: Encode) -> None:
        super().__init__(encode)
        self._headers: dict[tuple[str, str, str, str], bytes] = {}
        self._patterns: dict[tuple[str, ...], _Pattern | None] = {}

    def header(self, family: Metric) -> bytes:
        """Write what stands above the samples of a family."""
        key = (family.name, family.documentation, family.type, family.unit)
        header = self._headers.get(key)
        if header is None:
            header = _with_room(self._headers)[key] = self.family(family, ())
        return header

    def lines(self, family: Metric, samples: Iterable[Sample]) -> bytes:
        """Write samples of a family; raises `NotByLineError` if one would not stand where it is in the order."""
        return "".join([self._line(family, sample) for sample in samples]).encode("utf-8", "replace")

    def _line(self, family: Metric, sample: Sample) -> str:
        labels, value = sample.labels, sample.value
        exemplar = sample.exemplar if self.is_openmetrics else None
        pattern = self._pattern(family, sample)
        if pattern is None or value is None or sample.timestamp is not None or any(sample[5:]):
            return self._by_library(family, sample)
        number: str = floatToGoString(value)  # type: ignore[no-untyped-call]
        if exemplar:
            if not sample.name.endswith(_TAKES_EXEMPLARS.get(family.type, "\0")):
                return self._by_library(family, sample)
            number += _exemplar(exemplar)
        return pattern.text % (*[_escaped(labels[name]) for name in pattern.labels], number)

    def _pattern(self, family: Metric, sample: Sample) -> "_Pattern | None":
        key = (family.name, sample.name, *sample.labels)
        try:
            return self._patterns[key]
        except KeyError:
            pattern = _with_room(self._patterns)[key] = self._learned(family, sample)
            return pattern

    def _learned(self, family: Metric, sample: Sample) -> "_Pattern | None":
        """Have the library write a sample of the same shape, with marks for values; None if it has marks of its own."""
        names = list(sample.labels)
        marked = {name: f"\0{place}\0" for place, name in enumerate(names)}
        line = self._by_library(family, Sample(sample.name, marked, 0.0))
        places = [int(place) for place in _MARK.findall(line)]
        if sorted(places) != list(range(len(names))):
            return None
        text = _MARK.sub("%s", line.removesuffix("0.0\n").replace("%", "%%")) + "%s\n"
        return _Pattern(text, tuple(names[place] for place in places))

    def _by_library(self, family: Metric, sample: Sample) -> str:
        line = self.family(family, (sample,)).removeprefix(self.header(family)).decode()
        if line.count("\n") > 1:
            # It got a header of its own, below all other samples.
            raise NotByLineError(sample.name)
        return line


class _Pattern(NamedTuple):
    text: str
    """Takes the values of the labels in the order that they are written in, and the number."""
    labels: tuple[str, ...]


def _with_room(learned: dict[Any, Any]) -> dict[Any, Any]:
    """Forget everything rather than grow with a collector that makes up names."""
    if len(learned) >= MOST_PATTERNS:
        learned.clear()
    return learned


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def _exemplar(exemplar: Exemplar) -> str:
    labels = ",".join([f'{name}="{_escaped(value)}"' for name, value in sorted(exemplar.labels.items())])
    at = "" if exemplar.timestamp is None else f" {exemplar.timestamp}"
    number: str = floatToGoString(exemplar.value)  # type: ignore[no-untyped-call]
    return f" # {{{labels}}} {number}{at}"

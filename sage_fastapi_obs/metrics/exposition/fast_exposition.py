"""The same text as the client library's, written only for children that have changed since the last page.

The text of each child is kept with its version. Of a collector that has no versions, all samples are written each time.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeAlias

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from sage_fastapi_obs.internal_errors import InternalErrors, component_of
from sage_fastapi_obs.metrics.exposition.fast_encoder import FastEncoder, NotByLineError
from sage_fastapi_obs.metrics.exposition.incremental import VersionedChild
from sage_fastapi_obs.metrics.exposition.library_exposition import Encode, target_info, without_created
from sage_fastapi_obs.metrics.exposition.prometheus_internals import collectors, versioned

_PIECE_BYTES = 65_536
_SAMPLES_AT_ONCE = 32

_Pause: TypeAlias = Callable[[], object]
_Place: TypeAlias = tuple[int, bytes]
"""The place of a family in its collector, and its header."""


class _FamilyTexts:
    """The version and the text of each child of a family, by its key."""

    __slots__ = ("entries", "has_gone")

    def __init__(self) -> None:
        self.entries: dict[Any, tuple[object, bytes]] = {}
        self.has_gone = False
        """Whether some of the children have gone."""


class _CollectorTexts:
    """How a collector is read, and the text of its families."""

    __slots__ = ("families", "versioned")

    def __init__(self, collector: Collector) -> None:
        self.versioned = versioned(collector)
        self.families: dict[_Place, _FamilyTexts] = {}


class FastExposition:
    """Writes one registry in one format, and remembers what it has written."""

    def __init__(self, encode: Encode, registry: CollectorRegistry, errors: InternalErrors) -> None:
        self._encoder = FastEncoder(encode)
        self._registry = registry
        self._errors = errors
        self._texts: dict[Collector, _CollectorTexts] = {}

    def pieces(self, pause: _Pause) -> Iterator[bytes]:
        """Write the page, in pieces of about the same size."""
        yield from _in_pieces(self._written(pause), pause)

    def _written(self, pause: _Pause) -> Iterator[bytes]:
        for target in target_info(self._registry):
            yield from self._from_samples(target, None, pause)
        # What has left the registry is forgotten.
        before, self._texts = self._texts, {}
        for collector in collectors(self._registry) or ():
            texts = self._texts[collector] = before.get(collector) or _CollectorTexts(collector)
            yield from self._collector(collector, texts, pause)
            pause()
        yield self._encoder.trailer

    def _collector(self, collector: Collector, texts: _CollectorTexts, pause: _Pause) -> list[bytes]:
        if texts.versioned is None:
            return self._from_samples(collector, None, pause)
        try:
            return self._from_versions(texts, texts.versioned(), pause)
        except Exception as error:
            return self._from_samples(collector, error, pause)

    def _from_versions(self, kept: _CollectorTexts, families: Iterable[Any], pause: _Pause) -> list[bytes]:
        """Write the children that have changed, and take the text of the others."""
        before, kept.families = kept.families, {}
        texts: list[bytes] = []
        for family, children in families:
            if self._encoder.leaves_out(family):
                continue
            header = self._encoder.header(family)
            place = (len(kept.families), header)
            known = kept.families[place] = before.get(place) or _FamilyTexts()
            texts += [header, *_in_pieces(self._children(family, children, known, pause), pause)]
        return texts

    def _children(
        self, family: Metric, children: Iterable[VersionedChild], known: _FamilyTexts, pause: _Pause
    ) -> Iterator[bytes]:
        # Entries stay where they are: a new container of that size, each time, is what the garbage collector would walk.
        before = known.entries
        entries = known.entries = {} if known.has_gone else before
        count = 0
        for key, version, samples in children:
            entry = before.get(key)
            if entry is None or entry[0] != version:
                entry = entries[key] = (version, self._lines(family, samples()))
            elif known.has_gone:
                entries[key] = entry
            count += 1
            yield entry[1]
            pause()
        known.has_gone = len(entries) != count

    def _from_samples(self, collector: Collector, error: Exception | None, pause: _Pause) -> list[bytes]:
        """Write a collector by its `collect()`; `error` says why its versions could not be used."""
        texts: list[bytes] = []
        try:
            for family in collector.collect():
                texts += self._family(family, pause)
        except Exception as raised:
            error = raised
        if error is not None and not isinstance(error, NotByLineError):
            self._errors.count(component_of(collector), error)
        return texts

    def _family(self, family: Metric, pause: _Pause) -> list[bytes]:
        if self._encoder.leaves_out(family):
            return []
        try:
            return [self._encoder.header(family), *self._slices(family, family.samples, pause)]
        except NotByLineError:
            return [self._encoder.family(family, without_created(family, family.samples))]

    def _slices(self, family: Metric, samples: Sequence[Sample], pause: _Pause) -> Iterator[bytes]:
        for start in range(0, len(samples), _SAMPLES_AT_ONCE):
            yield self._lines(family, samples[start : start + _SAMPLES_AT_ONCE])
            pause()

    def _lines(self, family: Metric, samples: Iterable[Sample]) -> bytes:
        return self._encoder.lines(family, without_created(family, samples))


def _in_pieces(texts: Iterable[bytes], pause: _Pause) -> Iterator[bytes]:
    """Join texts to pieces of some size; at least one."""
    waiting: list[bytes] = []
    size = 0
    for text in texts:
        waiting.append(text)
        size += len(text)
        if size >= _PIECE_BYTES:
            yield b"".join(waiting)
            waiting, size = [], 0
            pause()
    yield b"".join(waiting)

"""The text of a registry in one format: written once for each child, and kept until the child changes."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeAlias

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from sage_fastapi_obs.internal_errors import InternalErrors, component_of
from sage_fastapi_obs.metrics.exposition.encoder import Encode, Encoder, NotByLineError
from sage_fastapi_obs.metrics.exposition.incremental import StampedChild
from sage_fastapi_obs.metrics.exposition.prometheus_internals import collectors, stamped

__all__ = ["Exposition", "Pause", "TextOnly", "names_beginning"]

Pause = Callable[[], None]
"""Called after each small portion of work."""

PIECE_BYTES = 65_536
SAMPLES_AT_ONCE = 32
_HAVE_CREATED = ("counter", "histogram", "summary")

_Place: TypeAlias = tuple[int, bytes]
"""The place of a family in its collector, and its header."""


class TextOnly(Metric):
    """A family that OpenMetrics has no place for: there, one of its name exists with another type."""


class _Family:
    """The stamp and the text of each child of a family, by its key."""

    __slots__ = ("entries", "outgrown")

    def __init__(self) -> None:
        self.entries: dict[Any, tuple[object, bytes]] = {}
        self.outgrown = False
        """Whether some of the children have gone."""


class _Kept:
    """What is remembered of one collector."""

    __slots__ = ("families", "stamped")

    def __init__(self, collector: Collector) -> None:
        self.stamped = stamped(collector)
        self.families: dict[_Place, _Family] = {}


class Exposition:
    """Writes one registry in one format, all of it or the samples of some names, and remembers what it has written."""

    def __init__(self, encode: Encode, registry: CollectorRegistry, faults: InternalErrors, names: Iterable[str] = ()) -> None:
        self._encoder = Encoder(encode)
        self._registry = registry
        self._faults = faults
        self._names = frozenset(names)
        self._kept: dict[object, _Kept] = {}

    def pieces(self, pause: Pause) -> Iterator[bytes]:
        """Write the registry, in at least one piece.

        A collector that raises is counted by the name of its class, and the page goes on with the next one.
        """
        yield from _in_pieces(self._texts(pause), pause)

    def _texts(self, pause: Pause) -> Iterator[bytes]:
        before, self._kept = self._kept, {}
        for collector in _collectors(self._registry, self._names):
            # What is not asked for again, since it has left the registry, is forgotten.
            kept = self._kept[collector] = before.get(collector) or _Kept(collector)
            fault: Exception | None = None
            try:
                texts = self._written(kept, pause)
            except Exception as error:
                texts, fault = None, error
            yield from self._asked(collector, fault, pause) if texts is None else texts
            pause()
        yield self._encoder.trailer

    def _written(self, kept: _Kept, pause: Pause) -> list[bytes] | None:
        """Write the children that have changed, and keep the others; None if the collector can only be asked for all."""
        if kept.stamped is None:
            return None
        before, kept.families = kept.families, {}
        texts: list[bytes] = []
        for family, children in kept.stamped():
            if self._encoder.openmetrics and isinstance(family, TextOnly):
                continue
            shown = self._shown(family)
            header = self._encoder.header(shown)
            place = (len(kept.families), header)
            known = kept.families[place] = before.get(place) or _Family()
            texts += self._headed(header, _in_pieces(self._children(shown, children, known, pause), pause))
        return texts

    def _children(self, family: Metric, children: Iterable[StampedChild], known: _Family, pause: Pause) -> Iterator[bytes]:
        # Entries stay where they are: a new container of that size, each time, is what the garbage collector would walk.
        before = known.entries
        entries = known.entries = {} if known.outgrown else before
        count = 0
        for key, stamp, samples in children:
            entry = before.get(key)
            if entry is None or entry[0] != stamp:
                entry = entries[key] = (stamp, self._lines(family, samples()))
            elif known.outgrown:
                entries[key] = entry
            count += 1
            yield entry[1]
            pause()
        known.outgrown = len(entries) != count

    def _headed(self, header: bytes, texts: Iterable[bytes]) -> list[bytes]:
        """Put a header above the text of a family; where only some names are wanted, a family without any has none."""
        below = list(texts)
        return [header, *below] if not self._names or any(below) else []

    def _asked(self, collector: Collector, fault: Exception | None, pause: Pause) -> list[bytes]:
        """Write what a collector says of itself now; `fault` is why it could not be written child by child."""
        texts: list[bytes] = []
        try:
            for family in collector.collect():
                texts += self._family(family, pause)
        except Exception as error:
            fault = error
        if fault is not None and not isinstance(fault, NotByLineError):
            self._faults.count(component_of(collector), fault)
        return texts

    def _family(self, family: Metric, pause: Pause) -> list[bytes]:
        shown = self._shown(family)
        try:
            return self._headed(self._encoder.header(shown), self._slices(shown, family.samples, pause))
        except NotByLineError:
            return [self._encoder.whole(shown, self._chosen(family, family.samples))]

    def _slices(self, family: Metric, samples: Sequence[Sample], pause: Pause) -> Iterator[bytes]:
        for start in range(0, len(samples), SAMPLES_AT_ONCE):
            yield self._lines(family, samples[start : start + SAMPLES_AT_ONCE])
            pause()

    def _shown(self, family: Metric) -> Metric:
        # As the library's restricted registry does: without the unit.
        return Metric(family.name, family.documentation, family.type) if self._names else family

    def _lines(self, family: Metric, samples: Iterable[Sample]) -> bytes:
        return self._encoder.lines(family, self._chosen(family, samples))

    def _chosen(self, family: Metric, samples: Iterable[Sample]) -> Iterable[Sample]:
        """Leave out `_created`, which doubles the series and which the library can only switch off for the whole process."""
        if family.type in _HAVE_CREATED:
            samples = [sample for sample in samples if not sample.name.endswith("_created")]
        return [sample for sample in samples if sample.name in self._names] if self._names else samples


def names_beginning(registry: CollectorRegistry, start: str) -> list[str]:
    """List the names of samples that begin so."""
    return [name for name in getattr(registry, "_names_to_collectors", {}).copy() if name.startswith(start)]


def _in_pieces(texts: Iterable[bytes], pause: Pause) -> Iterator[bytes]:
    """Join texts to pieces of some size; at least one."""
    waiting: list[bytes] = []
    size = 0
    for text in texts:
        waiting.append(text)
        size += len(text)
        if size >= PIECE_BYTES:
            yield b"".join(waiting)
            waiting, size = [], 0
            pause()
    yield b"".join(waiting)


class _Target:
    """The target info of a registry, which is not a collector there."""

    def __init__(self, info: dict[str, str]) -> None:
        self._info = info

    def collect(self) -> Iterator[Metric]:
        family = Metric("target", "Target metadata", "info")
        family.add_sample("target_info", self._info, 1)
        yield family


def _collectors(registry: CollectorRegistry, names: frozenset[str]) -> list[Collector]:
    """List the collectors that may have samples of some names; a registry of another kind is collected as a whole."""
    if type(registry) is not CollectorRegistry:
        return [registry.restricted_registry(names) if names else registry]
    named = collectors(registry)
    info = registry.get_target_info()
    target: list[Collector] = [_Target(info)] if info else []
    unnamed = getattr(registry, "_collectors_without_names", ())
    return target + [
        collector
        for collector, own in named.items()
        if not names or not names.isdisjoint(own) or (not own and collector in unnamed)
    ]

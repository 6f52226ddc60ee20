"""The text of a registry in one format: written once for each child, and kept until the child changes."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from sage_fastapi_obs.endpoints.encoder import Encode, Encoder, NotByLineError
from sage_fastapi_obs.endpoints.instruments import stamped
from sage_fastapi_obs.request.recorder import Faults
from sage_fastapi_obs.signals.stamped import StampedChild

__all__ = ["Exposition", "Pause"]

Pause = Callable[[], None]
"""Called after each small portion of work."""

PIECE_BYTES = 65_536
SAMPLES_AT_ONCE = 32
_HAVE_CREATED = ("counter", "histogram", "summary")

_Entries: TypeAlias = dict[Any, tuple[object, bytes]]
"""The stamp and the text of each child of a family, by its key."""
_Families: TypeAlias = dict[tuple[int, bytes], _Entries]
"""What was written of a collector, by place and header of its families."""


class _Kept:
    """What is remembered of one collector."""

    __slots__ = ("families", "stamped")

    def __init__(self, collector: Collector) -> None:
        self.stamped = stamped(collector)
        self.families: _Families = {}


class Exposition:
    """Writes one registry in one format, all of it or the samples of some names, and remembers what it has written."""

    def __init__(self, encode: Encode, registry: CollectorRegistry, faults: Faults, names: Iterable[str] = ()) -> None:
        self._encoder = Encoder(encode)
        self._registry = registry
        self._faults = faults
        self._names = frozenset(names)
        self._kept: dict[object, _Kept] = {}

    def pieces(self, pause: Pause) -> Iterator[bytes]:
        """Write the registry, in at least one piece.

        A collector that raises is counted by the name of its class, and the page goes on with the next one.
        """
        texts: list[bytes] = []
        size = 0
        for text in self._texts(pause):
            texts.append(text)
            size += len(text)
            if size >= PIECE_BYTES:
                yield b"".join(texts)
                texts, size = [], 0
                pause()
        yield b"".join((*texts, self._encoder.trailer))

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

    def _written(self, kept: _Kept, pause: Pause) -> Iterable[bytes] | None:
        """Write the children that have changed, and keep the others; None if the collector can only be asked for all."""
        before, kept.families = kept.families, {}
        if kept.stamped is None:
            return None
        for family, children in kept.stamped():
            shown = self._shown(family)
            place = (len(kept.families), self._encoder.header(shown))
            kept.families[place] = self._entries(shown, children, before.get(place, {}), pause)
        return self._joined(kept.families)

    def _entries(self, family: Metric, children: Iterable[StampedChild], before: _Entries, pause: Pause) -> _Entries:
        entries: _Entries = {}
        for key, stamp, samples in children:
            entry = before.get(key)
            if entry is None or entry[0] != stamp:
                entry = (stamp, self._lines(family, samples()))
            entries[key] = entry
            pause()
        return entries

    def _joined(self, families: _Families) -> Iterator[bytes]:
        for (_, header), entries in families.items():
            if not self._names or any(text for _, text in entries.values()):
                yield header
                for _, text in entries.values():
                    yield text

    def _asked(self, collector: Collector, fault: Exception | None, pause: Pause) -> list[bytes]:
        """Write what a collector says of itself now; `fault` is why it could not be written child by child."""
        texts: list[bytes] = []
        try:
            for family in collector.collect():
                texts += self._family(family, pause)
        except Exception as error:
            fault = error
        if fault is not None and not isinstance(fault, NotByLineError):
            self._faults.count(type(collector).__name__, fault)
        return texts

    def _family(self, family: Metric, pause: Pause) -> list[bytes]:
        shown = self._shown(family)
        texts = [] if self._names else [self._encoder.header(shown)]
        try:
            for start in range(0, len(family.samples), SAMPLES_AT_ONCE):
                texts.append(self._lines(shown, family.samples[start : start + SAMPLES_AT_ONCE]))
                pause()
        except NotByLineError:
            return [self._encoder.whole(shown, self._chosen(family, family.samples))]
        if self._names and any(texts):
            texts.insert(0, self._encoder.header(shown))
        return texts

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
    with registry._lock:  # noqa: SLF001 - the registry tells families, and not whose they are
        named = registry._collector_to_names.copy()  # noqa: SLF001
    info = registry.get_target_info()
    target: list[Collector] = [_Target(info)] if info else []
    return [*target, *(collector for collector, own in named.items() if not names or not names.isdisjoint(own))]

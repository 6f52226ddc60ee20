"""The families of all workers: numbers are added up or merged as they are meant, and shown as those of one process."""

from abc import abstractmethod
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from functools import partial
from itertools import count, groupby
from math import fsum, inf
from operator import attrgetter
from typing import Any, ClassVar, Protocol

from prometheus_client.core import Exemplar
from prometheus_client.core import Metric as Family
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from sage_fastapi_obs.catalog import REQUEST_METRICS
from sage_fastapi_obs.metrics.exposition.incremental import VersionedChild, VersionedFamily
from sage_fastapi_obs.metrics.exposition.prometheus_internals import histogram_lines
from sage_fastapi_obs.metrics.http_families import HttpFamilies, exemplified_of
from sage_fastapi_obs.metrics.http_totals import Totals
from sage_fastapi_obs.metrics.registry_reader import KINDS, Reading, from_samples
from sage_fastapi_obs.workers.definitions import Definition, Key, line_of
from sage_fastapi_obs.workers.recent_extremes import WIDTH, extremes_since

WORKER = "worker"
"""The label of what is shown of each worker by itself: the number of its slot."""
_next_version = count(1).__next__


class ChildPart(Protocol):
    """What one block says of a child."""

    @property
    def at(self) -> float:
        """When it was written, as Unix time."""

    @property
    def numbers(self) -> Sequence[float]:
        """The numbers that are merged."""

    @property
    def others(self) -> Sequence[float]:
        """What follows them."""

    @property
    def is_shown(self) -> bool:
        """Whether it counts: a gauge of a worker that has gone does not."""


class MergedChild:
    """One child, as all blocks together say."""

    __slots__ = ("exemplars", "key", "numbers", "parts", "shown")

    def __init__(self, key: Key) -> None:
        self.key = key
        self.parts: set[ChildPart] = set()
        """One for each block."""
        self.exemplars: defaultdict[int, dict[Hashable, Exemplar]] = defaultdict(dict)
        """By place among the numbers, and by block."""
        self.numbers: tuple[float, ...] = ()
        self.shown: Any = None
        """What a page shows of it; None: nothing."""

    def newest_exemplars(self, width: int) -> list[Exemplar | None]:
        """Return the newest exemplar of each of its numbers."""
        found: list[Exemplar | None] = [None] * width
        for place, several in self.exemplars.items():
            if several:
                found[place] = max(several.values(), key=lambda one: one.timestamp or 0.0)
        return found

    def extremes(self, slice_number: int) -> tuple[float, float]:
        """Return the lowest and the highest observation since a slice; infinite without any."""
        others = [part.others for part in self.parts.copy()]
        kept = [extremes_since(one[:WIDTH], slice_number) for one in others if len(one) >= WIDTH]
        return min((low for low, _ in kept), default=inf), max((high for _, high in kept), default=-inf)


class MergedFamily(Collector):
    """One family; families of the same name whose definitions differ are others."""

    component: ClassVar[str] = "MergedFamily"

    def __init__(self, definition: Definition, now_slice: Callable[[], int]) -> None:
        """`now_slice`: the slice of time that it is, for extremes."""
        self.definition = definition
        self.children: dict[Key, MergedChild] = {}
        self.changed: set[MergedChild] = set()
        """Children that have to be merged again."""
        self.adds, self.width = definition.adds, definition.width
        self._merge = _MERGES["sum" if self.adds else definition.merge]
        self.is_each = definition.merge == "each" and WORKER not in definition.labels
        self._now_slice = now_slice
        self._read_slice = now_slice()

    def child(self, key: Key, worker: int) -> MergedChild:
        """Return the child of a worker, made when first asked for."""
        key = self._with_worker(key, str(worker)) if self.is_each else key
        child = self.children.get(key)
        if child is None:
            child = self.children[key] = MergedChild(key)
        return child

    def merge_changed(self, pause: Callable[[], object]) -> None:
        """Merge the children that have changed."""
        while self.changed:
            self._merge_child(self.changed.pop())
            pause()

    def collect(self) -> Iterator[Family]:
        """Yield the family with its samples."""
        family = self.family()
        family.samples = [sample for _, _, samples in self._shown() for sample in samples()]
        yield family

    def describe(self) -> Iterator[Family]:
        """Yield the family without samples."""
        yield self.family()

    def family(self) -> Family:
        """Return the family without samples."""
        definition = self.definition
        return Family(definition.name, definition.help, definition.type, definition.unit)

    def _with_worker(self, key: Key, worker: str) -> Key:
        return (*key, worker)

    def _merge_child(self, child: MergedChild) -> None:
        parts = [part for part in child.parts if part.is_shown]
        if parts:
            child.numbers = self._merge(parts)
            child.shown = self._show(child)
            return
        child.shown = None
        if not child.parts and not any(child.exemplars.values()):
            self.children.pop(child.key, None)

    @abstractmethod
    def _show(self, child: MergedChild) -> Any:
        """Return what a page shows of the numbers of a child."""

    def _shown(self) -> list[Any]:
        # Copied at once: another thread may be merging.
        return [shown for child in [*self.children.values()] if (shown := child.shown) is not None]

    def _extremes(self) -> Iterator[tuple[Key, float, float]]:
        since, self._read_slice = self._read_slice, self._now_slice()
        for child in [*self.children.values()]:
            lowest, highest = child.extremes(since)
            if lowest <= highest:
                yield child.key, lowest, highest


class MergedInstrument(MergedFamily):
    """Counters, gauges, summaries and histograms of the client library."""

    def __init__(self, definition: Definition, now_slice: Callable[[], int]) -> None:
        super().__init__(definition, now_slice)
        self._labels = (*definition.labels, WORKER) if self.is_each else definition.labels
        self._bounds = (*definition.bounds, inf)

    def versioned(self) -> Iterator[VersionedFamily]:
        """Yield the family with what a scrape may remember of it."""
        yield self.family(), self._shown()

    def readings(self) -> Iterator[Reading]:
        """Yield the numbers as they are now."""
        definition, name = self.definition, self.definition.name
        is_summary = definition.type == "summary"
        children = [
            (child.key, child.numbers[::-1] if is_summary else child.numbers)
            for child in [*self.children.values()]
            if child.shown is not None
        ]
        extremes = [*self._extremes()] if definition.others else ()
        name = f"{name}_total" if definition.type == "counter" else name
        yield Reading(name, KINDS[definition.type], self._labels, definition.bounds, children, extremes, is_complete=True)

    def _show(self, child: MergedChild) -> VersionedChild:
        exemplars = child.newest_exemplars(len(child.numbers))
        return child.key, _next_version(), partial(self._samples, child.key, child.numbers, exemplars)

    def _samples(self, key: Key, numbers: Sequence[float], exemplars: Sequence[Exemplar | None]) -> Iterator[Sample]:
        name, labels = self.definition.name, dict(zip(self._labels, key, strict=True))
        match self.definition.type:
            case "counter":
                yield Sample(f"{name}_total", labels, numbers[0], None, exemplars[0])
            case "gauge":
                yield Sample(name, labels, numbers[0])
            case "summary":
                yield from (Sample(f"{name}{part}", labels, one) for part, one in zip(("_count", "_sum"), numbers, strict=True))
            case _:
                for suffix, own, value, exemplar in histogram_lines(self._bounds, numbers, exemplars):
                    yield Sample(name + suffix, {**labels, **own}, value, None, exemplar)


class MergedLines(MergedFamily):
    """What other collectors have shown, line by line."""

    def readings(self) -> Iterable[Reading]:
        """Yield the numbers as they are now; none of a collector that is only asked for pages."""
        return from_samples(self) if self.definition.in_windows else ()

    def collect(self) -> Iterator[Family]:
        """Yield the family with its samples, those of the same labels together."""
        family = self.family()
        samples = sorted(self._shown(), key=_order)
        family.samples = [*_in_agreement(samples)] if family.type == "histogram" else samples
        yield family

    def _with_worker(self, key: Key, worker: str) -> Key:
        return key if WORKER in key[1::2] else (*key, WORKER, worker)

    def _show(self, child: MergedChild) -> Sample:
        return Sample(*line_of(child.key), child.numbers[0])


class MergedRequests(MergedFamily):
    """All families of HTTP requests."""

    def __init__(self, definition: Definition, now_slice: Callable[[], int]) -> None:
        super().__init__(definition, now_slice)
        total, duration, _, received, sent = REQUEST_METRICS
        bounds, sizes = definition.bounds, definition.sizes
        self._buckets = len(bounds) + 1, len(sizes) + 1
        self._families = HttpFamilies(
            *(total, duration.with_buckets(bounds), None, received.with_buckets(sizes), sent.with_buckets(sizes))
        )
        self._read: dict[Key, Totals] = {}

    def collect(self) -> Iterator[Family]:
        """Yield all families with all samples."""
        for family, children in self.versioned():
            family.samples = [sample for _, _, samples in children for sample in samples()]
            yield family

    def describe(self) -> Iterator[Family]:
        """Yield all families without samples."""
        return self._families.describe()

    def versioned(self) -> Iterator[VersionedFamily]:
        """Yield all families, each with what a scrape may remember of it."""
        return self._families.versioned(self._shown())

    def readings(self) -> Iterator[Reading]:
        """Yield what has changed since the reading before."""
        every = self._shown()
        changed = [(labels, totals) for labels, totals in every if self._read.get(labels) is not totals]
        self._read.update(changed)
        return self._families.readings(changed, every, (), [*self._extremes()])

    def _show(self, child: MergedChild) -> tuple[Key, Totals]:
        totals = Totals.of(child.numbers, *self._buckets)
        totals.exemplars = [one and exemplified_of(one) for one in child.newest_exemplars(self._buckets[0])]
        return child.key, totals


def merged_family(definition: Definition, now_slice: Callable[[], int]) -> MergedFamily:
    """Return what merges the children of a definition."""
    kind = MergedLines if definition.lines else MergedRequests if definition.type == "requests" else MergedInstrument
    return kind(definition, now_slice)


def _order(sample: Sample) -> tuple[object, ...]:
    bound = sample.labels.get("le")
    labels = [label for label in sample.labels.items() if label[0] != "le"]
    return labels, sample.name, 0.0 if bound is None else float(bound)


def _in_agreement(samples: Iterable[Sample]) -> Iterator[Sample]:
    """Yield the sorted lines of histograms, no bucket below a smaller one, and the count that of all buckets.

    Lines are saved one after the other: a page may come between, and a worker may die there.
    """
    for _, lines in groupby(samples, key=lambda sample: _order(sample)[0]):
        most = -inf
        for sample in lines:
            if sample.name.endswith("_bucket"):
                most = max(most, sample.value)
            is_counted = most > -inf and sample.name.endswith(("_bucket", "_count"))
            yield sample._replace(value=most) if is_counted else sample


def _total(numbers: Sequence[float]) -> float:
    try:
        # Whatever the order of the workers is, the sum is the same to the last bit, so that it never falls.
        return fsum(numbers)
    except (OverflowError, ValueError):
        return sum(numbers)


_time = attrgetter("at")
_MERGES: dict[str, Callable[[list[ChildPart]], tuple[float, ...]]] = {
    "sum": lambda parts: tuple(map(_total, zip(*(part.numbers for part in parts), strict=True))),
    "max": lambda parts: (max(part.numbers[0] for part in parts),),
    "min": lambda parts: (min(part.numbers[0] for part in parts),),
    "latest": lambda parts: tuple(max(parts, key=_time).numbers),
    "each": lambda parts: tuple(max(parts, key=_time).numbers),
}

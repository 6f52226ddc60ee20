"""Reads the numbers of registries without writing a page, for rolling windows."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal, NamedTuple, Protocol, TypeAlias, runtime_checkable

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from sage_fastapi_obs.internal_errors import InternalErrors, component_of
from sage_fastapi_obs.metrics.exposition.prometheus_internals import ClientInstrument, collectors, instrument

Kind: TypeAlias = Literal["counter", "gauge", "histogram"]
Child: TypeAlias = tuple[tuple[str, ...], Sequence[float]]
"""Values of the labels, and numbers: the value of a counter or gauge; the sum of a histogram and the count of each bucket by
itself, +Inf included."""

_CHEAP = ("prometheus_client", "sage_fastapi_obs")
"""Packages whose collectors make samples cheaply enough for each reading."""
KINDS: dict[str, Kind] = {
    "counter": "counter",
    "gauge": "gauge",
    "unknown": "gauge",
    "histogram": "histogram",
    "summary": "histogram",
}


class Reading(NamedTuple):
    """One metric as it is now."""

    name: str
    """As in its samples: counters with `_total`, histograms without a suffix."""
    kind: Kind
    labels: tuple[str, ...]
    bounds: tuple[float, ...]
    """Finite upper bounds of a histogram's buckets; none for a summary, which is a histogram of one bucket here."""
    children: Iterable[Child]
    """Children of a counter or histogram that have not changed since the previous reading may be left out."""
    extremes: Iterable[tuple[tuple[str, ...], float, float]] = ()
    """Values of the labels, with the lowest and the highest value observed since the reading before, where that is known."""
    is_complete: bool = False
    """Whether all children are here: one that is not exists no more."""


@runtime_checkable
class ReadCollector(Protocol):
    """A collector that gives its numbers without making samples."""

    def readings(self) -> Iterable[Reading]:
        """Yield every metric."""
        ...


class RegistryReader:
    """Reads registries; how each collector is read is found out once.

    Collectors of others that do not give their numbers are left out: making samples may cost them a query each time, which is
    meant for scrapes.
    """

    def __init__(self, registry: CollectorRegistry, internal_errors: InternalErrors, *others: CollectorRegistry) -> None:
        self._registries = (registry, *others)
        self._internal_errors = internal_errors
        self._readers: dict[Collector, Callable[[], Iterable[Reading]]] = {}

    def __call__(self) -> Iterator[Reading]:
        """Yield every metric; a collector that raises is counted, and the others are read."""
        found = [one for registry in self._registries for one in _collectors_of(registry)]
        self._readers = {collector: self._readers.get(collector) or _reader_of(collector) for collector in found}
        for collector, read in self._readers.items():
            try:
                yield from read()
            except Exception as error:
                self._internal_errors.count(component_of(collector), error)

    def families(self) -> Iterator[Metric]:
        """Yield every metric without samples; those of others that make samples to describe themselves are left out."""
        for collector in (one for registry in self._registries for one in _collectors_of(registry)):
            try:
                yield from _described(collector)
            except Exception as error:
                self._internal_errors.count(component_of(collector), error)


def _described(collector: Collector) -> Iterable[Metric]:
    describe: Callable[[], Iterable[Metric]] | None = getattr(collector, "describe", None)
    if describe is not None:
        return describe()
    return collector.collect() if is_cheap(collector) else ()


def _collectors_of(registry: CollectorRegistry) -> Iterable[Collector]:
    found = collectors(registry)
    return (registry,) if found is None else found


def _reader_of(collector: Collector) -> Callable[[], Iterable[Reading]]:
    if isinstance(collector, ReadCollector):
        return collector.readings
    own = instrument(collector)
    if own is not None:
        return lambda: _from_instrument(own, collector)
    return (lambda: from_samples(collector)) if is_cheap(collector) else tuple


def is_cheap(collector: Collector) -> bool:
    """Tell whether a collector makes samples cheaply enough for each reading."""
    return isinstance(collector, MetricWrapperBase) or type(collector).__module__.partition(".")[0] in _CHEAP


def _from_instrument(own: ClientInstrument, collector: Collector) -> Iterable[Reading]:
    kind = KINDS.get(own.family.type)
    if kind is None:
        return ()
    children = [*own.numbers()]
    if any(numbers is None for _, numbers in children):
        return from_samples(collector)
    # The library's summaries count before they sum.
    ordered = [(labels, numbers[::-1] if own.family.type == "summary" else numbers) for labels, numbers in children if numbers]
    return (Reading(name_of(own.family), kind, own.labels, own.bounds, ordered, own.extremes(), True),)


def from_samples(collector: Collector) -> Iterator[Reading]:
    """Read a collector by the samples that it makes."""
    for family in collector.collect():
        kind = KINDS.get(family.type)
        if kind == "histogram":
            yield from _histograms(family)
        elif kind is not None:
            yield from _values(family, kind)


def name_of(family: Metric) -> str:
    """Name a metric as its samples do: a counter with `_total`."""
    return f"{family.name}_total" if family.type == "counter" else family.name


def _values(family: Metric, kind: Kind) -> Iterator[Reading]:
    name = name_of(family)
    samples = [sample for sample in family.samples if sample.name == name]
    labels = _label_names(samples)
    children = [(_label_values(sample, labels), (float(sample.value),)) for sample in samples]
    yield Reading(name, kind, labels, (), children, is_complete=True)


def _histograms(family: Metric) -> Iterator[Reading]:
    labels = _label_names(family.samples, leaving="le")
    sums: dict[tuple[str, ...], float] = {}
    counts: dict[tuple[str, ...], float] = {}
    buckets: dict[tuple[str, ...], list[tuple[float, float]]] = {}
    for sample in family.samples:
        key = _label_values(sample, labels)
        match sample.name.removeprefix(family.name):
            case "_sum":
                sums[key] = float(sample.value)
            case "_count":
                counts[key] = float(sample.value)
            case "_bucket":
                buckets.setdefault(key, []).append((float(sample.labels["le"]), float(sample.value)))
    bounds = tuple(bound for bound, _ in sorted(next(iter(buckets.values()), [])))[:-1]
    children = [
        (key, (sums.get(key, 0.0), *_alone([count for _, count in sorted(buckets.get(key, []))] or [count])))
        for key, count in counts.items()
    ]
    alike = [child for child in children if len(child[1]) == len(bounds) + 2]
    yield Reading(family.name, "histogram", labels, bounds, alike, is_complete=True)


def _alone(cumulative: Sequence[float]) -> list[float]:
    return [count - below for below, count in zip([0.0, *cumulative], cumulative, strict=False)]


def _label_names(samples: Iterable[Sample], leaving: str = "") -> tuple[str, ...]:
    names = {name for sample in samples for name in sample.labels}
    return tuple(sorted(names - {leaving, "quantile"}))


def _label_values(sample: Sample, labels: Iterable[str]) -> tuple[str, ...]:
    return tuple(sample.labels.get(label, "") for label in labels)

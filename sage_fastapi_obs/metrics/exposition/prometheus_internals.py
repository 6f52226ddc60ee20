"""All private attributes of prometheus_client that are read here. Checked with versions 0.21 and 0.26.

Where a version lacks one, or has another meaning for it, the public way is taken: `collect()` of the collector or the registry.
That is also the way for an instrument whose class or methods somebody has replaced.
"""
# ruff: noqa: SLF001 - reading them is what this module is for

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import accumulate
from operator import is_
from struct import Struct, pack, unpack
from typing import Any, NamedTuple, TypeAlias

from prometheus_client import CollectorRegistry, Counter, Enum, Gauge, Histogram, Info, Summary, values
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar, Sample
from prometheus_client.utils import floatToGoString
from prometheus_client.values import MutexValue

from sage_fastapi_obs.catalog.extremes_histogram import ExtremesHistogram
from sage_fastapi_obs.catalog.latest_gauge import LatestGauge
from sage_fastapi_obs.metrics.exposition.incremental import VersionedChild, VersionedCollector, VersionedFamily

_METHODS = ("collect", "describe", "_get_metric", "_samples", "_multi_samples", "_child_samples", "_is_parent")
_ONLY_MUTEX_VALUES = {MutexValue}
_number = Struct("d").pack

_Line: TypeAlias = tuple[str, Mapping[str, str], float, Exemplar | None]
"""Suffix of the name, labels besides those of the child, value, exemplar."""


def collectors(registry: CollectorRegistry, names: frozenset[str] = frozenset()) -> list[Collector] | None:
    """List the collectors that may have samples of some names, all for no names; None for a registry that cannot be read."""
    if type(registry) is not CollectorRegistry:
        return None
    try:
        with registry._lock:
            found = registry._collector_to_names.copy()
    except AttributeError:
        return None
    nameless = getattr(registry, "_collectors_without_names", ())
    return [
        collector
        for collector, own in found.items()
        if not names or not names.isdisjoint(own) or (not own and collector in nameless)
    ]


def collector_of(registry: CollectorRegistry, name: str) -> Collector | None:
    """Find the collector of a metric; None for a metric that is not registered, and for a registry of another kind."""
    known: dict[str, Collector] | None = getattr(registry, "_names_to_collectors", None)
    if known is not None:
        return known.get(name)
    if not isinstance(registry, CollectorRegistry):
        return None
    only: Collector = registry.restricted_registry([name, *(name + suffix for suffix in ("_bucket", "_count", "_sum"))])
    return only


def names_beginning(registry: CollectorRegistry, start: str) -> list[str]:
    """List the names of samples that begin with some text."""
    known: dict[str, Collector] | None = getattr(registry, "_names_to_collectors", None)
    names = {sample.name for family in registry.collect() for sample in family.samples} if known is None else known.copy()
    return [name for name in names if name.startswith(start)]


def gauge_value(gauge: Gauge) -> float:
    """Return the value of a gauge without labels, or of one child."""
    value = getattr(gauge, "_value", None)
    if type(value) is MutexValue:
        return value.get()  # type: ignore[no-any-return, no-untyped-call]
    (family,) = gauge.collect()
    return family.samples[0].value


def multiprocess_mode(collector: object) -> str:
    """Return the mode of a gauge for several processes; empty for other instruments."""
    mode: str = getattr(collector, "_multiprocess_mode", "")
    return mode


def add_counted(source: Any, target: Any) -> None:
    """Add to an instrument without labels, or to one child, what another of its kind has counted; set a gauge to its value."""
    if isinstance(source, Gauge):
        target.set(gauge_value(source))
        return
    names = ("_value",) if isinstance(source, Counter) else ("_sum", "_buckets")
    counted, raised = ([getattr(one, name) for name in names] for one in (source, target))
    for value, other in zip(_flat(counted), _flat(raised), strict=True):
        other.inc(value.get())
    if isinstance(source, ExtremesHistogram) and isinstance(target, ExtremesHistogram):
        target.add_extremes(source)


def set_exemplar(histogram: Any, number: float, ids: dict[str, str], at: float) -> None:
    """Set the exemplar of a bucket in which a number has been counted before; `at`: Unix time."""
    bounds, buckets = getattr(histogram, "_upper_bounds", ()), getattr(histogram, "_buckets", ())
    bucket = bisect_left(bounds, number)
    if bucket < len(buckets):
        buckets[bucket].set_exemplar(Exemplar(ids, number, at))


def _flat(values: Iterable[Any]) -> Iterator[Any]:
    for value in values:
        yield from value if isinstance(value, list) else (value,)


def versioned(collector: object) -> Callable[[], Iterable[VersionedFamily]] | None:
    """Find out how a collector is read child by child, once for all scrapes; None if it only has `collect()`."""
    if isinstance(collector, VersionedCollector):
        return collector.versioned
    found = instrument(collector)
    return None if found is None else found.versioned


def instrument(collector: object) -> "ClientInstrument | None":
    """Return a reader of one of the client library's own instruments; None for any other collector."""
    kind = _KINDS.get(type(collector))
    return ClientInstrument(collector, kind) if kind is not None and _is_original(collector) else None


def _is_original(instrument: object) -> bool:
    """Tell whether nobody has replaced a method, of the instrument or of its class."""
    own = [(getattr(type(instrument), method), getattr(instrument, method)) for method in _METHODS]
    return all(original.__module__ == "prometheus_client.metrics" and _is_bound(method, original) for original, method in own)


def _is_bound(method: object, original: object) -> bool:
    # Looking into `__dict__` would make one for every child, for good.
    return getattr(method, "__func__", None) is original


class _ChildReader(NamedTuple):
    """How to read the children of one class."""

    state: Callable[[Any], object]
    """All that the text of a child depends on, raw: equal states, equal text; None for a child that is not as expected."""
    lines: Callable[[Any, Any], Iterable[_Line]]
    """The samples of a state, not those of now: a value that changes and changes back meanwhile would leave a wrong text."""


class ClientInstrument:
    """Reads one instrument, child by child."""

    def __init__(self, instrument: Any, kind: _ChildReader) -> None:
        self._instrument = instrument
        self._kind = kind
        (self.family,) = instrument.describe()
        """Name, documentation, type and unit, as `collect()` would give them."""
        self.labels: tuple[str, ...] = tuple(instrument._labelnames)
        self.bounds: tuple[float, ...] = tuple(getattr(instrument, "_upper_bounds", ())[:-1])
        """The finite upper bounds of its buckets, if it has any."""
        self.has_extremes = isinstance(instrument, ExtremesHistogram)

    def versioned(self) -> Iterable[VersionedFamily]:
        """Return its one family, with a version of every child."""
        return ((self.family, self._children()),)

    def numbers(self) -> Iterator[tuple[tuple[str, ...], tuple[float, ...] | None]]:
        """Yield the raw numbers of every child; None for one that has its own way to make samples.

        They are a value; of a histogram, its sum and the count of each bucket alone; of a summary, count and sum.
        """
        for labels, child in self._by_labels():
            state = self._state(child)
            yield labels, None if state is None else _unpacked(state)[0]

    def children(self, known: list[Any]) -> tuple[list[tuple[str, ...]], list[Any]] | None:
        """Return the label values of all children, and the children; None where the children are those that are known."""
        if not self._instrument._is_parent():
            return None if known else ([()], [self._instrument])
        with self._instrument._lock:
            metrics = self._instrument._metrics
            # Whatever is copied is looked at, which takes most of the time: so no labels as long as they are known.
            children = [*metrics.values()]
            return None if children == known else ([*metrics], children)

    def extremes(self) -> list[tuple[tuple[str, ...], float, float]]:
        """Take the lowest and the highest observation since the last call, of each child that has both."""
        if not self.has_extremes:
            return []
        taken = ((labels, child.take_extremes()) for labels, child in self._by_labels())
        return [(labels, *extremes) for labels, extremes in taken if extremes is not None]

    def _children(self) -> Iterator[VersionedChild]:
        for labels, child in self._by_labels():
            state = self._state(child)
            if state is None:
                yield labels, object(), partial(self._samples_of_child, labels, child)
            else:
                yield labels, state, partial(self._samples_of_state, labels, state)

    def _state(self, child: Any) -> object:
        expected = type(self._instrument)
        # Where `Gauge.set_function` was called, the child has its own way to make samples.
        usual = type(child) is expected and _is_bound(child._child_samples, expected._child_samples)
        return self._kind.state(child) if usual else None

    def _by_labels(self) -> Iterator[tuple[tuple[str, ...], Any]]:
        if not self._instrument._is_parent():
            yield (), self._instrument
            return
        with self._instrument._lock:
            # Only the keys: this holds the GIL, so it copies as little as possible.
            children, keys = self._instrument._metrics, tuple(self._instrument._metrics)
        for labels in keys:
            if (child := children.get(labels)) is not None:
                yield labels, child

    def _samples_of_state(self, labels: tuple[str, ...], state: object) -> Iterator[Sample]:
        name, common = self._instrument._name, self._named(labels)
        for suffix, own, value, exemplar in self._kind.lines(self._instrument, state):
            yield Sample(name + suffix, {**common, **own}, value, None, exemplar)

    def _samples_of_child(self, labels: tuple[str, ...], child: Any) -> Iterator[Sample]:
        name, common = self._instrument._name, self._named(labels)
        for suffix, own, *rest in child._samples():
            yield Sample(name + suffix, {**common, **own}, *rest)

    def _named(self, labels: tuple[str, ...]) -> dict[str, str]:
        return dict(zip(self.labels, labels, strict=True)) if labels else {}


class _Exemplars:
    """The exemplars of a child: unchanged only if they are the same objects."""

    __slots__ = ("each",)

    def __init__(self, each: Sequence[Exemplar | None]) -> None:
        self.each = each

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Exemplars) and all(map(is_, self.each, other.each))

    def __hash__(self) -> int:
        return hash(tuple(map(id, self.each)))


def _packed_value(child: Any) -> object:
    """Return a number bit by bit, so that NaN equals itself and 0.0 is not -0.0, and an exemplar if there is one."""
    value = child._value
    if type(value) is not MutexValue:
        return None
    exemplar = value._exemplar
    number = _number(value._value)
    return number if exemplar is None else (number, _Exemplars((exemplar,)))


def _packed(values: Sequence[MutexValue]) -> object:
    """Return numbers bit by bit, and exemplars if there are any."""
    if set(map(type, values)) != _ONLY_MUTEX_VALUES:
        return None
    numbers = pack(f"{len(values)}d", *[value._value for value in values])
    exemplars = [value._exemplar for value in values]
    return (numbers, _Exemplars(exemplars)) if any(exemplars) else numbers


def _unpacked(state: Any) -> tuple[tuple[float, ...], Sequence[Exemplar | None]]:
    """Return the numbers and exemplars of a state."""
    numbers, exemplars = (state, None) if isinstance(state, bytes) else state
    unpacked = unpack(f"{len(numbers) // 8}d", numbers)
    return unpacked, (None,) * len(unpacked) if exemplars is None else exemplars.each


def _counter(_: Counter, state: Any) -> Iterator[_Line]:
    (value,), (exemplar,) = _unpacked(state)
    yield "_total", {}, value, exemplar


def _gauge(_: Gauge, state: Any) -> Iterator[_Line]:
    (value,), _exemplar = _unpacked(state)
    yield "", {}, value, None


def _summary(_: Summary, state: Any) -> Iterator[_Line]:
    (count, total), _exemplars = _unpacked(state)
    yield "_count", {}, count, None
    yield "_sum", {}, total, None


def _histogram(histogram: Histogram, state: Any) -> Iterator[_Line]:
    return histogram_lines(histogram._upper_bounds, *_unpacked(state))


def histogram_lines(
    bounds: Sequence[float], numbers: Sequence[float], exemplified: Sequence[Exemplar | None]
) -> Iterator[_Line]:
    """Yield the lines of a histogram as the library does; `bounds` with +Inf, numbers and exemplars as in its state."""
    (total, *counts), (_, *exemplars) = numbers, exemplified
    running = list(accumulate(counts, initial=0.0))
    for bound, count, exemplar in zip(bounds, running[1:], exemplars, strict=True):
        yield "_bucket", {"le": floatToGoString(bound)}, count, exemplar  # type: ignore[no-untyped-call]
    yield "_count", {}, running[-1], None
    if bounds[0] >= 0:
        yield "_sum", {}, total, None


def _info(_: Info, state: Any) -> Iterator[_Line]:
    yield "_info", state, 1.0, None


def _enum(enum: Enum, state: Any) -> Iterator[_Line]:
    for place, name in enumerate(enum._states):
        yield "", {enum._name: name}, float(place == state), None


def _is_readable(instrument: type, kind: _ChildReader) -> bool:
    """Read two instruments of a class as this module does, and as the library does."""
    if values.ValueClass is not MutexValue:
        # Of values in files of several processes, no trial may be made. Each is recognised when it is read.
        return True
    options = {"states": ["on"]} if instrument is Enum else {}
    trials = [instrument("trial", "trial", labels, registry=None, **options) for labels in ((), ("label",))]
    trials[1].labels("value")
    try:
        for trial in trials:
            ((_, children),) = ClientInstrument(trial, kind).versioned()
            read = [sample for _, _, samples in children for sample in samples()]
            (family,) = trial.collect()
            if not _is_original(trial) or read != [one for one in family.samples if not one.name.endswith("_created")]:
                return False
    except Exception:
        return False
    return True


_HISTOGRAM = _ChildReader(lambda child: _packed((child._sum, *child._buckets)), _histogram)
_KINDS: dict[type, _ChildReader] = {
    instrument: kind
    for instrument, kind in {
        Counter: _ChildReader(_packed_value, _counter),
        Gauge: _ChildReader(_packed_value, _gauge),
        LatestGauge: _ChildReader(_packed_value, _gauge),
        Summary: _ChildReader(lambda child: _packed((child._count, child._sum)), _summary),
        Histogram: _HISTOGRAM,
        ExtremesHistogram: _HISTOGRAM,
        Info: _ChildReader(lambda child: child._value, _info),
        Enum: _ChildReader(lambda child: child._value, _enum),
    }.items()
    if _is_readable(instrument, kind)
}
"""Classes of the library whose children can be read; classes that a version lacks are left out."""

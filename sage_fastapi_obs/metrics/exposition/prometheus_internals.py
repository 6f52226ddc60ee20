"""The client library's own instruments, read child by child, as if they were stamped collectors.

Their attributes are private, and have been the same for years. What is not exactly as expected (another class, a value shared
between processes, a function in place of a value) is asked for its samples instead.
"""
# ruff: noqa: SLF001 - reading the values themselves is what this module is for

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import accumulate
from operator import is_
from struct import Struct, pack, unpack
from typing import Any, NamedTuple, TypeAlias

from prometheus_client import CollectorRegistry, Counter, Enum, Gauge, Histogram, Info, Summary
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar, Sample
from prometheus_client.utils import floatToGoString
from prometheus_client.values import MutexValue

from sage_fastapi_obs.metrics.exposition.incremental import StampedChild, StampedCollector, StampedFamily

__all__ = ["ClientInstrument", "Stamped", "collectors", "instrument", "stamped"]

_METHODS = ("collect", "describe", "_get_metric", "_samples", "_multi_samples", "_child_samples", "_is_parent")
_PLAIN = {MutexValue}
_number = Struct("d").pack

_Line: TypeAlias = tuple[str, Mapping[str, str], float, Exemplar | None]
"""Suffix of the name, labels besides those of the child, value, exemplar."""


Stamped: TypeAlias = Callable[[], Iterable[StampedFamily]]


def stamped(collector: object) -> Stamped | None:
    """Find out how a collector is read child by child, once for all scrapes; None if it can only be asked for all samples."""
    if isinstance(collector, StampedCollector):
        return collector.stamped
    found = instrument(collector)
    return None if found is None else found.stamped


def instrument(collector: object) -> "ClientInstrument | None":
    """Return a reader of one of the client library's own instruments; None for any other collector."""
    kind = _KINDS.get(type(collector))
    return ClientInstrument(collector, kind) if kind is not None and _is_original(collector) else None


def collectors(registry: CollectorRegistry) -> dict[Collector, list[str]]:
    """Return the collectors of a registry, each with the names it has claimed."""
    with registry._lock:
        return registry._collector_to_names.copy()


def _is_original(instrument: object) -> bool:
    """Tell whether nobody has replaced a method, of the instrument or of its class."""
    own = [(getattr(type(instrument), method), getattr(instrument, method)) for method in _METHODS]
    return all(original.__module__ == "prometheus_client.metrics" and _is_bound(method, original) for original, method in own)


def _is_bound(method: object, original: object) -> bool:
    # Looking into `__dict__` would make one for every child, for good.
    return getattr(method, "__func__", None) is original


class _Kind(NamedTuple):
    """How to read the children of one class.

    `state` is all that the text of a child depends on, raw: equal states, equal text; None for a child that is not as
    expected. `lines` tells the samples of a state, not those of now: a value that is changed and changed back meanwhile
    would leave a text behind that its stamp does not belong to.
    """

    state: Callable[[Any], object]
    lines: Callable[[Any, Any], Iterable[_Line]]


class ClientInstrument:
    """Reads one instrument, child by child."""

    def __init__(self, instrument: Any, kind: _Kind) -> None:
        self._instrument = instrument
        self._kind = kind
        (self.family,) = instrument.describe()
        """Name, documentation, type and unit, as `collect()` would give them."""

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of its labels."""
        return tuple(self._instrument._labelnames)

    @property
    def bounds(self) -> tuple[float, ...]:
        """The finite upper bounds of its buckets, if it has any."""
        return tuple(getattr(self._instrument, "_upper_bounds", ())[:-1])

    def stamped(self) -> Iterable[StampedFamily]:
        """Return its one family, with a stamp for every child."""
        return ((self.family, self._children()),)

    def numbers(self) -> Iterator[tuple[tuple[str, ...], tuple[float, ...] | None]]:
        """Yield the raw numbers of every child; None for one that has its own way to make samples.

        They are a value; of a histogram, its sum and the count of each bucket alone; of a summary, count and sum.
        """
        for labels, child in self._by_labels():
            state = self._state(child)
            yield labels, None if state is None else _told(state)[0]

    def _children(self) -> Iterator[StampedChild]:
        for labels, child in self._by_labels():
            state = self._state(child)
            if state is None:
                yield labels, object(), partial(self._asked, labels, child)
            else:
                yield labels, state, partial(self._written, labels, state)

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
            # Only the keys: whoever holds the interpreter copies as little as possible.
            children, keys = self._instrument._metrics, tuple(self._instrument._metrics)
        for labels in keys:
            if (child := children.get(labels)) is not None:
                yield labels, child

    def _written(self, labels: tuple[str, ...], state: object) -> Iterator[Sample]:
        name, common = self._instrument._name, self._named(labels)
        for suffix, own, value, exemplar in self._kind.lines(self._instrument, state):
            yield Sample(name + suffix, {**common, **own}, value, None, exemplar)

    def _asked(self, labels: tuple[str, ...], child: Any) -> Iterator[Sample]:
        name, common = self._instrument._name, self._named(labels)
        for suffix, own, *rest in child._samples():
            yield Sample(name + suffix, {**common, **own}, *rest)

    def _named(self, labels: tuple[str, ...]) -> dict[str, str]:
        return dict(zip(self._instrument._labelnames, labels, strict=True)) if labels else {}


class _Exemplars:
    """The exemplars of a child: unchanged only if they are the same objects."""

    __slots__ = ("each",)

    def __init__(self, each: Sequence[Exemplar | None]) -> None:
        self.each = each

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Exemplars) and all(map(is_, self.each, other.each))

    def __hash__(self) -> int:
        return hash(tuple(map(id, self.each)))


def _one(child: Any) -> object:
    """Return a number bit by bit, so that NaN equals itself and 0.0 is not -0.0, and an exemplar if there is one."""
    value = child._value
    if type(value) is not MutexValue:
        return None
    exemplar = value._exemplar
    number = _number(value._value)
    return number if exemplar is None else (number, _Exemplars((exemplar,)))


def _several(values: Sequence[MutexValue]) -> object:
    """Return numbers bit by bit, and exemplars if there are any."""
    if set(map(type, values)) != _PLAIN:
        return None
    numbers = pack(f"{len(values)}d", *[value._value for value in values])
    exemplars = [value._exemplar for value in values]
    return (numbers, _Exemplars(exemplars)) if any(exemplars) else numbers


def _told(state: Any) -> tuple[tuple[float, ...], Sequence[Exemplar | None]]:
    """Return the numbers and exemplars of a state."""
    numbers, exemplars = (state, None) if isinstance(state, bytes) else state
    values = unpack(f"{len(numbers) // 8}d", numbers)
    return values, (None,) * len(values) if exemplars is None else exemplars.each


def _counter(_: Counter, state: Any) -> Iterator[_Line]:
    (value,), (exemplar,) = _told(state)
    yield "_total", {}, value, exemplar


def _gauge(_: Gauge, state: Any) -> Iterator[_Line]:
    (value,), _exemplar = _told(state)
    yield "", {}, value, None


def _summary(_: Summary, state: Any) -> Iterator[_Line]:
    (count, total), _exemplars = _told(state)
    yield "_count", {}, count, None
    yield "_sum", {}, total, None


def _histogram(histogram: Histogram, state: Any) -> Iterator[_Line]:
    (total, *counts), (_, *exemplars) = _told(state)
    running = list(accumulate(counts, initial=0.0))
    bounds = histogram._upper_bounds
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


_KINDS: dict[type, _Kind] = {
    Counter: _Kind(_one, _counter),
    Gauge: _Kind(_one, _gauge),
    Summary: _Kind(lambda child: _several((child._count, child._sum)), _summary),
    Histogram: _Kind(lambda child: _several((child._sum, *child._buckets)), _histogram),
    Info: _Kind(lambda child: child._value, _info),
    Enum: _Kind(lambda child: child._value, _enum),
}

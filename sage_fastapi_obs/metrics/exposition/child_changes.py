"""Which children of the client library's instruments have changed; reads private attributes as `prometheus_internals` does."""
# ruff: noqa: SLF001 - as there

from collections.abc import Callable, Iterator
from itertools import accumulate, compress, count
from operator import attrgetter, is_not
from typing import Any

from prometheus_client import Gauge
from prometheus_client.samples import Exemplar
from prometheus_client.values import MutexValue

from sage_fastapi_obs.catalog.latest_gauge import LatestGauge
from sage_fastapi_obs.metrics.exposition.prometheus_internals import ClientInstrument

_value_of, _exemplar_of, _samples_of = attrgetter("_value"), attrgetter("_exemplar"), attrgetter("_child_samples")
_VALUES: dict[str, Callable[[Any], tuple[MutexValue, ...]]] = {
    "counter": lambda child: (child._value,),
    "gauge": lambda child: (child._value,),
    "summary": lambda child: (child._count, child._sum),
    "histogram": lambda child: (child._sum, *child._buckets),
}
"""By type, what the numbers of a child are in."""


class ChildChanges:
    """Finds the children of an instrument that have changed since they were last asked for.

    A change makes a number another object, as the one before is kept here. To compare objects takes a tenth of the time that
    it takes to ask each child.
    """

    def __init__(self, own: ClientInstrument) -> None:
        """Look at one; raises `KeyError` for a type that has no numbers: an info or an enumeration."""
        self._own = own
        self._values_of = _VALUES[own.family.type]
        self._is_gauge = own.family.type == "gauge"
        self.labels: list[tuple[str, ...]] = []
        """Label values of all children."""
        self._children: list[Any] = []
        self._starts: list[int] = []
        self._places: list[int] = []
        self._values: list[MutexValue] = []
        self._numbers: list[object] = []
        self._exemplars: list[Exemplar | None] = []

    def learn(self) -> bool:
        """Find out which children there are; return whether they are others than before."""
        labels, children = self._own.children()
        if children == self._children:
            return False
        values = [self._values_of(child) for child in children]
        self.labels, self._children = labels, children
        self._starts = [*accumulate(map(len, values), initial=0)]
        self._places = [place for place, some in enumerate(values) for _ in some]
        self._values = [value for some in values for value in some]
        # Those that are not new are told of again, too.
        self._numbers = [None] * len(self._values)
        self._exemplars = [None] * len(self._values)
        return True

    def numbers(self) -> Iterator[tuple[tuple[str, ...], Any, tuple[float, ...]]]:
        """Yield label values, child and numbers of the children that have changed; numbers as `ClientInstrument` has them."""
        before, now = self._numbers, [*map(_value_of, self._values)]
        self._numbers = now
        places = dict.fromkeys(compress(self._places, map(is_not, now, before)))
        computed = self._computed() if self._is_gauge else {}
        for place in {**places, **computed}:
            numbers = (computed[place],) if place in computed else tuple(now[self._starts[place] : self._starts[place + 1]])
            yield self.labels[place], self._children[place], numbers

    def exemplars(self) -> Iterator[tuple[tuple[str, ...], int, Exemplar]]:
        """Yield label values, place among the numbers, and exemplar, for those that have changed."""
        if {*map(type, self._values)} - {MutexValue}:
            # In the client library's own files of several processes there are none.
            return
        before, now = self._exemplars, [*map(_exemplar_of, self._values)]
        self._exemplars = now
        for at in compress(range(len(now)), map(is_not, now, before)):
            place, exemplar = self._places[at], now[at]
            if exemplar is not None:
                yield self.labels[place], at - self._starts[place], exemplar

    def _computed(self) -> dict[int, float]:
        """Return, by place, the numbers of gauges that call a function, and those whose time counts besides the number."""
        if type(self._children[0] if self._children else None) is LatestGauge:
            return {place: value._value for place, value in enumerate(self._values)}
        usual = Gauge._child_samples
        own = compress(count(), [samples.__func__ is not usual for samples in map(_samples_of, self._children)])
        return {place: next(iter(self._children[place]._child_samples())).value for place in own}

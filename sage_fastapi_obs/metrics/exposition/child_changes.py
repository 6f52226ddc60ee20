"""Which children of the client library's instruments have changed; reads private attributes as `prometheus_internals` does."""
# ruff: noqa: SLF001 - as there

import time
from collections.abc import Callable, Iterable, Iterator
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

_AGAIN_SECONDS = 3.0
"""Far longer than a thread stands between two numbers of one observation, and than it takes to the next look."""


class ChildChanges:
    """Finds the children of an instrument that have changed since they were last asked for.

    A change makes a number another object, as the one before is kept here. To compare objects takes a tenth of the time that
    it takes to ask each child. Of each child the first number is looked at, which each change begins with; as the others follow
    it, the child is looked at again for a while.
    """

    def __init__(self, own: ClientInstrument, clock: Callable[[], float] = time.monotonic) -> None:
        """Look at one; raises `KeyError` for a type that has no numbers: an info or an enumeration."""
        self._own = own
        self._values_of = _VALUES[own.family.type]
        self._is_gauge = own.family.type == "gauge"
        self.labels: list[tuple[str, ...]] = []
        """Label values of all children."""
        self._children: list[Any] = []
        self._starts: list[int] = []
        self._values: list[MutexValue] = []
        self._first: list[MutexValue] = []
        self._numbers: list[object] = []
        self._clock = clock
        self._recent: dict[int, float] = {}
        """Until when children are looked at again that have changed, by place."""
        self._exemplars: list[Exemplar | None] = []
        self._has_exemplars = False
        """In the client library's own files of several processes there are none."""
        self._changed: set[int] = set()
        self._changed_before: set[int] = set()
        """Children that have changed since exemplars were last asked for, and in the time before, by place: an exemplar is set
        after the numbers."""

    def learn(self) -> bool:
        """Find out which children there are; return whether they are others than before."""
        found = self._own.children(self._children)
        if found is None:
            return False
        labels, children = found
        values = [self._values_of(child) for child in children]
        self.labels, self._children = labels, children
        self._starts = [*accumulate(map(len, values), initial=0)]
        self._values = [value for some in values for value in some]
        self._first = [some[0] for some in values]
        # Those that are not new are told of again, too.
        self._numbers, self._recent = [None] * len(values), {}
        self._changed, self._changed_before = set(), set()
        self._exemplars = [None] * len(self._values)
        self._has_exemplars = {*map(type, self._values)} <= {MutexValue}
        return True

    def numbers(self) -> Iterator[tuple[tuple[str, ...], Any, tuple[float, ...]]]:
        """Yield label values, child and numbers of the children that have changed; numbers as `ClientInstrument` has them."""
        before, now = self._numbers, [*map(_value_of, self._first)]
        self._numbers = now
        computed = self._computed() if self._is_gauge else {}
        changed = [*compress(count(), map(is_not, now, before))]
        self._changed.update(changed)
        for place in {**self._noted(changed), **computed}:
            values = self._values[self._starts[place] : self._starts[place + 1]]
            numbers = (computed[place],) if place in computed else tuple(map(_value_of, values))
            yield self.labels[place], self._children[place], numbers

    def exemplars(self) -> Iterator[tuple[tuple[str, ...], int, Exemplar]]:
        """Yield label values, place among the numbers, and exemplar, for those that have changed with the numbers told of."""
        if not self._has_exemplars:
            return
        changed, self._changed = self._changed, set()
        places, self._changed_before = changed | self._changed_before, changed
        for place in places:
            start = self._starts[place]
            for at in range(start, self._starts[place + 1]):
                exemplar = _exemplar_of(self._values[at])
                if exemplar is not self._exemplars[at]:
                    self._exemplars[at] = exemplar
                    if exemplar is not None:
                        yield self.labels[place], at - start, exemplar

    def _noted(self, changed: Iterable[int]) -> dict[int, float]:
        """Return the children that have changed lately."""
        if len(self._values) == len(self._first):
            # Of one number there is no middle.
            return dict.fromkeys(changed, 0.0)
        now = self._clock()
        self._recent = {place: until for place, until in self._recent.items() if until > now}
        self._recent.update(dict.fromkeys(changed, now + _AGAIN_SECONDS))
        return self._recent

    def _computed(self) -> dict[int, float]:
        """Return, by place, the numbers of gauges that call a function, and those whose time counts besides the number."""
        if type(self._children[0] if self._children else None) is LatestGauge:
            return {place: value._value for place, value in enumerate(self._values)}
        usual = Gauge._child_samples
        own = compress(count(), [samples.__func__ is not usual for samples in map(_samples_of, self._children)])
        return {place: next(iter(self._children[place]._child_samples())).value for place in own}

"""Saves the numbers of a worker in its slot, where its siblings read them, and its successor goes on with them."""

import time
from collections.abc import Callable, Iterable
from threading import RLock
from typing import Any, Protocol

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric as Family
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.registry import Collector

from sage_fastapi_obs.catalog import CATALOG
from sage_fastapi_obs.internal_errors import InternalErrors, component_of
from sage_fastapi_obs.legacy.aliases import Aliases
from sage_fastapi_obs.metrics.exposition.child_changes import ChildChanges
from sage_fastapi_obs.metrics.exposition.library_exposition import without_created
from sage_fastapi_obs.metrics.exposition.prometheus_internals import ClientInstrument, collectors, instrument, multiprocess_mode
from sage_fastapi_obs.metrics.http_families import exemplar_of
from sage_fastapi_obs.metrics.http_series import HttpRequestSeries, RequestSeries
from sage_fastapi_obs.metrics.http_totals import Totals
from sage_fastapi_obs.metrics.registry_reader import is_cheap
from sage_fastapi_obs.processes import hold_at_fork
from sage_fastapi_obs.threads import Slices
from sage_fastapi_obs.workers.blocks import Blocks
from sage_fastapi_obs.workers.definitions import Definition, Key, line_key
from sage_fastapi_obs.workers.recent_extremes import NONE, WIDTH, slice_at, with_extremes
from sage_fastapi_obs.workers.saved_families import SavedFamilies, SavedFamily

_MERGES = frozenset({"sum", "max", "min", "latest", "each"})
_CLIENT_WORDS = {"all": "each", "mostrecent": "latest"}
"""What we call modes of the client library."""
_NUMERIC = frozenset({"counter", "gauge", "summary", "histogram"})
_Pause = Callable[[], object]


class SavedNumbers:
    """Saves the metrics of a registry into the blocks of one slot.

    A collector of the application that only has `collect()` is asked for pages alone, as it may be expensive. Its attribute
    `workers` says what is shown of several workers: `sum`, `max`, `min`, `latest`, or `each` by itself, which is the default.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        blocks: Blocks,
        errors: InternalErrors,
        *,
        interval_seconds: float,
        unexported: CollectorRegistry | None = None,
        is_counted: bool = False,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """Take over the numbers that the blocks have; raises `OSError` for a damaged slot.

        `interval_seconds`: between two samples of the windows. `unexported`: of metrics that only the windows show.
        `is_counted`: what the registry has by now is in a slot already: of this process before it left one, or of the process
        that it was forked from. `wall_clock`: Unix time in seconds.
        """
        self._registries: tuple[tuple[CollectorRegistry, bool], ...] = (
            (registry, True),
            *(() if unexported is None else ((unexported, False),)),
        )
        self._errors = errors
        families = SavedFamilies(blocks)
        self._slot = _SlotWriter(families, interval_seconds, wall_clock, errors)
        self._parts: dict[Collector, _SavedCollector] = {}
        self._saving = RLock()
        # Metrics have locks of their own, which saving takes: a child that is forked meanwhile could never read them.
        hold_at_fork(self._saving, rank=1)
        if is_counted:
            families.is_counted = True
            self.save(for_page=True)
            families.is_counted = False

    def save(self, *, for_page: bool = False, pause: _Pause | None = None) -> None:
        """Save what has changed; a collector that raises is counted, and the others are saved.

        From the first call on, requests are saved whenever they are added up.
        `for_page`: also exemplars, and collectors that may be expensive. `pause` is called after each small portion of work;
        by default it lets the event loop run now and then.
        """
        pause = pause or Slices().rest_if_due
        with self._saving:
            found = {one: shown for registry, shown in self._registries for one in collectors(registry) or (registry,)}
            for collector in self._parts.keys() - found.keys():
                self._parts.pop(collector).retire()
            for collector, on_page in found.items():
                # Older names are made of what is saved.
                if not isinstance(collector, Aliases):
                    try:
                        self._save(collector, on_page=on_page, for_page=for_page, pause=pause)
                    except Exception as error:
                        self._errors.count(component_of(collector), error)

    def close(self) -> None:
        """Write nothing more, once what is being written is there."""
        with self._saving:
            requests = [part.requests for part in self._parts.values() if isinstance(part, _SavedRequests)]
            self.abandon()
        for one in requests:
            # Until what is being added up is saved.
            one.lock.acquire()
            one.lock.release()

    def abandon(self) -> None:
        """Write nothing more: the slot is that of the process from which this one was forked.

        It takes no lock: another thread, which is not here, may have it.
        """
        for part in self._parts.values():
            if isinstance(part, _SavedRequests):
                part.requests.save = None
        self._registries, self._parts = (), {}

    def _save(self, collector: Collector, *, on_page: bool, for_page: bool, pause: _Pause) -> None:
        part = self._parts.get(collector)
        if part is None:
            part = self._parts[collector] = self._part_of(collector, on_page=on_page)
        if for_page or part.is_cheap:
            part.save(pause)
        if for_page:
            part.save_exemplars()

    def _part_of(self, collector: Collector, *, on_page: bool) -> "_SavedCollector":
        if isinstance(collector, HttpRequestSeries):
            return _SavedRequests(collector, self._slot)
        own = instrument(collector)
        if own is not None and own.family.type in _NUMERIC:
            return _SavedInstrument(own, self._slot, _merge_of(collector, own.family), on_page=on_page)
        return _SavedLines(collector, self._slot, on_page=on_page)


class _SlotWriter:
    """Where and when parts save."""

    def __init__(
        self, families: SavedFamilies, interval_seconds: float, wall_clock: Callable[[], float], errors: InternalErrors
    ) -> None:
        self.now = wall_clock
        self.errors = errors
        self._families = families
        self._interval_seconds = interval_seconds

    @property
    def is_counted(self) -> bool:
        return self._families.is_counted

    def family(self, definition: Definition) -> SavedFamily:
        return self._families.declare(definition, self.now())

    def extremes(self, kept: Iterable[float], found: tuple[float, float] | None) -> tuple[float, ...]:
        """Add to the extremes that are kept; those may be none, or others."""
        before = tuple(kept)[:WIDTH] or NONE
        return before if found is None else with_extremes(before, slice_at(self.now(), self._interval_seconds), *found)


class _SavedCollector(Protocol):
    """Saves one collector."""

    is_cheap: bool

    def save(self, pause: _Pause) -> None:
        """Save what has changed."""

    def save_exemplars(self) -> None:
        """Save exemplars that have changed."""

    def retire(self) -> None:
        """Let go of everything: the collector has left the registry."""


class _SavedInstrument:
    is_cheap = True

    def __init__(self, own: ClientInstrument, slot: _SlotWriter, merge: str, *, on_page: bool) -> None:
        family = own.family
        self._own, self._slot = own, slot
        self._has_extremes = own.has_extremes
        self._changes = ChildChanges(own)
        self._family = slot.family(
            Definition(
                *(family.name, family.documentation, family.type, family.unit, merge, own.labels, own.bounds),
                others=WIDTH if own.has_extremes else 0,
                on_page=on_page,
            )
        )

    def save(self, pause: _Pause) -> None:
        now = self._slot.now()
        try:
            if self._changes.learn():
                self._family.keep_only({*self._changes.labels})
            for labels, child, numbers in self._changes.numbers():
                self._family.write(labels, numbers, now, self._others(labels, child), getattr(child, "set_at", None))
                pause()
        except Exception:
            # What was not saved has to be found again.
            self._changes = ChildChanges(self._own)
            raise

    def save_exemplars(self) -> None:
        for labels, place, exemplar in self._changes.exemplars():
            self._family.write_exemplar(labels, place, exemplar, self._slot.now())

    def retire(self) -> None:
        _retire(self._family)

    def _others(self, labels: Key, child: Any) -> tuple[float, ...]:
        if not self._has_extremes:
            return ()
        return self._slot.extremes(self._family.others(labels), child.take_extremes())


class _SavedLines:
    """A collector of which only the lines of the page are known."""

    def __init__(self, collector: Collector, slot: _SlotWriter, *, on_page: bool) -> None:
        self._collector, self._slot, self._on_page = collector, slot, on_page
        self.is_cheap = is_cheap(collector)
        self._families: dict[Definition, SavedFamily] = {}

    def save(self, pause: _Pause) -> None:
        found = {self._definition(family): family for family in self._collector.collect()}
        for gone in self._families.keys() - found.keys():
            _retire(self._families.pop(gone))
        for definition, family in found.items():
            if definition not in self._families:
                self._families[definition] = self._slot.family(definition)
            self._save(self._families[definition], family, pause)

    def save_exemplars(self) -> None:
        """Of those that are not instruments, there are none."""

    def retire(self) -> None:
        for family in self._families.values():
            _retire(family)

    def _definition(self, family: Family) -> Definition:
        return Definition(
            *(family.name, family.documentation, family.type, family.unit, _merge_of(self._collector, family)),
            lines=True,
            on_page=self._on_page,
            in_windows=self.is_cheap,
        )

    def _save(self, saved: SavedFamily, family: Family, pause: _Pause) -> None:
        keys, now = set(), self._slot.now()
        for sample in without_created(family, family.samples):
            if sample.value is not None:
                key = line_key(sample.name, sample.labels)
                saved.write(key, (float(sample.value),), now)
                keys.add(key)
                pause()
        saved.keep_only(keys)


class _SavedRequests:
    """The series of HTTP requests: each is saved when it is added up."""

    is_cheap = True

    def __init__(self, requests: HttpRequestSeries, slot: _SlotWriter) -> None:
        shown = requests.families
        flying = requests.in_flight_metric
        self.requests, self._slot = requests, slot
        shape = tuple(shown.total.labels), shown.duration.buckets, shown.received.buckets
        self._family = slot.family(Definition(*("http_requests", "", "requests", "", "sum"), *shape, others=WIDTH + 1))
        self._in_flight = slot.family(
            Definition(flying.name, flying.help, flying.type, flying.unit, flying.workers, tuple(flying.labels))
        )
        self._exemplified: dict[Key, Totals] = {}
        if slot.is_counted:
            # What is pending belongs to what was counted before.
            requests.add_up_all()
        requests.save = self._save
        with requests.lock:
            for series in requests.series():
                # In the slot before, if there was one, requests had other numbers.
                series.folded = 0
                self._save(series)

    def save(self, pause: _Pause) -> None:
        for series in self.requests.series():
            if series.pending or not series.place:
                self.requests.add_up(series)
                pause()
        for labels, count in self.requests.in_flight_counts():
            self._in_flight.write(labels, (float(count),), self._slot.now())

    def save_exemplars(self) -> None:
        for series in self.requests.series():
            totals, before = series.totals, self._exemplified.get(series.labels)
            if totals is not before:
                self._exemplified[series.labels] = totals
                self._save_exemplars(series.labels, totals, before)

    def retire(self) -> None:
        self.requests.save = None
        _retire(self._family)
        _retire(self._in_flight)

    def _save(self, series: RequestSeries) -> None:
        """Save the totals of a series; under the lock of all. Nothing is raised: a request may be waiting for it."""
        extremes = self._slot.extremes(self._family.others(series.labels), series.take_extremes())
        others = (*extremes, float(series.folded))
        try:
            block = self._family.write(series.labels, series.totals.numbers(), self._slot.now(), others)
        except BlockingIOError:
            # The next save finds it.
            return
        except Exception as error:
            self._slot.errors.count(HttpRequestSeries.component, error)
        else:
            series.place = block.place

    def _save_exemplars(self, labels: Key, totals: Totals, before: Totals | None) -> None:
        known = () if before is None else before.exemplars
        for place, one in enumerate(totals.exemplars):
            if one is not None and not (known and known[place] is one):
                self._family.write_exemplar(labels, place, exemplar_of(one), self._slot.now())


def _merge_of(collector: Collector, family: Family) -> str:
    """Find out how the values of several workers are merged."""
    declared = getattr(collector, "workers", None)
    if isinstance(collector, MetricWrapperBase):
        mode = multiprocess_mode(collector).removeprefix("live")
        declared = {"info": "max", "stateset": "max"}.get(family.type) or _CLIENT_WORDS.get(mode, mode) or "sum"
    elif metric := CATALOG.get(family.name) or CATALOG.get(f"{family.name}_total"):
        declared = metric.workers
    return declared if declared in _MERGES else "each"


def _retire(family: SavedFamily) -> None:
    family.keep_only(())
    family.declare(0.0)

"""The instruments of one `Observability`: built when their pack is switched on, with bounded label values."""

from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from contextlib import suppress
from math import isfinite
from random import random
from threading import Lock
from typing import Any

from opentelemetry.trace import Span
from prometheus_client import CollectorRegistry, Counter, GCCollector, PlatformCollector, ProcessCollector

from sage_fastapi_obs.catalog import (
    CATALOG,
    OLDER_WORDS,
    OPERATION_METRICS,
    OVERFLOW,
    PACKS,
    SELF_METRICS,
    CountCollector,
    Metric,
    build,
    register,
)
from sage_fastapi_obs.errors import DuplicateInstrumentError
from sage_fastapi_obs.internal_errors import InternalErrors
from sage_fastapi_obs.metrics.exemplars import observe_with_exemplar
from sage_fastapi_obs.metrics.exposition.prometheus_internals import add_counted, gauge_value
from sage_fastapi_obs.metrics.process import Runtime
from sage_fastapi_obs.privacy.printable import printable
from sage_fastapi_obs.settings import MetricsSettings

_BUILT_ELSEWHERE = frozenset({"http", "runtime"})
"""Packs of which the instruments are more than what `build` makes."""


class LabelGuard:
    """Passes the first N values of a label, printable and short, and replaces the rest by one value."""

    def __init__(self, most: int, overflow: Counter) -> None:
        self._most = most
        self._overflow = overflow
        self._seen: set[str] = set()

    def __call__(self, value: str) -> str:
        """Return the value as it is shown, or the one that replaces all others."""
        if value in self._seen:
            return value
        value = printable(value)
        if value not in self._seen:
            if len(self._seen) >= self._most:
                self._overflow.inc()
                return OVERFLOW
            self._seen.add(value)
        return value

    def release(self, value: str) -> None:
        """Make room for another value: no series has this one any more."""
        self._seen.discard(value)


class LabelledMetric:
    """The series of one metric, by label values in the order of its labels; values that are not allowed become `other`."""

    __slots__ = ("_children", "_folded", "_guards", "_lock", "_names", "_parent", "metric", "sample_rate")

    def __init__(self, metric: Metric, parent: Any, guards: Iterable[Callable[[str], str]], sample_rate: float = 1.0) -> None:
        self.metric = metric
        self.sample_rate = sample_rate
        """Share of observations that are recorded."""
        self._parent = parent
        self._guards = tuple(guards)
        self._names = tuple(metric.labels)
        self._lock = Lock()
        self._children: dict[tuple[str, ...], Any] = {} if metric.labels else {(): parent}
        self._folded: dict[tuple[str, ...], Any] = {}
        """Those with the value that replaces others."""

    def with_values(self, *values: str) -> Any:
        """Return the counter, gauge or histogram of some label values."""
        try:
            return self._children[values]
        except (KeyError, TypeError):
            # Not there yet, or no text: some of what is handed to us cannot be hashed.
            return self._resolve(values)

    def with_labels(self, labels: Mapping[str, str]) -> Any:
        """Return the counter, gauge or histogram of label values by label name; missing ones are empty."""
        return self.with_values(*[labels.get(name, "") for name in self._names])

    def increase(self, *values: str, by: float = 1.0) -> None:
        """Raise a gauge that `decrease` lowers; raises `ValueError` for an amount below 0."""
        _check_amount(by)
        with self._lock:
            child = self._children.get(tuple(map(printable, values))) or self._resolve_guarded(values)
            child.inc(by)

    def decrease(self, *values: str, by: float = 1.0, forget: bool = False) -> None:
        """Lower a gauge that `increase` raised, never below 0; raises `ValueError` for an amount below 0.

        `forget`: remove the series at 0, to make room for others.
        """
        _check_amount(by)
        with self._lock:
            values = tuple(map(printable, values))
            child = self._children.get(values)
            if child is None:
                # It was raised while there was no room for its value, or never.
                values = tuple([OVERFLOW] * len(values))
                child = self._folded.get(values)
            if child is None:
                return
            left = max(0.0, gauge_value(child) - by)
            child.set(left)
            if forget and not left:
                self._forget(values)

    def add_from(self, other: "LabelledMetric") -> None:
        """Add what another one of the same metric has counted; a gauge gets its values."""
        for values, child in other.children():
            add_counted(child, self.with_values(*values))

    def children(self) -> list[tuple[tuple[str, ...], Any]]:
        """List the label values that there are, each with its counter, gauge or histogram."""
        return [*self._children.copy().items(), *self._folded.copy().items()]

    def _resolve(self, values: tuple[str, ...]) -> Any:
        with self._lock:
            return self._resolve_guarded(values)

    def _resolve_guarded(self, values: tuple[str, ...]) -> Any:
        values = tuple(map(printable, values))
        guarded = tuple([guard(value) for guard, value in zip(self._guards, values, strict=True)])
        child = self._parent.labels(*guarded)
        if guarded == values:
            self._children[values] = child
        else:
            # Not by the values themselves: that would be the growth which the guards prevent.
            self._folded[guarded] = child
        return child

    def _forget(self, values: tuple[str, ...]) -> None:
        if not values:
            return
        self._parent.remove(*values)
        self._children.pop(values, None)
        self._folded.pop(values, None)
        for guard, value in zip(self._guards, values, strict=True):
            if isinstance(guard, LabelGuard):
                guard.release(value)


def finite(number: float) -> float:
    """Return a number that can be added; raises `ValueError` for others, because a sum would never be a number again."""
    if not isfinite(number):
        raise ValueError(f"only a finite number can be added, not {number!r:.80}")
    return number


def _check_amount(by: float) -> None:
    if finite(by) < 0:
        raise ValueError(f"a gauge is raised or lowered by an amount of 0 or more, not by {by!r:.80}")


class Instruments:
    """The instruments of one registry, other than those of recorders and collectors."""

    def __init__(
        self,
        settings: MetricsSettings,
        registry: CollectorRegistry,
        internal_errors: InternalErrors,
        log: Callable[[str, dict[str, Any]], None] = lambda _message, _fields: None,
    ) -> None:
        """Build the metrics of `metrics.packs`, and those that are always there; none if metrics are switched off.

        `log` writes a log line.
        """
        self.registry = registry
        self._internal_errors = internal_errors
        self._log = log
        self._missed: set[str] = set()
        self.packs: set[str] = set()
        """The packs that are switched on."""
        self.runtime = Runtime(internal_errors)
        """Watches the process while it is started, for the pack of that name."""
        self._exemplars = settings.exemplars
        self._expensive_sample_rate = settings.expensive_sample_rate
        self._most = settings.max_label_values
        self._known: dict[str, LabelledMetric] = {}
        self._lock = Lock()
        self._enabled = settings.enabled
        if not settings.enabled:
            return
        self._overflow: Any = build(SELF_METRICS[1:2], registry)[SELF_METRICS[1].name]
        register(_FaultCounts(internal_errors), registry)
        self.add(OPERATION_METRICS)
        for pack in settings.packs:
            self.enable(pack)

    def enable(self, pack: str) -> None:
        """Switch a pack on; does nothing the second time."""
        if pack in self.packs or not self._enabled:
            return
        if pack == "runtime":
            for collector in (ProcessCollector, PlatformCollector, GCCollector):
                # The client library's own registry has them.
                with suppress(ValueError):
                    collector(registry=self.registry)
            register(self.runtime, self.registry)
        if pack not in _BUILT_ELSEWHERE:
            self.add(PACKS[pack])
        self.packs.add(pack)

    def add(self, metrics: Iterable[Metric]) -> None:
        """Build the instruments of metrics; raises `DuplicateInstrumentError` for a name that another metric has."""
        if not self._enabled:
            return
        with self._lock:
            for metric in metrics:
                self._add(metric)

    def share(self, instrument: LabelledMetric) -> None:
        """Make the instrument of a recorder available to others."""
        self._known[instrument.metric.name] = instrument

    def get(self, name: str) -> LabelledMetric | None:
        """Return an instrument by name; None when its pack is switched off."""
        return self._known.get(name)

    def get_or_warn(self, name: str | None) -> LabelledMetric | None:
        """Return an instrument by name; where its pack is switched off, log that once."""
        if name is None:
            return None
        found = self._known.get(name)
        if found is None:
            self._miss(name)
        return found

    def get_or_add(self, metric: Metric) -> LabelledMetric | None:
        """Return the instrument of a metric that may have been declared after the start; None where metrics are off."""
        found = self._known.get(metric.name)
        if found is None or found.metric is not metric:
            self.add((metric,))
            found = self._known.get(metric.name)
        return found

    def observe(self, metric: LabelledMetric, series: Any, number: float, span: Span | None = None) -> None:
        """Add a number to a series of a histogram, or leave it out by the metric's sample rate.

        A span that is sampled, at once or later, is its exemplar; by default the innermost one.
        Raises `ValueError` for a number that is not finite.
        """
        finite(number)
        if metric.sample_rate < 1.0 and random() >= metric.sample_rate:  # noqa: S311 - no secret
            return
        if self._exemplars:
            observe_with_exemplar(series, number, span)
        else:
            series.observe(number)

    def add_from(self, other: "Instruments", *, leaving: Container[str] = ()) -> None:
        """Add what the instruments of another registry have counted, but for packs that are switched off here.

        `leaving`: names of metrics that are not added.
        """
        for theirs in other.known():
            metric = theirs.metric
            is_on = self._enabled and (metric.name in self._known or not metric.pack)
            if not is_on or metric.name in leaving or metric.pack in _BUILT_ELSEWHERE:
                continue
            try:
                self.add((metric,))
                self._known[metric.name].add_from(theirs)
            except DuplicateInstrumentError as error:
                self._internal_errors.count("Instruments", error)

    def known(self) -> list[LabelledMetric]:
        """List all instruments."""
        return [*self._known.copy().values()]

    def guard(self, label: str, most: int | None = None) -> LabelGuard:
        """Make a guard for one open label of one metric."""
        return LabelGuard(self._most if most is None else most, self._overflow.labels(label))

    def _miss(self, name: str) -> None:
        metric = CATALOG.get(name)
        pack = "" if metric is None else metric.pack
        # Where only a part of the pack is on, such as `sage-core`, the rest is off on purpose.
        is_partly_on = any(known.pack == pack for on in self.packs for known in PACKS[on])
        if pack in self._missed or not self._enabled or is_partly_on:
            return
        self._missed.add(pack)
        if pack not in {"", *_BUILT_ELSEWHERE}:
            self._log("metrics dropped: enable their pack in metrics.packs", {"pack": pack})

    def _add(self, metric: Metric) -> None:
        known = self._known.get(metric.name)
        if known is None:
            parent = build((metric,), self.registry)[metric.name]
            rate = self._expensive_sample_rate if metric.is_expensive else 1.0
            self._known[metric.name] = LabelledMetric(metric, parent, [*self._guards_of(metric)], rate)
        elif known.metric != metric:
            raise DuplicateInstrumentError(f"{metric.name} is declared already, with another type, help, labels or buckets")

    def _guards_of(self, metric: Metric) -> Iterator[Callable[[str], str]]:
        for label, allowed in metric.labels.items():
            yield self._among(label, allowed) if allowed else self.guard(label, metric.max_label_values)

    def _among(self, label: str, allowed: tuple[str, ...]) -> Callable[[str], str]:
        """Pass the allowed values of a label, also by their older words; a guard without room counts the others."""
        none_of_them = self.guard(label, 0)
        older = {older: word for older, word in OLDER_WORDS.items() if word in allowed}
        known = older | {word: word for word in allowed}
        return lambda value: known.get(value) or none_of_them(value)


class _FaultCounts(CountCollector):
    """Shows the internal errors, which are counted without any registry: that may be what fails."""

    metric = SELF_METRICS[0]

    def __init__(self, internal_errors: InternalErrors) -> None:
        self._internal_errors = internal_errors

    def counted(self) -> Iterator[tuple[tuple[str], int]]:
        return (((printable(component),), count) for component, count in sorted(self._internal_errors.counts.items()))

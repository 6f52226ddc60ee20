"""The instruments of one `Observability`: made when their pack is switched on, with labels that cannot grow without end."""

from collections.abc import Callable, Iterable, Iterator
from threading import Lock
from typing import Any

from prometheus_client import CollectorRegistry, Counter, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily
from prometheus_client.core import Metric as Family
from prometheus_client.registry import Collector

from sage_fastapi_obs.errors import DuplicateInstrumentError
from sage_fastapi_obs.request.recorder import Faults
from sage_fastapi_obs.settings import MetricsSettings
from sage_fastapi_obs.signals.catalog import OPERATION_METRICS, OVERFLOW, PACKS, SELF_METRICS, Metric, build, register

__all__ = ["Instrument", "Instruments", "LabelGuard"]

_BUILT_ELSEWHERE = frozenset({"http", "runtime"})
"""Packs of which the instruments are more than what `build` makes."""


class LabelGuard:
    """Lets the first N values of a label through, and folds the rest into one."""

    def __init__(self, most: int, overflow: Counter) -> None:
        self._most = most
        self._overflow = overflow
        self._seen: set[str] = set()

    def __call__(self, value: str) -> str:
        """Return the value, or what stands for all that are too many."""
        if value in self._seen:
            return value
        if len(self._seen) >= self._most:
            self._overflow.inc()
            return OVERFLOW
        self._seen.add(value)
        return value


class Instrument:
    """One metric's series, by label values in the order of its labels; values that are not allowed become `other`."""

    __slots__ = ("_children", "_guards", "_lock", "_parent", "metric")

    def __init__(self, metric: Metric, parent: Any, guards: Iterable[Callable[[str], str]]) -> None:
        self.metric = metric
        self._parent = parent
        self._guards = tuple(guards)
        self._lock = Lock()
        self._children: dict[tuple[str, ...], Any] = {} if metric.labels else {(): parent}

    def of(self, *values: str) -> Any:
        """Return the counter, gauge or histogram of some label values."""
        return self._children.get(values) or self._resolve(values)

    def _resolve(self, values: tuple[str, ...]) -> Any:
        with self._lock:
            guarded = tuple([guard(value) for guard, value in zip(self._guards, map(str, values), strict=True)])
            child = self._parent.labels(*guarded)
            if guarded == values:
                # What overflowed is not remembered: remembering it would be the growth that the guards prevent.
                self._children[values] = child
            return child


class Instruments:
    """The instruments of one registry, besides those that recorders and collectors keep for themselves."""

    def __init__(self, settings: MetricsSettings, registry: CollectorRegistry, faults: Faults) -> None:
        """Build those of `metrics.packs`, and those that are always there; none at all where metrics are switched off."""
        self.registry = registry
        self.packs: set[str] = set()
        """The packs that are switched on."""
        self.exemplars = settings.exemplars
        """Whether durations name the trace they are from."""
        self._most = settings.max_label_values
        self._known: dict[str, Instrument] = {}
        self._lock = Lock()
        self._enabled = settings.enabled
        if not settings.enabled:
            return
        self._overflow: Any = build(SELF_METRICS[1:2], registry)[SELF_METRICS[1].name]
        register(_FaultCollector(faults), registry)
        self.add(OPERATION_METRICS)
        for pack in settings.packs:
            self.enable(pack)

    def enable(self, pack: str) -> None:
        """Switch a pack on; once is enough."""
        if pack in self.packs or not self._enabled:
            return
        if pack == "runtime":
            for collector in (ProcessCollector, PlatformCollector, GCCollector):
                collector(registry=self.registry)
        if pack not in _BUILT_ELSEWHERE:
            self.add(PACKS[pack])
        self.packs.add(pack)

    def add(self, metrics: Iterable[Metric]) -> None:
        """Make the instruments of metrics; raises `DuplicateInstrumentError` where a name means another metric already."""
        if not self._enabled:
            return
        with self._lock:
            for metric in metrics:
                self._add(metric)

    def get(self, name: str | None) -> Instrument | None:
        """Return an instrument by name; None for no name, and when its pack is switched off."""
        return self._known.get(name) if name is not None else None

    def guard(self, label: str, most: int | None = None) -> LabelGuard:
        """Make a guard for one open label of one metric."""
        return LabelGuard(self._most if most is None else most, self._overflow.labels(label))

    def _add(self, metric: Metric) -> None:
        known = self._known.get(metric.name)
        if known is None:
            parent = build((metric,), self.registry)[metric.name]
            self._known[metric.name] = Instrument(metric, parent, [*self._guards_of(metric)])
        elif known.metric != metric:
            raise DuplicateInstrumentError(f"{metric.name} is declared already, with another type, help, labels or buckets")

    def _guards_of(self, metric: Metric) -> Iterator[Callable[[str], str]]:
        for label, allowed in metric.labels.items():
            yield self._among(label, allowed) if allowed else self.guard(label, metric.max_label_values)

    def _among(self, label: str, allowed: tuple[str, ...]) -> Callable[[str], str]:
        """Let the values through that a label knows; a guard without room counts the others."""
        known, none_of_them = frozenset(allowed), self.guard(label, 0)
        return lambda value: value if value in known else none_of_them(value)


class _FaultCollector(Collector):
    """Shows the failures that were counted where nothing may be assumed to work, not even this registry."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults

    def collect(self) -> Iterable[Family]:
        metric = SELF_METRICS[0]
        family = CounterMetricFamily(metric.name, metric.help, labels=list(metric.labels))
        for component, count in sorted(self._faults.counts.items()):
            family.add_metric([component], count)
        yield family

    def describe(self) -> Iterator[Family]:
        yield CounterMetricFamily(SELF_METRICS[0].name, SELF_METRICS[0].help, labels=list(SELF_METRICS[0].labels))

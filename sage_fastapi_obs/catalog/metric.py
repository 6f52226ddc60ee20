"""What a metric is, as data, and how instruments are made of it."""

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from math import prod
from types import MappingProxyType
from typing import Any, ClassVar, Literal, TypeAlias

from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.core import CounterMetricFamily
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.registry import Collector

from sage_fastapi_obs.catalog.extremes_histogram import ExtremesHistogram
from sage_fastapi_obs.catalog.latest_gauge import LatestGauge
from sage_fastapi_obs.errors import DuplicateInstrumentError

LATENCY_BUCKETS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.0, 2.5, 5.0, 7.5, 10.0)
LONG_BUCKETS = (0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14400.0)
DEPENDENCY_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
RESULT_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
PAUSE_BUCKETS = (0.0001, 0.0005, 0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
DEFAULT_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
"""Bounds of the Prometheus client."""
ANY_BUCKETS = (*(float(f"{step}e{power}") for power in range(-6, 9) for step in (1, 2.5, 5)), 1e9)
"""For numbers of unknown size, 1e-6 to 1e9: no bound is more than 2.5 times the one before, so no estimate is further off."""

OVERFLOW = "other"
"""What a value is counted as when its label has too many, or does not know it."""
STATUS = ("success", "failure")
"""How it ended, wherever a metric says so in two words."""
OLDER_WORDS = {"error": "failure"}
"""What older designs call a value of a label; it is counted as the value of today."""
MOST_AT_ZERO = 32
"""Label sets that a metric shows at 0 before anything has happened."""

Labels: TypeAlias = Mapping[str, tuple[str, ...]]
"""The values that each label may have; none for an open one."""
AliasGroup = Literal["sage", "runtime", "textbook", "result"]
Merge: TypeAlias = Literal["sum", "max", "latest", "each"]
"""Of the values of several workers, the sum, the highest or the one that was set last is shown; or each by itself."""


@dataclass(frozen=True, slots=True)
class Alias:
    """An older name of a metric, under which a scrape may show the same samples again; see `metrics.compat_aliases`."""

    name: str
    group: AliasGroup
    factor: float = 1.0
    """What values are multiplied by: 1000 for a name in milliseconds, 100 for percent."""
    only: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Values of a label that the older name has; all of them for a label that is not here."""
    without: tuple[str, ...] = ()
    """Labels that the older name lacks: samples that become alike are added up."""
    values: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Other words for some values of a label."""
    type: Literal["counter", "gauge", "histogram", "unknown"] | None = None
    """Its type where it differs: a count whose older name does not end in `_total` is `unknown` to Prometheus."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric. An open label (no values) is guarded against growth; a closed one lists all it may be."""

    name: str
    type: Literal["counter", "gauge", "histogram"]
    help: str
    labels: dict[str, tuple[str, ...]] = field(default_factory=dict)
    unit: str = ""
    buckets: tuple[float, ...] = ()
    pack: str = ""
    """What it is switched on with; empty for those that are always there."""
    aliases: tuple[Alias, ...] = ()
    deprecated: bool = False
    """It goes with the next release but one, and its help text says so."""
    max_label_values: int | None = None
    """Most values of each open label; None: `metrics.max_label_values`."""
    workers: Merge = "sum"
    """How a gauge of several workers is shown; counters and histograms are added up, but where each is shown by itself."""
    is_expensive: bool = False
    """A histogram that is observed several times per message: `metrics.expensive_sample_rate` is the share that it gets."""

    def with_buckets(self, buckets: tuple[float, ...] | None) -> "Metric":
        """Return this metric with other bounds, if any are given."""
        return self if buckets is None else replace(self, buckets=buckets)

    @property
    def shown_help(self) -> str:
        """The help text as Prometheus gets it."""
        return f"DEPRECATED: {self.help}" if self.deprecated else self.help

    @property
    def starts_at_zero(self) -> bool:
        """Whether its label sets are known, and few enough to be there from the start: the first event is a rise then."""
        return prod(map(len, self.labels.values())) in range(1, MOST_AT_ZERO + 1)


def counter(name: str, help: str, labels: Labels = MappingProxyType({}), **more: Any) -> Metric:  # noqa: A002 - Prometheus' word
    """Declare a counter; `more`: other fields of `Metric`."""
    return Metric(name, "counter", help, dict(labels), **more)


def gauge(name: str, help: str, labels: Labels = MappingProxyType({}), **more: Any) -> Metric:  # noqa: A002
    """Declare a gauge, in the unit that its name ends in; `more`: other fields of `Metric`."""
    return Metric(name, "gauge", help, dict(labels), **{"unit": _unit_of(name), **more})


def histogram(
    name: str,
    help: str,  # noqa: A002
    buckets: tuple[float, ...],
    labels: Labels = MappingProxyType({}),
    **more: Any,
) -> Metric:
    """Declare a histogram, in the unit that its name ends in; `more`: other fields of `Metric`."""
    return Metric(name, "histogram", help, dict(labels), _unit_of(name), buckets, **more)


def _unit_of(name: str) -> str:
    return next((unit for unit in ("seconds", "bytes") if name.endswith(f"_{unit}")), "")


class CountCollector(Collector):
    """Shows as one counter what is counted elsewhere, where nothing of a registry may be needed."""

    component = "Counts"

    metric: ClassVar[Metric]

    @abstractmethod
    def counted(self) -> Iterable[tuple[Sequence[str], float]]:
        """Return the values of the labels and the count of each series."""

    def collect(self) -> Iterator[CounterMetricFamily]:
        """Show all counts."""
        family = self._family()
        for labels, count in self.counted():
            family.add_metric(labels, count)
        yield family

    def describe(self) -> Iterator[CounterMetricFamily]:
        """Name the metric."""
        yield self._family()

    def _family(self) -> CounterMetricFamily:
        return CounterMetricFamily(self.metric.name, self.metric.help, labels=list(self.metric.labels))


_TYPES: dict[str, type[MetricWrapperBase]] = {"counter": Counter, "gauge": Gauge, "histogram": ExtremesHistogram}
_MODES: dict[Merge, str] = {"sum": "livesum", "max": "livemax", "latest": "livemostrecent", "each": "liveall"}
"""What the client library calls the same."""


def build(metrics: Iterable[Metric], registry: CollectorRegistry) -> dict[str, MetricWrapperBase]:
    """Make the instruments of some metrics in a registry, by name; label sets that are all known start at 0."""
    return {metric.name: _instrument(metric, registry) for metric in metrics}


def _instrument(metric: Metric, registry: CollectorRegistry) -> MetricWrapperBase:
    options: dict[str, Any] = {"buckets": metric.buckets} if metric.buckets else {}
    make = _TYPES[metric.type]
    if metric.type == "gauge":
        options["multiprocess_mode"] = _MODES[metric.workers]
        make = LatestGauge if metric.workers == "latest" else make
    try:
        instrument = make(metric.name, metric.shown_help, tuple(metric.labels), unit=metric.unit, registry=registry, **options)
    except ValueError as error:
        raise _duplicate(metric.name, error) from error
    if metric.labels and metric.starts_at_zero:
        for values in product(*metric.labels.values()):
            instrument.labels(*values)
    return instrument


def register(collector: Collector, registry: CollectorRegistry) -> None:
    """Register a collector of our own."""
    try:
        registry.register(collector)
    except ValueError as error:
        raise _duplicate(type(collector).__name__, error) from error


def _duplicate(name: str, error: ValueError) -> DuplicateInstrumentError:
    return DuplicateInstrumentError(f"{name}: {error}; give each Observability a registry of its own")

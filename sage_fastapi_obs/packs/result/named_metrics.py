"""Metrics that applications collect by a name, and those of results: all are instruments of the registry."""

import math
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from enum import Enum
from numbers import Real
from types import MappingProxyType
from typing import Any

from prometheus_client import CollectorRegistry

from sage_fastapi_obs.active import ActiveObservability, active_observability, count_internal_error
from sage_fastapi_obs.catalog import CATALOG, Metric, build
from sage_fastapi_obs.catalog.metric import ANY_BUCKETS
from sage_fastapi_obs.errors import DuplicateInstrumentError
from sage_fastapi_obs.internal_errors import InternalErrors
from sage_fastapi_obs.legacy.metric_names import ResolvedName, escape, escape_name, flat_name, resolve_name, spelling
from sage_fastapi_obs.metrics.instruments import Instruments, LabelledMetric, finite
from sage_fastapi_obs.operations.count import count, observe, set_gauge
from sage_fastapi_obs.packs.result.metrics import MEMORY_CHANGES
from sage_fastapi_obs.packs.result.results import Failure, FluxResult, Result
from sage_fastapi_obs.privacy.printable import LONGEST, printable

MOST_METRICS = 1_000
"""Names of metrics in one registry; more of them mean that ids are part of the names."""
_UNITS = ("seconds", "bytes", "ratio")
_LABELS = {"service": "component", **{name: f"label_{name}" for name in ("job", "instance", "le", "quantile")}}
"""Labels by what they are called here: what scrapers and histograms set themselves is not ours to set."""
_ONE_LABEL = ("service", "component")
"""Two names of the same label."""


class MetricType(Enum):
    """What a metric does: only rise, be somewhere, or fall into buckets."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class _Target:
    """The metric that records the values of one name."""

    kind: MetricType
    resolved: ResolvedName
    instrument: LabelledMetric | None
    """None where they cannot be recorded."""
    labels: Mapping[str, str]
    """What the labels of the first value are called in the metric."""


class NamedMetrics:
    """Metrics that an application collects by name, in the registry of one `Observability`."""

    def __init__(self, instruments: Instruments, internal_errors: InternalErrors) -> None:
        self._instruments = instruments
        self._internal_errors = internal_errors
        self._targets: dict[str, _Target] = {}
        self._spellings: dict[str, str] = {}
        """By metric, the names it was collected under."""
        self._lock = threading.Lock()
        self.unexported = CollectorRegistry()
        """What windows read and `/metrics` does not show."""
        self._memory: LabelledMetric | None = None
        """How the memory changed in runs of operations; made when there is the first."""

    @property
    def names(self) -> dict[str, ResolvedName]:
        """The names that were collected, and what each stands for."""
        return {name: target.resolved for name, target in self.targets.items() if target.instrument is not None}

    @property
    def targets(self) -> dict[str, _Target]:
        """All names, each with the metric that records its values."""
        return self._targets.copy()

    def add_from(self, other: "NamedMetrics") -> None:
        """Know the names that were collected elsewhere, where there are instruments for them here."""
        with self._lock:
            for name, target in other.targets.items():
                if (instrument := self._instruments.get(target.resolved.metric)) is not None:
                    self._targets.setdefault(name, replace(target, instrument=instrument))
        if other._memory is not None:  # noqa: SLF001 - the same class
            self._memory_changes().add_from(other._memory)  # noqa: SLF001

    def meaning(self, name: str) -> ResolvedName:
        """Return the metric that a name stands for, also where it is not collected yet."""
        target = self._targets.get(name)
        return resolve_name(name) if target is None else target.resolved

    def collect(self, name: str, value: float, kind: MetricType, labels: Mapping[str, str]) -> None:
        """Record a value; raises `ValueError` where the name has another type."""
        target = self._targets.get(name) or self._resolve(name, kind, labels)
        if target.kind is not kind:
            raise ValueError(f"{name} is collected as a {target.kind.value} already, and cannot be a {kind.value} too")
        if target.instrument is None:
            return
        child = target.instrument.with_values(*self._values(name, target, labels))
        number = finite(value / target.resolved.scale)
        match target.instrument.metric.type:
            case "counter":
                child.inc(number)
            case "gauge":
                child.set(number)
                if target.kind is MetricType.HISTOGRAM:
                    self.observe_memory(target.resolved.labels["operation"], number)
            case "histogram":
                self._instruments.observe(target.instrument, child, number)

    def observe_memory(self, operation: str, change_bytes: float) -> None:
        """Add to the distribution of changes of memory in runs of an operation."""
        if self._instruments.get("operation_memory_delta_bytes") is not None:
            self._memory_changes().with_values(operation).observe(change_bytes)

    def _memory_changes(self) -> LabelledMetric:
        with self._lock:
            if self._memory is None:
                built = build((MEMORY_CHANGES,), self.unexported)[MEMORY_CHANGES.name]
                self._memory = LabelledMetric(MEMORY_CHANGES, built, [self._instruments.guard("operation")])
            return self._memory

    def _resolve(self, name: str, kind: MetricType, labels: Mapping[str, str]) -> _Target:
        with self._lock:
            known = self._targets.get(name)
            if known is not None:
                return known
            meaning = self._counted(resolve_name(name), kind)
            if self._is_taken(name, meaning.metric):
                meaning = self._counted(escape_name(name), kind)
            if name.isascii() and meaning.metric.startswith("U__"):
                self._count(
                    f"{printable(name)} is {meaning.metric} on the page of metrics: its plain name is reserved, or another's"
                )
            named = _label_names(labels)
            target = _Target(kind, meaning, self._instrument(name, meaning, kind, named.values()), named)
            if len(self._targets) < MOST_METRICS and len(name) <= LONGEST:
                self._targets[name] = target
                self._spellings.setdefault(meaning.metric.removesuffix("_total"), spelling(name))
            return target

    def _counted(self, meaning: ResolvedName, kind: MetricType) -> ResolvedName:
        """Give a new counter the ending that counters have."""
        if kind is not MetricType.COUNTER or meaning.metric.endswith("_total") or self._known(meaning.metric) is not None:
            return meaning
        return replace(meaning, metric=f"{meaning.metric}_total")

    def _is_taken(self, name: str, metric: str) -> bool:
        """Tell whether another name comes to the same metric; those of the catalog may be written with dots."""
        if CATALOG.get(metric) is not None:
            return False
        base, own = metric.removesuffix("_total"), spelling(name)
        is_declared = self._instruments.get(metric) is not None
        return self._spellings.get(base, base if is_declared else own) != own

    def _known(self, metric: str) -> Metric | None:
        instrument = self._instruments.get(metric)
        return CATALOG.get(metric) if instrument is None else instrument.metric

    def _instrument(self, name: str, meaning: ResolvedName, kind: MetricType, labels: Iterable[str]) -> LabelledMetric | None:
        metric = self._known(meaning.metric)
        if metric is None:
            metric = _metric(name, meaning.metric, kind, labels)
        elif metric.type != kind.value and not meaning.labels:
            # The metrics of operations are what they are, whatever they are collected as.
            raise ValueError(f"{name} is {meaning.metric}, a {metric.type}, and cannot be collected as a {kind.value}")
        if len(name) > LONGEST:
            self._count(f"{printable(name)} is not collected: its name has more than {LONGEST} characters")
            return None
        if self._instruments.get(metric.name) is None and len(self._targets) >= MOST_METRICS:
            self._count(f"{printable(name)} is not collected: there are {MOST_METRICS} metrics already")
            return None
        try:
            self._instruments.add((metric,))
        except DuplicateInstrumentError:
            self._count(f"{printable(name)} is not collected: {metric.name} is registered as something else")
        return self._instruments.get(metric.name)

    def _values(self, name: str, target: _Target, labels: Mapping[str, str]) -> list[str]:
        assert target.instrument is not None
        names = target.labels if labels.keys() <= target.labels.keys() else _label_names(labels, target.labels)
        named = {names[label]: str(value) for label, value in labels.items()}
        if len(named) < len(labels):
            self._count(f"{printable(name)}: two of its labels are one, as service and component are, and it has one value")
        given = {**named, **target.resolved.labels}
        expected = target.instrument.metric.labels
        if unknown := given.keys() - expected.keys():
            self._count(f"{printable(name)} has no labels {', '.join(sorted(unknown))}: the first value decides which it has")
        return [given.get(label, "") for label in expected]

    def _count(self, message: str) -> None:
        self._internal_errors.count("collect_metric", ValueError(message))


def collect_metric(name: str, value: float | Decimal, metric_type: MetricType, labels: Mapping[str, str] | None = None) -> None:
    """Record a value of a metric of any name: an amount to add, a value to be at, or an observation.

    The registry has it in its own units and spelling: `response_time_ms` is `response_time_seconds`, `system.cpu_usage` is
    `system_cpu_usage_ratio`, `heavy.duration_ms` is `operation_duration_seconds{operation="heavy"}`. The first value decides
    which labels there are. Raises `ValueError` for a type that is not that of the name, for an amount below 0, and for what is
    no number.
    """
    metric_type = MetricType(metric_type)
    number = _finite(name, value)
    if number < 0 and metric_type is MetricType.COUNTER:
        raise ValueError(f"{name} is a counter and only rises: {value} cannot be added")
    active = _active()
    if active is not None:
        active.collected.collect(name, number, metric_type, labels or {})


def collect_result_metric(
    operation: str, result: Result[Any, Any], duration_ms: float, labels: Mapping[str, str] | None = None
) -> None:
    """Count a result of an operation, time it, and count its error by its type. `labels`: `service` or `component`."""
    seconds = max(0.0, _finite("duration_ms", duration_ms)) / 1000
    _active()
    component = _component(labels or {})
    succeeded = result.is_success()
    # Both, so that the first failure is a rise and not a beginning.
    count("result_success_total", operation, component, by=float(succeeded))
    count("result_failure_total", operation, component, by=float(not succeeded))
    observe("result_duration_seconds", seconds, operation, "success" if succeeded else "failure")
    if isinstance(result, Failure):
        count("result_error_by_type_total", operation, type(result.error).__name__)


def collect_flux_result_metric(
    operation: str, flux_result: FluxResult[Any, Any], duration_ms: float, labels: Mapping[str, str] | None = None
) -> None:
    """Count the items of a batch by how they ended, and time it. `labels` are taken, and not recorded: there are none."""
    seconds = max(0.0, _finite("duration_ms", duration_ms)) / 1000
    _active()
    _component(labels or {})
    count("flux_result_items_total", operation, "success", by=flux_result.success_items)
    count("flux_result_items_total", operation, "failure", by=flux_result.failure_items)
    set_gauge("flux_result_success_ratio", flux_result.success_rate, operation)
    observe("flux_result_duration_seconds", seconds, operation)


def _active() -> ActiveObservability | None:
    active = active_observability()
    if active is not None:
        active.status.note_use()
    return active


def _component(labels: Mapping[str, str]) -> str:
    active = active_observability()
    named = {_label(label): str(value) for label, value in labels.items()}
    component = named.pop("component", "")
    if named and active is not None:
        count_internal_error("collect_metric", ValueError(f"results have no labels {', '.join(sorted(named))}: use component"))
    return component


def _label_names(labels: Iterable[str], known: Mapping[str, str] = MappingProxyType({})) -> dict[str, str]:
    """Return what labels are called in a metric; those that are written as they are come first, so that they stay so."""
    names = {**known}
    for label in sorted(labels, key=lambda label: (_label(label) != label, label)):
        if label not in names:
            name = _label(label)
            is_taken = name in names.values() and label not in _ONE_LABEL and len(label) <= LONGEST
            names[label] = escape(label) if is_taken else name
    return names


def _label(label: str) -> str:
    if len(label) > LONGEST:
        # No metric has this label, so that it is counted as one that is left out.
        return "too long"
    flat = flat_name(label).lstrip("_")
    if not label.isascii() or label.startswith("U__"):
        return escape(label)
    return _LABELS.get(flat, f"label_{flat}" if not flat or flat[0].isdigit() else flat)


def _metric(name: str, metric: str, kind: MetricType, labels: Iterable[str]) -> Metric:
    base = metric.removesuffix("_total")
    unit = next((unit for unit in _UNITS if base.endswith(f"_{unit}")), "")
    buckets = ANY_BUCKETS if kind is MetricType.HISTOGRAM else ()
    return Metric(
        metric,
        kind.value,
        f"Collected as {printable(name)}.",
        dict.fromkeys(filter(str.isidentifier, labels), ()),
        unit,
        buckets,
        workers="max" if unit == "ratio" else "sum",
    )


def _finite(name: str, value: float | Decimal) -> float:
    is_number = isinstance(value, Real | Decimal) and not isinstance(value, bool)
    try:
        number = float(value) if is_number else math.nan
    except (ArithmeticError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{name} needs a finite number, not {value!r:.80}")
    return number

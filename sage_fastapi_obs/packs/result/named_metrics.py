"""Metrics that applications collect by a name, and those of results: all are instruments of the registry."""

import math
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum
from numbers import Real
from typing import Any

from sage_fastapi_obs.active import active_observability, count_internal_error
from sage_fastapi_obs.catalog import CATALOG, Metric
from sage_fastapi_obs.catalog.http import SIZE_BUCKETS
from sage_fastapi_obs.catalog.metric import DEFAULT_BUCKETS, RESULT_BUCKETS
from sage_fastapi_obs.errors import DuplicateInstrumentError
from sage_fastapi_obs.internal_errors import InternalErrors
from sage_fastapi_obs.legacy.metric_names import ResolvedName, resolve_name
from sage_fastapi_obs.metrics.instruments import Instruments, LabelledMetric
from sage_fastapi_obs.operations.count import count, observe, set_gauge
from sage_fastapi_obs.packs.result.results import Failure, FluxResult, Result
from sage_fastapi_obs.privacy.printable import LONGEST, printable

MOST_METRICS = 1_000
"""Names of metrics in one registry; more of them mean that ids are part of the names."""
_BUCKETS = {"_seconds": RESULT_BUCKETS, "_bytes": SIZE_BUCKETS}
_INVALID = re.compile(r"[^A-Za-z0-9_]")
_UNITS = ("seconds", "bytes", "ratio")
_LABELS = {"service": "component", **{name: f"label_{name}" for name in ("job", "instance", "le", "quantile")}}
"""Labels by what they are called here: what scrapers and histograms set themselves is not ours to set."""


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


class NamedMetrics:
    """Metrics that an application collects by name, in the registry of one `Observability`."""

    def __init__(self, instruments: Instruments, internal_errors: InternalErrors) -> None:
        self._instruments = instruments
        self._internal_errors = internal_errors
        self._targets: dict[str, _Target] = {}
        self._lock = threading.Lock()

    @property
    def names(self) -> dict[str, ResolvedName]:
        """The names that were collected, and what each stands for."""
        return {name: target.resolved for name, target in self._targets.copy().items() if target.instrument is not None}

    def collect(self, name: str, value: float, kind: MetricType, labels: Mapping[str, str]) -> None:
        """Record a value; raises `ValueError` where the name has another type."""
        target = self._targets.get(name) or self._resolve(name, kind, labels)
        if target.kind is not kind:
            raise ValueError(f"{name} is collected as a {target.kind.value} already, and cannot be a {kind.value} too")
        if target.instrument is None:
            return
        child = target.instrument.with_values(*self._values(name, target, labels))
        number = value / target.resolved.scale
        match target.instrument.metric.type:
            case "counter":
                child.inc(number)
            case "gauge":
                child.set(number)
            case "histogram":
                self._instruments.observe(target.instrument, child, number)

    def _resolve(self, name: str, kind: MetricType, labels: Mapping[str, str]) -> _Target:
        with self._lock:
            known = self._targets.get(name)
            if known is not None:
                return known
            meaning = resolve_name(name)
            is_known = self._known(meaning.metric) is not None
            if kind is MetricType.COUNTER and not is_known and not meaning.metric.endswith("_total"):
                meaning = ResolvedName(f"{meaning.metric}_total", meaning.scale, meaning.labels)
            target = _Target(kind, meaning, self._instrument(name, meaning, kind, labels))
            if len(self._targets) < MOST_METRICS and len(name) <= LONGEST:
                self._targets[name] = target
            return target

    def _known(self, metric: str) -> Metric | None:
        instrument = self._instruments.get(metric)
        return CATALOG.get(metric) if instrument is None else instrument.metric

    def _instrument(
        self, name: str, meaning: ResolvedName, kind: MetricType, labels: Mapping[str, str]
    ) -> LabelledMetric | None:
        metric = self._known(meaning.metric)
        if metric is None:
            metric = _metric(name, meaning.metric, kind, labels)
        elif metric.type != kind.value and not meaning.labels:
            # The metrics of operations are what they are, whatever they are collected as.
            raise ValueError(f"{name} is {meaning.metric}, a {metric.type}, and cannot be collected as a {kind.value}")
        if len(metric.name) > LONGEST:
            self._count(f"{printable(name)} is not collected: its name has more than {LONGEST} characters")
            return None
        if self._instruments.get(metric.name) is None and len(self._targets) >= MOST_METRICS:
            self._count(f"{printable(name)} is not collected: there are {MOST_METRICS} metrics already")
            return None
        try:
            self._instruments.add((metric,))
        except DuplicateInstrumentError as error:
            self._internal_errors.count("collect_metric", error)
        return self._instruments.get(metric.name)

    def _values(self, name: str, target: _Target, labels: Mapping[str, str]) -> list[str]:
        assert target.instrument is not None
        given = {**{_label(label): str(value) for label, value in labels.items()}, **target.resolved.labels}
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
    active = active_observability()
    if active is not None:
        active.collected.collect(name, number, metric_type, labels or {})


def collect_result_metric(
    operation: str, result: Result[Any, Any], duration_ms: float, labels: Mapping[str, str] | None = None
) -> None:
    """Count a result of an operation, time it, and count its error by its type. `labels`: `service` or `component`."""
    seconds = max(0.0, _finite("duration_ms", duration_ms)) / 1000
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
    _component(labels or {})
    count("flux_result_items_total", operation, "success", by=flux_result.success_items)
    count("flux_result_items_total", operation, "failure", by=flux_result.failure_items)
    set_gauge("flux_result_success_ratio", flux_result.success_rate, operation)
    observe("flux_result_duration_seconds", seconds, operation)


def _component(labels: Mapping[str, str]) -> str:
    active = active_observability()
    named = {_label(label): str(value) for label, value in labels.items()}
    component = named.pop("component", "")
    if named and active is not None:
        count_internal_error("collect_metric", ValueError(f"results have no labels {', '.join(sorted(named))}: use component"))
    return component


def _label(label: str) -> str:
    flat = _INVALID.sub("_", label[:LONGEST]).lstrip("_")
    return _LABELS.get(flat, f"label_{flat}" if not flat or flat[0].isdigit() else flat)


def _metric(name: str, metric: str, kind: MetricType, labels: Mapping[str, str]) -> Metric:
    base = metric.removesuffix("_total")
    unit = next((unit for unit in _UNITS if base.endswith(f"_{unit}")), "")
    buckets = _BUCKETS.get(f"_{unit}", DEFAULT_BUCKETS) if kind is MetricType.HISTOGRAM else ()
    open_labels: dict[str, tuple[str, ...]] = {_label(label): () for label in labels}
    return Metric(metric, kind.value, f"Collected as {printable(name)}.", open_labels, unit, buckets)


def _finite(name: str, value: float | Decimal) -> float:
    is_number = isinstance(value, Real | Decimal) and not isinstance(value, bool)
    try:
        number = float(value) if is_number else math.nan
    except (ArithmeticError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{name} needs a finite number, not {value!r:.80}")
    return number

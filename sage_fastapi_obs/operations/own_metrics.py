"""`declare_counter()`, `declare_gauge()`, `declare_histogram()`: an application's own metrics, and packs of them.

A declaration is only a description, so it may stand at the top of a module. The active `Observability` builds the metric when
it is first used, or at the start if `Observability.enable_pack` is given the class with the declaration.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal, get_args
from weakref import WeakSet

from sage_fastapi_obs.active import ActiveObservability, active_observability, count_internal_error, on_start
from sage_fastapi_obs.catalog import CATALOG, Metric
from sage_fastapi_obs.catalog.metric import DEFAULT_BUCKETS, Merge
from sage_fastapi_obs.errors import DeclarationError, ObservabilityError
from sage_fastapi_obs.metrics.instruments import Instruments, LabelledMetric, finite
from sage_fastapi_obs.privacy.printable import LONGEST, printable

Labels = Sequence[str] | Mapping[str, Sequence[str]]
"""Names of labels; or for each name the values it may have, none for an open one."""

_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_OF_THE_SCRAPER = frozenset({"service", "job", "instance"})
_OF_OTHER_SERIES = ("_bucket", "_count", "_sum", "_created", "_info", "_total")


_declarations: "WeakSet[_Declared]" = WeakSet()


class _Declared:
    __slots__ = ("__weakref__", "metric")

    def __init__(self, metric: Metric) -> None:
        self.metric = metric
        """Its description."""
        _declarations.add(self)

    def _change(
        self,
        change: Callable[[Any, LabelledMetric, Instruments], None],
        labels: Mapping[str, Any],
        observability: ActiveObservability | None = None,
    ) -> None:
        """Change the series of some labels; what is wrong is counted as an internal error, not raised."""
        observability = observability or active_observability()
        if observability is None:
            return
        try:
            metric = self._instrument(observability.instruments)
            if metric is not None:
                change(metric.with_values(*_ordered(metric, labels)), metric, observability.instruments)
        except Exception as error:
            count_internal_error(self.metric.name, error, observability)

    def _instrument(self, instruments: Instruments) -> LabelledMetric | None:
        # That of a pack is there only while the pack is on.
        return instruments.get_or_warn(self.metric.name) if self.metric.pack else instruments.get_or_add(self.metric)


class DeclaredCounter(_Declared):
    """A count that only rises."""

    __slots__ = ()

    def inc(self, amount: float = 1, /, **labels: Any) -> None:
        """Raise it."""
        self._change(lambda series, *_: series.inc(finite(amount)), labels)


class DeclaredGauge(_Declared):
    """A number that rises and falls."""

    __slots__ = ("_functions",)

    def __init__(self, metric: Metric) -> None:
        super().__init__(metric)
        self._functions: dict[tuple[tuple[str, Any], ...], Callable[[], float]] = {}

    def set(self, number: float, /, **labels: Any) -> None:
        """Set it."""
        self._change(lambda series, *_: series.set(number), labels)

    def inc(self, amount: float = 1, /, **labels: Any) -> None:
        """Raise it."""
        self._change(lambda series, *_: series.inc(finite(amount)), labels)

    def dec(self, amount: float = 1, /, **labels: Any) -> None:
        """Lower it."""
        self._change(lambda series, *_: series.dec(finite(amount)), labels)

    def set_function(self, function: Callable[[], float], /, **labels: Any) -> None:
        """Have each scrape call a function for the number, such as `lambda: len(sessions)`; NaN where it raises.

        It holds for the active `Observability` and for those that start later, until another function is set.
        """
        self._functions[tuple([(name, str(labels[name])) for name in sorted(labels)])] = function
        on_start(self._show_all)
        active = active_observability()
        if active is not None:
            self._show(active, function, labels)

    def _show_all(self, observability: ActiveObservability) -> None:
        for labels, function in self._functions.copy().items():
            self._show(observability, function, dict(labels))

    def _show(self, observability: ActiveObservability, function: Callable[[], float], labels: Mapping[str, Any]) -> None:
        called = partial(self._called, function, observability)
        self._change(lambda series, *_: series.set_function(called), labels, observability)

    def _called(self, function: Callable[[], float], observability: ActiveObservability) -> float:
        try:
            return float(function())
        except Exception as error:
            count_internal_error(self.metric.name, error, observability)
            return math.nan


class DeclaredHistogram(_Declared):
    """A distribution of numbers."""

    __slots__ = ()

    def observe(self, number: float, /, **labels: Any) -> None:
        """Add a number."""
        self._change(lambda series, metric, instruments: instruments.observe(metric, series, number), labels)


def declare_counter(
    name: str,
    help: str,  # noqa: A002 - as Prometheus calls it
    labels: Labels = (),
    *,
    deprecated: bool = False,
    max_label_values: int | None = None,
) -> DeclaredCounter:
    """Declare a counter; its name ends in `_total`. Raises `DeclarationError`.

    `labels`: names, or a mapping of names to the values they may have. `deprecated`: the help text says so. An open label has
    at most `max_label_values` values, by default `metrics.max_label_values`; the rest is `other`.
    """
    return DeclaredCounter(_metric("counter", name, help, labels, deprecated=deprecated, most=max_label_values))


def declare_gauge(
    name: str,
    help: str,  # noqa: A002
    labels: Labels = (),
    *,
    deprecated: bool = False,
    max_label_values: int | None = None,
    workers: Merge = "sum",
) -> DeclaredGauge:
    """Declare a gauge; parameters and errors are those of `declare_counter`.

    `workers`: what is shown of several workers: the "sum", the "max", the "latest" that was set (such a gauge can only be set),
    or "each" with its number as the label `worker`.
    """
    metric = _metric("gauge", name, help, labels, deprecated=deprecated, most=max_label_values)
    if workers not in get_args(Merge):
        raise DeclarationError(f"{name}: workers is one of {', '.join(get_args(Merge))}, not {workers!r:.80}")
    return DeclaredGauge(replace(metric, workers=workers))


def declare_histogram(
    name: str,
    help: str,  # noqa: A002
    labels: Labels = (),
    *,
    buckets: Sequence[float] = DEFAULT_BUCKETS,
    deprecated: bool = False,
    max_label_values: int | None = None,
) -> DeclaredHistogram:
    """Declare a histogram; `buckets` are ascending upper bounds, and the rest is as for `declare_counter`."""
    bounds = tuple(float(bound) for bound in buckets)
    if not bounds or list(bounds) != sorted(set(bounds)) or not all(map(math.isfinite, bounds)):
        raise DeclarationError(f"{name}: bounds must be finite, distinct and ascending, not {buckets!r:.80}")
    return DeclaredHistogram(_metric("histogram", name, help, labels, bounds, deprecated=deprecated, most=max_label_values))


def metrics_of(pack: object) -> tuple[Metric, ...]:
    """List the metrics that are declared in a class, in its instance or in a module."""
    found = [value.metric for name in dir(pack) if isinstance(value := getattr(pack, name, None), _Declared)]
    if not found:
        raise DeclarationError(f"{pack!r:.80} is no pack: nothing is declared in it by declare_counter and the like")
    return tuple(found)


def all_declared() -> list[Metric]:
    """List the metrics that are declared now, those of packs included, whether anybody uses them or not."""
    return [one.metric for one in _declarations]


def enable_pack(pack: object) -> None:
    """Switch a pack on, by its name or as the class it is declared in, for the running `Observability`.

    Where none is running, there is nothing to switch it on in: raises `ObservabilityError`.
    """
    observability = active_observability()
    if observability is None:
        raise ObservabilityError("no Observability is running: call enable_pack of the one you build, or set metrics.packs")
    observability.enable_pack(pack)


def _metric(
    kind: Literal["counter", "gauge", "histogram"],
    name: str,
    help: str,  # noqa: A002
    labels: Labels,
    buckets: tuple[float, ...] = (),
    *,
    deprecated: bool,
    most: int | None,
) -> Metric:
    allowed: dict[str, tuple[str, ...]] = dict.fromkeys(labels, ())
    if isinstance(labels, Mapping):
        allowed = {label: tuple(values) for label, values in labels.items()}
    for fault in (*_mistakes_in_name(kind, name), *_mistakes_in_help(help), *_mistakes_in_labels(allowed)):
        raise DeclarationError(f"{name}: {fault}")
    return Metric(name, kind, help, allowed, "", buckets, deprecated=deprecated, max_label_values=most)


def _mistakes_in_name(kind: str, name: str) -> Iterator[str]:
    if not _NAME.fullmatch(name):
        yield "a name has letters, digits and underscores, and does not begin with a digit"
    if kind == "counter" and not name.endswith("_total"):
        yield f"a counter's name ends in _total: {name}_total"
    if kind != "counter" and name.endswith(_OF_OTHER_SERIES):
        yield f"the name of a {kind} does not end in {', '.join(_OF_OTHER_SERIES)}"
    taken = CATALOG.get(name) or CATALOG.by_alias.get(name, (None,))[0]
    if taken is not None:
        yield f"that is a name of the pack {taken.pack or 'that is always there'!r}; switch it on, or take another name"


def _mistakes_in_help(help: str) -> Iterator[str]:  # noqa: A002
    if help != help.encode("utf-8", "ignore").decode():
        yield "the help text cannot be written as UTF-8"


def _mistakes_in_labels(labels: Mapping[str, tuple[str, ...]]) -> Iterator[str]:
    for label, values in labels.items():
        if not _NAME.fullmatch(label) or label.startswith("__") or label in ("le", "quantile"):
            yield f"{label!r} cannot be a label"
        if label in _OF_THE_SCRAPER:
            yield f"the label {label!r} is the scraper's; call it component, for instance"
        if any(value != printable(value) for value in values):
            yield f"the values of the label {label!r} are texts of at most {LONGEST} characters that can be printed"


def _ordered(instrument: LabelledMetric, labels: Mapping[str, Any]) -> list[str]:
    wanted = instrument.metric.labels
    if labels.keys() != wanted.keys():
        raise DeclarationError(
            f"{instrument.metric.name} has the labels {', '.join(wanted) or 'none'}, not {', '.join(labels)}"
        )
    return [str(labels[label]) for label in wanted]

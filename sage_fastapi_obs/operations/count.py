"""Changes one metric or one span at once, for code that needs no operation around it."""

from collections.abc import Callable
from typing import Any

from sage_fastapi_obs.active import active_observability, count_internal_error
from sage_fastapi_obs.metrics.instruments import Instruments, LabelledMetric, finite
from sage_fastapi_obs.privacy.printable import printable
from sage_fastapi_obs.request.innermost_span import innermost_span

_COMPONENT = "record"
"""The `component` of failures in here."""


def count(name: str, *values: str, by: float = 1.0) -> None:
    """Raise a counter, by label values in the order of its labels."""
    _change(name, lambda metric, _: metric.with_values(*values).inc(finite(by)))


def observe(name: str, number: float, *values: str) -> None:
    """Add a number to a histogram."""
    _change(name, lambda metric, instruments: instruments.observe(metric, metric.with_values(*values), number))


def set_gauge(name: str, number: float, *values: str) -> None:
    """Set a gauge."""
    _change(name, lambda metric, _: metric.with_values(*values).set(number))


def add_to_gauge(name: str, *values: str, by: float = 1.0) -> None:
    """Raise a gauge."""
    _change(name, lambda metric, _: metric.increase(*values, by=by))


def take_from_gauge(name: str, *values: str, by: float = 1.0, forget: bool = False) -> None:
    """Lower a gauge, never below 0; `forget`: at 0 its series goes."""
    _change(name, lambda metric, _: metric.decrease(*values, by=by, forget=forget))


def add_span_event(name: str, /, **attributes: Any) -> None:
    """Add an event to the innermost span."""
    observability = active_observability()
    if observability is None:
        return
    try:
        span = innermost_span()
        if span.is_recording() and observability.children is not None:
            span.add_event(printable(name), observability.children.sanitized(attributes))
    except Exception as error:
        count_internal_error(_COMPONENT, error, observability)


def _change(name: str, change: Callable[[LabelledMetric, Instruments], None]) -> None:
    observability = active_observability()
    if observability is None:
        return
    try:
        metric = observability.instruments.get_or_warn(name)
        if metric is not None:
            change(metric, observability.instruments)
    except Exception as error:
        count_internal_error(_COMPONENT, error, observability)

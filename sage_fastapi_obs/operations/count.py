"""Numbers that are told at once, where nothing has to be timed."""

from collections.abc import Callable
from typing import Any

from opentelemetry import trace

from sage_fastapi_obs.active import active_observability, count_fault
from sage_fastapi_obs.metrics.instruments import LabelledMetric
from sage_fastapi_obs.privacy.printable import printable

__all__ = ["add_span_event", "add_to_gauge", "count", "observe", "set_gauge", "take_from_gauge"]

COMPONENT = "record"
"""By which name failures of ours are counted."""


def count(name: str, *values: str, by: float = 1.0) -> None:
    """Raise a counter, by label values in the order of its labels."""
    _tell(name, lambda instrument: instrument.of(*values).inc(by))


def observe(name: str, number: float, *values: str) -> None:
    """Add a number to a histogram."""
    _tell(name, lambda instrument: instrument.of(*values).observe(number))


def set_gauge(name: str, number: float, *values: str) -> None:
    """Set a gauge."""
    _tell(name, lambda instrument: instrument.of(*values).set(number))


def add_to_gauge(name: str, *values: str, by: float = 1.0) -> None:
    """Raise a gauge."""
    _tell(name, lambda instrument: instrument.rise(*values, by=by))


def take_from_gauge(name: str, *values: str, by: float = 1.0, forget: bool = False) -> None:
    """Lower a gauge, never below 0; `forget`: at 0 its series goes."""
    _tell(name, lambda instrument: instrument.fall(*values, by=by, forget=forget))


def add_span_event(name: str, /, **attributes: Any) -> None:
    """Add an event to the current span."""
    home = active_observability()
    if home is None:
        return
    try:
        span = trace.get_current_span()
        if span.is_recording() and home.children is not None:
            span.add_event(printable(name), home.children.shown(attributes))
    except Exception as fault:
        count_fault(home, COMPONENT, fault)


def _tell(name: str, tell: Callable[[LabelledMetric], None]) -> None:
    home = active_observability()
    if home is None:
        return
    try:
        instrument = home.instruments.wanted(name)
        if instrument is not None:
            tell(instrument)
    except Exception as fault:
        count_fault(home, COMPONENT, fault)

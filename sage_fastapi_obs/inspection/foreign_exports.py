"""What other libraries would send or write for an app that is only looked at."""

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any

from prometheus_client import values

_EXPORTING = (
    ("opentelemetry.sdk.trace.export", "BatchSpanProcessor"),
    ("opentelemetry.sdk.trace.export", "SimpleSpanProcessor"),
    ("opentelemetry.sdk._logs.export", "BatchLogRecordProcessor"),
    ("opentelemetry.sdk._logs.export", "SimpleLogRecordProcessor"),
    ("opentelemetry.sdk.metrics.export", "PeriodicExportingMetricReader"),
)
"""Classes whose first argument is an exporter."""


@contextmanager
def no_foreign_exports() -> Iterator[None]:
    """Let exporters of OpenTelemetry that are put to use meanwhile send nothing, and Prometheus' client write no files."""
    with ExitStack() as undone:
        undone.callback(setattr, values, "ValueClass", values.ValueClass)
        values.ValueClass = values.MutexValue
        for module_name, class_name in _EXPORTING:
            exporting: Any = getattr(importlib.import_module(module_name), class_name, None)
            if exporting is not None:
                undone.callback(setattr, exporting, "__init__", exporting.__init__)
                exporting.__init__ = _with_silent_exporter(exporting.__init__)
        yield


def silence_sentry() -> None:
    """Let Sentry's client, where the application has one, send nothing from now on."""
    sentry = sys.modules.get("sentry_sdk")
    if sentry is not None:
        # A client without a transport makes its events as always, and drops them.
        sentry.get_client().transport = None


def _with_silent_exporter(build: Callable[..., None]) -> Callable[..., None]:
    @wraps(build)
    def build_silent(self: Any, *args: Any, **kwargs: Any) -> None:
        exporter = args[0] if args else kwargs.get("span_exporter", kwargs.get("exporter"))
        if exporter is not None:
            exporter.export = lambda *_, **__: None
        build(self, *args, **kwargs)

    return build_silent

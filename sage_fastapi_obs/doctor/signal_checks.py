"""Spans and lines that there are twice."""

import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind

from sage_fastapi_obs.doctor.fault import Fault
from sage_fastapi_obs.doctor.observations import Observations
from sage_fastapi_obs.logs import loguru_internals
from sage_fastapi_obs.logs.duplicate_handlers import handlers, places, reaches_root
from sage_fastapi_obs.logs.root_handler import RootHandler
from sage_fastapi_obs.settings import Settings

_METHODS = frozenset({"http.method", "http.request.method"})
_PRINTING = frozenset({"PrintLoggerFactory", "WriteLoggerFactory", "BytesLoggerFactory"})
"""What structlog makes loggers by that write past `logging`."""


def two_server_spans(seen: Observations) -> Iterator[Fault]:
    """Find out whether one request is more than one span of a server."""
    spans = [span for span in seen.spans if _is_of_request(span)]
    if len(spans) > 1:
        names = ", ".join(dict.fromkeys(span.instrumentation_scope.name for span in spans if span.instrumentation_scope))
        yield Fault(
            *("two-server-spans", f"one request is {len(spans)} spans of this service, by {names}"),
            "remove the other instrumentations of the app, or set tracing.enabled to false and keep one of them",
        )


def _is_of_request(span: ReadableSpan) -> bool:
    """Tell whether a span stands for the whole request, whatever its instrumentation calls it."""
    attributes = span.attributes or {}
    if span.kind is SpanKind.SERVER:
        return True
    return span.kind is SpanKind.INTERNAL and not _METHODS.isdisjoint(attributes) and "asgi.event.type" not in attributes


def logging_twice(seen: Observations) -> Iterator[Fault]:
    """Find what writes the application's lines besides this package."""
    settings = seen.inspected.settings
    if settings is None or not settings.logging.enabled:
        return
    for name, written in _writing():
        where = {place for one in written if (place := _place(one)) is not None}
        if where & set(map(_target, settings.logging.targets)):
            yield _in_one_place(name, settings)
        elif where & {"stdout", "stderr"}:
            place = next(iter(where & {"stdout", "stderr"}))
            yield Fault(
                *("logging-twice", f"{name} writes lines to {place}, and this package writes them to {_targets(settings)}"),
                "remove that handler or sink: a container's log has both",
            )
    structlog = sys.modules.get("structlog")
    if (
        structlog is not None
        and type(structlog.get_config()["logger_factory"]).__name__ in _PRINTING
        and structlog.is_configured()
    ):
        yield Fault(
            *("logging-twice", "structlog prints its lines itself: they have no ids, and nothing of them is hidden"),
            "configure it with logger_factory=structlog.stdlib.LoggerFactory()",
        )


def _in_one_place(name: str, settings: Settings) -> Fault:
    if settings.logging.takeover:
        what = f"{name} writes to {_targets(settings)}, too, and is silent while this package runs"
        return Fault("logging-twice", what, "remove that handler or sink: it is not needed", is_note=True)
    what = f"{name} writes every line to {_targets(settings)} a second time"
    return Fault("logging-twice", what, "remove that handler or sink, or set logging.takeover to true")


def _targets(settings: Settings) -> str:
    return " and ".join(settings.logging.targets)


def _writing() -> Iterator[tuple[str, list[Any]]]:
    """Yield the handlers and sinks of the application, each with its name and what it writes to."""
    for logger, handler in handlers():
        # Records that stay at a logger of its own never reach this package, and Sentry has a handler for its own troubles.
        if not isinstance(handler, RootHandler) and reaches_root(logger) and not logger.startswith("sentry_sdk"):
            yield f"the handler {type(handler).__name__} of the logger {logger}", [*places(handler)]
    for number, sink in (loguru_internals.handlers() or {}).items():
        if number or not loguru_internals.HAS_DEFAULT_SINK:
            target = loguru_internals.target_of(sink)
            written = [*places(target)] if isinstance(target, logging.Handler) else [target]
            yield f"sink {number} of loguru", written


def _place(written: Any) -> str | None:
    """Name what is written to as the settings do: a standard stream, or the path of a file."""
    for name in ("stdout", "stderr"):
        if written is not None and written in (getattr(sys, name), getattr(sys, f"__{name}__")):
            return name
    path = getattr(written, "name", written)
    return str(Path(path).resolve()) if isinstance(path, str) else None


def _target(target: str) -> str:
    return target if target in ("stdout", "stderr") else str(Path(target).resolve())


def sentry_loguru(_: Observations) -> Iterator[Fault]:
    """Find out whether Sentry makes events of the lines that loguru writes."""
    sentry = sys.modules.get("sentry_sdk")
    integration = None if sentry is None else sentry.get_client().get_integration("loguru")
    if integration is not None and getattr(integration, "event_level", logging.ERROR) is not None:
        yield Fault(
            "sentry-loguru",
            "Sentry makes an event of each error that loguru writes: one that is logged and raised is two events",
            "pass LoguruIntegration(event_level=None) to sentry_sdk.init, unless you want both",
            is_note=True,
        )

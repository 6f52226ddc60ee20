"""Observability for FastAPI: one line gives each request an id, a span, a log line and metrics that agree.

What every service uses is here. The rest is imported from its folder: `sage_fastapi_obs.clients.redis`,
`sage_fastapi_obs.packs.sage`, `sage_fastapi_obs.monitoring`.
"""

from importlib import import_module
from typing import Any
from warnings import warn

from sage_fastapi_obs.errors import DeclarationError, DuplicateInstrumentError, ObservabilityError, SettingsError, UnwrapError
from sage_fastapi_obs.logs.loggers import BoundLogger, ObsLogger, RequestLogger, configure_logging, create_logger
from sage_fastapi_obs.moved_names import MOVED as _MOVED
from sage_fastapi_obs.observability import Observability
from sage_fastapi_obs.operations.correlation_context import (
    CorrelationContext,
    correlation_hook,
    get_correlation_id,
    with_correlation_id,
)
from sage_fastapi_obs.operations.count import add_span_event
from sage_fastapi_obs.operations.operation import Operation, operation
from sage_fastapi_obs.operations.own_metrics import declare_counter, declare_gauge, declare_histogram, enable_pack
from sage_fastapi_obs.request.dependencies import CorrelationId, CurrentSpan, RequestId, bind
from sage_fastapi_obs.request.middleware import ObservabilityMiddleware
from sage_fastapi_obs.settings import Settings

__all__ = [
    "BoundLogger",
    "CorrelationContext",
    "CorrelationId",
    "CurrentSpan",
    "DeclarationError",
    "DuplicateInstrumentError",
    "ObsLogger",
    "Observability",
    "ObservabilityError",
    "ObservabilityMiddleware",
    "Operation",
    "RequestId",
    "RequestLogger",
    "Settings",
    "SettingsError",
    "UnwrapError",
    "add_span_event",
    "bind",
    "configure_logging",
    "correlation_hook",
    "create_logger",
    "declare_counter",
    "declare_gauge",
    "declare_histogram",
    "enable_pack",
    "get_correlation_id",
    "operation",
    "with_correlation_id",
]


def __getattr__(name: str) -> Any:
    module = _MOVED.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    message = f"sage_fastapi_obs.{name} goes with the next release: use `from {module} import {name}`"
    warn(message, DeprecationWarning, stacklevel=2)
    return getattr(import_module(module), name)

"""Observability for FastAPI: one line gives each request an id, a span, a log line and metrics that agree."""

from sage_fastapi_obs.errors import DuplicateInstrumentError, ObservabilityError, SettingsError
from sage_fastapi_obs.observability import Observability
from sage_fastapi_obs.request.dependencies import BoundLogger, CorrelationId, CurrentSpan, RequestId, RequestLogger, bind
from sage_fastapi_obs.request.middleware import ObservabilityMiddleware
from sage_fastapi_obs.settings import Settings

__all__ = [
    "BoundLogger",
    "CorrelationId",
    "CurrentSpan",
    "DuplicateInstrumentError",
    "Observability",
    "ObservabilityError",
    "ObservabilityMiddleware",
    "RequestId",
    "RequestLogger",
    "Settings",
    "SettingsError",
    "bind",
]

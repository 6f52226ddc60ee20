"""Observability for FastAPI: one line gives each request an id, a span, a log line and metrics that agree."""

from sage_fastapi_obs.domain.correlation import CorrelationContext, correlation_hook, get_correlation_id, with_correlation_id
from sage_fastapi_obs.domain.declared import declare_counter, declare_gauge, declare_histogram, enable_pack
from sage_fastapi_obs.domain.fields import (
    FIELD_CLIENT_DID,
    FIELD_CORRELATION_ID,
    FIELD_EVENT_ID,
    FIELD_KEY_TYPE,
    FIELD_OPERATION,
    FIELD_REQUEST_ID,
    FIELD_SERVER_DID,
    FIELD_SESSION_ID,
    FIELD_SPAN_ID,
    FIELD_TRACE_ID,
)
from sage_fastapi_obs.domain.logger import BoundLogger, ObsLogger, RequestLogger, configure_logging, create_logger
from sage_fastapi_obs.domain.operation import Operation, operation
from sage_fastapi_obs.errors import DeclarationError, DuplicateInstrumentError, ObservabilityError, SettingsError
from sage_fastapi_obs.observability import Observability
from sage_fastapi_obs.request.dependencies import CorrelationId, CurrentSpan, RequestId, bind
from sage_fastapi_obs.request.middleware import ObservabilityMiddleware
from sage_fastapi_obs.settings import Settings

__all__ = [
    "FIELD_CLIENT_DID",
    "FIELD_CORRELATION_ID",
    "FIELD_EVENT_ID",
    "FIELD_KEY_TYPE",
    "FIELD_OPERATION",
    "FIELD_REQUEST_ID",
    "FIELD_SERVER_DID",
    "FIELD_SESSION_ID",
    "FIELD_SPAN_ID",
    "FIELD_TRACE_ID",
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

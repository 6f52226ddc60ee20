"""Observability for FastAPI: one line gives each request an id, a span, a log line and metrics that agree."""

from sage_fastapi_obs.domain.business import order_processed, set_business_active_users, transaction_completed
from sage_fastapi_obs.domain.clients.grpc import GrpcMetricsInterceptor
from sage_fastapi_obs.domain.clients.httpx import instrument_httpx
from sage_fastapi_obs.domain.clients.instrumented import Instrumented
from sage_fastapi_obs.domain.clients.kafka import instrument_kafka, process_message
from sage_fastapi_obs.domain.clients.postgres import instrument_postgres
from sage_fastapi_obs.domain.clients.redis import instrument_redis
from sage_fastapi_obs.domain.clients.track import track_dependency
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
from sage_fastapi_obs.domain.record import add_span_event
from sage_fastapi_obs.domain.sage import (
    observe_crypto,
    observe_did_resolution,
    observe_handshake,
    observe_message,
    observe_session_operation,
    record_blockchain_transaction,
    record_did_registration,
    record_nonce,
    record_replay_attack,
    session_closed,
    sessions_expired,
    span_encryption,
    span_handshake,
    span_signature,
    trace_decryption,
    trace_did_resolution,
    trace_encryption,
    trace_handshake,
    trace_handshake_verification,
    trace_key_derivation,
    trace_key_generation,
    trace_request,
    trace_session_create,
    trace_signature,
    trace_signature_verification,
)
from sage_fastapi_obs.domain.security import login_failed, rate_limit_exceeded, security_event
from sage_fastapi_obs.domain.textbook import ai_tokens_used, learning_session, set_active_users, textbook_created
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
    "GrpcMetricsInterceptor",
    "Instrumented",
    "ObsLogger",
    "Observability",
    "ObservabilityError",
    "ObservabilityMiddleware",
    "Operation",
    "RequestId",
    "RequestLogger",
    "Settings",
    "SettingsError",
    "add_span_event",
    "ai_tokens_used",
    "bind",
    "configure_logging",
    "correlation_hook",
    "create_logger",
    "declare_counter",
    "declare_gauge",
    "declare_histogram",
    "enable_pack",
    "get_correlation_id",
    "instrument_httpx",
    "instrument_kafka",
    "instrument_postgres",
    "instrument_redis",
    "learning_session",
    "login_failed",
    "observe_crypto",
    "observe_did_resolution",
    "observe_handshake",
    "observe_message",
    "observe_session_operation",
    "operation",
    "order_processed",
    "process_message",
    "rate_limit_exceeded",
    "record_blockchain_transaction",
    "record_did_registration",
    "record_nonce",
    "record_replay_attack",
    "security_event",
    "session_closed",
    "sessions_expired",
    "set_active_users",
    "set_business_active_users",
    "span_encryption",
    "span_handshake",
    "span_signature",
    "textbook_created",
    "trace_decryption",
    "trace_did_resolution",
    "trace_encryption",
    "trace_handshake",
    "trace_handshake_verification",
    "trace_key_derivation",
    "trace_key_generation",
    "trace_request",
    "trace_session_create",
    "trace_signature",
    "trace_signature_verification",
    "track_dependency",
    "transaction_completed",
    "with_correlation_id",
]

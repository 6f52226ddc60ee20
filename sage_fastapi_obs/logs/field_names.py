"""The names of log fields that have a place of their own in a line, for those who write them."""

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
]

FIELD_REQUEST_ID = "request_id"
FIELD_CORRELATION_ID = "correlation_id"
FIELD_TRACE_ID = "trace_id"
FIELD_SPAN_ID = "span_id"
TRACE_FLAGS = "trace_flags"
FIELD_SESSION_ID = "session_id"
FIELD_CLIENT_DID = "client_did"
FIELD_SERVER_DID = "server_did"
FIELD_KEY_TYPE = "key_type"
FIELD_OPERATION = "operation"
FIELD_EVENT_ID = "event_id"

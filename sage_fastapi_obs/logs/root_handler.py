"""Our handler of the root logger: it makes lines of the standard library's records, each of which is one line."""

import logging
from typing import Any

from sage_fastapi_obs.delivery.queued_sender import is_sending
from sage_fastapi_obs.log_levels import LEVELS, level_name
from sage_fastapi_obs.logs.active_writers import WRITERS, attached, count_header
from sage_fastapi_obs.logs.context_fields import add_context
from sage_fastapi_obs.logs.duplicate_handlers import comes_to
from sage_fastapi_obs.logs.loguru_bridge import handed_over, has_foreign_sinks, log_to_loguru, loguru_adds, was_written
from sage_fastapi_obs.logs.message_fields import read
from sage_fastapi_obs.logs.server_loggers import SERVER_LOGGERS, is_access
from sage_fastapi_obs.request.exchange import Exchange, current_exchange
from sage_fastapi_obs.request.middleware import exchange_behind

_HTTP_CLIENT = frozenset({"httpx", "httpcore"})
_PROPAGATOR_LOGGERS = {
    "opentelemetry.baggage": "baggage",
    "opentelemetry.baggage.propagation": "baggage",
    "opentelemetry.trace.propagation.tracecontext": "traceparent",
    "opentelemetry.trace.span": "tracestate",
}
"""Loggers of OpenTelemetry's propagators, and the header that each is about."""


class RootHandler(logging.Handler):
    """Writes records, and passes them to the application's sinks in loguru."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record; what fails is reported as `logging` reports it, and never raised."""
        try:
            if not was_written(record):
                _write(record)
        except Exception:
            self.handleError(record)

    def take(self, record: logging.LogRecord) -> None:
        """Write a record that another handler hands to loguru, unless it comes here by itself."""
        if not comes_to(self, record.name):
            _write(record)


def _write(record: logging.LogRecord) -> None:
    """Write a record, unless the access line has the same content, or it is not about the service."""
    if (header := _PROPAGATOR_LOGGERS.get(record.name)) is not None:
        # A line for each of the hundred members that anybody may send: those who read headers outside of us write them.
        count_header(header)
        return
    if is_sending() and record.name.partition(".")[0] in _HTTP_CLIENT:
        # About the sending of lines or spans, and so about itself.
        return
    known = handed_over(record)
    error = record.exc_info[1] if record.exc_info and record.name in SERVER_LOGGERS else None
    ended = None if error is None else exchange_behind(error)
    if is_access(record) or (ended is not None and _has_error_line(ended)):
        return
    # A server logs what ended a request when its context is gone.
    token = None if ended is None else current_exchange.set(ended)
    try:
        _write_here(record, known)
    finally:
        if token is not None:
            current_exchange.reset(token)


def _write_here(record: logging.LogRecord, known: dict[str, Any] | None) -> None:
    """Write a record; `known`: its fields in loguru, where loguru has it already."""
    level = level_name(record.levelno)
    logs = attached()
    # First, as it sees which sinks there are by now.
    is_for_loguru = has_foreign_sinks()
    is_written = logs is not None and LEVELS[level] >= logs.lowest
    if not is_for_loguru and not is_written:
        return
    message, fields, error = read(record)
    completed = {**known, **fields} if known is not None else fields
    try:
        if known is None and (is_for_loguru or loguru_adds()):
            completed = log_to_loguru(level, message, record.name, fields, error, record) or completed
    finally:
        if is_written and logs is not None:
            add_context(completed)
            logs.accept(record.created, LEVELS[level], message, record.name, completed, error)


def _has_error_line(exchange: Exchange) -> bool:
    """Tell whether the access line, or the line about background work, has the exception with its stack."""
    return exchange.error_logged and any(logs.observer is exchange.observer for logs in WRITERS)

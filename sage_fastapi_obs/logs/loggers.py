"""The loggers that application code holds: by name, or of its request."""

import sys
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Self

import loguru
from fastapi import Depends
from starlette.requests import HTTPConnection

from sage_fastapi_obs.active import count_internal_error
from sage_fastapi_obs.internal_errors import InternalErrors
from sage_fastapi_obs.log_levels import LEVEL_DETAILS, LEVELS, usual_level
from sage_fastapi_obs.logs import takeover
from sage_fastapi_obs.logs.message_fields import take_exception, text_and_fields
from sage_fastapi_obs.logs.writer import LogWriter
from sage_fastapi_obs.privacy.redaction import Redaction
from sage_fastapi_obs.request.exchange import Exchange, current_exchange, exchange_of
from sage_fastapi_obs.request.innermost_span import innermost_ids
from sage_fastapi_obs.settings import Settings
from sage_fastapi_obs.settings.inspection_mode import in_force


class ObsLogger:
    """A logger with a name, fields and ids of its own.

    It never changes: each `with_…` returns another. Known fields (`operation`, `session_id`, …) go to the top of a line,
    all others into its `data`. Messages are text, never templates; one that is a dict is fields. Nothing it is given makes it
    raise.
    """

    __slots__ = ("_exchange", "_fields", "_ids", "_name")

    _name: str | None
    _exchange: Exchange | None
    _fields: dict[str, Any]
    """On every line; the ids of a request override them."""
    _ids: dict[str, Any]
    """On every line; they override all else."""

    def __init__(self, name: str | None = None) -> None:
        """`name`: what lines have as `logger`; None: the name of the calling module."""
        self._name, self._exchange, self._fields, self._ids = name, None, {}, {}

    def with_context(self, /, request: HTTPConnection | None = None, **ids: Any) -> Self:
        """Return a logger that writes for a request wherever it is called, and with these ids instead of the current ones.

        `request`: a `Request` or `WebSocket`. `ids`: `correlation_id`, `session_id` and the like; those that are None are
        left out.
        """
        exchange = None if request is None else _exchange_of(request)
        return self._derived(exchange=exchange, ids={name: value for name, value in ids.items() if value is not None})

    def with_fields(self, /, fields: Mapping[str, Any] | None = None, **more: Any) -> Self:
        """Return a logger that writes these fields with every line, besides those it has."""
        return self._derived(fields={**_fields_of(fields), **more})

    def with_trace(self) -> Self:
        """Return a logger that keeps to the trace and span of this moment; the same logger where there is no span.

        Every line names the span it is written in by itself: this is for code that goes on elsewhere.
        """
        ids = innermost_ids()
        return self._derived(ids=ids) if ids else self

    def debug(self, message: str, /, **fields: Any) -> None:
        """Write a line of level debug."""
        self._write("debug", message, fields)

    def info(self, message: str, /, **fields: Any) -> None:
        """Write a line of level info."""
        self._write("info", message, fields)

    def warning(self, message: str, /, **fields: Any) -> None:
        """Write a line of level warn."""
        self._write("warn", message, fields)

    warn = warning

    def error(self, message: str, /, exc: object = None, **fields: Any) -> None:
        """Write a line of level error, with the exception's type, message and stack if one is given: second, or as a field.

        `exc=`, `error=`, `err=` and `exc_info=` are one thing, at all levels. An exception that was never raised gets the stack
        of this call.
        """
        self._write("error", message, fields if exc is None else {"exc": exc, **fields})

    def critical(self, message: str, /, exc: object = None, **fields: Any) -> None:
        """Write a line of level critical, as `error` does."""
        self._write("critical", message, fields if exc is None else {"exc": exc, **fields})

    def exception(self, message: str, /, **fields: Any) -> None:
        """Write a line of level error with the exception that is being handled, unless another one is given."""
        self._write("error", message, fields, sys.exception())

    def event(self, message: str, /, *, event_id: str | None = None, level: str = "info", **data: Any) -> None:
        """Write a line about something that happened in the domain, by an id of its own: `evt-` and a UUID by default.

        `level`: a name of a level, in any case; another one is noted as a field, and the line is of level info.
        """
        data["event_id"] = f"evt-{uuid.uuid4()}" if event_id is None else event_id
        known = usual_level(level)
        if not isinstance(known, str) or known not in LEVELS:
            data["level"], known = level, "info"
        self._write(known, message, data)

    def _derived(
        self, *, exchange: Exchange | None = None, fields: Mapping[str, Any] | None = None, ids: Mapping[str, Any] | None = None
    ) -> Self:
        derived = object.__new__(type(self))
        derived._name = self._name
        derived._exchange = self._exchange if exchange is None else exchange
        derived._fields = {**self._fields, **fields} if fields else self._fields
        derived._ids = {**self._ids, **ids} if ids else self._ids
        return derived

    def _write(self, level: str, message: object, given: dict[str, Any], handled: BaseException | None = None) -> None:
        # A thread of the application's own has no context, and this logger may have the exchange.
        token = current_exchange.set(self._exchange) if self._exchange is not None else None
        try:
            text, message_fields = text_and_fields(message)
            fields = given
            if self._fields or message_fields:
                fields = {**self._fields, **{str(name): value for name, value in message_fields.items()}, **given}
            error = take_exception(fields)
            log = loguru.logger.opt(depth=2, exception=handled if error is None else error)
            if fields:
                log = log.bind(**fields)
            if self._name is not None or self._ids:
                log = log.patch(self._complete)
            # The text is never a template: loguru formats a message only when it is given arguments.
            log.log(LEVEL_DETAILS[level].loguru, text)
        except Exception as fault:
            count_internal_error("ObsLogger", fault)
        finally:
            if token is not None:
                current_exchange.reset(token)

    def _complete(self, record: "loguru.Record") -> None:
        """Set the name and the ids of this logger, which override those of the moment."""
        if self._name is not None:
            record["name"] = self._name
        record["extra"].update(self._ids)


class BoundLogger(ObsLogger):
    """A logger that knows its request.

    Every line carries the request's ids. `bind` adds fields to all later lines of the request, whoever writes them, and to
    its access line; fields of a single call stay on that line, and those of `with_fields` on the lines of that logger.
    """

    __slots__ = ()

    def __init__(self, exchange: Exchange | None) -> None:
        super().__init__()
        self._exchange = exchange

    def bind(self, /, **fields: Any) -> Self:
        """Add fields to the request; visible at once everywhere, also when called in a sync dependency."""
        if self._exchange is not None:
            self._exchange.fields.update(fields)
        return self


def create_logger(name: str) -> ObsLogger:
    """Return a logger for a component; its lines have the name as `logger`, and the ids of whatever request they are of."""
    return ObsLogger(name)


async def _logger(connection: HTTPConnection) -> BoundLogger:
    return BoundLogger(exchange_of(connection.scope))


RequestLogger = Annotated[BoundLogger, Depends(_logger)]
"""A `BoundLogger` for the request."""


class _ProcessWithoutApp:
    """Stands in for the `Observability` in a process without an app."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.internal_errors = InternalErrors()


def configure_logging(settings: Settings | None = None) -> Callable[[], None]:
    """Take over the logging of a process that has no app, such as a script or a job; return what gives it back.

    Called again, it replaces what it set up before. An `Observability` does this by itself. Raises `OSError` when the
    output cannot be opened.
    """
    process = _ProcessWithoutApp(in_force(settings))
    for logs in takeover.writers():
        if isinstance(logs, LogWriter) and isinstance(logs.observer, _ProcessWithoutApp):
            logs.close()
    redaction = Redaction(process.settings.logging, query_values=process.settings.tracing.query_values)
    logs = LogWriter(
        process.settings.logging, process.settings.service, process.internal_errors, time.time_ns, process, redaction
    )
    if process.settings.enabled and process.settings.logging.enabled:
        logs.start()
    return logs.close


def _exchange_of(request: Any) -> Exchange | None:
    try:
        return exchange_of(request.scope)
    except Exception as fault:
        count_internal_error("ObsLogger", fault)
        return None


def _fields_of(fields: Any) -> dict[str, Any]:
    try:
        return {} if fields is None else {str(name): value for name, value in fields.items()}
    except Exception as fault:
        count_internal_error("ObsLogger", fault)
        return {"fields": fields}

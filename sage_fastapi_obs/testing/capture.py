"""Gives each line, span and query to the request in which it came, while somebody observes."""

from collections.abc import Callable
from typing import Any

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind

from sage_fastapi_obs.testing.log_capture import LogCapture, LogLine, written_line
from sage_fastapi_obs.testing.recording import Recording, current_request
from sage_fastapi_obs.testing.span_capture import SpanCapture
from sage_fastapi_obs.testing.sql_queries import QueryCapture, SqlQuery, query_of
from sage_fastapi_obs.tracing.provider import global_provider


class Capture:
    """Captures what the whole process records."""

    def __init__(self, other_line: Callable[[LogLine], None], other_span: Callable[[ReadableSpan], None]) -> None:
        """`other_line`, `other_span`: take what comes outside of requests."""
        self._other_line, self._other_span = other_line, other_span
        self._observabilities: list[Any] = []
        self._ends: list[Callable[[], None]] = []
        self._around: dict[int, Recording] = {}
        """Requests by the id of the server span in which they came."""
        self._repeated: set[int] = set()
        """Ids of spans of statements that SQLAlchemy has told of."""
        self._logs = LogCapture(self._take_line, current_request.get)
        self.spans = SpanCapture(self._span_started, self._span_ended)
        self._engines = QueryCapture(self._statement_begins, self._statement_ends)

    def begin(self, request: Recording) -> None:
        """Capture what the process has when a request begins: it may have set its tracer provider, or imported SQLAlchemy."""
        self.spans.meet(global_provider())
        self._engines.look()
        # Middleware around the app may have opened its span, and ends it when the app has returned.
        around = trace.get_current_span()
        if getattr(around, "kind", None) is SpanKind.SERVER:
            self._around[around.get_span_context().span_id] = request

    def meet(self, observability: Any) -> None:
        """Capture an `Observability`, which has started: its provider is there since."""
        self.spans.meet(observability.tracer_provider)
        if not any(observability is known for known in self._observabilities):
            self._observabilities.append(observability)
            if observability.settings.logging.enabled:
                self._ends.append(observability.logs.listen(self._take_written))

    def stop(self) -> None:
        """Capture no more."""
        for end in (self._logs.stop, self.spans.stop, self._engines.stop, *self._ends):
            end()

    def _take_written(self, line: Any, encoded: bytes) -> None:
        request = current_request.get()
        (self._other_line if request is None else request.written.append)(written_line(line, encoded))

    def _take_line(self, line: LogLine) -> None:
        request = current_request.get()
        if request is not None:
            request.logged.append(line)
        elif not self._ends:
            # Nobody writes it in a better way.
            self._other_line(line)

    def _span_started(self, span: Any) -> None:
        request = current_request.get()
        if request is not None and request.is_in_statement and span.context is not None:
            self._repeated.add(span.context.span_id)

    def _span_ended(self, span: ReadableSpan) -> None:
        span_id = 0 if span.context is None else span.context.span_id
        parent_id = 0 if span.parent is None else span.parent.span_id
        request = current_request.get() or self._around.get(span_id) or self._around.get(parent_id)
        if request is None:
            self._other_span(span)
            return
        request.spans.append(span)
        if span_id in self._repeated:
            self._repeated.discard(span_id)
        elif (query := query_of(span)) is not None:
            request.queries.append(query)

    def _statement_begins(self, text: str) -> None:
        if (request := current_request.get()) is not None:
            request.is_in_statement = True
            request.queries.append(SqlQuery(text))

    def _statement_ends(self) -> None:
        if (request := current_request.get()) is not None:
            request.is_in_statement = False

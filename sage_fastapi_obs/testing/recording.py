"""All that is recorded of one request to an observed app."""

import threading
import time
from collections.abc import Mapping
from contextvars import ContextVar
from itertools import chain
from typing import Any, Self

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind
from starlette.datastructures import Headers
from starlette.types import Scope

from sage_fastapi_obs.privacy.redaction import REDACTED
from sage_fastapi_obs.request.exchange import Exchange
from sage_fastapi_obs.request.route import RouteTemplates
from sage_fastapi_obs.testing.log_capture import LogLine
from sage_fastapi_obs.testing.metric_changes import MetricWatch, Series, total
from sage_fastapi_obs.testing.recorded_texts import Texts, texts_of, texts_of_lines, texts_of_spans
from sage_fastapi_obs.testing.span_capture import is_ours
from sage_fastapi_obs.testing.sql_queries import SqlQuery

current_request: ContextVar["Recording | None"] = ContextVar("sage_fastapi_obs.testing.request", default=None)
"""The request this code runs for, also in its threads and tasks."""


class Recording:
    """What was recorded of one request; complete once the app has returned, background work included."""

    def __init__(self, scope: Scope, app: Any) -> None:
        self.kind: str = scope["type"]
        """`http` or `websocket`."""
        self.method: str = scope.get("method", "GET")
        self.path: str = scope.get("path", "")
        self.app = app
        self.parent = current_request.get()
        """The request whose code has made this one, in process."""
        self.status: int | None = None
        """The status that the app has sent, 101 for a WebSocket that was accepted; None where it has sent none."""
        self.headers = Headers()
        """Those of the response, as the client gets them."""
        self.error: BaseException | None = None
        """What the app has raised."""
        self.spans: list[ReadableSpan] = []
        """In the order in which they ended."""
        self.queries: list[SqlQuery] = []
        """Statements that were sent to databases of SQL."""
        self.metrics: dict[Series, float] = {}
        """By how much samples have changed while it was served; also by other requests that were served meanwhile."""
        self.is_alone = True
        """Whether no other request was served meanwhile."""
        self.exchange: Exchange | None = None
        """The record of our middleware; None for an app without it."""
        self.observability: Any = None
        """The `Observability` of that middleware."""
        self.done = threading.Event()
        """Set once it is complete."""
        self.written: list[LogLine] = []
        """Lines of our writers."""
        self.logged: list[LogLine] = []
        """Lines that reached `logging` and loguru."""
        self.watch = MetricWatch()
        self.is_in_statement = False
        self.thread = threading.get_ident()
        self._route: str | None = None
        self._started = time.perf_counter()
        self._times: dict[str, float] = {}

    def note_answer(self, status: int | None, headers: Any) -> None:
        """Note how the answer begins."""
        if self.status is None and not self.done.is_set():
            self.status, self.headers = status, Headers(raw=list(headers or ()))
            self.note_time("answered_ms")

    def note_time(self, moment: str) -> None:
        """Note that a moment has come, for the first time."""
        self._times.setdefault(moment, (time.perf_counter() - self._started) * 1_000)

    def complete(self, scope: Scope) -> None:
        """Note the end."""
        self.note_time("returned_ms")
        try:
            if self.exchange is None:
                self._route = RouteTemplates(scope.get("app") or self.app).template(scope)
            self.metrics = self.watch.changes()
        finally:
            self.watch = MetricWatch()
            self.done.set()

    @property
    def is_logged_by_us(self) -> bool:
        """Whether our writer writes its lines."""
        return self.observability is not None and bool(self.observability.settings.logging.enabled)

    @property
    def lines(self) -> list[LogLine]:
        """Its lines: as our writer has written them, or what an app without one has logged by `logging` and loguru."""
        return self.written if self.is_logged_by_us else self.logged

    @property
    def route(self) -> str | None:
        """The template of its route with all prefixes; None where none matched."""
        return self._route if self.exchange is None else self.exchange.route

    @property
    def request_id(self) -> str:
        """Its id, of our middleware or from the response header; empty without one."""
        return self.headers.get("x-request-id", "") if self.exchange is None else self.exchange.request_id

    @property
    def server_spans(self) -> list[ReadableSpan]:
        """Its server spans; there should be one. One of a tracer provider that is not known is found by our middleware."""
        adopted = None if self.exchange is None else self.exchange.span
        found = [span for span in self.spans if span.kind is SpanKind.SERVER]
        if not found and isinstance(adopted, ReadableSpan) and adopted.end_time is not None and not is_ours(adopted):
            return [adopted]
        return found

    @property
    def access_lines(self) -> list[LogLine]:
        """Our lines about the whole request; there should be one."""
        return [line for line in self.lines if line.is_access_line]

    @property
    def duration_ms(self) -> float:
        """From the request to the last byte; in an app without our middleware until it has returned."""
        return self.timings["returned_ms"] if self.exchange is None else self.exchange.duration_ms

    @property
    def timings(self) -> Mapping[str, float]:
        """Milliseconds since the request came: `answered_ms` (status), `sent_ms` (last byte), `returned_ms`."""
        return self._times

    @property
    def redactions(self) -> list[str]:
        """Where something was hidden: `line 'login failed': password`, `span GET /items: url.query`."""
        in_fields = (texts_of({"message": line.message, **line.fields}, f"line {line.message!r}") for line in self.lines)
        texts = chain(*in_fields, self._other_texts())
        return [where for where, text in texts if REDACTED in text]

    def metric(self, name: str, **labels: str) -> float:
        """Return by how much the samples of this name with these labels have changed, all series together."""
        return total(self.metrics, name, labels)

    def recorded_texts(self) -> Texts:
        """Yield every text that was recorded, each with where it stands."""
        return chain(texts_of_lines(self.lines), self._other_texts())

    def _other_texts(self) -> Texts:
        yield from texts_of_spans(self.spans)
        for name, labels in self.metrics:
            yield from texts_of(dict(labels), f"metric {name}")
        # Cookies are the app's own answer, and no telemetry.
        yield from ((f"header {name}", text) for name, text in self.headers.items() if name != "set-cookie")

    def __deepcopy__(self, _: Any) -> Self:
        """Return itself: who copies a scope, as middlewares do, has the same request."""
        return self

    def __copy__(self) -> Self:
        """Return itself."""
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        """Become None in a pickled scope: in another process there is nothing to record."""
        return type(None), ()

    def __repr__(self) -> str:
        return f"<{self.method} {self.path} -> {self.status or self.error!r}>"

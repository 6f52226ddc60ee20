"""The one record of a request and its response, from which every signal is derived."""

from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from opentelemetry.trace import INVALID_SPAN, Span
from starlette.types import Scope

from sage_fastapi_obs.request.explanation import Explanation
from sage_fastapi_obs.retention_reasons import NOT_KEPT, UNDECIDED

CLIENT_DISCONNECT = "client_disconnect"
CANCELLED = "cancelled"
NOT_OUR_FAULT = frozenset({None, CLIENT_DISCONNECT, CANCELLED})
"""Error types for which the service is not to blame."""
SCOPE_KEY = "sage_fastapi_obs.exchange"

Place: TypeAlias = tuple[memoryview, int, int, int]
"""A record in the slot of a worker: the words of the slot, the one of its state, and the bytes of its numbers and its start."""

current_exchange: ContextVar["Exchange | None"] = ContextVar("sage_fastapi_obs.exchange", default=None)
"""The exchange this code runs for; also in threads, dependencies and background tasks of the request."""


@dataclass(slots=True)
class Socket:
    """What only the exchange of a WebSocket has."""

    handshake_us: int | None = None
    """Until it was accepted or refused; None while it is neither."""
    close_code: int | None = None
    received_messages: int = 0
    sent_messages: int = 0


@dataclass(slots=True)
class Background:
    """What the app did after the last byte."""

    started_us: int
    """Since the start of the exchange."""
    duration_us: int
    error: BaseException | None
    """What made it fail; None also for a cancellation and for a client that left."""
    error_type: str | None
    """The same in few distinct words, as of an exchange that has failed."""
    why: str | None = None
    """The same as a clause, with the line: `raised LookupError at app/report.py:14`."""


class StoryDraft:
    """What an exchange holds beside its figures, of bounded size: its spans that have ended, its lines, its exemplars."""

    __slots__ = ("exemplars", "line_bytes", "lines", "lost_lines", "lost_spans", "spans")

    MOST_SPANS = 200
    MOST_LINES = 500
    MOST_LINE_BYTES = 256 * 1024
    RESERVED_LINES = 8
    RESERVED_LINE_BYTES = 64 * 1024
    """Room for access lines besides, which say how it ended, however many lines the application has written before."""
    MOST_EXEMPLARS = 64

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.lines: list[bytes] = []
        """JSON, one object each."""
        self.exemplars: list[tuple[Any, float, dict[str, str], float]] = []
        """Series of histograms, each with the number that it got, the ids of the span that it got it in, and the Unix time."""
        self.line_bytes = self.lost_spans = self.lost_lines = 0

    def add_span(self, span: Any) -> bool:
        """Hold an ended span; return False where there is no room."""
        if len(self.spans) >= self.MOST_SPANS:
            self.lost_spans += 1
            return False
        self.spans.append(span)
        return True

    def add_line(self, line: bytes, *, is_access_line: bool = False) -> None:
        """Hold a line, or count it where there is no room."""
        most_lines = self.MOST_LINES + self.RESERVED_LINES * is_access_line
        most_bytes = self.MOST_LINE_BYTES + self.RESERVED_LINE_BYTES * is_access_line
        if len(self.lines) >= most_lines or self.line_bytes + len(line) > most_bytes:
            self.lost_lines += 1
        else:
            self.lines.append(line)
            self.line_bytes += len(line)

    def add_exemplar(self, exemplar: tuple[Any, float, dict[str, str], float]) -> None:
        """Hold an exemplar, as long as there is room; the first ones count."""
        if len(self.exemplars) < self.MOST_EXEMPLARS:
            self.exemplars.append(exemplar)


class Exchange:
    """One request and its response.

    Filled by the middleware; read by every recorder. Durations are whole microseconds, so that seconds in a histogram,
    nanoseconds in a span and milliseconds in a log line are the same number.
    """

    __slots__ = (
        "app_current",
        "background",
        "bound_fields",
        "client_gone",
        "correlation_id",
        "duration_us",
        "error",
        "error_logged",
        "error_type",
        "excluded",
        "explanation",
        "facts",
        "finished",
        "first_byte_us",
        "headers",
        "held_lines",
        "kept",
        "kind",
        "line_is_ordinary",
        "method",
        "observer",
        "outer_context",
        "parent",
        "path",
        "queue_us",
        "received_bytes",
        "record",
        "rejection",
        "request_id",
        "response_headers",
        "route",
        "sampled",
        "scope",
        "sent_bytes",
        "socket",
        "span",
        "span_id",
        "span_token",
        "started_ns",
        "status",
        "story",
        "streamed",
        "task",
        "trace_id",
        "wall_ns",
    )

    explanation: Explanation | None
    """Why it was slow, was refused or failed, once it has ended; None where there is nothing to say."""
    facts: Any
    """What is noted while it runs, to find out why it was slow; None for nothing."""
    held_lines: Any
    """Lines that wait for the outcome; None when there are none."""
    queue_us: int | None
    """How long it was on its way from the proxy, by the proxy's clock: no part of the duration."""
    record: Place | None
    """Where it stands in the slot of this worker; None where it is in no slot, or not any more."""
    response_headers: Any
    """Those that the app has sent, as it sent them; None also once the app has returned."""
    task: Any
    """The task that it runs in, until the app has returned; None where nobody asks for it."""

    def __init__(
        self, scope: Scope, started_ns: int, wall_ns: int, observer: Any = None, parent: "Exchange | None" = None
    ) -> None:
        self.scope = scope
        self.kind: Literal["http", "websocket"] = scope["type"]
        self.method: str = scope.get("method", "GET")
        self.path: str = scope.get("path", "")
        self.headers: dict[bytes, bytes] = dict(scope.get("headers") or ())
        """Request headers by lower-case name; of a repeated one, the last. None once the app has returned."""
        self.started_ns = started_ns
        """Monotonic clock at the start."""
        self.wall_ns = wall_ns
        """Unix time at the start, nanoseconds."""
        self.observer = observer
        """Whose exchange this is: two apps in one process do not meet."""
        self.parent = parent
        """The exchange inside which this one runs, until the app has returned: a service that calls itself in process."""
        self.request_id = self.correlation_id = ""
        self.span: Span = INVALID_SPAN
        self.span_token: Any = None
        """What undoes the context that the app was given; None where it has its caller's."""
        self.outer_context: Any = None
        """OpenTelemetry's context around our own span; None when the span is adopted."""
        self.app_current: tuple[Any, Any] | None = None
        """Where our span is not current: the span and the operation that are, or None for each. None where ours is current."""
        self.trace_id = self.span_id = ""
        """32 and 16 hex digits, or empty without a valid span."""
        self.bound_fields: dict[str, Any] | None = None
        """What the application bound; None for nothing."""
        self.route: str | None = None
        """The route's template; None when nothing matched."""
        self.status = self.duration_us = self.received_bytes = self.sent_bytes = 0
        """The status that was sent; 500 when the app failed before it, 499 when the client left before it."""
        self.first_byte_us: int | None = None
        """Of a body that came in pieces."""
        self.socket: Socket | None = None
        """What only a WebSocket has."""
        self.background: Background | None = None
        """The work after the last byte, when there was any."""
        self.rejection: str | None = None
        """Why this request is answered 400 and does not reach the app."""
        self.error: BaseException | None = None
        self.error_type: str | None = None
        """Why this exchange counts as failed, in few distinct words; None when it does not."""
        self.excluded = self.sampled = self.streamed = self.client_gone = self.finished = False
        self.error_logged = self.line_is_ordinary = False
        """Whether one of our lines has the exception that left the app, known once the app has returned; and whether its access
        line can be made of its figures alone, at any time."""
        self.kept = UNDECIDED
        """Why its spans, lines and row are kept: a word of `retention_reasons`."""
        self.story: StoryDraft | None = None
        """What waits for that decision; None for nothing."""
        self.held_lines = self.record = self.response_headers = self.facts = self.task = self.explanation = self.queue_us = None

    @property
    def fields(self) -> dict[str, Any]:
        """Fields that the application bound, to add to: every later line and the access line have them."""
        if self.bound_fields is None:
            self.bound_fields = {}
        return self.bound_fields

    @property
    def is_kept(self) -> bool:
        """Whether it is known to be kept."""
        return self.kept not in (UNDECIDED, NOT_KEPT)

    @property
    def own_story(self) -> StoryDraft:
        """What it holds, to add to."""
        if self.story is None:
            self.story = StoryDraft()
        return self.story

    @property
    def answered_us(self) -> int:
        """Until the client had something: the response, the first byte of a stream, the answer to a handshake."""
        if self.socket is not None:
            return self.socket.handshake_us or 0
        return (self.first_byte_us or 0) if self.streamed else self.duration_us

    @property
    def duration_seconds(self) -> float:
        """From the first sight of the request to the last byte of the response."""
        return self.duration_us / 1_000_000

    @property
    def duration_ms(self) -> float:
        """The same in milliseconds, three decimals."""
        return self.duration_us / 1_000

    @property
    def has_returned(self) -> bool:
        """Whether the app has returned, so that nothing can fail any more."""
        return not self.scope

    @property
    def failed(self) -> bool:
        """Whether the service is to blame: a 5xx, an exception, half a response; not a client that left."""
        return self.error_type not in NOT_OUR_FAULT

    def __deepcopy__(self, _: Any) -> "Exchange":
        """Return itself: who copies a scope, as middlewares do, has the same request."""
        return self

    def __copy__(self) -> "Exchange":
        """Return itself."""
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        """Become None in a pickled scope: in another process there is nothing to watch."""
        return type(None), ()

    def release_error(self) -> None:
        """Let go of the exception that has left the app, and of the frames that it came through."""
        background = self.background
        logged = (self.error if self.failed else None) if background is None else background.error
        self.error_logged = logged is not None and not self.excluded
        self.error = self.background = None


def exchange_of(scope: Scope) -> Exchange | None:
    """Find the exchange of a connection, also where context variables are gone (handlers of unhandled errors)."""
    return scope.get(SCOPE_KEY)

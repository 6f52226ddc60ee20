"""The one record of a request and its response, from which every signal is derived."""

import asyncio
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Literal

from opentelemetry.trace import INVALID_SPAN, Span
from starlette.requests import ClientDisconnect
from starlette.types import Scope
from starlette.websockets import WebSocketDisconnect

from sage_fastapi_obs.privacy.exception_name import exception_name

__all__ = [
    "CLIENT_DISCONNECT",
    "SCOPE_KEY",
    "Background",
    "Exchange",
    "Socket",
    "current_exchange",
    "exchange_of",
]

SCOPE_KEY = "sage_fastapi_obs.exchange"
CLIENT_DISCONNECT = "client_disconnect"
CANCELLED = "cancelled"
INCOMPLETE = "incomplete_response"
INVALID = "invalid_response"
_NOT_OURS = frozenset({None, CLIENT_DISCONNECT, CANCELLED})
SWITCHING_PROTOCOLS = 101
CLIENT_CLOSED_REQUEST = 499
"""nginx's status for a client that left before it was answered."""
ABNORMAL_CLOSURE = 1006
"""WebSocket code of a connection that ended without a close frame."""
CLEAN_CLOSURES = frozenset({1000, 1001, 1005})
"""WebSocket codes of a client that said goodbye: normal, going away, and a close frame without a code."""
SERVICE_RESTART = 1012
"""WebSocket code by which a server that stops ends its connections."""
_UNCLEAN_CLOSURES: dict[int | None, str] = {ABNORMAL_CLOSURE: CLIENT_DISCONNECT, SERVICE_RESTART: CANCELLED}
"""What is noted of WebSocket codes that come without an exception."""

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


@dataclass(frozen=True, slots=True)
class Background:
    """What the app did after the last byte."""

    started_us: int
    """Since the start of the exchange."""
    duration_us: int
    error: BaseException | None
    """What made it fail; None also for a cancellation and for a client that left."""


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
        "finished",
        "first_byte_us",
        "headers",
        "held_lines",
        "kind",
        "method",
        "observer",
        "outer_context",
        "parent",
        "path",
        "received_bytes",
        "rejection",
        "request_id",
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
        "streamed",
        "trace_id",
        "wall_ns",
    )

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
        """The span and the operation that the app finds current where nobody reads ours, each if any; else None."""
        self.trace_id = self.span_id = ""
        """32 and 16 hex digits, or empty without a valid span."""
        self.bound_fields: dict[str, Any] | None = None
        """What the application bound; None for nothing."""
        self.route: str | None = None
        """The route's template; None when nothing matched."""
        self.status = self.duration_us = self.received_bytes = self.sent_bytes = 0
        """The status that was sent; 500 when the app failed without one, 499 when nobody was left to send one to."""
        self.first_byte_us: int | None = None
        """Of a body that came in pieces."""
        self.socket: Socket | None = None
        """What only a WebSocket has."""
        self.background: Background | None = None
        """The work after the last byte, when there was any."""
        self.rejection: str | None = None
        """Why this request is answered 400 instead of being handed to the app."""
        self.error: BaseException | None = None
        self.error_type: str | None = None
        """Why this exchange counts as failed, in few distinct words; None when it does not."""
        self.excluded = self.sampled = self.streamed = self.client_gone = self.finished = False
        self.error_logged = False
        """Whether what has left the app is in a line of ours; known once the app has returned."""
        self.held_lines: Any = None
        """Lines that wait for the outcome; None when there are none."""

    @property
    def fields(self) -> dict[str, Any]:
        """What the application bound, to add to: on every later line and on the canonical one."""
        if self.bound_fields is None:
            self.bound_fields = {}
        return self.bound_fields

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
        return self.error_type not in _NOT_OURS

    def __deepcopy__(self, _: Any) -> "Exchange":
        """Return itself: who copies a scope, as middlewares do, has the same request."""
        return self

    def __copy__(self) -> "Exchange":
        """Return itself."""
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        """Become None in a pickled scope: in another process there is nothing to watch."""
        return type(None), ()

    def classify(self, *, complete: bool, valid: bool = True, stopping: bool = False) -> None:
        """Decide once, for all signals, what this exchange amounted to.

        `stopping`: whether the service is about to end, which is why an app leaves an answer where it is.
        """
        error = self.error
        if self.client_gone and self.status in (0, CLIENT_CLOSED_REQUEST):
            self.error_type = CLIENT_DISCONNECT
        elif error is not None and (not complete or (self.status >= 500 and self.is_failure(error))):
            self.error_type = self._error_type_of(error)
        elif not complete:
            self.error_type = CLIENT_DISCONNECT if self.client_gone else CANCELLED if stopping and self.status else INCOMPLETE
        elif not valid:
            self.error_type = INVALID
        elif self.status >= 500:
            self.error_type = str(self.status)
        elif self.client_gone:
            code = ABNORMAL_CLOSURE if self.socket is None else self.socket.close_code
            self.error_type = _UNCLEAN_CLOSURES.get(code)
        if not self.status:
            self.status = 500 if self.failed else CLIENT_CLOSED_REQUEST

    def release_error(self) -> None:
        """Let go the exception that has left the app, and with it the frames that it came through."""
        background = self.background
        told = (self.error if self.failed else None) if background is None else background.error
        self.error_logged = told is not None and not self.excluded
        self.error = self.background = None

    def is_failure(self, error: BaseException | None) -> bool:
        """Tell whether an exception is the service's own, and not a client that left or a cancellation."""
        return error is not None and self._error_type_of(error) not in _NOT_OURS

    def _error_type_of(self, error: BaseException) -> str | None:
        if isinstance(error, BaseExceptionGroup):
            blamed = {self._error_type_of(inner) for inner in error.exceptions}
            return blamed.pop() if len(blamed) == 1 and blamed <= _NOT_OURS else exception_name(error)
        if isinstance(error, asyncio.CancelledError) or _is_trio_cancellation(error):
            return CLIENT_DISCONNECT if self.client_gone else CANCELLED
        if isinstance(error, WebSocketDisconnect):
            return None if error.code in CLEAN_CLOSURES else _UNCLEAN_CLOSURES.get(error.code, CLIENT_DISCONNECT)
        if isinstance(error, ClientDisconnect) or (self.client_gone and isinstance(error, OSError)):
            return CLIENT_DISCONNECT
        return exception_name(error)


def _is_trio_cancellation(error: BaseException) -> bool:
    """Trio has a cancellation of its own, and importing trio to name it would be a dependency."""
    kind = type(error)
    return kind.__name__ == "Cancelled" and kind.__module__.partition(".")[0] == "trio"


def exchange_of(scope: Scope) -> Exchange | None:
    """Find the exchange of a connection, also where context variables are gone (handlers of unhandled errors)."""
    return scope.get(SCOPE_KEY)

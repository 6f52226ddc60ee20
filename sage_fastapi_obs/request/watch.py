"""What all watches of an exchange share: its start, the response headers we add, its end, and the work after it."""

import sys
from abc import ABC, abstractmethod
from asyncio import CancelledError
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Protocol

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sage_fastapi_obs.internal_errors import InternalErrors
from sage_fastapi_obs.otel_internals import detach
from sage_fastapi_obs.privacy.exception_name import exception_name
from sage_fastapi_obs.request.exchange import SCOPE_KEY, Background, Exchange, current_exchange
from sage_fastapi_obs.request.headers import with_headers
from sage_fastapi_obs.request.outcome import CLIENT_CLOSED_REQUEST, classify, is_failure
from sage_fastapi_obs.request.recorder import Headers, RecorderCallbacks
from sage_fastapi_obs.request.route import RouteTemplates

_TIDYING_UP_NS = 10_000_000
"""Shorter work after the last byte is the framework cleaning up, not a background task."""
_STILL_RUNNING = sys.maxsize
"""Stands for the time of the end, of an exchange that was finished before its app had returned."""
_HIGHEST_STATUS = 999
_NO_SCOPE: Scope = {}
_NO_HEADERS: dict[bytes, bytes] = {}
_get_current, _set_current, _reset_current = current_exchange.get, current_exchange.set, current_exchange.reset


class Observer(Protocol):
    """What the middleware needs of an `Observability`."""

    enabled: bool
    internal_errors: InternalErrors
    callbacks: RecorderCallbacks
    excluded_callbacks: RecorderCallbacks
    excluded: tuple[str, ...]
    """How the paths of requests begin that are not recorded, and of few others."""
    running: bool
    """Whether all parts have started."""
    in_progress: "set[Watch]"
    """Of the exchanges whose app has not returned."""
    clock: Callable[[], int]
    wall_clock: Callable[[], int]

    @property
    def stopping(self) -> bool:
        """Whether the service is about to end."""

    def excludes(self, scope: Scope) -> bool:
        """Tell whether a request is excluded from recording."""

    def ensure_started(self) -> None:
        """Start all parts, unless they run already."""

    def place_pages(self, app: ASGIApp) -> None:
        """Put our pages before the routes of an app."""

    async def lifespan(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the app's lifespan with ours around it."""


class Watch(ABC):
    """One exchange being watched: the receive and send that the app gets, and the end."""

    __slots__ = (
        "_callbacks",
        "_finished_at_ns",
        "_inner_receive",
        "_inner_send",
        "_observer",
        "_routes",
        "_token",
        "_valid",
        "exchange",
    )

    _finished_at_ns: int
    """When all recorders had seen the whole response, where that was before the app returned."""

    def __init__(self, observer: Observer, routes: RouteTemplates, scope: Scope, receive: Receive, send: Send) -> None:
        if type(scope.get("headers")) is not list:
            # Any iterable is allowed; one that can be read only once is the app's.
            scope["headers"] = list(scope.get("headers", ()))
        clock, wall_clock = observer.clock, observer.wall_clock
        self.exchange = scope[SCOPE_KEY] = exchange = Exchange(scope, clock(), wall_clock(), observer, _get_current())
        self._observer = observer
        self._routes = routes
        self._inner_receive = receive
        self._inner_send = send
        self._valid = True
        """Whether the app has kept to the protocol."""
        self._prepare()
        if (exchange.path.startswith(observer.excluded) or scope.get("root_path")) and observer.excludes(scope):
            exchange.excluded = True
            self._callbacks = callbacks = observer.excluded_callbacks
        else:
            self._callbacks = callbacks = observer.callbacks
        self._token = _set_current(exchange)
        for callback in callbacks.request_started:
            try:
                callback(exchange)
            except Exception as error:
                callbacks.failed(callback, error)
        observer.in_progress.add(self)
        if exchange.parent is not None and exchange.parent.has_returned:
            # The recorders needed it only to start.
            exchange.parent = None

    @abstractmethod
    def _prepare(self) -> None:
        """Set the attributes that this kind of watch adds."""

    @abstractmethod
    async def receive(self) -> Message:
        """Hand on what the client sent."""

    @abstractmethod
    def send(self, message: Message) -> Awaitable[None]:
        """Hand on what the app sends."""

    def close(self, error: BaseException | None) -> None:
        """End the watch: the app has returned, failed or was cancelled."""
        exchange = self.exchange
        self._observer.in_progress.discard(self)
        try:
            if not exchange.finished:
                self._end(error)
            elif self._callbacks.background_finished and (
                error is not None or self._observer.clock() - self._finished_at_ns > _TIDYING_UP_NS
            ):
                self._end_background(error)
        except Exception as fault:
            self._count_error(fault)
        returned = self._callbacks.app_returned
        try:
            _reset_current(self._token)
        except ValueError:
            # Closed by the garbage collector, in a context that never saw this request: nothing to undo there.
            returned = ()
        for callback in returned:
            try:
                callback(exchange)
            except Exception as fault:
                self._callbacks.failed(callback, fault)
        # The scope knows the exchange; were the exchange to know the scope for longer, every request would be a cycle for
        # the garbage collector to find. Tasks, pools of connections and transports keep the context of the request that
        # started them, and so the exchange, for as long as they live.
        exchange.scope, exchange.headers = _NO_SCOPE, _NO_HEADERS
        exchange.parent = exchange.outer_context = exchange.response_headers = exchange.task = None
        if error is not None:
            exchange.release_error()

    def route_so_far(self) -> str | None:
        """Return the template of the route, also before the app has answered, in any thread; None where it is not known yet."""
        exchange = self.exchange
        try:
            return exchange.route or self._routes.template(exchange.scope)
        except Exception:
            # The scope changes meanwhile, or is gone.
            return None

    def finish_early(self) -> None:
        """Finish an exchange whose app still runs when the service ends: the server may not let the app end."""
        try:
            if not self.exchange.finished:
                self._finished_at_ns = _STILL_RUNNING
                self._end(CancelledError())
        except Exception as fault:
            self._count_error(fault)

    @abstractmethod
    def _end(self, error: BaseException | None) -> None:
        """End the watch of an exchange that has no answer yet, or not all of it."""

    def _response_started(self, message: Message, status: Any, *, may_stream: bool) -> Message:
        """Call the recorders at the start of a response; return its message with our headers added."""
        exchange = self.exchange
        # A client that has gone receives no status, whatever the app answers.
        status = status if type(status) is int and 0 <= status <= _HIGHEST_STATUS else status_of(status)
        exchange.status = CLIENT_CLOSED_REQUEST if exchange.client_gone else status
        exchange.response_headers = message.get("headers")
        if not exchange.finished:
            try:
                exchange.route = self._routes.template(exchange.scope)
            except Exception as error:
                self._count_error(error, "RouteTemplates")
        message, has_length = with_headers(message, self._added_headers())
        exchange.streamed = may_stream and not has_length
        return message

    def _added_headers(self) -> Headers:
        ours: Headers = []
        for callback in self._callbacks.response_started:
            try:
                callback(self.exchange, ours)
            except Exception as error:
                self._callbacks.failed(callback, error)
        return ours

    def _finish(self, *, complete: bool) -> None:
        """Call the recorders with an exchange whose numbers are final."""
        exchange = self.exchange
        exchange.finished = True
        if exchange.route is None:
            try:
                exchange.route = self._routes.template(exchange.scope)
            except Exception as error:
                self._count_error(error, "RouteTemplates")
        if not complete or exchange.status >= 500 or exchange.client_gone or not self._valid:
            classify(exchange, complete=complete, valid=self._valid, stopping=self._observer.stopping)
        for callback in self._callbacks.request_finished:
            try:
                callback(exchange)
            except Exception as error:
                self._callbacks.failed(callback, error)

    def _end_background(self, error: BaseException | None) -> None:
        """Call the recorders with the work of the app after the last byte, without our own."""
        exchange = self.exchange
        if self._finished_at_ns == _STILL_RUNNING and not is_failure(exchange, error):
            # The app was only ending.
            return
        finished_at_ns = 0 if self._finished_at_ns == _STILL_RUNNING else self._finished_at_ns
        started_us = max(exchange.duration_us, (finished_at_ns - exchange.started_ns + 500) // 1_000)
        duration_us = max(0, elapsed_us(exchange) - started_us)
        failure = error if error is not None and is_failure(exchange, error) else None
        error_type = None if failure is None else exception_name(failure)
        exchange.background = Background(started_us, duration_us, failure, error_type)
        for callback in self._callbacks.background_finished:
            try:
                callback(exchange)
            except Exception as fault:
                self._callbacks.failed(callback, fault)

    def _count_error(self, error: Exception, part: str = "ObservabilityMiddleware") -> None:
        self._observer.internal_errors.count(part, error)


def reenter(token: Any, outside: Any) -> None:
    """Make an exchange current again, and its OpenTelemetry context where that was left, too."""
    try:
        _reset_current(token)
        if outside is not None:
            detach(outside)
    except ValueError:
        # Closed by the garbage collector, in a context that never saw this request.
        return


def elapsed_us(exchange: Exchange) -> int:
    """Return the time since the start; what is known so far when the clock fails."""
    observer: Observer = exchange.observer
    try:
        elapsed_ns = observer.clock() - exchange.started_ns
    except Exception as error:
        # An exchange without a duration still has to be counted out.
        observer.internal_errors.count("ObservabilityMiddleware", error)
        return exchange.duration_us
    return (elapsed_ns + 500) // 1_000 if elapsed_ns > 0 else 0


def status_of(status: Any) -> int:
    """Read a status of any type; 500 for what is no number of three digits, which the server may refuse."""
    try:
        number = int(status)
    except Exception:
        return 500
    return number if 0 <= number <= _HIGHEST_STATUS else 500


def size_of(body: Any) -> int:
    """Return the size of a body chunk; 0 if it is not bytes."""
    if isinstance(body, memoryview):
        return body.nbytes
    return len(body) if hasattr(body, "__len__") else 0


def in_flight(in_progress: set[Watch]) -> list[Watch]:
    """Copy a set that another thread changes; empty where it changes too fast."""
    for _ in range(100):
        with suppress(RuntimeError):
            return [*in_progress]
    return []

"""One exchange being watched: what passes between server and app, when the response is over, and how it ended."""

from collections.abc import Awaitable, Callable, Container, Iterator
from itertools import chain
from typing import Any, ClassVar, Protocol

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sage_fastapi_obs.request.exchange import (
    ABNORMAL_CLOSURE,
    CLIENT_CLOSED_REQUEST,
    SCOPE_KEY,
    SWITCHING_PROTOCOLS,
    Exchange,
    current_exchange,
)
from sage_fastapi_obs.request.recorder import Faults, Headers, Moments

__all__ = ["HttpWatch", "Observer", "Watch", "WebSocketWatch"]

TIDYING_UP_NS = 10_000_000
"""Work after the last byte shorter than this is the framework tidying up, not a background task."""
Then = Callable[[Any, Message], None]
"""What to note after a message has gone out."""
_NO_SCOPE: Scope = {}
_get_current, _set_current, _reset_current = current_exchange.get, current_exchange.set, current_exchange.reset


class Observer(Protocol):
    """What the middleware needs of an `Observability`."""

    enabled: bool
    faults: Faults
    moments: Moments
    excluded_moments: Moments
    clock: Callable[[], int]
    wall_clock: Callable[[], int]

    def excludes(self, scope: Scope) -> bool:
        """Tell whether a request is one of those that are not recorded."""

    def ensure_started(self) -> None:
        """Start what has to run; cheap when it does."""

    async def lifespan(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the app's lifespan with ours around it."""


class Watch:
    """One exchange being watched: the receive and send that the app gets, and the end."""

    __slots__ = (
        "_complete",
        "_denied",
        "_flowing",
        "_inner_receive",
        "_inner_send",
        "_moments",
        "_observer",
        "_started",
        "_template",
        "_token",
        "_trailers",
        "_valid",
        "exchange",
    )

    def __init__(
        self, observer: Observer, template: Callable[[Exchange], str | None], scope: Scope, receive: Receive, send: Send
    ) -> None:
        if type(scope.get("headers")) is not list:
            # Any iterable is allowed; one that can be read only once is the app's.
            scope["headers"] = list(scope.get("headers", ()))
        clock, wall_clock = observer.clock, observer.wall_clock
        self.exchange = scope[SCOPE_KEY] = exchange = Exchange(scope, clock(), wall_clock(), observer, _get_current())
        self._observer = observer
        self._template = template
        self._inner_receive = receive
        self._inner_send = send
        # Whether the response has started, whether more of a body that has begun is to come, whether trailers come after it,
        # whether it is complete; and whether a handshake was answered with a response.
        self._started = self._flowing = self._trailers = self._complete = self._denied = False
        self._valid = True
        exchange.excluded = observer.excludes(scope)
        self._moments = moments = observer.excluded_moments if exchange.excluded else observer.moments
        self._token = _set_current(exchange)
        for tell in moments.started:
            try:
                tell(exchange)
            except Exception as error:
                moments.failed(tell, error)

    async def receive(self) -> Message:
        """Hand on what the client sent."""
        message = await self._inner_receive()
        try:
            self._received(message)
        except Exception as error:
            self._fault(error)
        return message

    def _received(self, message: Message) -> None:
        raise NotImplementedError

    def send(self, message: Message) -> Awaitable[None]:
        """Hand on what the app sends.

        Not a coroutine: a chunk in the middle of a stream costs a call, not a task step of our own.
        """
        raise NotImplementedError

    async def _send_then(self, message: Message, then: Then) -> None:
        inner_send = self._inner_send
        await inner_send(message)
        try:
            then(self, message)
        except Exception as error:
            self._fault(error)

    def close(self, error: BaseException | None) -> None:
        """End the watch: the app has returned, failed or was cancelled."""
        exchange = self.exchange
        try:
            if not exchange.finished:
                self._end(error)
            elif (
                error is not None or self._observer.clock() - exchange.started_ns > exchange.duration_us * 1_000 + TIDYING_UP_NS
            ):
                self._end_background(error)
        except Exception as fault:
            self._fault(fault)
        try:
            _reset_current(self._token)
        except ValueError:
            # Closed by the garbage collector, in a context that never saw this request: nothing to undo there.
            return
        for tell in self._moments.returned:
            try:
                tell(exchange)
            except Exception as fault:
                self._moments.failed(tell, fault)
        # The scope knows the exchange; were the exchange to know the scope for longer, every request would be a cycle for
        # the garbage collector to find.
        exchange.scope = _NO_SCOPE

    def _answering(self, message: Message, status: Any, *, may_stream: bool) -> Message:
        """Tell the start of a response; return it with our headers in place of any of theirs by the same names."""
        exchange = self.exchange
        # When nobody is left to receive it, that is the client's doing, whatever the app made of it.
        exchange.status = CLIENT_CLOSED_REQUEST if exchange.client_gone else _status(status)
        if not exchange.finished:
            template = self._template
            exchange.route = template(exchange)
        ours: Headers = []
        for tell in self._moments.answered:
            try:
                tell(exchange, ours)
            except Exception as error:
                self._moments.failed(tell, error)
        headers = message.get("headers", ())
        if type(headers) is not list:
            if isinstance(headers, Iterator):
                # The server reads it, as without us: should it fail, it has to fail there.
                exchange.streamed = may_stream
                return {**message, "headers": _with(headers, ours)}
            if not hasattr(headers, "__iter__"):
                return message
        names = _names(headers)
        exchange.streamed = may_stream and b"content-length" not in names
        for name, _ in ours:
            if name in names:
                headers = _without(headers, name)
        return {**message, "headers": [*headers, *ours]} if ours else message

    def _end(self, error: BaseException | None) -> None:
        raise NotImplementedError

    def _finish(self, *, complete: bool) -> None:
        exchange = self.exchange
        exchange.finished = True
        if exchange.route is None:
            exchange.route = self._template(exchange)
        if not complete or exchange.status >= 500 or exchange.client_gone or not self._valid:
            exchange.judge(complete=complete, valid=self._valid)
        for tell in self._moments.finished:
            try:
                tell(exchange)
            except Exception as error:
                self._moments.failed(tell, error)

    def _end_background(self, error: BaseException | None) -> None:
        exchange = self.exchange
        exchange.background_us = max(0, self._elapsed_us() - exchange.duration_us)
        exchange.background_error = error if exchange.is_failure(error) else None
        for tell in self._moments.background:
            try:
                tell(exchange)
            except Exception as fault:
                self._moments.failed(tell, fault)

    def _elapsed_us(self) -> int:
        clock = self._observer.clock
        try:
            elapsed_ns = clock() - self.exchange.started_ns
        except Exception as error:
            # An exchange without a duration still has to be counted out.
            self._fault(error)
            return self.exchange.duration_us
        return (elapsed_ns + 500) // 1_000 if elapsed_ns > 0 else 0

    def _fault(self, error: Exception) -> None:
        self._observer.faults.count("ObservabilityMiddleware", error)


class HttpWatch(Watch):
    """Watches a request and its response."""

    __slots__ = ()

    def _received(self, message: Message) -> None:
        kind = message["type"]
        if kind == "http.request":
            self.exchange.received_bytes += _size(message.get("body") or b"")
        elif kind == "http.disconnect":
            self.exchange.client_gone = self.exchange.client_gone or not self._complete

    def send(self, message: Message) -> Awaitable[None]:
        """Note a message, and hand it on."""
        try:
            kind = message["type"]
            if kind == "http.response.body":
                body = message.get("body")
                if body:
                    self.exchange.sent_bytes += len(body) if type(body) is bytes else _size(body)
                if not (self._flowing and message.get("more_body")) and self._ends_with(message):
                    return self._send_last(message)
            elif kind == "http.response.start":
                if self._started:
                    self._valid = False
                else:
                    self._started = True
                    self._trailers = message.get("trailers", False)
                    message = self._answering(message, message.get("status"), may_stream=True)
            elif kind in self._AFTER:
                return self._send_then(message, self._AFTER[kind])
        except Exception as error:
            self._fault(error)
        inner_send = self._inner_send
        return inner_send(message)

    def _ends_with(self, message: Message) -> bool:
        """Note the first or the last piece of a body; tell whether the response ends with it."""
        if not self._started or self._complete:
            self._valid = False
            return False
        self._flowing = message.get("more_body", False)
        if self._flowing:
            if self.exchange.first_byte_us is None:
                self.exchange.first_byte_us = self._elapsed_us()
            return False
        if self.exchange.first_byte_us is None:
            # Whole in one piece: nothing was streamed, whatever the headers left open.
            self.exchange.streamed = False
        return not self._trailers

    async def _send_last(self, message: Message) -> None:
        inner_send = self._inner_send
        await inner_send(message)
        try:
            self._completed(message)
        except Exception as error:
            self._fault(error)

    def _path_sent(self, message: Message) -> None:
        if not self._trailers:
            self._completed(message)

    def _zerocopy_sent(self, message: Message) -> None:
        if isinstance(count := message.get("count"), int):
            self.exchange.sent_bytes += count
        if not message.get("more_body", False) and not self._trailers:
            self._completed(message)

    def _trailers_sent(self, message: Message) -> None:
        if not message.get("more_trailers", False):
            self._completed(message)

    def _completed(self, _: Message) -> None:
        """Fix the duration: the last byte was handed to the server."""
        exchange = self.exchange
        if not self._started or self._complete or exchange.finished:
            self._valid = False
            return
        self._complete = True
        clock = self._observer.clock
        elapsed_ns = clock() - exchange.started_ns
        exchange.duration_us = (elapsed_ns + 500) // 1_000 if elapsed_ns > 0 else 0
        if exchange.first_byte_us is None:
            exchange.first_byte_us = exchange.duration_us
        # A 5xx waits for the app to return: the exception that explains it is still on its way. So may it be for an answer
        # that nobody was left to receive.
        if exchange.status < 500 and not (exchange.client_gone and exchange.status == CLIENT_CLOSED_REQUEST):
            self._finish(complete=True)

    def _end(self, error: BaseException | None) -> None:
        exchange = self.exchange
        if not self._complete:
            exchange.duration_us = self._elapsed_us()
        exchange.error = error
        self._finish(complete=self._complete)

    _AFTER: ClassVar[dict[str, Then]] = {
        "http.response.trailers": _trailers_sent,
        "http.response.pathsend": _path_sent,
        "http.response.zerocopysend": _zerocopy_sent,
    }


class WebSocketWatch(Watch):
    """Watches a handshake and what follows it."""

    __slots__ = ()

    def _received(self, message: Message) -> None:
        exchange = self.exchange
        kind = message["type"]
        if kind == "websocket.receive":
            exchange.received_messages += 1
            exchange.received_bytes += _payload_size(message)
        elif kind == "websocket.disconnect":
            exchange.client_gone = True
            if exchange.close_code is None:
                exchange.close_code = message.get("code", 1005)

    def send(self, message: Message) -> Awaitable[None]:
        """Note a message, and hand it on."""
        try:
            kind = message["type"]
            if kind in ("websocket.accept", "websocket.http.response.start"):
                message = self._sending_start(message)
            elif kind in self._AFTER:
                return self._send_then(message, self._AFTER[kind])
        except Exception as error:
            self._fault(error)
        inner_send = self._inner_send
        return inner_send(message)

    def _sending_start(self, message: Message) -> Message:
        if self._started:
            self._valid = False
            return message
        self._started = True
        accepted = message["type"] == "websocket.accept"
        self._denied = not accepted
        status = SWITCHING_PROTOCOLS if accepted else message.get("status")
        return self._answering(message, status, may_stream=self._denied)

    def _answering(self, message: Message, status: Any, *, may_stream: bool) -> Message:
        exchange = self.exchange
        exchange.handshake_us = self._elapsed_us()
        exchange.status = CLIENT_CLOSED_REQUEST if exchange.client_gone else _status(status)
        # The span ends here, and has to know what became of the handshake.
        exchange.judge(complete=True)
        return super()._answering(message, exchange.status, may_stream=may_stream)

    def _message_sent(self, message: Message) -> None:
        self.exchange.sent_messages += 1
        self.exchange.sent_bytes += _payload_size(message)

    def _denial_sent(self, message: Message) -> None:
        self.exchange.sent_bytes += _size(message.get("body") or b"")
        self._complete = not message.get("more_body", False)

    def _closed(self, message: Message) -> None:
        exchange = self.exchange
        if exchange.close_code is None:
            exchange.close_code = message.get("code", 1000)
        if not self._started:
            # Closing before accepting is a refusal: the server answers the handshake with 403.
            self._started = True
            self._answering({}, 403, may_stream=False)

    def _end(self, error: BaseException | None) -> None:
        exchange = self.exchange
        if not self._complete:
            exchange.duration_us = self._elapsed_us()
        exchange.error = error
        if exchange.status == SWITCHING_PROTOCOLS and error is not None and exchange.close_code is None:
            exchange.close_code = ABNORMAL_CLOSURE
        self._finish(complete=self._complete if self._denied else self._started and error is None)

    _AFTER: ClassVar[dict[str, Then]] = {
        "websocket.send": _message_sent,
        "websocket.close": _closed,
        "websocket.http.response.body": _denial_sent,
    }


def _status(status: Any) -> int:
    """Read what the app sent as a status: an int, an HTTPStatus, or something only the server can judge."""
    if type(status) is int:
        return status
    try:
        return int(status)
    except Exception:
        return 500


def _names(headers: Any) -> Container[bytes]:
    """Read the names of headers, lower-case."""
    try:
        named: dict[bytes, Any] = dict(headers)
        if b"".join(named).islower():
            return named
    except Exception:  # noqa: S110 - headers that are no pairs of bytes only the server can judge
        pass
    return {_name(header) for header in headers}


def _without(headers: Any, name: bytes) -> list[Any]:
    return [header for header in headers if _name(header) != name]


def _name(header: Any) -> bytes:
    """Read a header's name, lower-case; empty for something only the server can judge."""
    try:
        name = header[0]
        return (name.encode("latin-1") if isinstance(name, str) else bytes(name)).lower()
    except Exception:
        return b""


def _with(headers: Iterator[Any], added: Headers) -> Iterator[Any]:
    ours = {name for name, _ in added}
    return chain((header for header in headers if _name(header) not in ours), added)


def _size(body: Any) -> int:
    if isinstance(body, memoryview):
        return body.nbytes
    return len(body) if hasattr(body, "__len__") else 0


def _payload_size(message: Message) -> int:
    data = message.get("bytes")
    if data is None:
        text = message.get("text")
        return len(text.encode("utf-8", "replace")) if isinstance(text, str) else 0
    return _size(data)

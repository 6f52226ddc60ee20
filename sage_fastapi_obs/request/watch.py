"""One exchange being watched: what passes between server and app, when the response is over, and how it ended."""

from collections.abc import Awaitable, Callable, Iterator
from itertools import chain
from typing import Any, Protocol

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

__all__ = ["Observer", "Watch"]

BACKGROUND_THRESHOLD_US = 10_000
"""Work after the last byte shorter than this is the framework tidying up, not a background task."""
_STARTS = frozenset({"http.response.start", "websocket.accept", "websocket.http.response.start"})
_AFTER = {
    "http.response.trailers": "_trailers_sent",
    "http.response.pathsend": "_path_sent",
    "http.response.zerocopysend": "_zerocopy_sent",
    "websocket.send": "_websocket_sent",
    "websocket.close": "_websocket_closed",
    "websocket.http.response.body": "_denial_sent",
}
"""What to note after a message has gone out, by its type."""
_KNOWN = {
    protocol: frozenset(kind for kind in (*_STARTS, *_AFTER, "http.response.body") if kind.startswith(f"{protocol}."))
    for protocol in ("http", "websocket")
}
"""The messages of each protocol that mean something here; all others just pass."""
_NO_SCOPE: Scope = {}


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
        "_inner_receive",
        "_inner_send",
        "_known",
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
        if not isinstance(scope.get("headers", ()), list | tuple):
            # Any iterable is allowed; one that can be read only once is the app's.
            scope["headers"] = list(scope["headers"])
        exchange = Exchange(scope, started_ns=observer.clock(), wall_ns=observer.wall_clock(), observer=observer)
        exchange.excluded = observer.excludes(scope)
        exchange.outer = current_exchange.get()
        self.exchange = exchange
        self._observer = observer
        self._template = template
        self._inner_receive = receive
        self._inner_send = send
        self._moments = observer.excluded_moments if exchange.excluded else observer.moments
        self._known = _KNOWN[exchange.kind]
        self._started = self._complete = self._trailers = self._denied = False
        self._valid = True
        scope[SCOPE_KEY] = exchange
        self._token = current_exchange.set(exchange)
        self._moments.request_started(exchange)

    async def receive(self) -> Message:
        """Hand on what the client sent."""
        message = await self._inner_receive()
        try:
            self._received(message)
        except Exception as error:
            self._fault(error)
        return message

    def send(self, message: Message) -> Awaitable[None]:
        """Hand on what the app sends.

        Not a coroutine: a chunk in the middle of a stream costs a call, not a task step of our own.
        """
        try:
            outgoing, then = self._sending(message)
        except Exception as error:
            self._fault(error)
            outgoing, then = message, None
        if then is None:
            return self._inner_send(outgoing)
        return self._send_then(outgoing, then)

    async def _send_then(self, message: Message, then: Callable[[Message], None]) -> None:
        await self._inner_send(message)
        try:
            then(message)
        except Exception as error:
            self._fault(error)

    def close(self, error: BaseException | None) -> None:
        """End the watch: the app has returned, failed or was cancelled."""
        try:
            if self.exchange.finished:
                self._end_background(error)
            else:
                self._end(error)
        except Exception as fault:
            self._fault(fault)
        try:
            current_exchange.reset(self._token)
        except ValueError:
            # Closed by the garbage collector, in a context that never saw this request: nothing to undo there.
            return
        self._moments.app_returned(self.exchange)
        # The scope knows the exchange; were the exchange to know the scope for longer, every request would be a cycle for
        # the garbage collector to find.
        self.exchange.scope = _NO_SCOPE

    def _received(self, message: Message) -> None:
        exchange = self.exchange
        kind = message["type"]
        if kind == "http.request":
            exchange.received_bytes += _size(message.get("body") or b"")
        elif kind == "http.disconnect":
            exchange.client_gone = exchange.client_gone or not self._complete
        elif kind == "websocket.receive":
            exchange.received_messages += 1
            exchange.received_bytes += _payload_size(message)
        elif kind == "websocket.disconnect":
            exchange.client_gone = True
            if exchange.close_code is None:
                exchange.close_code = message.get("code", 1005)

    def _sending(self, message: Message) -> tuple[Message, Callable[[Message], None] | None]:
        """Note a message before it goes out; return it, and what to do when it has gone."""
        kind = message["type"]
        if kind not in self._known:
            return message, None
        if kind == "http.response.body":
            return self._sending_body(message)
        if kind in _STARTS:
            return self._sending_start(message), None
        after = _AFTER.get(kind)
        return message, None if after is None else getattr(self, after)

    def _sending_body(self, message: Message) -> tuple[Message, Callable[[Message], None] | None]:
        exchange = self.exchange
        body = message.get("body")
        if body:
            exchange.sent_bytes += _size(body)
        if not self._started or self._complete:
            self._valid = False
            return message, None
        last = not message.get("more_body", False)
        if exchange.first_byte_us is None:
            exchange.first_byte_us = self._elapsed_us()
            if last:
                # Whole in one piece: nothing was streamed, whatever the headers left open.
                exchange.streamed = False
        return message, self._completed if last and not self._trailers else None

    def _sending_start(self, message: Message) -> Message:
        if self._started:
            self._valid = False
            return message
        self._started = True
        exchange = self.exchange
        accepted = message["type"] == "websocket.accept"
        self._denied = exchange.kind == "websocket" and not accepted
        exchange.status = SWITCHING_PROTOCOLS if accepted else _status(message.get("status"))
        if exchange.client_gone:
            # Nobody is left to receive it; that is the client's doing, whatever the app made of it.
            exchange.status = CLIENT_CLOSED_REQUEST
        self._trailers = bool(message.get("trailers", False))
        headers = message.get("headers", ())
        added = self._answered()
        if isinstance(headers, Iterator):
            # The server reads it, as without us: should it fail, it has to fail there.
            exchange.streamed = not accepted
            return {**message, "headers": _with(headers, added)}
        if not hasattr(headers, "__iter__"):
            return message
        names = [_name(header) for header in headers]
        exchange.streamed = not accepted and b"content-length" not in names
        if not added:
            return message
        ours = {name for name, _ in added}
        return {**message, "headers": [*(h for h, name in zip(headers, names, strict=True) if name not in ours), *added]}

    def _answered(self) -> Headers:
        """Fix what is known when the response starts, and tell it."""
        exchange = self.exchange
        if not exchange.finished:
            exchange.route = self._template(exchange)
        if exchange.kind == "websocket":
            exchange.handshake_us = self._elapsed_us()
            # The span ends here, and has to know what became of the handshake.
            exchange.judge(complete=True)
        return self._moments.response_started(exchange)

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

    def _websocket_sent(self, message: Message) -> None:
        self.exchange.sent_messages += 1
        self.exchange.sent_bytes += _payload_size(message)

    def _denial_sent(self, message: Message) -> None:
        self.exchange.sent_bytes += _size(message.get("body") or b"")
        self._complete = not message.get("more_body", False)

    def _websocket_closed(self, message: Message) -> None:
        exchange = self.exchange
        if exchange.close_code is None:
            exchange.close_code = message.get("code", 1000)
        if not self._started:
            # Closing before accepting is a refusal: the server answers the handshake with 403.
            self._started = True
            exchange.status = 403
            self._answered()

    def _completed(self, _: Message) -> None:
        """Fix the duration: the last byte was handed to the server."""
        exchange = self.exchange
        if not self._started or self._complete or exchange.finished:
            self._valid = False
            return
        self._complete = True
        exchange.duration_us = self._elapsed_us()
        if exchange.first_byte_us is None:
            exchange.first_byte_us = exchange.duration_us
        # A 5xx waits for the app to return: the exception that explains it is still on its way. So may it be for an answer
        # that nobody was left to receive.
        unheard = exchange.client_gone and exchange.status == CLIENT_CLOSED_REQUEST
        if exchange.status < 500 and not unheard:
            self._finish(complete=True)

    def _end(self, error: BaseException | None) -> None:
        exchange = self.exchange
        if not self._complete:
            exchange.duration_us = self._elapsed_us()
        exchange.error = error
        accepted = exchange.status == SWITCHING_PROTOCOLS and exchange.kind == "websocket"
        if accepted and error is not None and exchange.close_code is None:
            exchange.close_code = ABNORMAL_CLOSURE
        if exchange.kind == "websocket" and not self._denied:
            self._finish(complete=self._started and error is None)
        else:
            self._finish(complete=self._complete)

    def _finish(self, *, complete: bool) -> None:
        exchange = self.exchange
        exchange.finished = True
        if exchange.route is None:
            exchange.route = self._template(exchange)
        exchange.judge(complete=complete, valid=self._valid)
        self._moments.request_finished(exchange)

    def _end_background(self, error: BaseException | None) -> None:
        exchange = self.exchange
        worked_us = self._elapsed_us() - exchange.duration_us
        if worked_us >= BACKGROUND_THRESHOLD_US or error is not None:
            exchange.background_us = max(0, worked_us)
            exchange.background_error = error if exchange.is_failure(error) else None
            self._moments.background_finished(exchange)

    def _elapsed_us(self) -> int:
        try:
            now_ns = self._observer.clock()
        except Exception as error:
            # An exchange without a duration still has to be counted out.
            self._fault(error)
            return self.exchange.duration_us
        return max(0, (now_ns - self.exchange.started_ns + 500) // 1_000)

    def _fault(self, error: Exception) -> None:
        self._observer.faults.count("ObservabilityMiddleware", error)


def _status(status: Any) -> int:
    """Read what the app sent as a status: an int, an HTTPStatus, or something only the server can judge."""
    try:
        return int(status)
    except Exception:
        return 500


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

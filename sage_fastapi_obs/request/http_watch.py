"""Watches an HTTP request and its response: what each ASGI message means for the exchange."""

from collections.abc import Awaitable

from starlette.types import Message

from sage_fastapi_obs.otel_internals import attach
from sage_fastapi_obs.request.exchange import current_exchange
from sage_fastapi_obs.request.headers import content_length, with_headers
from sage_fastapi_obs.request.in_flight import note_answering, note_streaming
from sage_fastapi_obs.request.outcome import CLIENT_CLOSED_REQUEST, is_failure
from sage_fastapi_obs.request.watch import Watch, elapsed_us, reenter, size_of, status_of

_set_current = current_exchange.set
AWAITED, STARTED, STREAMING, ENDING, CLOSED, COMPLETE = range(6)
"""How far a response has come. STREAMING: a part of its body is sent, and more will come. ENDING: the server has its last
message, and has not returned yet. CLOSED: meanwhile it has said that the client is gone. COMPLETE: it has taken everything."""
_OTHER_ENDS = frozenset({"http.response.trailers", "http.response.pathsend", "http.response.zerocopysend"})
_BODILESS = frozenset({204, 304})


class HttpWatch(Watch):
    """Watches a request and its response.

    The code that every request runs is written out in two long functions: calls of small ones would make it a tenth dearer.

    While the server reads on and ends the response, neither the exchange nor its span is current. The server starts tasks then
    that inherit the context and outlive the exchange: the next request of the connection, and the reading of the transport.
    """

    __slots__ = ("_state", "_trailers", "_unsized")

    def _prepare(self) -> None:
        self._state = AWAITED
        self._trailers = self._unsized = False
        """Whether trailers follow the body; and whether a part of the body is sent by the server itself, from a file."""

    async def receive(self) -> Message:
        """Pass on a message of the client, and note it."""
        inner_receive = self._inner_receive
        exchange = self.exchange
        token, outside = _set_current(exchange.parent), exchange.outer_context
        if outside is not None:
            outside = attach(outside)
        try:
            message = await inner_receive()
        finally:
            reenter(token, outside)
        try:
            kind = message["type"]
            if kind == "http.request":
                self.exchange.received_bytes += size_of(message.get("body") or b"")
            elif kind == "http.disconnect":
                self._client_left()
        except Exception as error:
            self._count_error(error)
        return message

    async def send(self, message: Message) -> None:  # noqa: C901, PLR0912 - written out, see above
        """Note a message of the app, and pass it on."""
        size = 0
        starts = ends = False
        try:
            kind = message["type"]
            if kind == "http.response.body":
                body = message.get("body")
                if body:
                    size = len(body) if type(body) is bytes else size_of(body)
                    self.exchange.sent_bytes += size
                if message.get("more_body"):
                    if self._state != STREAMING:
                        self._start_streaming()
                elif not self._trailers:
                    ends = self._start_ending()
                elif self._state == STARTED:
                    # Only trailers will follow.
                    self._state, self.exchange.streamed = STREAMING, False
            elif kind == "http.response.start":
                if self._state == AWAITED:
                    starts, self._state = True, STARTED
                    self._trailers = message.get("trailers", False)
                    message = self._response_started(message, message.get("status"), may_stream=True)
                else:
                    self._valid = False
            elif kind in _OTHER_ENDS:
                size = self._measure(message)
                self.exchange.sent_bytes += size
                ends = self._ends_with(message) and self._start_ending()
        except Exception as error:
            self._count_error(error)
        inner_send = self._inner_send
        try:
            await (self._send_outside(message) if ends else inner_send(message))
        except BaseException as error:
            self._send_failed(error, size, starts=starts, ends=ends)
            raise
        if ends:
            self._complete()

    def _start_streaming(self) -> None:
        """Note the first part of a body of several parts."""
        if self._state == STARTED:
            self._state = STREAMING
            self.exchange.first_byte_us = elapsed_us(self.exchange)
            if self.exchange.record is not None:
                note_streaming(self.exchange.record)
        else:
            self._valid = False

    def _measure(self, message: Message) -> int:
        """Return the size of a part of the body that the server reads itself; 0 if the message does not say it."""
        if message["type"] == "http.response.trailers":
            return 0
        count = message.get("count")
        if isinstance(count, int):
            return max(0, count)
        self._unsized = True
        return 0

    def _ends_with(self, message: Message) -> bool:
        """Tell whether a response ends with a message that has no bytes of its body."""
        if message["type"] == "http.response.trailers":
            return not message.get("more_trailers", False)
        if message.get("more_body", False) and self._state != STREAMING:
            self._start_streaming()
        return not message.get("more_body", False) and not self._trailers

    async def _send_outside(self, message: Message) -> None:
        """Pass on the last message, outside of the exchange."""
        exchange = self.exchange
        token, outside = _set_current(exchange.parent), exchange.outer_context
        if outside is not None:
            outside = attach(outside)
        inner_send = self._inner_send
        try:
            await inner_send(message)
        finally:
            reenter(token, outside)

    def _start_ending(self) -> bool:
        """Note that the last message is about to be sent; return False for a message after the last."""
        if self._state == STARTED:
            # All in one message: nothing was streamed, also without a content-length.
            self.exchange.streamed = False
        elif self._state != STREAMING:
            self._valid = False
            return False
        self._state = ENDING
        exchange = self.exchange
        if exchange.record is not None:
            note_answering(exchange.record, exchange.status)
        return True

    def _client_left(self) -> None:
        """Note that the client has gone: in mid-stream, or with a whole response, which is a normal end."""
        if self._state == ENDING:
            self._state = CLOSED
        elif self._has_sent_all():
            self._complete()
        elif self._state < ENDING:
            self.exchange.client_gone = True

    def _has_sent_all(self) -> bool:
        """Tell whether the app has sent as many bytes as its headers announce."""
        if self._state not in (STARTED, STREAMING):
            return False
        announced = self._announced_bytes()
        return announced is not None and self.exchange.sent_bytes >= announced

    def _announced_bytes(self) -> int | None:
        """Return the length of the body by the headers; None if they do not say it, or can be read only once."""
        exchange = self.exchange
        if exchange.method == "HEAD" or exchange.status in _BODILESS:
            return 0
        return content_length(exchange.response_headers)

    def _send_failed(self, error: BaseException, size: int, *, starts: bool, ends: bool) -> None:
        """Undo the notes about a message that the server has refused; it may have been the first or the last one."""
        # Not `isinstance`: it asks an exception, which may fail.
        kind = type(error)
        if ends and self._state == CLOSED and not issubclass(kind, Exception):
            # The client has gone, and the app has cancelled the sending of the last message.
            self._complete()
            return
        if self._state != COMPLETE:
            self.exchange.sent_bytes -= size
            if ends:
                self._state = STREAMING
            elif starts and issubclass(kind, Exception):
                # Refused, so that no response has started. When the sending was cancelled, it may have.
                self._state, self.exchange.status = AWAITED, 0
        if issubclass(kind, OSError):
            self._client_left()
            self.exchange.client_gone = True

    def _complete(self) -> None:
        """Fix the numbers of a whole response, and call the recorders."""
        try:
            exchange = self.exchange
            self._state = COMPLETE
            if self._unsized:
                exchange.sent_bytes = self._announced_bytes() or exchange.sent_bytes
            # The duration is fixed here: the server has taken the last byte.
            clock = self._observer.clock
            elapsed_ns = clock() - exchange.started_ns
            exchange.duration_us = (elapsed_ns + 500) // 1_000 if elapsed_ns > 0 else 0
            # A 5xx is finished when the app returns, because the exception behind it is still to be raised. So may one be
            # for a response to a client that has gone.
            if exchange.status < 500 and not (exchange.client_gone and exchange.status == CLIENT_CLOSED_REQUEST):
                self._finish(complete=True)
                # Background work of the app counts from here.
                self._finished_at_ns = clock()
        except Exception as error:
            self._count_error(error)

    def _end(self, error: BaseException | None) -> None:
        exchange = self.exchange
        exchange.error = error
        complete = self._state == COMPLETE
        if not complete:
            complete = (self._state > STREAMING or self._has_sent_all()) and not is_failure(exchange, error)
            # Messages from now on are not counted.
            self._state = COMPLETE
            exchange.duration_us = elapsed_us(exchange)
        self._finish(complete=complete)


class IdsOnlyWatch(Watch):
    """Adds the ids to a response, and watches no further: for an `Observability` without any other recorder."""

    __slots__ = ()

    def _prepare(self) -> None:
        pass

    async def receive(self) -> Message:
        """Pass on a message of the client, and note it."""
        inner_receive = self._inner_receive
        return await inner_receive()

    def send(self, message: Message) -> Awaitable[None]:
        """Add our headers to the start of the response, and pass everything on."""
        try:
            if message["type"] == "http.response.start" and not self.exchange.status:
                status = message.get("status")
                self.exchange.status = status if type(status) is int else status_of(status)
                message, _ = with_headers(message, self._added_headers())
        except Exception as error:
            self._count_error(error)
        inner_send = self._inner_send
        return inner_send(message)

    def _end(self, _: BaseException | None) -> None:
        self.exchange.finished = True

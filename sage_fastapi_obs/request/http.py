"""A request and its response being watched."""

from collections.abc import Awaitable

from starlette.types import Message

from sage_fastapi_obs.request.current import attach
from sage_fastapi_obs.request.exchange import CLIENT_CLOSED_REQUEST, current_exchange
from sage_fastapi_obs.request.headers import with_headers
from sage_fastapi_obs.request.watch import Watch, elapsed_us, size_of, status_of, step_back

__all__ = ["AnswerWatch", "HttpWatch"]

_set_current = current_exchange.set
AWAITED, STARTED, FLOWING, COMPLETE = range(4)
"""How far a response has come; it flows when its body has begun and more is to come."""
OTHER_ENDS = frozenset({"http.response.trailers", "http.response.pathsend", "http.response.zerocopysend"})


class HttpWatch(Watch):
    """Watches a request and its response.

    What every request passes through is written out rather than called: small functions would cost each a tenth more.

    While the server reads on and ends the answer, its code is outside of the exchange. What it starts then inherits the
    context: the next request of the connection, which is nobody's child, and the reading of the transport, which lives longer
    than any exchange.
    """

    __slots__ = ("_state", "_trailers")

    def _prepare(self) -> None:
        self._state = AWAITED
        self._trailers = False
        """Whether trailers come after the body."""

    async def receive(self) -> Message:
        """Hand on what the client sent."""
        inner_receive = self._inner_receive
        exchange = self.exchange
        token, outside = _set_current(exchange.outer), exchange.outside
        if outside is not None:
            outside = attach(outside)
        try:
            message = await inner_receive()
        finally:
            step_back(token, outside)
        try:
            kind = message["type"]
            if kind == "http.request":
                self.exchange.received_bytes += size_of(message.get("body") or b"")
            elif kind == "http.disconnect" and self._state != COMPLETE:
                self.exchange.client_gone = True
        except Exception as error:
            self._fault(error)
        return message

    def send(self, message: Message) -> Awaitable[None]:  # noqa: C901 - written out, see above
        """Note a message, and hand it on.

        Not a coroutine: a chunk in the middle of a stream costs a call, not a task step of our own.
        """
        try:
            kind = message["type"]
            if kind == "http.response.body":
                body = message.get("body")
                if body:
                    self.exchange.sent_bytes += len(body) if type(body) is bytes else size_of(body)
                if message.get("more_body"):
                    if self._state != FLOWING:
                        self._flow()
                elif not self._trailers:
                    return self._send_last(message)
                elif self._state == STARTED:
                    # Only trailers are to come.
                    self._state, self.exchange.streamed = FLOWING, False
            elif kind == "http.response.start":
                if self._state == AWAITED:
                    self._state = STARTED
                    self._trailers = message.get("trailers", False)
                    message = self._answered(message, message.get("status"), may_stream=True)
                else:
                    self._valid = False
            elif kind in OTHER_ENDS and self._ends_with(message):
                return self._send_last(message)
        except Exception as error:
            self._fault(error)
        inner_send = self._inner_send
        return inner_send(message)

    def _flow(self) -> None:
        """Note the first piece of a body when more is to come."""
        if self._state == STARTED:
            self._state = FLOWING
            self.exchange.first_byte_us = elapsed_us(self.exchange)
        else:
            self._valid = False

    def _ends_with(self, message: Message) -> bool:
        """Tell whether a response ends with a message that is no piece of its body as bytes."""
        if message["type"] == "http.response.trailers":
            return not message.get("more_trailers", False)
        if isinstance(count := message.get("count"), int):
            self.exchange.sent_bytes += count
        if message.get("more_body", False) and self._state != FLOWING:
            self._flow()
        return not message.get("more_body", False) and not self._trailers

    async def _send_last(self, message: Message) -> None:
        inner_send = self._inner_send
        exchange = self.exchange
        token, outside = _set_current(exchange.outer), exchange.outside
        if outside is not None:
            outside = attach(outside)
        try:
            await inner_send(message)
        finally:
            step_back(token, outside)
        try:
            if self._state == STARTED:
                # Whole in one piece: nothing was streamed, whatever the headers left open.
                exchange.streamed = False
            elif self._state != FLOWING:
                self._valid = False
                return
            self._state = COMPLETE
            # The duration is fixed here: the last byte was handed to the server.
            clock = self._observer.clock
            elapsed_ns = clock() - exchange.started_ns
            exchange.duration_us = (elapsed_ns + 500) // 1_000 if elapsed_ns > 0 else 0
            # A 5xx waits for the app to return: the exception that explains it is still on its way. So may it be for an
            # answer that nobody was left to receive.
            if exchange.status < 500 and not (exchange.client_gone and exchange.status == CLIENT_CLOSED_REQUEST):
                self._finish(complete=True)
        except Exception as error:
            self._fault(error)

    def _end(self, error: BaseException | None) -> None:
        exchange = self.exchange
        complete = self._state == COMPLETE
        if not complete:
            # What is sent from now on comes too late to be counted.
            self._state = COMPLETE
            exchange.duration_us = elapsed_us(exchange)
        exchange.error = error
        self._finish(complete=complete)


class AnswerWatch(Watch):
    """Watches a request until it is answered: all there is to do when nobody asks how it ends."""

    __slots__ = ()

    def _prepare(self) -> None:
        pass

    async def receive(self) -> Message:
        """Hand on what the client sent."""
        inner_receive = self._inner_receive
        return await inner_receive()

    def send(self, message: Message) -> Awaitable[None]:
        """Note the start of the response, and hand everything on."""
        try:
            if message["type"] == "http.response.start" and not self.exchange.status:
                status = message.get("status")
                self.exchange.status = status if type(status) is int else status_of(status)
                message, _ = with_headers(message, self._our_headers())
        except Exception as error:
            self._fault(error)
        inner_send = self._inner_send
        return inner_send(message)

    def _end(self, _: BaseException | None) -> None:
        self.exchange.finished = True

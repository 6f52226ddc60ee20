"""A request and its response being watched."""

from collections.abc import Awaitable
from typing import Any

from starlette.types import Message

from sage_fastapi_obs.request.current_span import attach
from sage_fastapi_obs.request.exchange import CLIENT_CLOSED_REQUEST, current_exchange
from sage_fastapi_obs.request.headers import content_length, with_headers
from sage_fastapi_obs.request.watch import Watch, elapsed_us, size_of, status_of, step_back

__all__ = ["HttpWatch", "IdsOnlyWatch"]

_set_current = current_exchange.set
AWAITED, STARTED, FLOWING, HANDED_OVER, CLOSED, COMPLETE = range(6)
"""How far a response has come. It flows when its body has begun and more is to come. Its last message is handed over before the
server has taken it, and when the server says meanwhile that the exchange is over, it is closed."""
OTHER_ENDS = frozenset({"http.response.trailers", "http.response.pathsend", "http.response.zerocopysend"})
BODILESS = frozenset({204, 304})


class HttpWatch(Watch):
    """Watches a request and its response.

    What every request passes through is written out rather than called: small functions would cost each a tenth more.

    While the server reads on and ends the answer, its code is outside of the exchange. What it starts then inherits the
    context: the next request of the connection, which is nobody's child, and the reading of the transport, which lives longer
    than any exchange.
    """

    __slots__ = ("_headers", "_state", "_trailers", "_unsized")

    def _prepare(self) -> None:
        self._state = AWAITED
        self._headers: Any = None
        """Of the response."""
        self._trailers = self._unsized = False
        """Whether trailers come after the body; and whether it has a piece that only the server can measure."""

    async def receive(self) -> Message:
        """Hand on what the client sent."""
        inner_receive = self._inner_receive
        exchange = self.exchange
        token, outside = _set_current(exchange.parent), exchange.outer_context
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
            elif kind == "http.disconnect":
                self._client_left()
        except Exception as error:
            self._fault(error)
        return message

    async def send(self, message: Message) -> None:  # noqa: C901, PLR0912 - written out, see above
        """Note a message, and hand it on."""
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
                    if self._state != FLOWING:
                        self._flow()
                elif not self._trailers:
                    ends = self._hand_over()
                elif self._state == STARTED:
                    # Only trailers are to come.
                    self._state, self.exchange.streamed = FLOWING, False
            elif kind == "http.response.start":
                if self._state == AWAITED:
                    starts, self._state = True, STARTED
                    self._trailers = message.get("trailers", False)
                    self._headers = message.get("headers")
                    message = self._answered(message, message.get("status"), may_stream=True)
                else:
                    self._valid = False
            elif kind in OTHER_ENDS:
                size = self._measure(message)
                self.exchange.sent_bytes += size
                ends = self._ends_with(message) and self._hand_over()
        except Exception as error:
            self._fault(error)
        inner_send = self._inner_send
        try:
            await (self._send_outside(message) if ends else inner_send(message))
        except BaseException as error:
            self._not_taken(error, size, starts=starts, ends=ends)
            raise
        if ends:
            self._complete()

    def _flow(self) -> None:
        """Note the first piece of a body when more is to come."""
        if self._state == STARTED:
            self._state = FLOWING
            self.exchange.first_byte_us = elapsed_us(self.exchange)
        else:
            self._valid = False

    def _measure(self, message: Message) -> int:
        """Return the size of a piece of the body that the server reads itself, as far as it is told."""
        if message["type"] == "http.response.trailers":
            return 0
        count = message.get("count")
        if isinstance(count, int):
            return max(0, count)
        self._unsized = True
        return 0

    def _ends_with(self, message: Message) -> bool:
        """Tell whether a response ends with a message that is no piece of its body as bytes."""
        if message["type"] == "http.response.trailers":
            return not message.get("more_trailers", False)
        if message.get("more_body", False) and self._state != FLOWING:
            self._flow()
        return not message.get("more_body", False) and not self._trailers

    async def _send_outside(self, message: Message) -> None:
        """Hand on the last message, see above."""
        exchange = self.exchange
        token, outside = _set_current(exchange.parent), exchange.outer_context
        if outside is not None:
            outside = attach(outside)
        inner_send = self._inner_send
        try:
            await inner_send(message)
        finally:
            step_back(token, outside)

    def _hand_over(self) -> bool:
        """Note the last message before the server takes it; tell whether it is one.

        What the server says while it takes it, or the client does, is no longer about the response.
        """
        if self._state == STARTED:
            # Whole in one piece: nothing was streamed, whatever the headers left open.
            self.exchange.streamed = False
        elif self._state != FLOWING:
            self._valid = False
            return False
        self._state = HANDED_OVER
        return True

    def _client_left(self) -> None:
        """Note that the client has gone, which is its right once it has everything."""
        if self._state == HANDED_OVER:
            self._state = CLOSED
        elif self._is_all_sent():
            self._complete()
        elif self._state < HANDED_OVER:
            self.exchange.client_gone = True

    def _is_all_sent(self) -> bool:
        """Tell whether all bytes that the headers announce were handed over, though more messages may come."""
        if self._state not in (STARTED, FLOWING):
            return False
        announced = self._announced_bytes()
        return announced is not None and self.exchange.sent_bytes >= announced

    def _announced_bytes(self) -> int | None:
        """Return the length of the body by the headers; None where they leave it open, or cannot be read twice."""
        exchange = self.exchange
        if exchange.method == "HEAD" or exchange.status in BODILESS:
            return 0
        return content_length(self._headers)

    def _not_taken(self, error: BaseException, size: int, *, starts: bool, ends: bool) -> None:
        """Note that the server has not taken a message of some size, which was to start or to end the response."""
        if ends and self._state == CLOSED and not isinstance(error, Exception):
            # Told that the exchange is over, the app has cancelled what it was about to finish.
            self._complete()
            return
        if self._state != COMPLETE:
            self.exchange.sent_bytes -= size
            if ends:
                self._state = FLOWING
            elif starts and isinstance(error, Exception):
                # Refused, so that nothing of a response is out; one whose sending is cancelled may be.
                self._state, self.exchange.status = AWAITED, 0
        if isinstance(error, OSError):
            self._client_left()
            self.exchange.client_gone = True

    def _complete(self) -> None:
        """Fix the numbers of a whole response, and tell it."""
        try:
            exchange = self.exchange
            self._state = COMPLETE
            if self._unsized:
                exchange.sent_bytes = self._announced_bytes() or exchange.sent_bytes
            # The duration is fixed here: the server has taken the last byte.
            clock = self._observer.clock
            elapsed_ns = clock() - exchange.started_ns
            exchange.duration_us = (elapsed_ns + 500) // 1_000 if elapsed_ns > 0 else 0
            # A 5xx waits for the app to return: the exception that explains it is still on its way. So may it be for an
            # answer that nobody was left to receive.
            if exchange.status < 500 and not (exchange.client_gone and exchange.status == CLIENT_CLOSED_REQUEST):
                self._finish(complete=True)
                # What the app does from here on is its own, and none of ours.
                self._told_ns = clock()
        except Exception as error:
            self._fault(error)

    def _end(self, error: BaseException | None) -> None:
        exchange = self.exchange
        exchange.error = error
        complete = self._state == COMPLETE
        if not complete:
            complete = (self._state > FLOWING or self._is_all_sent()) and not exchange.is_failure(error)
            # What is sent from now on comes too late to be counted.
            self._state = COMPLETE
            exchange.duration_us = elapsed_us(exchange)
        self._finish(complete=complete)


class IdsOnlyWatch(Watch):
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

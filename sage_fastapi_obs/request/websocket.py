"""A WebSocket being watched: its handshake, and what follows it."""

from collections.abc import Awaitable, Callable
from typing import Any, ClassVar

from starlette.types import Message

from sage_fastapi_obs.request.exchange import ABNORMAL_CLOSURE, CLIENT_CLOSED_REQUEST, SWITCHING_PROTOCOLS, Socket
from sage_fastapi_obs.request.watch import Watch, elapsed_us, size_of, status_of

__all__ = ["WebSocketWatch"]

Then = Callable[[Any, Message], None]
"""What to note after a message has gone out."""


class WebSocketWatch(Watch):
    """Watches a handshake and what follows it."""

    __slots__ = ("_answered_already", "_complete", "_denied", "_socket")

    def _prepare(self) -> None:
        self.exchange.socket = self._socket = Socket()
        self._answered_already = self._denied = self._complete = False
        """Whether the handshake was answered; with a response; and whether that is complete."""

    async def receive(self) -> Message:
        """Hand on what the client sent."""
        message = await self._inner_receive()
        try:
            self._received(message)
        except Exception as error:
            self._fault(error)
        return message

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

    async def _send_then(self, message: Message, then: Then) -> None:
        inner_send = self._inner_send
        await inner_send(message)
        try:
            then(self, message)
        except Exception as error:
            self._fault(error)

    def _received(self, message: Message) -> None:
        kind = message["type"]
        if kind == "websocket.receive":
            self._socket.received_messages += 1
            self.exchange.received_bytes += _payload_size(message)
        elif kind == "websocket.disconnect":
            self.exchange.client_gone = True
            if self._socket.close_code is None:
                self._socket.close_code = message.get("code", 1005)

    def _sending_start(self, message: Message) -> Message:
        if self._answered_already:
            self._valid = False
            return message
        accepted = message["type"] == "websocket.accept"
        self._denied = not accepted
        return self._answer(message, SWITCHING_PROTOCOLS if accepted else message.get("status"))

    def _answer(self, message: Message, status: Any) -> Message:
        self._answered_already = True
        exchange = self.exchange
        self._socket.handshake_us = elapsed_us(exchange)
        exchange.status = CLIENT_CLOSED_REQUEST if exchange.client_gone else status_of(status)
        # The span ends here, and has to know what became of the handshake.
        exchange.judge(complete=True)
        return self._answered(message, exchange.status, may_stream=self._denied)

    def _message_sent(self, message: Message) -> None:
        self._socket.sent_messages += 1
        self.exchange.sent_bytes += _payload_size(message)

    def _denial_sent(self, message: Message) -> None:
        self.exchange.sent_bytes += size_of(message.get("body") or b"")
        self._complete = not message.get("more_body", False)

    def _closed(self, message: Message) -> None:
        if self._socket.close_code is None:
            self._socket.close_code = message.get("code", 1000)
        if not self._answered_already:
            # Closing before accepting is a refusal: the server answers the handshake with 403.
            self._answer({}, 403)

    def _end(self, error: BaseException | None) -> None:
        exchange = self.exchange
        exchange.duration_us = elapsed_us(exchange)
        exchange.error = error
        if exchange.status == SWITCHING_PROTOCOLS and error is not None and self._socket.close_code is None:
            self._socket.close_code = ABNORMAL_CLOSURE
        self._finish(complete=self._complete if self._denied else self._answered_already and error is None)

    _AFTER: ClassVar[dict[str, Then]] = {
        "websocket.send": _message_sent,
        "websocket.close": _closed,
        "websocket.http.response.body": _denial_sent,
    }


def _payload_size(message: Message) -> int:
    data = message.get("bytes")
    if data is None:
        text = message.get("text")
        return len(text.encode("utf-8", "replace")) if isinstance(text, str) else 0
    return size_of(data)

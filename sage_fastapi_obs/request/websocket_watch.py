"""A WebSocket being watched: its handshake, and what follows it."""

from typing import Any

from starlette.types import Message

from sage_fastapi_obs.request.exchange import ABNORMAL_CLOSURE, CLIENT_CLOSED_REQUEST, SWITCHING_PROTOCOLS, Socket
from sage_fastapi_obs.request.watch import Watch, elapsed_us, size_of, status_of

__all__ = ["WebSocketWatch"]


class WebSocketWatch(Watch):
    """Watches a handshake and what follows it."""

    __slots__ = ("_answered_already", "_denied", "_over", "_socket")

    def _prepare(self) -> None:
        self.exchange.socket = self._socket = Socket()
        self._answered_already = self._denied = self._over = False
        """Whether the handshake was answered; with a response; and whether the app's last word is with the server."""

    async def receive(self) -> Message:
        """Hand on what the client sent."""
        message = await self._inner_receive()
        try:
            self._received(message)
        except Exception as error:
            self._fault(error)
        return message

    async def send(self, message: Message) -> None:
        """Note a message, hand it on, and count what the server has taken."""
        closing = False
        try:
            closing = message["type"] == "websocket.close" and self._close(message)
            message = self._sending(message)
        except Exception as error:
            self._fault(error)
        inner_send = self._inner_send
        try:
            await inner_send(message)
        except OSError:
            self._client_left_before(closing=closing)
            raise
        try:
            self._taken(message)
        except Exception as error:
            self._fault(error)

    def _received(self, message: Message) -> None:
        kind = message["type"]
        if kind == "websocket.receive":
            self._socket.received_messages += 1
            self.exchange.received_bytes += _payload_size(message)
        elif kind == "websocket.disconnect" and not self._over:
            self.exchange.client_gone = True
            if self._socket.close_code is None:
                code = message.get("code")
                self._socket.close_code = 1005 if code is None else code

    def _sending(self, message: Message) -> Message:
        kind = message["type"]
        if kind in ("websocket.accept", "websocket.http.response.start"):
            return self._sending_start(message)
        if kind == "websocket.http.response.body" and self._denied:
            self._over = not message.get("more_body", False)
        return message

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
        exchange.classify(complete=True)
        return self._answered(message, exchange.status, may_stream=self._denied)

    def _close(self, message: Message) -> bool:
        """Note the app's close before the server answers it; tell whether the connection was open until then."""
        self._over = True
        opened = self._socket.close_code is None
        if opened:
            self._socket.close_code = message.get("code", 1000)
        if not self._answered_already:
            # Closing before accepting is a refusal: the server answers the handshake with 403.
            self._answer({}, 403)
        return opened

    def _taken(self, message: Message) -> None:
        kind = message["type"]
        if kind == "websocket.send":
            self._socket.sent_messages += 1
            self.exchange.sent_bytes += _payload_size(message)
        elif kind == "websocket.http.response.body":
            self.exchange.sent_bytes += size_of(message.get("body") or b"")

    def _client_left_before(self, *, closing: bool) -> None:
        """Note that the server has not taken a message, because the client had gone."""
        self._over = False
        self.exchange.client_gone = True
        if closing or self._socket.close_code is None:
            self._socket.close_code = ABNORMAL_CLOSURE

    def _end(self, error: BaseException | None) -> None:
        exchange = self.exchange
        exchange.duration_us = elapsed_us(exchange)
        exchange.error = error
        if exchange.status == SWITCHING_PROTOCOLS and error is not None and self._socket.close_code is None:
            self._socket.close_code = ABNORMAL_CLOSURE
        if self._over:
            complete = not exchange.is_failure(error)
        else:
            complete = self._answered_already and not self._denied and error is None
        self._finish(complete=complete)


def _payload_size(message: Message) -> int:
    data = message.get("bytes")
    if data is None:
        text = message.get("text")
        return len(text.encode("utf-8", "replace")) if isinstance(text, str) else 0
    return size_of(data)

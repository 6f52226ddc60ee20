"""Watches a WebSocket: its handshake, its messages and its close."""

from typing import Any

from starlette.types import Message

from sage_fastapi_obs.request.exchange import Socket
from sage_fastapi_obs.request.outcome import ABNORMAL_CLOSURE, CLIENT_CLOSED_REQUEST, SWITCHING_PROTOCOLS, classify, is_failure
from sage_fastapi_obs.request.watch import Watch, elapsed_us, size_of, status_of

__all__ = ["WebSocketWatch"]


class WebSocketWatch(Watch):
    """Watches a handshake, the messages after it, and the close."""

    __slots__ = ("_denied", "_has_closed", "_is_answered", "_socket")

    def _prepare(self) -> None:
        self.exchange.socket = self._socket = Socket()
        self._is_answered = self._denied = self._has_closed = False
        """Whether the handshake is answered; whether a response has denied it; whether the app has sent its last message."""

    async def receive(self) -> Message:
        """Pass on a message of the client, and note it."""
        message = await self._inner_receive()
        try:
            self._received(message)
        except Exception as error:
            self._count_error(error)
        return message

    async def send(self, message: Message) -> None:
        """Note a message of the app, pass it on, and count it once the server has taken it."""
        closing = False
        try:
            closing = message["type"] == "websocket.close" and self._close(message)
            message = self._outgoing(message)
        except Exception as error:
            self._count_error(error)
        inner_send = self._inner_send
        try:
            await inner_send(message)
        except OSError:
            self._client_left_during_send(closing=closing)
            raise
        try:
            self._sent(message)
        except Exception as error:
            self._count_error(error)

    def _received(self, message: Message) -> None:
        kind = message["type"]
        if kind == "websocket.receive":
            self._socket.received_messages += 1
            self.exchange.received_bytes += _payload_size(message)
        elif kind == "websocket.disconnect" and not self._has_closed:
            self.exchange.client_gone = True
            if self._socket.close_code is None:
                code = message.get("code")
                self._socket.close_code = 1005 if code is None else code

    def _outgoing(self, message: Message) -> Message:
        kind = message["type"]
        if kind in ("websocket.accept", "websocket.http.response.start"):
            return self._handshake_message(message)
        if kind == "websocket.http.response.body" and self._denied:
            self._has_closed = not message.get("more_body", False)
        return message

    def _handshake_message(self, message: Message) -> Message:
        if self._is_answered:
            self._valid = False
            return message
        accepted = message["type"] == "websocket.accept"
        self._denied = not accepted
        return self._answer_handshake(message, SWITCHING_PROTOCOLS if accepted else message.get("status"))

    def _answer_handshake(self, message: Message, status: Any) -> Message:
        self._is_answered = True
        exchange = self.exchange
        self._socket.handshake_us = elapsed_us(exchange)
        exchange.status = CLIENT_CLOSED_REQUEST if exchange.client_gone else status_of(status)
        # The span ends here, and shows how the handshake has ended.
        classify(exchange, complete=True)
        return self._response_started(message, exchange.status, may_stream=self._denied)

    def _close(self, message: Message) -> bool:
        """Note that the app closes the connection; tell whether it was open until then."""
        self._has_closed = True
        opened = self._socket.close_code is None
        if opened:
            self._socket.close_code = message.get("code", 1000)
        if not self._is_answered:
            # Closing before accepting is a refusal: the server answers the handshake with 403.
            self._answer_handshake({}, 403)
        return opened

    def _sent(self, message: Message) -> None:
        kind = message["type"]
        if kind == "websocket.send":
            self._socket.sent_messages += 1
            self.exchange.sent_bytes += _payload_size(message)
        elif kind == "websocket.http.response.body":
            self.exchange.sent_bytes += size_of(message.get("body") or b"")

    def _client_left_during_send(self, *, closing: bool) -> None:
        """Note that the server has refused a message, because the client had gone."""
        self._has_closed = False
        self.exchange.client_gone = True
        if closing or self._socket.close_code is None:
            self._socket.close_code = ABNORMAL_CLOSURE

    def _end(self, error: BaseException | None) -> None:
        exchange = self.exchange
        exchange.duration_us = elapsed_us(exchange)
        exchange.error = error
        if exchange.status == SWITCHING_PROTOCOLS and error is not None and self._socket.close_code is None:
            self._socket.close_code = ABNORMAL_CLOSURE
        if self._has_closed:
            complete = not is_failure(exchange, error)
        else:
            complete = self._is_answered and not self._denied and error is None
        self._finish(complete=complete)


def _payload_size(message: Message) -> int:
    data = message.get("bytes")
    if data is None:
        text = message.get("text")
        return len(text.encode("utf-8", "replace")) if isinstance(text, str) else 0
    return size_of(data)

"""Producers and consumers of confluent-kafka. They are C objects that cannot be patched, so a proxy is used in their place."""

from collections.abc import Callable
from typing import Any

import confluent_kafka

from sage_fastapi_obs.clients.client_call import OTEL_SCOPE_PREFIX, Call
from sage_fastapi_obs.clients.kafka.messages import Messages, place
from sage_fastapi_obs.clients.patching import Instrumented, count_errors_of, wrong_client

__all__ = ["watch"]

_CALLBACKS = ("on_delivery", "callback")
_OF_PRODUCE = ("value", "key", "partition", "callback", "on_delivery", "timestamp", "headers")
_OF_SERIALIZING = ("key", "value", "partition", "on_delivery", "timestamp", "headers")
"""Arguments after the topic, in order."""


def watch(client: Any) -> Instrumented[Any]:
    """Return a proxy of a producer or a consumer."""
    if issubclass(type(client), _Proxy):
        known: Instrumented[Any] = client._sage_fastapi_obs  # noqa: SLF001 - our own
        return known
    if isinstance(client, confluent_kafka.Producer):
        return _proxied(_Producer, client)
    if isinstance(client, confluent_kafka.Consumer):
        return _proxied(_Consumer, client)
    raise wrong_client("instrument_kafka", "a Producer or a Consumer of confluent_kafka", client)


def _proxied(make: Callable[[Any, Instrumented[Any]], Any], client: Any) -> Instrumented[Any]:
    instrumented = Instrumented(client)
    instrumented.client = make(client, instrumented)
    return instrumented


class _Proxy:
    """Has all that the client has, and its class."""

    def __init__(self, client: Any, instrumented: Instrumented[Any]) -> None:
        self._client = client
        self._sage_fastapi_obs = instrumented
        otel_traced = type(client).__module__.startswith(OTEL_SCOPE_PREFIX)
        self._messages = Messages("confluent_kafka", otel_traced=otel_traced)

    # `isinstance` asks this.
    __class__: Any = property(lambda self: type(self._client))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def __len__(self) -> int:
        return len(self._client)


class _Producer(_Proxy):
    """A proxy of a producer."""

    def produce(self, topic: str, *args: Any, **kwargs: Any) -> Any:
        """Send a message, as the producer does."""
        call = self._sage_fastapi_obs.begin(self._messages.sending, topic)
        if call is None:
            return self._client.produce(topic, *args, **kwargs)
        names = _OF_SERIALIZING if isinstance(self._client, confluent_kafka.SerializingProducer) else _OF_PRODUCE
        given = {**dict(zip(names, args, strict=False)), **kwargs} if len(args) <= len(names) else kwargs
        count_errors_of(lambda: given.update(headers=self._messages.headers(call, given.get("headers"))))
        count_errors_of(lambda: _finish_on_delivery(call, given))
        try:
            return self._client.produce(topic, **given)
        except BaseException as error:
            call.finish(error)
            raise


class _Consumer(_Proxy):
    """A proxy of a consumer."""

    def __init__(self, client: Any, instrumented: Instrumented[Any]) -> None:
        super().__init__(client, instrumented)
        self.poll = self._watched(client.poll, lambda message: [message])
        self.consume = self._watched(client.consume, lambda messages: messages)

    def _watched(self, original: Any, messages_of: Callable[[Any], list[Any]]) -> Any:
        def good(received: Any) -> list[Any]:
            # The others stand for the end of a partition or an error.
            return [message for message in messages_of(received) if message is not None and message.error() is None]

        return self._messages.watched(self._sage_fastapi_obs, original, good)


def _finish_on_delivery(call: Call, given: dict[str, Any]) -> None:
    callback = next((given[name] for name in _CALLBACKS if given.get(name) is not None), None)

    def delivered(error: Any, message: Any) -> None:
        count_errors_of(lambda: _delivered(call, error, message))
        if callback is not None:
            callback(error, message)

    given.pop("callback", None)
    given["on_delivery"] = delivered


def _delivered(call: Call, error: Any, message: Any) -> None:
    if error is None:
        call.set_attributes(place(message.partition(), message.offset()))
        call.finish(None)
    else:
        call.finish(confluent_kafka.KafkaException(error))

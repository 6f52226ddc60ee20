"""Producers and consumers of confluent-kafka: written in C, they take nothing of ours, so that something stands before them."""

from collections.abc import Callable
from typing import Any

import confluent_kafka

from sage_fastapi_obs.clients.client_call import OTEL_SCOPE_PREFIX, Call
from sage_fastapi_obs.clients.kafka.messages import Message, Messages, place
from sage_fastapi_obs.clients.patching import Instrumented, count_errors_of, wrong_client

__all__ = ["watch"]

_CALLBACKS = ("on_delivery", "callback")
_OF_PRODUCE = ("value", "key", "partition", "callback", "on_delivery", "timestamp", "headers")
_OF_SERIALIZING = ("key", "value", "partition", "on_delivery", "timestamp", "headers")
"""Arguments after the topic, in order."""


def watch(client: Any) -> Instrumented[Any]:
    """Put something before a producer or a consumer."""
    if issubclass(type(client), _Before):
        known: Instrumented[Any] = client._sage_fastapi_obs  # noqa: SLF001 - our own
        return known
    if isinstance(client, confluent_kafka.Producer):
        return _before(_Producer, client)
    if isinstance(client, confluent_kafka.Consumer):
        return _before(_Consumer, client)
    raise wrong_client("instrument_kafka", "a Producer or a Consumer of confluent_kafka", client)


def _before(make: Callable[[Any, Instrumented[Any]], Any], client: Any) -> Instrumented[Any]:
    instrumented = Instrumented(client)
    instrumented.client = make(client, instrumented)
    return instrumented


class _Before:
    """Stands before a client, and looks like one."""

    def __init__(self, client: Any, instrumented: Instrumented[Any]) -> None:
        self._client = client
        self._sage_fastapi_obs = instrumented
        otel_traced = type(client).__module__.startswith(OTEL_SCOPE_PREFIX)
        self._messages = Messages("confluent_kafka", otel_traced=otel_traced)

    # Whoever asks of what class it is hears of the client's.
    __class__: Any = property(lambda self: type(self._client))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def __len__(self) -> int:
        return len(self._client)


class _Producer(_Before):
    """Stands before a producer."""

    def produce(self, topic: str, *args: Any, **kwargs: Any) -> Any:
        """Send a message, as the producer behind does."""
        call = self._sage_fastapi_obs.begin(self._messages.sending, topic)
        if call is None:
            return self._client.produce(topic, *args, **kwargs)
        names = _OF_SERIALIZING if isinstance(self._client, confluent_kafka.SerializingProducer) else _OF_PRODUCE
        given = {**dict(zip(names, args, strict=False)), **kwargs} if len(args) <= len(names) else kwargs
        count_errors_of(lambda: given.update(headers=self._messages.headers(call, given.get("headers"))))
        count_errors_of(lambda: _hear_of_delivery(call, given))
        try:
            return self._client.produce(topic, **given)
        except BaseException as error:
            call.finish(error)
            raise


class _Consumer(_Before):
    """Stands before a consumer."""

    def poll(self, *args: Any, **kwargs: Any) -> Any:
        """Wait for a message, as the consumer behind does."""
        return self._receive(self._client.poll, args, kwargs, batch=False)

    def consume(self, *args: Any, **kwargs: Any) -> Any:
        """Wait for messages, as the consumer behind does."""
        return self._receive(self._client.consume, args, kwargs, batch=True)

    def _receive(self, original: Any, args: Any, kwargs: Any, *, batch: bool) -> Any:
        call = self._sage_fastapi_obs.begin(self._messages.receiving)
        try:
            received = original(*args, **kwargs)
        except Exception as error:
            if call is not None:
                call.finish(error)
            raise
        if call is not None:
            found = received if batch else [received]
            # What is no message tells of the end of a partition, or of an error.
            good = [message for message in found if message is not None and message.error() is None]
            count_errors_of(lambda: self._messages.received(call, [*map(Message, good)], batch=batch))
        return received


def _hear_of_delivery(call: Call, given: dict[str, Any]) -> None:
    told = next((given[name] for name in _CALLBACKS if given.get(name) is not None), None)

    def delivered(error: Any, message: Any) -> None:
        count_errors_of(lambda: _delivered(call, error, message))
        if told is not None:
            told(error, message)

    given.pop("callback", None)
    given["on_delivery"] = delivered


def _delivered(call: Call, error: Any, message: Any) -> None:
    if error is None:
        call.set_attributes(place(message.partition(), message.offset()))
        call.finish(None)
    else:
        call.finish(confluent_kafka.KafkaException(error))

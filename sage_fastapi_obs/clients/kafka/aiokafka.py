"""Producers and consumers of aiokafka."""

import asyncio
from functools import partial, wraps
from typing import Any

import aiokafka

from sage_fastapi_obs.clients.client_call import Call, is_instrumented_by_otel
from sage_fastapi_obs.clients.kafka.messages import Messages, place
from sage_fastapi_obs.clients.patching import Instrumented, count_errors_of, instrument_once, wrong_client

__all__ = ["watch"]


def watch(client: Any) -> Instrumented[Any]:
    """Watch a producer or a consumer."""
    if isinstance(client, aiokafka.AIOKafkaProducer):
        return instrument_once(client, _watch_producer)
    if isinstance(client, aiokafka.AIOKafkaConsumer):
        return instrument_once(client, _watch_consumer)
    raise wrong_client("instrument_kafka", "a producer or a consumer of aiokafka", client)


def _watch_producer(instrumented: Instrumented[Any]) -> None:
    messages = Messages("aiokafka", otel_traced=is_instrumented_by_otel(instrumented.client.send))

    def send_of(original: Any) -> Any:
        @wraps(original)
        async def send(topic: str, *args: Any, **kwargs: Any) -> Any:
            call = instrumented.begin(messages.sending, topic)
            if call is None:
                return await original(topic, *args, **kwargs)
            try:
                args, kwargs = messages.with_headers(call, args, kwargs, place=HEADERS_PLACE)
                future = await original(topic, *args, **kwargs)
            except BaseException as error:
                call.finish(error)
                raise
            future.add_done_callback(partial(_acknowledged, call))
            return future

        return send

    instrumented.replace("send", send_of)


HEADERS_PLACE = 4
"""The index of `headers` after the topic: `send(topic, value, key, partition, timestamp_ms, headers)`."""


def _acknowledged(call: Call, future: "asyncio.Future[Any]") -> None:
    if future.cancelled():
        call.finish(asyncio.CancelledError())
        return
    # Not `exception()`: after that, asyncio no longer warns about an exception that the application never reads.
    error = getattr(future, "_exception", None)
    if error is None:
        count_errors_of(lambda: _add_place(call, future.result()))
    call.finish(error)


def _add_place(call: Call, placed: Any) -> None:
    call.set_attributes(place(placed.partition, placed.offset))


def _watch_consumer(instrumented: Instrumented[Any]) -> None:
    group = instrumented.client._group_id  # noqa: SLF001 - it has no public name
    messages = Messages("aiokafka", otel_traced=is_instrumented_by_otel(instrumented.client.getone), group=group)

    def one(message: Any) -> list[Any]:
        return [message]

    def many(by_partition: Any) -> list[Any]:
        return [message for messages in by_partition.values() for message in messages]

    for name, messages_of in (("getone", one), ("getmany", many)):
        instrumented.replace(name, partial(messages.watched, instrumented, messages_of=messages_of))

"""Producers and consumers of aiokafka."""

import asyncio
from functools import partial, wraps
from typing import Any

import aiokafka

from sage_fastapi_obs.clients.client_call import Call, is_instrumented_by_otel
from sage_fastapi_obs.clients.kafka.messages import Message, Messages, place
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

    def put(original: Any) -> Any:
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

    instrumented.replace("send", put)


HEADERS_PLACE = 4
"""Of `send(topic, value, key, partition, timestamp_ms, headers)`, counted from the second argument."""


def _acknowledged(call: Call, future: "asyncio.Future[Any]") -> None:
    if future.cancelled():
        call.finish(asyncio.CancelledError())
        return
    # Not `exception()`: asyncio says so when nobody has asked for it, and we are nobody.
    error = getattr(future, "_exception", None)
    if error is None:
        count_errors_of(lambda: _add_place(call, future.result()))
    call.finish(error)


def _add_place(call: Call, placed: Any) -> None:
    call.set_attributes(place(placed.partition, placed.offset))


def _watch_consumer(instrumented: Instrumented[Any]) -> None:
    group = instrumented.client._group_id  # noqa: SLF001 - it has no public name
    messages = Messages("aiokafka", otel_traced=is_instrumented_by_otel(instrumented.client.getone), group=group)

    def put(original: Any) -> Any:
        batch = original.__name__ == "getmany"

        @wraps(original)
        async def receive(*args: Any, **kwargs: Any) -> Any:
            call = instrumented.begin(messages.receiving)
            try:
                received = await original(*args, **kwargs)
            except Exception as error:
                if call is not None:
                    call.finish(error)
                raise
            if call is not None:
                found = [message for many in received.values() for message in many] if batch else [received]
                count_errors_of(lambda: messages.received(call, [*map(Message, found)], batch=batch))
            return received

        return receive

    instrumented.replace("getone", put)
    instrumented.replace("getmany", put)

"""Messages through both clients of Kafka, over TCP to the mock broker of librdkafka."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import aiokafka
import confluent_kafka
import pytest
from opentelemetry.instrumentation.aiokafka import AIOKafkaInstrumentor
from opentelemetry.instrumentation.confluent_kafka import ConfluentKafkaInstrumentor
from opentelemetry.trace import SpanKind, StatusCode
from servers import KafkaBroker, running
from support import PATIENCE_SECONDS, Watched

from sage_fastapi_obs import CorrelationContext, get_correlation_id, operation
from sage_fastapi_obs.clients.kafka import instrument_kafka, process_message
from sage_fastapi_obs.request.header_override import header_override

PARTITIONS = range(4)


@pytest.fixture
def topic() -> str:
    """Name a topic of the test's own; the broker makes it when it is first used."""
    return f"orders-{uuid.uuid4().hex[:8]}"


@pytest.fixture
async def producer(kafka_at: KafkaBroker) -> AsyncIterator[aiokafka.AIOKafkaProducer]:
    """Open a producer of aiokafka."""
    async with aiokafka.AIOKafkaProducer(bootstrap_servers=kafka_at.address, request_timeout_ms=60_000) as opened:
        yield opened


async def consume(kafka_at: KafkaBroker, topic: str, *, watch: bool = True) -> Any:
    """Open a consumer of aiokafka that reads a topic from its beginning."""
    consumer = aiokafka.AIOKafkaConsumer(bootstrap_servers=kafka_at.address, auto_offset_reset="earliest")
    if watch:
        instrument_kafka(consumer)
    await consumer.start()
    consumer.assign([aiokafka.TopicPartition(topic, partition) for partition in PARTITIONS])
    return consumer


def confluent_consumer(kafka_at: KafkaBroker, topic: str) -> Any:
    """Open a consumer of confluent-kafka that reads a topic from its beginning."""
    consumer = confluent_kafka.Consumer({"bootstrap.servers": kafka_at.address, "group.id": "readers", "log_level": 0})
    consumer.assign([confluent_kafka.TopicPartition(topic, partition, 0) for partition in PARTITIONS])
    return consumer


def polled(consumer: Any) -> Any:
    """Poll until there is a message."""
    for _ in range(100):
        message = consumer.poll(0.2)
        if message is not None and message.error() is None:
            return message
    return None


async def test_a_message_is_a_span_and_carries_the_ids(
    watched: Watched, producer: aiokafka.AIOKafkaProducer, kafka_at: KafkaBroker, topic: str
):
    """From the call to the acknowledgement; the consumer goes on in the same trace, with the same correlation id."""
    instrument_kafka(producer)
    with CorrelationContext("corr-1"), operation("order"):
        placed = await producer.send_and_wait(topic, b"geheim", key=b"geheim", headers=[("own", b"1")])
    consumer = await consume(kafka_at, topic)
    message = await asyncio.wait_for(consumer.getone(), PATIENCE_SECONDS)
    with process_message(message) as run:
        assert get_correlation_id() == "corr-1"
        with operation("inner"):
            pass
    await consumer.stop()

    sent, order, polling, inner, process = watched.spans
    assert (sent.name, sent.kind) == (f"send {topic}", SpanKind.PRODUCER)
    assert sent.parent.span_id == order.context.span_id
    assert dict(sent.attributes) == {
        "messaging.system": "kafka",
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
        "messaging.destination.name": topic,
        "messaging.destination.partition.id": str(placed.partition),
        "messaging.kafka.offset": placed.offset,
    }
    headers = dict(message.headers)
    assert headers["own"] == b"1"
    assert headers["X-Correlation-ID"] == b"corr-1"
    assert f"{sent.context.trace_id:032x}-{sent.context.span_id:016x}".encode() in headers["traceparent"]
    assert (polling.name, polling.kind) == (f"poll {topic}", SpanKind.CLIENT)
    assert [link.context.span_id for link in polling.links] == [sent.context.span_id]
    assert (process.name, process.kind) == (f"process {topic}", SpanKind.CONSUMER)
    assert (process.parent.span_id, process.context.trace_id) == (sent.context.span_id, sent.context.trace_id)
    assert inner.parent.span_id == process.context.span_id
    assert run.outcome == "success"
    assert get_correlation_id() is None
    for name in ("produced", "processed"):
        assert watched.value(f"kafka_messages_{name}_total", topic=topic, status="success") == 1
    assert watched.value("kafka_messages_consumed_total", topic=topic) == 1
    assert watched.value("kafka_produce_latency_seconds_count", topic=topic) == 1
    assert "geheim" not in "".join(span.to_json() for span in watched.spans)


async def test_confluents_clients_tell_the_same(watched: Watched, kafka_at: KafkaBroker, topic: str):
    """What stands before a client of confluent-kafka looks like it, and tells what aiokafka's do."""
    behind = confluent_kafka.Producer({"bootstrap.servers": kafka_at.address, "log_level": 0})
    instrumented = instrument_kafka(behind)
    before = instrumented.client
    assert isinstance(before, confluent_kafka.Producer)
    assert instrument_kafka(before) is instrumented
    heard: list[Any] = []
    with CorrelationContext("corr-2"):
        before.produce(topic, b"geheim", b"key", headers={"own": b"1"}, on_delivery=lambda *told: heard.append(told))
    assert len(before) >= 1
    before.flush(PATIENCE_SECONDS)
    assert heard[0][0] is None
    reading = instrument_kafka(confluent_consumer(kafka_at, topic)).client
    message = polled(reading)
    with pytest.raises(ValueError, match="no"), process_message(message):
        raise ValueError("no")
    before.produce(topic, b"another")
    before.flush(PATIENCE_SECONDS)
    for _ in range(50):
        if found := reading.consume(10, 0.2):
            break
    reading.close()
    assert len(found) == 1

    sent, polling, process, *_ = watched.spans
    assert dict(message.headers())["X-Correlation-ID"] == b"corr-2"
    assert (sent.name, polling.name, process.name) == (f"send {topic}", f"poll {topic}", f"process {topic}")
    assert process.parent.span_id == sent.context.span_id
    assert process.attributes["error.type"] == "ValueError"
    assert watched.spans[-1].attributes["messaging.batch.message_count"] == 1
    assert watched.value("kafka_messages_produced_total", topic=topic, status="success") == 2
    assert watched.value("kafka_messages_consumed_total", topic=topic) == 2
    assert watched.value("kafka_messages_processed_total", topic=topic, status="failure") == 1
    instrumented.undo()
    before.produce(topic, b"untold")
    before.flush(PATIENCE_SECONDS)
    assert watched.value("kafka_messages_produced_total", topic=topic, status="success") == 2


async def test_batches_and_empty_polls(watched: Watched, producer: Any, kafka_at: KafkaBroker, topic: str):
    """A batch is one span with links to all its senders; a poll that finds nothing is no span."""
    handle = instrument_kafka(producer)
    assert instrument_kafka(producer) is handle
    for number in range(3):
        await (await producer.send(topic, str(number).encode(), None, 0, None, [("own", b"1")]))
    consumer = await consume(kafka_at, topic)
    found: list[Any] = []
    while len(found) < 3:
        found += [message for many in (await consumer.getmany(timeout_ms=200)).values() for message in many]
    assert await consumer.getmany(timeout_ms=10) == {}
    await consumer.stop()
    polls = [span for span in watched.spans if span.name.startswith("poll")]
    assert sum(span.attributes["messaging.batch.message_count"] for span in polls) == 3
    sent = {span.context.span_id for span in watched.spans if span.name.startswith("send")}
    assert {link.context.span_id for span in polls for link in span.links} == sent
    assert len(sent) == 3
    assert watched.value("kafka_messages_consumed_total", topic=topic) == 3
    handle.undo()
    await producer.send_and_wait(topic, b"untold")
    assert watched.value("kafka_messages_produced_total", topic=topic, status="success") == 3


async def test_a_trace_context_of_the_applications_own_stays(
    watched: Watched, producer: Any, kafka_at: KafkaBroker, topic: str
):
    """Headers that a message has already are not changed."""
    instrument_kafka(producer)
    own = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    with CorrelationContext("ours"):
        await producer.send_and_wait(topic, b"v", headers=[("traceparent", own), ("X-Correlation-ID", b"theirs")])
    consumer = await consume(kafka_at, topic, watch=False)
    message = await asyncio.wait_for(consumer.getone(), PATIENCE_SECONDS)
    await consumer.stop()
    assert message.headers == (("traceparent", own), ("X-Correlation-ID", b"theirs"))


async def test_work_inside_a_request_stays_in_its_trace(watched: Watched):
    """Below a current span, processing is its child, and linked to the sender."""
    headers = [("traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"), ("X-Correlation-ID", b"\xff bad")]
    message = SimpleNamespace(topic="t", partition=1, offset=5, headers=headers)
    with CorrelationContext("outer"), operation("request"), process_message(message):
        assert get_correlation_id() == "outer"
    process, request = watched.spans
    assert process.parent.span_id == request.context.span_id
    assert [f"{link.context.span_id:016x}" for link in process.links] == ["b7ad6b7169203331"]
    with process_message(SimpleNamespace(topic="t", partition=1, offset=6, headers=None)):
        assert get_correlation_id()
    assert watched.spans[-1].parent is None


async def test_an_id_comes_in_by_the_header_it_went_out_by(
    watched: Watched, producer: Any, kafka_at: KafkaBroker, topic: str, monkeypatch: pytest.MonkeyPatch
):
    """Where a header was chosen for the whole process, messages carry the id in that one, and are read by it."""
    monkeypatch.setattr(header_override, "name", "X-Flow-ID")
    instrument_kafka(producer)
    with CorrelationContext("flow-1"):
        await producer.send_and_wait(topic, b"v")
    consumer = await consume(kafka_at, topic)
    message = await asyncio.wait_for(consumer.getone(), PATIENCE_SECONDS)
    await consumer.stop()
    assert dict(message.headers)["X-Flow-ID"] == b"flow-1"
    with process_message(message):
        assert get_correlation_id() == "flow-1"


async def test_what_is_no_message_does_no_harm(watch: Any):
    """The block runs, untold, and the failure is counted."""
    watched = watch()
    async with watched.obs:
        with process_message(None) as run:
            run.set(anything=1)
    assert watched.obs.faults.counts == {"clients": 1}


async def test_a_killed_broker_is_a_failure(watched: Watched, topic: str):
    """Under traffic: what is not acknowledged fails by Kafka's own name or the exception's, and nothing is left open."""
    with running(KafkaBroker()) as broker:
        options = {"bootstrap.servers": broker.address, "log_level": 0}
        confluent = instrument_kafka(confluent_kafka.Producer(options)).client
        hasty = instrument_kafka(confluent_kafka.Producer({**options, "message.timeout.ms": 1500})).client
        producer = aiokafka.AIOKafkaProducer(bootstrap_servers=broker.address, request_timeout_ms=4000)
        await producer.start()
        instrument_kafka(producer)
        tasks = asyncio.all_tasks()
        await producer.send_and_wait(topic, b"v")
        confluent.produce(topic, b"v")
        assert confluent.flush(PATIENCE_SECONDS) == 0
        broker.kill()
        with pytest.raises(aiokafka.errors.KafkaError):
            await producer.send_and_wait(topic, b"v")
        with pytest.raises(aiokafka.errors.KafkaError):
            await producer.send_and_wait(f"{topic}-unknown", b"v")
        hasty.produce(topic, b"v")
        assert await asyncio.to_thread(hasty.flush, PATIENCE_SECONDS) == 0
        assert asyncio.all_tasks() <= tasks
        await producer.stop()
    failed = [span for span in watched.spans if span.status.status_code is StatusCode.ERROR]
    names = [span.attributes["error.type"] for span in failed]
    assert names[-1] == "_MSG_TIMED_OUT"
    assert all(name.startswith("aiokafka.errors.") for name in names[:-1])
    assert watched.value("kafka_messages_produced_total", topic=topic, status="failure") == 2
    assert watched.value("kafka_messages_produced_total", topic=topic, status="success") == 2


async def test_a_broker_that_hangs_and_goes_on(watched: Watched, topic: str):
    """While it hangs messages fail; after it goes on, the same producer's succeed."""
    with running(KafkaBroker()) as broker:
        options = {"bootstrap.servers": broker.address, "message.timeout.ms": 3000, "socket.timeout.ms": 2500, "log_level": 0}
        producer = instrument_kafka(confluent_kafka.Producer(options)).client
        producer.produce(topic, b"v")
        producer.flush(PATIENCE_SECONDS)
        broker.pause()
        producer.produce(topic, b"v")
        await asyncio.to_thread(producer.flush, PATIENCE_SECONDS)
        broker.resume()
        for _ in range(30):
            producer.produce(topic, b"v")
            await asyncio.to_thread(producer.flush, PATIENCE_SECONDS)
            if (watched.value("kafka_messages_produced_total", topic=topic, status="success") or 0) >= 2:
                break
    assert watched.value("kafka_messages_produced_total", topic=topic, status="failure") >= 1
    assert watched.value("kafka_messages_produced_total", topic=topic, status="success") >= 2


async def test_a_full_queue_is_a_failure(watched: Watched, topic: str):
    """What the client itself refuses is told, and raised."""
    options = {"bootstrap.servers": "127.0.0.1:1", "queue.buffering.max.messages": 1, "log_level": 0, "message.timeout.ms": 500}
    producer = instrument_kafka(confluent_kafka.Producer(options)).client
    producer.produce(topic, b"v")
    with pytest.raises(BufferError):
        producer.produce(topic, b"v")
    await asyncio.to_thread(producer.flush, PATIENCE_SECONDS)
    assert [span.attributes["error.type"] for span in watched.spans] == ["BufferError", "_MSG_TIMED_OUT"]


async def test_an_unheard_failure_is_still_said_to_be_unheard(watched: Watched, producer: Any, topic: str):
    """Looking at a future's outcome does not make asyncio believe that the application has."""
    instrument_kafka(producer)
    future = asyncio.get_running_loop().create_future()
    producer._message_accumulator.add_message, whole = _returning(future), producer._message_accumulator.add_message
    await producer.send(topic, b"v", partition=0)
    producer._message_accumulator.add_message = whole
    future.set_exception(ValueError("lost"))
    await asyncio.sleep(0)
    assert future._log_traceback
    assert future.exception()
    assert watched.spans[0].attributes["error.type"] == "ValueError"


def _returning(future: Any) -> Any:
    async def add_message(*_: Any, **__: Any) -> Any:
        return future

    return add_message


async def test_whoever_gives_up_is_no_failure_of_the_broker(watched: Watched, producer: Any, topic: str):
    """A cancelled future is neither success nor failure, and a consumer that was stopped tells so to its caller."""
    instrument_kafka(producer)
    future = asyncio.get_running_loop().create_future()
    producer._message_accumulator.add_message, whole = _returning(future), producer._message_accumulator.add_message
    await producer.send(topic, b"v", partition=0)
    producer._message_accumulator.add_message = whole
    future.cancel()
    await asyncio.sleep(0)
    (span,) = watched.spans
    assert span.status.status_code is StatusCode.UNSET
    assert watched.value("kafka_messages_produced_total", topic=topic, status="failure") is None
    with pytest.raises(AssertionError):
        await producer.send(topic)
    assert watched.spans[1].attributes["error.type"] == "AssertionError"


async def test_a_consumer_that_fails_tells_so(watched: Watched, kafka_at: KafkaBroker, topic: str):
    """What a wait for messages raises is told and raised, by both libraries; where it ends without a message, nothing is."""
    consumer = await consume(kafka_at, topic)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(consumer.getone(), 0.1)
    await consumer.stop()
    with pytest.raises(aiokafka.errors.ConsumerStoppedError):
        await consumer.getone()
    reading = instrument_kafka(confluent_consumer(kafka_at, topic)).client
    assert reading.poll(0) is None
    reading.close()
    with pytest.raises(RuntimeError):
        reading.poll(0)
    assert [span.attributes["error.type"] for span in watched.spans] == ["aiokafka.errors.ConsumerStoppedError", "RuntimeError"]


async def test_what_was_put_around_ours_keeps_working(watched: Watched, producer: Any, kafka_at: KafkaBroker, topic: str):
    """Where somebody has put something around ours, the way back leaves that, and ours does nothing any more."""
    instrumented = instrument_kafka(producer)
    ours = producer.send
    producer.send = lambda *args, **kwargs: ours(*args, **kwargs)
    instrumented.undo()
    await producer.send_and_wait(topic, b"v")
    consumer = await consume(kafka_at, topic, watch=False)
    watching = instrument_kafka(consumer)
    receive = consumer.getone
    watching.undo()
    assert (await asyncio.wait_for(receive(), PATIENCE_SECONDS)).value == b"v"
    await consumer.stop()
    assert watched.spans == []


async def test_headers_are_found_wherever_they_are(watched: Watched, kafka_at: KafkaBroker, topic: str):
    """By place or by name, in a mapping or a list; what cannot be read goes on as it is, to whoever refuses it."""
    behind = confluent_kafka.Producer({"bootstrap.servers": kafka_at.address, "log_level": 0})
    before = instrument_kafka(behind).client
    heard: list[Any] = []
    before.produce(topic, b"v", b"k", -1, lambda *told: heard.append(told))
    before.produce(topic, b"v", callback=lambda *told: heard.append(told), headers=[("own", b"1")])
    before.flush(PATIENCE_SECONDS)
    assert [error for error, _ in heard] == [None, None]
    serializing = confluent_kafka.SerializingProducer({"bootstrap.servers": kafka_at.address, "log_level": 0})
    instrument_kafka(serializing).client.produce(topic, "key", b"v", -1, lambda *told: heard.append(told))
    serializing.flush(PATIENCE_SECONDS)
    assert len(heard) == 3
    consumer = await consume(kafka_at, topic, watch=False)
    messages = [await asyncio.wait_for(consumer.getone(), PATIENCE_SECONDS) for _ in range(3)]
    await consumer.stop()
    assert all("traceparent" in dict(message.headers) for message in messages)
    with pytest.raises(TypeError):
        before.produce(topic, b"v", headers=7)
    assert watched.obs.faults.counts.pop("clients") == 1


async def test_beside_opentelemetrys_instrumentation_a_message_has_one_span(
    watched: Watched, kafka_at: KafkaBroker, topic: str
):
    """There is one span of sending, theirs, whose context the message carries, and one count, ours."""
    AIOKafkaInstrumentor().instrument(tracer_provider=watched.provider)
    try:
        async with aiokafka.AIOKafkaProducer(bootstrap_servers=kafka_at.address) as producer:
            instrument_kafka(producer)
            with operation("order"):
                await producer.send_and_wait(topic, b"v")
    finally:
        AIOKafkaInstrumentor().uninstrument()
    behind = confluent_kafka.Producer({"bootstrap.servers": kafka_at.address, "log_level": 0})
    theirs = ConfluentKafkaInstrumentor.instrument_producer(behind, watched.provider)
    both = instrument_kafka(theirs).client
    with operation("order"):
        both.produce(topic, b"v")
    both.flush(PATIENCE_SECONDS)
    consumer = await consume(kafka_at, topic, watch=False)
    messages = [await asyncio.wait_for(consumer.getone(), PATIENCE_SECONDS) for _ in range(2)]
    await consumer.stop()
    told = [span for span in watched.spans if span.kind is SpanKind.PRODUCER]
    scopes = sorted(span.instrumentation_scope.name for span in told)
    assert scopes == ["opentelemetry.instrumentation.aiokafka", "opentelemetry.instrumentation.confluent_kafka"]
    ids = {f"{span.context.span_id:016x}".encode() for span in told}
    sent = [value for message in messages for name, value in message.headers if name == "traceparent"]
    assert {value.split(b"-")[2] for value in sent} == ids
    assert len(sent) == 2
    assert watched.value("kafka_messages_produced_total", topic=topic, status="success") == 2


@pytest.mark.parametrize("wrong", [None, object(), confluent_kafka.TopicPartition("t"), aiokafka.TopicPartition("t", 1)])
def test_what_is_no_client_is_refused(wrong: Any):
    """The error says what is taken."""
    with pytest.raises(TypeError, match="instrument_kafka takes a"):
        instrument_kafka(wrong)

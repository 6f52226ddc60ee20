"""Messages to and from Kafka, through aiokafka and confluent-kafka; they carry the ids of what has sent them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from importlib import import_module
from types import TracebackType
from typing import Any, Self, TypeVar, cast

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind

from sage_fastapi_obs.active import count_internal_error
from sage_fastapi_obs.clients.client_call import Call, ClientSystem, enable
from sage_fastapi_obs.clients.patching import Instrumented
from sage_fastapi_obs.clients.propagation import TRACE_HEADER, correlation_of, incoming, outgoing_headers
from sage_fastapi_obs.operations.count import count
from sage_fastapi_obs.operations.operation_run import OperationRun, RunMetrics
from sage_fastapi_obs.privacy.printable import printable
from sage_fastapi_obs.request.innermost_span import innermost_span
from sage_fastapi_obs.tracing.child_spans import CachedAttributes

__all__ = ["PRODUCED", "Message", "Messages", "instrument_kafka", "place", "process_message"]

Client = TypeVar("Client")
_MODULES = {"aiokafka": "aiokafka", "confluent_kafka": "confluent", "cimpl": "confluent"}
"""The module of this folder that watches a client, by the first part of the name of its class's module."""
MOST_LINKS = 128
MOST_TOPICS = 128
"""Topics that are described once; clients have few."""
PRODUCED = RunMetrics(duration="kafka_produce_latency_seconds", total="kafka_messages_produced_total")
_PROCESSED = RunMetrics(duration="kafka_process_duration_seconds", total="kafka_messages_processed_total")
Header = tuple[str, bytes]


def instrument_kafka(client: Client) -> Instrumented[Client]:
    """Watch a producer or a consumer of aiokafka, or a `Producer` or `Consumer` of confluent-kafka.

    Each message that is sent is a span from the call until the broker's acknowledgement, counts in
    `kafka_messages_produced_total` and `kafka_produce_latency_seconds`, and carries trace context and correlation id in its
    headers. What is received counts in `kafka_messages_consumed_total`; see `process_message` for what is done with it. Keys
    and values are not told.

    Clients of confluent-kafka are written in C and cannot be changed: use the `client` of what is returned in their place.
    """
    modules = [kind.__module__.partition(".")[0] for kind in client.__class__.__mro__]
    watching = next((_MODULES[module] for module in modules if module in _MODULES), None)
    if watching is None:
        known = "a producer or a consumer of aiokafka or confluent_kafka (pip install 'sage_fastapi_obs[kafka]')"
        raise TypeError(f"instrument_kafka takes {known}, not {client!r:.80}")
    # Imported only now: each needs an extra, which is installed if there is such a client.
    watch = import_module(f"sage_fastapi_obs.clients.kafka.{watching}").watch
    return cast("Instrumented[Client]", watch(client))


class Messages:
    """Describes what one client sends and receives."""

    def __init__(self, client: str, *, theirs: bool, group: str | None = None) -> None:
        """`client`: as OpenTelemetry's instrumentation of it is called; `group`: of a consumer."""
        self._attributes = {"messaging.system": "kafka"} | ({} if group is None else {"messaging.consumer.group.name": group})
        self._theirs = theirs
        self._sent = ClientSystem(client, PRODUCED, kind=SpanKind.PRODUCER, code_of=_code_of)
        self._received = ClientSystem(client, RunMetrics(), code_of=_code_of)
        self._to = lru_cache(MOST_TOPICS)(
            lambda topic: CachedAttributes({**self._attributes, **_described("send", "send", topic)})
        )
        self._waiting = CachedAttributes(
            {**self._attributes, "messaging.operation.name": "poll", "messaging.operation.type": "receive"}
        )

    def sending(self, topic: str) -> Call:
        """Describe the sending of a message."""
        return Call(self._sent, f"send {topic}", {"topic": topic}, self._to(topic), theirs=self._theirs)

    def with_headers(
        self, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any], *, place: int
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Add the ids to the headers among arguments, wherever they are; `place`: of the headers, where they have no name."""
        try:
            if len(args) > place:
                return (*args[:place], self.headers(call, args[place]), *args[place + 1 :]), kwargs
            return args, {**kwargs, "headers": self.headers(call, kwargs.get("headers"))}
        except Exception as fault:
            count_internal_error("clients", fault)
            return args, kwargs

    def headers(self, call: Call, given: Any) -> list[Header]:
        """Add the ids to the headers of a message; those it has already stay."""
        headers = [*given.items()] if isinstance(given, Mapping) else [*(given or ())]
        names = {name for name, _ in headers}
        ids = outgoing_headers(call.own_span, traced=not self._theirs and TRACE_HEADER not in names)
        return [*headers, *((name, value.encode()) for name, value in ids.items() if name not in names)]

    def receiving(self) -> Call:
        """Describe a wait for messages; it is told only when some have come."""
        return Call(self._received, "poll", {}, self._waiting, theirs=self._theirs)

    def received(self, call: Call, messages: Sequence["Message"], *, batch: bool) -> None:
        """Tell of messages that have come."""
        if not messages:
            return
        for topic, number in Counter(message.topic for message in messages).items():
            count("kafka_messages_consumed_total", topic, by=number)
        if call.own_span is not None:
            _tell_received(call, call.own_span, messages, batch=batch)
        call.end(None)


class Message:
    """A message, whichever library it is from."""

    __slots__ = ("headers", "offset", "partition", "topic")

    def __init__(self, message: Any) -> None:
        self.topic = str(_value(message.topic))
        self.partition = _value(message.partition)
        self.offset = _value(message.offset)
        sent = [(name, value) for name, value in _value(message.headers) or () if isinstance(value, bytes)]
        self.headers = {name.lower(): value.decode("utf-8", "replace") for name, value in sent}


def process_message(message: Any) -> AbstractContextManager[OperationRun]:
    """Tell of the work on one message that was received: a CONSUMER span in the trace of its sender, with its correlation id.

    ```python
    async for message in consumer:
        with process_message(message):
            ...
    ```

    Where there is a current span already, such as a request's, the span is below that one, and linked to the sender's.
    """
    try:
        return _Processing(Message(message))
    except Exception as fault:
        count_internal_error("clients", fault)
        return nullcontext(OperationRun(None, SpanKind.CONSUMER, RunMetrics(), {}, {}, {}))


class _Processing(OperationRun):
    """The work on one message."""

    __slots__ = ("_correlated", "_sender", "_token")

    def __init__(self, message: Message) -> None:
        attributes = {
            "messaging.system": "kafka",
            **_described("process", "process", message.topic),
            **place(message.partition, message.offset),
        }
        super().__init__(f"process {message.topic}", SpanKind.CONSUMER, _PROCESSED, {"topic": message.topic}, attributes, {})
        self._correlated = correlation_of(message.headers)
        self._sender = incoming(message.headers)
        self._token: Any = None
        enable("dependencies")

    def __enter__(self) -> Self:
        """Begin."""
        self._correlated.__enter__()
        if not innermost_span().get_span_context().is_valid:
            self._token = otel_context.attach(self._sender)
        self.begin()
        self.attach()
        sender = trace.get_current_span(self._sender).get_span_context()
        if self._span is not None and sender.is_valid:
            self._span.add_link(sender)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None) -> None:
        """End; never keeps an exception."""
        self.end(error)
        self.detach()
        if self._token is not None:
            otel_context.detach(self._token)
        self._correlated.__exit__(kind, error, where)


def place(partition: int, offset: int) -> dict[str, Any]:
    """Tell where a message is."""
    return {"messaging.destination.partition.id": str(partition), "messaging.kafka.offset": offset}


def _described(name: str, kind: str, topic: str) -> dict[str, Any]:
    return {
        "messaging.operation.name": name,
        "messaging.operation.type": kind,
        "messaging.destination.name": topic,
    }


def _tell_received(call: Call, span: Span, messages: Sequence[Message], *, batch: bool) -> None:
    topics = {message.topic for message in messages}
    if len(topics) == 1:
        span.update_name(printable(f"poll {messages[0].topic}"))
        call.tell({"messaging.destination.name": messages[0].topic})
    if batch:
        call.tell({"messaging.batch.message_count": len(messages)})
    for message in messages[:MOST_LINKS]:
        sender = trace.get_current_span(incoming(message.headers)).get_span_context()
        if sender.is_valid:
            span.add_link(sender)


def _code_of(error: Exception) -> str | None:
    """Find Kafka's own name of a failure, such as `NOT_ENOUGH_REPLICAS`."""
    inner = error.args[0] if error.args else None
    name = getattr(inner, "name", None)
    return str(name()) if callable(name) else None


def _value(given: Any) -> Any:
    """Read what is a method in one library, and a field in the other."""
    return given() if callable(given) else given

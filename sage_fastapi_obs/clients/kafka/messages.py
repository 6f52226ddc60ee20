"""What is recorded of messages to and from Kafka, whichever library sends them, and the ids in their headers."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import lru_cache
from typing import Any, Self

from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind

from sage_fastapi_obs.active import count_internal_error
from sage_fastapi_obs.clients.client_call import OTEL_SCOPE_PREFIX, Call, ClientSystem, enable
from sage_fastapi_obs.clients.patching import Instrumented, wrapped
from sage_fastapi_obs.clients.propagation import TRACE_HEADER, CallerContext, outgoing_headers
from sage_fastapi_obs.operations.count import count
from sage_fastapi_obs.operations.operation_run import OperationRun, RunMetrics
from sage_fastapi_obs.privacy.printable import printable
from sage_fastapi_obs.tracing.child_spans import CachedAttributes

_MOST_LINKS = 128
_MOST_TOPICS = 128
"""Topics that are described once; clients have few."""
PRODUCED = RunMetrics(duration="kafka_produce_latency_seconds", total="kafka_messages_produced_total")
_PROCESSED = RunMetrics(duration="kafka_process_duration_seconds", total="kafka_messages_processed_total")
_BATCHES = frozenset({"getmany", "consume"})
"""Methods that wait for several messages at once."""
Header = tuple[str, bytes]


class Messages:
    """Describes what one client sends and receives."""

    def __init__(self, client: str, *, otel_traced: bool, group: str | None = None) -> None:
        """`client`: the name of OpenTelemetry's instrumentation for it; `group`: of a consumer."""
        self._attributes = {"messaging.system": "kafka"} | ({} if group is None else {"messaging.consumer.group.name": group})
        self._otel_traced = otel_traced
        self._sent = ClientSystem(OTEL_SCOPE_PREFIX + client, PRODUCED, kind=SpanKind.PRODUCER, code_of=_code_of)
        self._received = ClientSystem(OTEL_SCOPE_PREFIX + client, RunMetrics(), code_of=_code_of)
        self._to = lru_cache(_MOST_TOPICS)(
            lambda topic: CachedAttributes({**self._attributes, **_described("send", "send", topic)})
        )
        self._waiting = CachedAttributes(
            {**self._attributes, "messaging.operation.name": "poll", "messaging.operation.type": "receive"}
        )

    def sending(self, topic: str) -> Call:
        """Describe the sending of a message."""
        return Call(self._sent, f"send {topic}", {"topic": topic}, self._to(topic), otel_traced=self._otel_traced)

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
        ids = outgoing_headers(call.own_span, traced=not self._otel_traced and TRACE_HEADER not in names)
        return [*headers, *((name, value.encode()) for name, value in ids.items() if name not in names)]

    def receiving(self) -> Call:
        """Describe a wait for messages; it is recorded only if it gets some."""
        return Call(self._received, "poll", {}, self._waiting, otel_traced=self._otel_traced)

    def watched(self, instrumented: Instrumented[Any], original: Any, messages_of: Callable[[Any], Iterable[Any]]) -> Any:
        """Return a function around a method that waits for messages; `messages_of`: reads them from its result."""
        batch = original.__name__ in _BATCHES

        @contextmanager
        def wait(*_: Any, **__: Any) -> Iterator[Call | None]:
            call = instrumented.begin(self.receiving)
            try:
                yield call
            except Exception as error:
                if call is not None:
                    call.finish(error)
                raise

        def received(call: Call | None, result: Any) -> None:
            if call is not None:
                self.received(call, [*map(Message, messages_of(result))], batch=batch)

        return wrapped(original, wait, received)

    def received(self, call: Call, messages: Sequence["Message"], *, batch: bool) -> None:
        """Count messages that were received, and end the span of the wait."""
        if not messages:
            return
        for topic, number in Counter(message.topic for message in messages).items():
            count("kafka_messages_consumed_total", topic, by=number)
        if call.own_span is not None:
            _describe_received(call, call.own_span, messages, batch=batch)
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
    """Watch the work on one received message: a CONSUMER span in the trace of its sender, with its correlation id.

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

    __slots__ = ("_caller", "_sender")

    def __init__(self, message: Message) -> None:
        attributes = {
            "messaging.system": "kafka",
            **_described("process", "process", message.topic),
            **place(message.partition, message.offset),
        }
        super().__init__(f"process {message.topic}", SpanKind.CONSUMER, _PROCESSED, {"topic": message.topic}, attributes, {})
        self._sender = propagate.extract(message.headers)
        self._caller = CallerContext(message.headers, self._sender)
        enable("dependencies")

    def __enter__(self) -> Self:
        """Begin."""
        self._caller.__enter__()
        self.begin()
        self.attach()
        if self._span is not None:
            _link(self._span, self._sender)
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        """End; never keeps an exception."""
        self.end(error)
        self.detach()
        self._caller.__exit__()


def place(partition: int, offset: int) -> dict[str, Any]:
    """Return the attributes for the place of a message."""
    return {"messaging.destination.partition.id": str(partition), "messaging.kafka.offset": offset}


def _described(name: str, kind: str, topic: str) -> dict[str, Any]:
    return {
        "messaging.operation.name": name,
        "messaging.operation.type": kind,
        "messaging.destination.name": topic,
    }


def _describe_received(call: Call, span: Span, messages: Sequence[Message], *, batch: bool) -> None:
    topics = {message.topic for message in messages}
    if len(topics) == 1:
        span.update_name(printable(f"poll {messages[0].topic}"))
        call.set_attributes({"messaging.destination.name": messages[0].topic})
    if batch:
        call.set_attributes({"messaging.batch.message_count": len(messages)})
    for message in messages[:_MOST_LINKS]:
        _link(span, propagate.extract(message.headers))


def _link(span: Span, sender: Context) -> None:
    context = trace.get_current_span(sender).get_span_context()
    if context.is_valid:
        span.add_link(context)


def _code_of(error: Exception) -> str | None:
    """Return Kafka's own name of a failure, such as `NOT_ENOUGH_REPLICAS`."""
    inner = error.args[0] if error.args else None
    name = getattr(inner, "name", None)
    return str(name()) if callable(name) else None


def _value(given: Any) -> Any:
    """Read a value: a method in one library, a field in the other."""
    return given() if callable(given) else given

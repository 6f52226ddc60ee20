"""`GrpcMetricsInterceptor`: calls that a gRPC server answers, sync or aio."""

import asyncio
import inspect
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from functools import lru_cache, wraps
from typing import Any

from opentelemetry.trace import SpanKind

from sage_fastapi_obs.active import count_internal_error
from sage_fastapi_obs.catalog import UNMATCHED
from sage_fastapi_obs.clients.client_call import OTEL_SCOPE_PREFIX, Call, ClientSystem, enable
from sage_fastapi_obs.clients.patching import count_errors_of
from sage_fastapi_obs.clients.propagation import CallerContext, parent_or_link
from sage_fastapi_obs.errors import ObservabilityError
from sage_fastapi_obs.operations.count import count
from sage_fastapi_obs.operations.operation_run import RunMetrics
from sage_fastapi_obs.tracing.child_spans import CachedAttributes

try:
    import grpc
    import grpc.aio
except ImportError:
    raise ObservabilityError("GrpcMetricsInterceptor needs: pip install 'sage_fastapi_obs[grpc]'") from None

GRPC = ClientSystem(
    OTEL_SCOPE_PREFIX + "grpc",
    RunMetrics(duration="grpc_request_duration_seconds", total="grpc_request_total"),
    kind=SpanKind.SERVER,
    pack="grpc",
)
_OTHER_METHOD = "_OTHER"
_SERVER_FAULTS = frozenset({"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"})
"""Codes that are the server's fault by the OpenTelemetry conventions."""
_MOST_CACHED = 512
"""Pairs of method and connection whose attributes are cached: a connection has many calls."""
_EARLY_SECONDS = 0.05
_EARLY_SHARE = 0.1
"""How much earlier than by the server's clock a client may see the deadline pass, beside `_EARLY_SECONDS`."""
_CODES = {code.value[0]: code.name for code in grpc.StatusCode}
_PEER = re.compile(r"(?:ipv4|ipv6):\[?(?P<address>[^\[\]]+)\]?:(?P<port>\d+)")
_MARK = "_sage_fastapi_obs"
_KINDS = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")


class GrpcMetricsInterceptor(grpc.ServerInterceptor, grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """Watches a gRPC server: `grpc.server(…, interceptors=[GrpcMetricsInterceptor()])`, and the same for `grpc.aio.server`.

    Each call is a SERVER span in the trace of its caller, with the caller's correlation id, and counts in `grpc_request_total`
    and `grpc_request_duration_seconds`, by method and status code; those for which the server is to blame also in
    `request_errors_total`. Methods that the server does not know count as one.
    """

    def intercept_service(self, continuation: Callable[[Any], Any], handler_call_details: Any) -> Any:
        """Put something around the method that is called; an aio server gets an awaitable."""
        found = continuation(handler_call_details)
        if inspect.isawaitable(found):
            return _watched_when_found(found, handler_call_details)
        return _watched_or_plain(found, handler_call_details)


async def _watched_when_found(found: Awaitable[Any], details: Any) -> Any:
    return _watched_or_plain(await found, details)


def _watched_or_plain(handler: Any, details: Any) -> Any:
    try:
        return _count_unknown() if handler is None else _watched_handler(handler, details)
    except Exception as fault:
        count_internal_error("clients", fault)
        return handler


def _count_unknown() -> None:
    """Count a call of an unknown method, by one name for all: clients may send any name."""
    enable(GRPC.pack)
    count("grpc_request_total", _OTHER_METHOD, "UNIMPLEMENTED")
    _count_error(UNMATCHED, "UNIMPLEMENTED")


def _count_error(route: str, code: str) -> None:
    # gRPC is HTTP/2, where every call is a POST.
    count("request_errors_total", "grpc", "POST", route, code)


def _watched_handler(handler: Any, details: Any) -> Any:
    kind = next(kind for kind in _KINDS if getattr(handler, kind) is not None)
    behaviour = getattr(handler, kind)
    if getattr(behaviour, _MARK, False):
        # Another interceptor of ours, further inside, watches it already.
        return handler
    otel_traced = str(getattr(behaviour, "__module__", "")).startswith(OTEL_SCOPE_PREFIX)

    def answering(context: Any) -> _Answer:
        return _Answer(details, context, otel_traced=otel_traced)

    watched = _wrapped(behaviour, answering, streams=kind.endswith("_stream"))
    setattr(watched, _MARK, True)
    make: Any = getattr(grpc, f"{kind}_rpc_method_handler")
    return make(
        watched,
        request_deserializer=handler.request_deserializer,
        response_serializer=handler.response_serializer,
    )


def _wrapped(behaviour: Any, answering: "Callable[[Any], _Answer]", *, streams: bool) -> Any:
    """Wrap a method in one of the same kind: the server looks at what it is."""
    called = behaviour if inspect.isroutine(behaviour) else type(behaviour).__call__
    if inspect.isasyncgenfunction(called):

        @wraps(behaviour)
        async def generate_async(request: Any, context: Any) -> AsyncIterator[Any]:
            with answering(context) as observed:
                async for response in behaviour(request, observed):
                    yield response

        return generate_async
    if inspect.iscoroutinefunction(called):

        @wraps(behaviour)
        async def answer_async(request: Any, context: Any) -> Any:
            with answering(context) as observed:
                return await behaviour(request, observed)

        return answer_async
    if streams:

        @wraps(behaviour)
        def generate(request: Any, context: Any) -> Iterator[Any]:
            with answering(context) as observed:
                yield from behaviour(request, observed)

        return generate

    @wraps(behaviour)
    def answer(request: Any, context: Any) -> Any:
        with answering(context) as observed:
            return behaviour(request, observed)

    return answer


class _CodeReader:
    """Wraps the context of a sync method on an aio server, which does not give back the code that was set."""

    def __init__(self, context: Any) -> None:
        self._context = context
        self._code: Any = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    def code(self) -> Any:
        return self._code

    def set_code(self, code: Any) -> None:
        self._code = code
        self._context.set_code(code)

    def abort(self, code: Any, *args: Any, **kwargs: Any) -> Any:
        self._code = code
        return self._context.abort(code, *args, **kwargs)

    def abort_with_status(self, status: Any) -> Any:
        self._code = status.code
        return self._context.abort_with_status(status)


class _Answer:
    """The answer to one call; our own failures do not change it."""

    def __init__(self, details: Any, context: Any, *, otel_traced: bool) -> None:
        self._details, self._otel_traced = details, otel_traced
        self._context = context if hasattr(context, "code") else _CodeReader(context)
        self._call: Call | None = None
        self._deadline_seconds: float | None = None
        """From the start of the call; None without a deadline."""
        self._caller: CallerContext | None = None

    def __enter__(self) -> Any:
        count_errors_of(self._begin)
        return self._context

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        count_errors_of(lambda: self._end(error))

    def _begin(self) -> None:
        sent = {name.lower(): value for name, value in self._details.invocation_metadata or () if isinstance(value, str)}
        parent, link = parent_or_link(sent)
        self._caller = CallerContext(sent, parent)
        self._caller.__enter__()
        method = self._details.method.removeprefix("/")
        attributes = _described(method, self._context.peer())
        self._call = Call(GRPC, method, {"method": self._details.method}, attributes, otel_traced=self._otel_traced)
        self._call.begin()
        self._call.attach()
        self._deadline_seconds = self._context.time_remaining()
        if link is not None and self._call.own_span is not None:
            self._call.own_span.add_link(link)

    def _end(self, error: BaseException | None) -> None:
        call = self._call
        if call is not None:
            code = _code(self._context, error, self._deadline_seconds)
            call.labels["status"] = code
            call.set_attributes({"rpc.response.status_code": code})
            if code in _SERVER_FAULTS:
                call.fail(code)
                _count_error(self._details.method, code)
            call.end(None)
            call.detach()
        if self._caller is not None:
            self._caller.__exit__()


@lru_cache(_MOST_CACHED)
def _described(method: str, peer: str) -> CachedAttributes:
    return CachedAttributes({"rpc.system.name": "grpc", "rpc.method": method, **_peer(peer)})


def _peer(peer: str) -> Mapping[str, Any]:
    found = _PEER.fullmatch(peer.replace("%5B", "[").replace("%5D", "]"))
    return {"network.peer.address": found["address"], "network.peer.port": int(found["port"])} if found else {}


def _code(context: Any, error: BaseException | None, deadline_seconds: float | None) -> str:
    """Return the code that the client gets, or would get if it still waited."""
    if isinstance(error, asyncio.CancelledError | GeneratorExit) or not _is_active(context):
        return "DEADLINE_EXCEEDED" if has_passed(context.time_remaining(), deadline_seconds) else "CANCELLED"
    code = context.code()
    number: int = code.value[0] if isinstance(code, grpc.StatusCode) else code or 0
    if number:
        return str(_CODES.get(number, "UNKNOWN"))
    return "OK" if error is None else "UNKNOWN"


def has_passed(left_seconds: float | None, deadline_seconds: float | None) -> bool:
    """Tell whether a deadline has passed for the client, which then cancels the call.

    The server's clock is late: the client rounds up the time that it sends, and the server counts from when that arrives.
    `left_seconds`: by the server's clock; `deadline_seconds`: from the start of the call.
    """
    if left_seconds is None or deadline_seconds is None:
        return False
    return left_seconds <= _EARLY_SECONDS + _EARLY_SHARE * deadline_seconds


def _is_active(context: Any) -> bool:
    """Return whether the client still waits; only the sync server knows, the aio one cancels the method."""
    is_active = getattr(context, "is_active", None)
    return True if is_active is None else bool(is_active())

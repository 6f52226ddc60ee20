"""Calls that real gRPC servers answer, sync and aio."""

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest
from opentelemetry.instrumentation.grpc import aio_server_interceptor, server_interceptor
from opentelemetry.trace import SpanKind, StatusCode
from support import PATIENCE_SECONDS, Watched, eventually

from sage_fastapi_obs import ObservabilityError, get_correlation_id
from sage_fastapi_obs.clients import grpc as grpc_client
from sage_fastapi_obs.clients.grpc import GrpcMetricsInterceptor

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
METADATA = (("traceparent", TRACEPARENT), ("x-correlation-id", "corr-1"), ("blob-bin", b"\xff"))


ENTERED = threading.Event()
"""Set when a slow call has come to its method."""


async def echo_async(request: bytes, context: Any) -> bytes:
    """Do what the request says."""
    if request == b"abort":
        await context.abort(grpc.StatusCode.NOT_FOUND, "geheim")
    if request == b"boom":
        raise ValueError("geheim")
    if request == b"slow":
        ENTERED.set()
        await asyncio.sleep(PATIENCE_SECONDS)
    if request == b"code":
        context.set_code(grpc.StatusCode.FAILED_PRECONDITION)
    return (get_correlation_id() or "").encode() if request == b"who" else request


def echo(request: bytes, context: Any) -> bytes:
    """Do what the request says."""
    if request == b"abort":
        context.abort(grpc.StatusCode.NOT_FOUND, "geheim")
    if request == b"boom":
        raise ValueError("geheim")
    if request == b"slow":
        ENTERED.set()
        while context.is_active():
            time.sleep(0.01)
    if request == b"code":
        context.set_code(grpc.StatusCode.FAILED_PRECONDITION)
    return (get_correlation_id() or "").encode() if request == b"who" else request


async def count_async(request: bytes, _: Any) -> AsyncIterator[bytes]:
    for number in range(int(request)):
        await asyncio.sleep(0.01)
        yield str(number).encode()


def count(request: bytes, _: Any) -> Any:
    for number in range(int(request)):
        time.sleep(0.01)
        yield str(number).encode()


async def write_async(request: bytes, context: Any) -> None:
    for number in range(int(request)):
        await context.write(str(number).encode())


async def join_async(requests: Any, _: Any) -> bytes:
    return b"".join([request async for request in requests])


def join(requests: Any, _: Any) -> bytes:
    return b"".join(requests)


async def chat_async(requests: Any, _: Any) -> AsyncIterator[bytes]:
    async for request in requests:
        yield request


def chat(requests: Any, _: Any) -> Any:
    yield from requests


class Called:
    """A method that is an object."""

    async def __call__(self, request: bytes, _: Any) -> bytes:
        return request


def methods(*, is_async: bool) -> Any:
    """Build the methods of a service."""
    return grpc.method_handlers_generic_handler(
        "pkg.Shop",
        {
            "Echo": grpc.unary_unary_rpc_method_handler(echo_async if is_async else echo),
            "Count": grpc.unary_stream_rpc_method_handler(count_async if is_async else count),
            "Write": grpc.unary_stream_rpc_method_handler(write_async if is_async else count),
            "Join": grpc.stream_unary_rpc_method_handler(join_async if is_async else join),
            "Chat": grpc.stream_stream_rpc_method_handler(chat_async if is_async else chat),
            "Mixed": grpc.unary_unary_rpc_method_handler(echo),
            "Called": grpc.unary_unary_rpc_method_handler(Called() if is_async else echo),
        },
    )


@asynccontextmanager
async def serving(*interceptors: Any, is_async: bool = True) -> AsyncIterator[grpc.aio.Channel]:
    """Run a server; yield a channel to it."""
    if is_async:
        server = grpc.aio.server(interceptors=interceptors)
    else:
        server = grpc.server(ThreadPoolExecutor(4), interceptors=interceptors)
    server.add_generic_rpc_handlers((methods(is_async=is_async),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start() if is_async else server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield channel
    finally:
        await server.stop(None) if is_async else await asyncio.to_thread(server.stop(None).wait)


def counted(watched: Watched) -> dict[str, float]:
    """Read what was counted, as `/pkg.Shop/Echo OK`."""
    series = watched.series("grpc_request_total")
    return {" ".join(value for _, value in key): count for key, count in series.items() if count}


both = pytest.mark.parametrize("is_async", [True, False], ids=["aio", "sync"])


@both
async def test_a_call_is_a_span_in_the_trace_of_its_caller(watched: Watched, is_async: bool):
    """Attributes follow the conventions, and the caller's ids are the method's."""
    async with serving(GrpcMetricsInterceptor(), is_async=is_async) as channel:
        assert await channel.unary_unary("/pkg.Shop/Echo")(b"who", metadata=METADATA) == b"corr-1"
    (span,) = await eventually(lambda: watched.spans)
    assert (span.name, span.kind) == ("pkg.Shop/Echo", SpanKind.SERVER)
    assert f"{span.context.trace_id:032x}-{span.parent.span_id:016x}" in TRACEPARENT
    attributes = dict(span.attributes)
    assert attributes.pop("network.peer.port") > 0
    assert attributes == {
        "rpc.system.name": "grpc",
        "rpc.method": "pkg.Shop/Echo",
        "rpc.response.status_code": "OK",
        "network.peer.address": "127.0.0.1",
    }
    assert counted(watched) == {"/pkg.Shop/Echo OK": 1}
    took = (span.end_time - span.start_time) / 1e9
    assert watched.value("grpc_request_duration_seconds_sum", method="/pkg.Shop/Echo", status="OK") == pytest.approx(took)
    assert get_correlation_id() is None


@both
@pytest.mark.parametrize(
    ("request_", "code", "blamed"),
    [
        (b"abort", "NOT_FOUND", False),
        (b"code", "FAILED_PRECONDITION", False),
        (b"boom", "UNKNOWN", True),
        (b"slow", "DEADLINE_EXCEEDED", True),
    ],
)
async def test_a_call_has_the_code_that_the_client_gets(
    watched: Watched, is_async: bool, request_: bytes, code: str, blamed: bool
):
    """Span, counts and client agree; only what is the server's fault is an error, and no message is told."""
    async with serving(GrpcMetricsInterceptor(), is_async=is_async) as channel:
        await asyncio.wait_for(channel.channel_ready(), PATIENCE_SECONDS)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            # Below a second, gRPC tells the server its time to the millisecond.
            await channel.unary_unary("/pkg.Shop/Echo")(request_, timeout=0.9 if request_ == b"slow" else None)
        assert caught.value.code().name == code
        (span,) = await eventually(lambda: watched.spans)
    assert span.attributes["rpc.response.status_code"] == code
    assert span.status.status_code is (StatusCode.ERROR if blamed else StatusCode.UNSET)
    assert span.attributes.get("error.type") == (code if blamed else None)
    assert "geheim" not in span.to_json()
    assert counted(watched) == {f"/pkg.Shop/Echo {code}": 1}
    labels = {"protocol": "grpc", "method": "POST", "route": "/pkg.Shop/Echo", "error_type": code}
    assert watched.value("request_errors_total", **labels) == (1 if blamed else None)


@both
async def test_streams_are_timed_to_their_end(watched: Watched, is_async: bool):
    """All kinds of methods give what they give without us, and are told once each."""
    async with serving(GrpcMetricsInterceptor(), is_async=is_async) as channel:
        assert [one async for one in channel.unary_stream("/pkg.Shop/Count")(b"3")] == [b"0", b"1", b"2"]
        assert [one async for one in channel.unary_stream("/pkg.Shop/Write")(b"2")] == [b"0", b"1"]
        assert await channel.stream_unary("/pkg.Shop/Join")(iter([b"a", b"b"])) == b"ab"
        assert [one async for one in channel.stream_stream("/pkg.Shop/Chat")(iter([b"a", b"b"]))] == [b"a", b"b"]
        assert await channel.unary_unary("/pkg.Shop/Mixed")(b"x") == b"x"
        assert await channel.unary_unary("/pkg.Shop/Called")(b"x") == b"x"
        assert await eventually(lambda: len(watched.spans) == 6)
    assert set(counted(watched).values()) == {1}
    assert len(counted(watched)) == 6
    long = next(span for span in watched.spans if span.name.endswith("Count"))
    assert long.end_time - long.start_time >= 25_000_000


@both
async def test_a_client_that_leaves_is_no_failure(watched: Watched, is_async: bool):
    """A call that its client cancels is CANCELLED, which nobody is blamed for."""
    async with serving(GrpcMetricsInterceptor(), is_async=is_async) as channel:
        ENTERED.clear()
        call = channel.unary_unary("/pkg.Shop/Echo")(b"slow")
        await asyncio.to_thread(ENTERED.wait, PATIENCE_SECONDS)
        call.cancel()
        stream = channel.unary_stream("/pkg.Shop/Count")(b"500")
        assert await stream.read() == b"0"
        stream.cancel()
        assert await eventually(lambda: len(watched.spans) == 2)
    assert counted(watched) == {"/pkg.Shop/Echo CANCELLED": 1, "/pkg.Shop/Count CANCELLED": 1}
    assert {span.status.status_code for span in watched.spans} == {StatusCode.UNSET}


@both
async def test_unknown_methods_are_one(watched: Watched, is_async: bool):
    """However many names are asked for, one series grows."""
    async with serving(GrpcMetricsInterceptor(), is_async=is_async) as channel:
        for number in range(20):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await channel.unary_unary(f"/pkg.Shop/Nope{number}")(b"")
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert counted(watched) == {"_OTHER UNIMPLEMENTED": 20}
    labels = {"protocol": "grpc", "method": "POST", "route": "unmatched", "error_type": "UNIMPLEMENTED"}
    assert watched.value("request_errors_total", **labels) == 20


@pytest.mark.parametrize(
    ("incoming", "continued", "linked"), [("continue", True, False), ("link", False, True), ("ignore", False, False)]
)
async def test_a_callers_trace_is_taken_as_the_settings_say(watch: Any, incoming: str, continued: bool, linked: bool):
    """As for HTTP: continued, linked to, or not looked at."""
    watched = watch(tracing={"incoming": incoming})
    async with watched.obs, serving(GrpcMetricsInterceptor()) as channel:
        await channel.unary_unary("/pkg.Shop/Echo")(b"x", metadata=METADATA)
    (span,) = watched.spans
    assert (span.parent is not None) is continued
    assert [f"{link.context.span_id:016x}" for link in span.links] == (["b7ad6b7169203331"] if linked else [])


@both
@pytest.mark.parametrize("ours_first", [True, False])
async def test_beside_opentelemetrys_interceptor_a_call_has_one_span(watched: Watched, is_async: bool, ours_first: bool):
    """There is one span, theirs, and one count, ours, in whatever order they stand."""
    make = aio_server_interceptor if is_async else server_interceptor
    interceptors = [make(tracer_provider=watched.provider), GrpcMetricsInterceptor()]
    async with serving(*(reversed(interceptors) if ours_first else interceptors), is_async=is_async) as channel:
        await channel.unary_unary("/pkg.Shop/Echo")(b"x", metadata=METADATA)
        assert await eventually(lambda: watched.spans)
    assert [span.instrumentation_scope.name for span in watched.spans] == ["opentelemetry.instrumentation.grpc"]
    assert counted(watched) == {"/pkg.Shop/Echo OK": 1}


async def test_sync_methods_of_an_aio_server_have_their_codes(watched: Watched):
    """Their context tells nobody what was set, but we have seen it."""
    async with serving(GrpcMetricsInterceptor()) as channel:
        for request in (b"code", b"abort", b"boom"):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await channel.unary_unary("/pkg.Shop/Mixed")(request)
            seen = f"/pkg.Shop/Mixed {caught.value.code().name}"
            assert await eventually(lambda seen=seen: counted(watched).get(seen) == 1)


async def test_twice_counts_once(watched: Watched):
    """Two of ours are one."""
    async with serving(GrpcMetricsInterceptor(), GrpcMetricsInterceptor()) as channel:
        await channel.unary_unary("/pkg.Shop/Echo")(b"x")
    assert len(watched.spans) == 1
    assert counted(watched) == {"/pkg.Shop/Echo OK": 1}


@both
async def test_our_failures_stay_ours(watch: Any, is_async: bool, monkeypatch: pytest.MonkeyPatch):
    """Whatever of ours fails, the call is answered and the failure is counted."""
    watched = watch()
    async with watched.obs:
        monkeypatch.setattr(grpc_client, "CallerContext", lambda *_: 1 / 0)
        async with serving(GrpcMetricsInterceptor(), is_async=is_async) as channel:
            assert await channel.unary_unary("/pkg.Shop/Echo")(b"x") == b"x"
        monkeypatch.undo()
        monkeypatch.setattr(grpc_client, "_code", lambda *_: 1 / 0)
        async with serving(GrpcMetricsInterceptor(), is_async=is_async) as channel:
            assert await channel.unary_unary("/pkg.Shop/Echo")(b"x") == b"x"
        monkeypatch.undo()
        monkeypatch.setattr(grpc_client, "_around", lambda *_: 1 / 0)
        async with serving(GrpcMetricsInterceptor(), is_async=is_async) as channel:
            assert await channel.unary_unary("/pkg.Shop/Echo")(b"x") == b"x"
        assert await eventually(lambda: watched.obs.faults.counts == {"clients": 3})
    assert get_correlation_id() is None


def test_without_grpcio_the_error_says_what_to_install():
    """The package is importable without any extra; only the interceptor is not."""
    code = """
import sys
for name in ("grpc", "redis", "asyncpg", "psycopg", "sqlalchemy", "aiokafka", "confluent_kafka"):
    sys.modules[name] = None
from sage_fastapi_obs import ObservabilityError
try:
    from sage_fastapi_obs.clients.grpc import GrpcMetricsInterceptor
except ObservabilityError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "GrpcMetricsInterceptor needs: pip install 'sage_fastapi_obs[grpc]'"
    assert issubclass(ObservabilityError, Exception)

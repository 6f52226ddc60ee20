"""One call of a collector over gRPC: what each answer means, and what is sent with it; with a real server."""

import math
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
from collectors import MESSAGES, GrpcCollector, collecting
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc import error_details_pb2, status_pb2
from opentelemetry.instrumentation.grpc import GrpcInstrumentorClient
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from receivers import certificate, hanging

from sage_fastapi_obs import Observability, Settings
from sage_fastapi_obs.delivery.answers import Refused, TooLarge, Unavailable
from sage_fastapi_obs.delivery.otlp_collector import Collector
from sage_fastapi_obs.errors import SettingsError

REQUEST, RESPONSE, _ = MESSAGES["traces"]
AGAIN = {"CANCELLED", "DEADLINE_EXCEEDED", "ABORTED", "OUT_OF_RANGE", "UNAVAILABLE", "DATA_LOSS"}
"""As the table of the specification has them."""


@pytest.fixture
def server() -> Iterator[GrpcCollector]:
    with collecting("grpc") as collector:
        yield collector


def send(url: str, content: bytes = b"", seconds: float = math.inf) -> int:
    collector = Collector(url, "traces", RESPONSE)
    try:
        return collector.send(content, seconds)
    finally:
        collector.close()


def asking_to_wait(*details: Any) -> Any:
    """Answer with a status that has details."""

    def fault(_: Any, context: grpc.ServicerContext) -> None:
        status = status_pb2.Status(code=grpc.StatusCode.RESOURCE_EXHAUSTED.value[0], details=details)
        context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
        context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "busy")

    return fault


def packed(message: Any) -> AnyMessage:
    found = AnyMessage()
    found.Pack(message)
    return found


@pytest.mark.parametrize(
    "code", [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK], ids=lambda code: code.name
)
def test_each_code_means_what_the_specification_says(code: grpc.StatusCode, server: GrpcCollector) -> None:
    """Try again, or never; a server whose resources are used up is tried again only if it says when."""
    server.faults.append(lambda _, context: context.abort(code, "no"))
    with pytest.raises(Unavailable if code.name in AGAIN else Refused, match=f"gRPC {code.name}"):
        send(server.endpoint("traces"))
    assert send(server.endpoint("traces")) == 0


def test_a_server_says_when_to_come_again(server: GrpcCollector) -> None:
    """With the details that gRPC has for that, among others; what cannot be read says nothing."""
    soon = error_details_pb2.RetryInfo()
    soon.retry_delay.FromMilliseconds(1_500)
    server.faults += [
        asking_to_wait(packed(error_details_pb2.ErrorInfo(reason="busy")), packed(soon)),
        asking_to_wait(packed(error_details_pb2.ErrorInfo(reason="busy"))),
    ]
    with pytest.raises(Unavailable) as raised:
        send(server.endpoint("traces"))
    assert raised.value.after_seconds == 1.5
    with pytest.raises(Refused):
        send(server.endpoint("traces"))

    def unreadable(_: Any, context: grpc.ServicerContext) -> None:
        context.set_trailing_metadata((("grpc-status-details-bin", b"\xff\xff"),))
        context.abort(grpc.StatusCode.UNAVAILABLE, "busy")

    server.faults.append(unreadable)
    with pytest.raises(Unavailable) as raised:
        send(server.endpoint("traces"))
    assert raised.value.after_seconds == 0.0


def test_what_is_taken_in_part_is_counted(server: GrpcCollector) -> None:
    """The answer has the number of those that were not."""

    def partly(*_: Any) -> Any:
        answer = RESPONSE()
        answer.partial_success.rejected_spans = 2
        return answer

    server.faults.append(partly)
    assert send(server.endpoint("traces")) == 2


def test_a_message_that_is_too_large_is_sent_in_parts(server: GrpcCollector) -> None:
    """By gRPC's own limit of what a server takes, for which it has no code."""
    request = REQUEST()
    request.resource_spans.add(schema_url="x" * 5_000_000)
    with pytest.raises(TooLarge):
        send(server.endpoint("traces"), request.SerializeToString())


@pytest.mark.parametrize(
    ("code", "details"),
    [
        ("OUT_OF_RANGE", "Error, decoded message length too large: found 5000010 bytes, the limit is: 4194304 bytes"),
        ("RESOURCE_EXHAUSTED", "grpc: received message larger than max (5000010 vs. 4194304)"),
        ("RESOURCE_EXHAUSTED", "gRPC message exceeds maximum size 4194304: 5000010"),
    ],
    ids=["Rust", "Go", "Java"],
)
def test_servers_of_other_languages_say_it_in_other_words(code: str, details: str, server: GrpcCollector) -> None:
    """One of them with a code after which the same would be sent for ever."""
    server.faults.append(lambda _, context: context.abort(getattr(grpc.StatusCode, code), details))
    with pytest.raises(TooLarge):
        send(server.endpoint("traces"))


def test_an_answer_of_any_length_is_one(server: GrpcCollector) -> None:
    """It is not read beyond a limit, and what was sent is not sent again."""

    def talkative(*_: Any) -> Any:
        answer = RESPONSE()
        answer.partial_success.error_message = "x" * 5_000_000
        return answer

    server.faults.append(talkative)
    assert send(server.endpoint("traces")) == 0


def test_a_call_has_an_end() -> None:
    """Also with a server that takes the connection and never answers, and with one that is not there."""
    with hanging() as url, pytest.raises(Unavailable, match="gRPC DEADLINE_EXCEEDED"):
        send(url.replace("http", "grpc"), seconds=0.2)
    with pytest.raises(Unavailable, match="gRPC"):
        send("grpc://127.0.0.1:1")


@contextmanager
def counting(port: int) -> Iterator[tuple[int, list[int]]]:
    """Pass on to a port, and count the bytes that go there."""
    sizes: list[int] = []

    def forward(source: socket.socket, target: socket.socket, seen: list[int]) -> None:
        with suppress(OSError):
            while piece := source.recv(65_536):
                seen.append(len(piece))
                target.sendall(piece)
            target.shutdown(socket.SHUT_WR)

    def accept() -> None:
        ours, _ = listening.accept()
        theirs = socket.create_connection(("127.0.0.1", port))
        with ours, theirs:
            back = threading.Thread(target=forward, args=(theirs, ours, []))
            back.start()
            forward(ours, theirs, sizes)
            back.join()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=accept)
        thread.start()
        yield listening.getsockname()[1], sizes
        thread.join()


@pytest.mark.parametrize("compression", ["gzip", "deflate", "none"])
def test_messages_are_packed(compression: str, server: GrpcCollector, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the wire, where the variable says so; the server finds what was sent."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", compression)
    request = REQUEST()
    request.resource_spans.add(schema_url="x" * 1_000_000)
    with counting(server.port) as (port, sizes):
        assert send(f"grpc://127.0.0.1:{port}", request.SerializeToString()) == 0
    assert server.kept.requests["traces"] == [request]
    assert (sum(sizes) < 100_000) is (compression != "none")


def test_headers_are_metadata(server: GrpcCollector, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that gRPC cannot send are left out, and said."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "X-Key=a%20b,bad!name=1,data-bin=00,grpc-timeout=1S,tab=a%09b")
    collector = Collector(server.endpoint("traces"), "traces", RESPONSE)
    assert collector.send(b"", math.inf) == 0
    collector.close()
    assert server.metadata[0]["x-key"] == "a b"
    assert len(collector.remarks) == 4
    assert all("cannot be sent over gRPC" in remark for remark in collector.remarks)


@pytest.mark.parametrize("own_file", [True, False])
def test_a_server_that_is_who_it_says_and_wants_the_same_of_us(
    own_file: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its certificate is checked, and ours is shown; the key may be in the same file. A stranger gets nothing."""
    pem = certificate(tmp_path)
    content = pem.read_bytes()
    credentials = grpc.ssl_server_credentials([(content, content)], content, require_client_auth=True)
    for name in ("CERTIFICATE", "CLIENT_CERTIFICATE", *(("CLIENT_KEY",) if own_file else ())):
        monkeypatch.setenv(f"OTEL_EXPORTER_OTLP_{name}", str(pem))
    with collecting("grpc", credentials=credentials) as server:
        assert send(f"grpcs://localhost:{server.port}") == 0
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", str(tmp_path / "missing"))
        with pytest.raises(Unavailable, match="cannot set up a channel: FileNotFoundError"):
            send(f"grpcs://localhost:{server.port}")
        monkeypatch.delenv("OTEL_EXPORTER_OTLP_CERTIFICATE")
        with pytest.raises(Unavailable):
            send(f"grpcs://localhost:{server.port}")
    assert len(server.kept.requests["traces"]) == 1


def test_our_own_calls_are_not_traced(server: GrpcCollector, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though the application watches all of its gRPC clients: a span per batch would never end."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    GrpcInstrumentorClient().instrument(tracer_provider=provider)
    try:
        settings = Settings(logging={"output": os.devnull}, tracing={"otlp_endpoint": server.endpoint("traces")})
        obs = Observability(settings)
        obs.start()
        obs.tracer_provider.get_tracer("test").start_span("one").end()
        assert obs.flush(60)
        obs.abandon()
    finally:
        GrpcInstrumentorClient().uninstrument()
    assert [span.name for _, span in server.kept.spans()] == ["one"]
    assert exporter.get_finished_spans() == ()


@pytest.mark.parametrize("section", ["tracing", "logging", "metrics"])
def test_a_missing_extra_is_said_while_building(section: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the command that installs it."""
    monkeypatch.setitem(sys.modules, "grpc", None)
    with pytest.raises(SettingsError, match=r"grpc:// needs: pip install 'sage_fastapi_obs\[otlp-grpc\]'"):
        Observability(Settings(**{section: {"otlp_endpoint": "grpc://localhost:4317"}}))


FORKING = """
import os, sys
from sage_fastapi_obs import Observability, Settings
obs = Observability(Settings(logging={"enabled": False}, tracing={"otlp_endpoint": sys.argv[1], "shutdown_seconds": 60}))
obs.start()

def end(name):
    obs.tracer_provider.get_tracer("test").start_span(name).end()
    assert obs.flush(60)

end("before")
children = []
for _ in range(3):
    pid = os.fork()
    if not pid:
        try:
            for _ in range(5):
                end("child")
            obs.abandon()
        finally:
            os._exit(sys.exc_info()[0] is not None)
    children.append(pid)
for _ in range(5):
    end("parent")
assert all(os.waitpid(pid, 0)[1] == 0 for pid in children)
"""


def test_forked_children_have_channels_of_their_own(server: GrpcCollector) -> None:
    """Though the parent had one open when it forked: nothing is lost or sent twice, and nobody waits for a lost thread."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKING, server.endpoint("traces")], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    names = sorted(span.name for _, span in server.kept.spans())
    assert names == ["before", *["child"] * 15, *["parent"] * 5]

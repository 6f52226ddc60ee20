"""Real servers that receive lines: the bulk API of Elasticsearch as far as log shippers use it, and OTLP over HTTP."""

import base64
import contextlib
import gzip
import json
import socket
import socketserver
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

Fault = Callable[["Handler", "Bulk", bytes], None]


class Handler(BaseHTTPRequestHandler):
    """Reads a request, and answers as the server wants."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        unpack = {"gzip": gzip.decompress, "deflate": zlib.decompress}
        body = unpack.get(self.headers.get("content-encoding"), bytes)(body)
        self.server.take(self, body)

    def do_GET(self) -> None:
        self.answer(200, b"{}")

    do_HEAD = do_GET

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


class Receiver(ThreadingHTTPServer):
    """Serves in a thread of its own."""

    daemon_threads = True
    request_queue_size = 50

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.headers: list[dict[str, str]] = []
        self.faults: list[Fault] = []
        """What the next requests meet instead of an answer, one each."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def take(self, handler: Handler, body: bytes) -> None:
        sent = {name.lower(): value for name, value in handler.headers.items()}
        self.headers.append(sent | {"path": handler.path, "connection": str(handler.client_address[1])})
        if self.faults:
            self.faults.pop(0)(handler, self, body)
        else:
            self.accept(handler, body)

    def accept(self, handler: Handler, body: bytes) -> None:
        raise NotImplementedError

    def handle_error(self, *_: object) -> None:
        """Say nothing of clients that are gone."""


class Bulk(Receiver):
    """Keeps documents by their ids, and refuses to create one twice."""

    def __init__(self) -> None:
        super().__init__()
        self.documents: dict[str, dict[str, Any]] = {}
        self.indices: dict[str, str] = {}
        """Where each document is, by its id."""
        self.conflicts = 0
        self.status_of: Callable[[dict[str, Any]], int] = lambda _: 201
        """The status of a document; those above 299 are not kept."""

    def accept(self, handler: Handler, body: bytes) -> None:
        rows = body.split(b"\n")
        assert rows.pop() == b""
        items = []
        for action, row in zip(rows[::2], rows[1::2], strict=True):
            ((verb, target),) = json.loads(action).items()
            document = json.loads(row, object_pairs_hook=_each_name_once)
            key = target.get("_id") or f"auto-{len(self.documents)}"
            status = 409 if key in self.documents else self.status_of(document)
            self.conflicts += status == 409
            if status < 300:
                self.documents[key] = document
                self.indices[key] = target.get("_index") or handler.path.split("/")[1]
            items.append({verb: {"_id": key, "status": status}})
        errors = any(next(iter(item.values()))["status"] > 299 for item in items)
        handler.answer(200, json.dumps({"took": 1, "errors": errors, "items": items}).encode())

    def messages(self) -> list[str]:
        return [document["message"] for document in list(self.documents.values())]

    def credentials(self) -> set[str]:
        """List the names and passwords that were sent."""
        return {
            base64.b64decode(sent["authorization"].removeprefix("Basic ")).decode()
            for sent in self.headers
            if sent.get("authorization", "").startswith("Basic ")
        }


def _each_name_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Read an object as Elasticsearch does, which refuses a document that has a field twice."""
    assert len(dict(pairs)) == len(pairs), pairs
    return dict(pairs)


class LogCollector(Receiver):
    """Keeps log records."""

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[ExportLogsServiceRequest] = []

    def accept(self, handler: Handler, body: bytes) -> None:
        assert handler.headers["content-type"] == "application/x-protobuf"
        self.requests.append(ExportLogsServiceRequest.FromString(body))
        handler.answer(200)

    def records(self) -> list[Any]:
        return [
            record
            for request in self.requests
            for resource in request.resource_logs
            for scope in resource.scope_logs
            for record in scope.log_records
        ]


class SpanCollector(Receiver):
    """Keeps spans."""

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[ExportTraceServiceRequest] = []

    def accept(self, handler: Handler, body: bytes) -> None:
        assert handler.headers["content-type"] == "application/x-protobuf"
        self.requests.append(ExportTraceServiceRequest.FromString(body))
        handler.answer(200)

    def spans(self) -> list[Any]:
        return [
            span
            for request in self.requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]


def certificate(folder: Path) -> Path:
    """Make a certificate of this machine that nobody has signed; return the file of it and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    built = x509.CertificateBuilder(name, name, key.public_key(), 1, now - timedelta(days=1), now + timedelta(days=1))
    built = built.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path = folder / "certificate.pem"
    path.write_bytes(built.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM) + secret)
    return path


@contextmanager
def serving(receiver: Any) -> Iterator[Any]:
    """Serve until the end of the block."""
    thread = threading.Thread(target=receiver.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield receiver
    finally:
        receiver.shutdown()
        receiver.server_close()
        thread.join()


@contextmanager
def hanging() -> Iterator[str]:
    """Listen, take every connection, and never answer; yields the URL."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(50)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


class Hostile(socketserver.ThreadingTCPServer):
    """Answers whatever is sent with pieces that may have no end, until the other side has had enough."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, pieces: Callable[[], Iterator[bytes]], pause_seconds: float = 0.0) -> None:
        self.pieces = pieces
        self.pause_seconds = pause_seconds
        self.left = threading.Event()
        """Whether somebody has hung up."""
        super().__init__(("127.0.0.1", 0), _Hostility)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, *_: object) -> None: ...


class _Hostility(socketserver.BaseRequestHandler):
    server: Hostile

    def handle(self) -> None:
        with contextlib.suppress(OSError):
            self.request.recv(65_536)
            for piece in self.server.pieces():
                self.request.sendall(piece)
                time.sleep(self.server.pause_seconds)
            while self.request.recv(65_536):
                pass
        self.server.left.set()


class Webhook(Receiver):
    """A webhook that keeps what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[dict[str, Any]] = []

    def accept(self, handler: Handler, body: bytes) -> None:
        """Keep it."""
        self.told.append(json.loads(body))
        handler.answer(200)

"""A collector at its smallest: takes OTLP over HTTP, and answers 200."""

import json
import sys
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_taken: Counter[str] = Counter()


class _Collector(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """Take spans; an empty body is the answer that all were accepted."""
        batch = self.rfile.read(int(self.headers["Content-Length"]))
        _taken[self.path] += len(batch)
        self._answer(b"")

    def do_GET(self) -> None:
        """Tell how many bytes of spans were sent to this path."""
        self._answer(str(_taken[self.path]).encode())

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/x-protobuf")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def main() -> None:
    """Serve until the input ends; print the port."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Collector) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        print(json.dumps(server.server_address[1]), flush=True)
        sys.stdin.read()
        server.shutdown()


if __name__ == "__main__":
    main()

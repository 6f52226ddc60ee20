"""`python -m example_app.alert_sink`: takes the webhooks of Alertmanager and prints the alerts they tell of."""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

__all__ = ["Sink", "lines"]

MOST_BYTES = 10_000_000


class Sink(ThreadingHTTPServer):
    """Listens for webhooks; what they say is handed on with the name of the receiver that they were sent to."""

    daemon_threads = True

    def __init__(self, host: str, port: int, told: Callable[[str, dict[str, Any]], object]) -> None:
        """`port`: 0 takes a free one. `told`: called with each webhook, from a thread of its own."""
        super().__init__((host, port), _Webhook)
        self.told = told


class _Webhook(BaseHTTPRequestHandler):
    server: Sink

    def do_POST(self) -> None:
        """Take one webhook."""
        try:
            length = int(self.headers.get("Content-Length", "0"))
            if length > MOST_BYTES:
                self.send_error(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
                return
            told = json.loads(self.rfile.read(length))
            self.server.told(self.path.strip("/") or "default", told)
        except (ValueError, KeyError, TypeError, AttributeError):
            self.send_error(HTTPStatus.BAD_REQUEST)
            return
        self.send_response(HTTPStatus.OK)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing of requests: the alerts are what matters."""


def lines(receiver: str, told: dict[str, Any]) -> Iterator[str]:
    """Write each alert of a webhook on one line."""
    now = datetime.now(UTC).strftime("%H:%M:%S")
    for alert in told["alerts"]:
        labels = alert["labels"]
        about = " ".join(filter(None, (labels.get("service"), labels.get("instance"), labels.get("chain"))))
        said = alert.get("annotations", {})
        text = f"{said.get('summary', '')} {said.get('description', '')}".strip()
        line = f"{now} {alert['status']:<8} -> {receiver:<9} {labels['alertname']} [{about}] {text}"
        yield line.encode("unicode_escape").decode() if not line.isprintable() else line


def main() -> None:
    """Print alerts until Ctrl-C."""
    arguments = argparse.ArgumentParser(prog="python -m example_app.alert_sink", description=__doc__)
    arguments.add_argument("--host", default="0.0.0.0", help="address to listen at")  # noqa: S104 - containers reach it by name
    arguments.add_argument("--port", type=int, default=9094)
    given = arguments.parse_args()

    def show(receiver: str, told: dict[str, Any]) -> None:
        print("\n".join(lines(receiver, told)), flush=True)

    with Sink(given.host, given.port, show) as sink:
        print(f"waiting for alerts on port {sink.server_address[1]}", flush=True)
        try:
            sink.serve_forever()
        except KeyboardInterrupt:
            sys.exit(130)


if __name__ == "__main__":
    main()

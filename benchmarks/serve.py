"""One uvicorn worker that serves one variant, as it is run in production."""

import json
import os
import socket
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

import uvicorn
from prometheus_client import REGISTRY

from benchmarks.drive import app_maker
from benchmarks.place import Place
from benchmarks.scrape import fill
from benchmarks.variants import variant_of

__all__ = ["Service"]

ROUTES = 31


@dataclass(frozen=True, slots=True)
class Service:
    """What one process serves."""

    variant: str
    series: int = 0
    """That its registry has besides its own."""
    after: int = 0
    """How many routes stand behind the one that is asked for."""


def main() -> None:
    """Serve until the input ends; print the port."""
    described, lines, endpoint, core = sys.argv[1:]
    service = Service(**json.loads(described))
    if core:
        os.sched_setaffinity(0, {int(core)})
    watched = variant_of(service.variant).build(app_maker(ROUTES, after=service.after), Place(Path(lines), endpoint))
    if service.series:
        fill(watched.registry or REGISTRY, service.series)
    listening = socket.create_server(("127.0.0.1", 0), backlog=2048)
    config = uvicorn.Config(watched.app, loop="uvloop", http="httptools", access_log=False, log_level="error")
    server = uvicorn.Server(config)

    def stop_with_the_input() -> None:
        sys.stdin.read()
        server.should_exit = True

    threading.Thread(target=stop_with_the_input, daemon=True).start()
    print(json.dumps(listening.getsockname()[1]), flush=True)
    server.run(sockets=[listening])
    os._exit(0)


if __name__ == "__main__":
    main()

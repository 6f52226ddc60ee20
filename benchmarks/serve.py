"""One uvicorn worker that serves one variant, as it is run in production."""

import json
import os
import socket
import sys
import threading
from pathlib import Path

import uvicorn
from prometheus_client import REGISTRY

from benchmarks.drive import app_maker
from benchmarks.place import Place
from benchmarks.scrape import fill
from benchmarks.variants import VARIANTS

ROUTES = 31


def main() -> None:
    """Serve until the input ends; print the port."""
    variant, series, lines, core = sys.argv[1:]
    if core:
        os.sched_setaffinity(0, {int(core)})
    watched = VARIANTS[variant].build(app_maker(ROUTES), Place(Path(lines)))
    if int(series):
        fill(watched.registry or REGISTRY, int(series))
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

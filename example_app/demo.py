"""The demo: the service in a process of its own, traffic from this one, and what the signals say about it."""

import argparse
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import anyio
import httpx
from anyio.abc import TaskGroup

from example_app import logfile
from example_app.summary import Snapshot, table
from example_app.traffic import CHATS, TIMEOUT_SECONDS, Traffic

__all__ = ["main"]

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
START_SECONDS = 30.0
STOP_SECONDS = 10.0
TERMINAL_SECONDS = 1.0
PLAIN_SECONDS = 5.0
LATEST_LINES = 5
WELCOME = """\
The shop is open on {url}, with about {rate:g} visitors a second.

  try it      {url}/docs
  metrics     {url}/metrics
  health      {url}/monitoring/health
  log         tail -f {log}
  one story   grep <request id of any response> {log}
  Prometheus  scrape_configs: [{{job_name: shop, static_configs: [{{targets: ["{host}"]}}]}}]

Ctrl-C stops everything.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo; return the exit code."""
    options = _options(arguments)
    try:
        port = _free(options.port)
    except OSError as error:
        reason = "is in use" if error.errno is not None and "in use" in os.strerror(error.errno).lower() else f"cannot be used ({error.strerror})"
        sys.stderr.write(f"port {options.port} {reason}: choose another with --port {options.port + 1}\n")
        return 2
    options.log.write_bytes(b"")
    return anyio.run(_demo, port, options.rate, options.seconds, options.log.resolve())


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m example_app", description="A small shop under live traffic, watched by one line.")
    parser.add_argument("--port", type=_port, default=8000, help="where the service listens; 0 takes a free port (default 8000)")
    parser.add_argument("--rate", type=_above_zero, default=20.0, help="visitors a second (default 20)")
    parser.add_argument("--seconds", type=_above_zero, default=None, help="stop after this time (default: at Ctrl-C)")
    parser.add_argument("--log", type=Path, default=Path("demo.log"), help="the service's log, written anew (default demo.log)")
    return parser.parse_args(arguments)

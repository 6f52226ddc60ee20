"""`python -m benchmarks`: CPU time added to one request, each variant beside a bare twin in the same process.

Machines are noisy and blocks of the two alternate, so read the medians of the ratios, never a time by itself.
"""

import argparse
import asyncio
import gc
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from benchmarks.variants import VARIANTS

OTHER_ROUTES = 30
Message = dict[str, Any]


def build(instrument: Callable[[FastAPI, Path], Any], folder: Path) -> Any:
    """Build an app with one route that is asked for, among others, and instrument it."""
    app = FastAPI(openapi_url=None)
    for number in range(OTHER_ROUTES):
        app.add_api_route(f"/other{number}/{{key}}", lambda key: key, methods=["GET"])

    @app.get("/items/{item}")
    async def read(item: int) -> dict[str, int]:
        return {"item": item}

    return instrument(app, folder) or app


def scope() -> Message:
    """Build the scope of an ordinary request from a browser."""
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/items/42",
        "raw_path": b"/items/42",
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"localhost:8000"), (b"user-agent", b"bench/1.0"), (b"accept", b"*/*")],
        "client": ("127.0.0.1", 40000),
        "server": ("127.0.0.1", 8000),
        "state": {},
    }


async def receive() -> Message:
    """Send no body."""
    return {"type": "http.request", "body": b"", "more_body": False}


async def send(message: Message) -> None:
    """Take the response."""


async def block(app: Callable[..., Awaitable[None]], requests: int) -> float:
    """Serve some requests; return the CPU seconds of the whole process per request."""
    started = time.process_time()
    for _ in range(requests):
        await app(scope(), receive, send)
    return (time.process_time() - started) / requests


async def compare(variant: str, blocks: int, requests: int) -> None:
    """Print the microseconds a variant adds, and the bare request's, each as the median over alternating blocks."""
    with tempfile.TemporaryDirectory() as folder:
        bare = build(lambda *_: None, Path(folder))
        watched = build(VARIANTS[variant], Path(folder))
        await block(bare, requests)
        await block(watched, requests)
        gc.collect()
        pairs = [(await block(bare, requests), await block(watched, requests)) for _ in range(blocks)]
    added = statistics.median(with_us - without for without, with_us in pairs)
    print(f"{added * 1e6:.1f} {statistics.median(without for without, _ in pairs) * 1e6:.1f}")


def main() -> None:
    """Measure every variant in a process of its own, and print a table."""
    arguments = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    arguments.add_argument("--variant", choices=VARIANTS, help="measure one, and print its two numbers")
    arguments.add_argument("--blocks", type=int, default=31)
    arguments.add_argument("--requests", type=int, default=200, help="per block")
    given = arguments.parse_args()
    if given.variant:
        asyncio.run(compare(given.variant, given.blocks, given.requests))
        return
    print(f"{'variant':<36}{'added to a request':>20}{'bare request':>16}{'ratio':>8}", flush=True)
    for variant in VARIANTS:
        command = [sys.executable, "-m", "benchmarks", "--variant", variant]
        command += ["--blocks", str(given.blocks), "--requests", str(given.requests)]
        measured = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout.split()
        added, bare = map(float, measured)
        print(f"{variant:<36}{added:>17.1f} µs{bare:>13.1f} µs{added / bare:>8.2f}", flush=True)


if __name__ == "__main__":
    main()

"""What waits for a server takes no more memory than the limit of the queue says."""

import os
import subprocess
import sys
from pathlib import Path

from receivers import hanging
from support import PATIENCE_SECONDS

WAITING = """
import os, sys
from loguru import logger
from sage_fastapi_obs import Observability, Settings

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

logging = {"output": os.devnull, "otlp_endpoint": sys.argv[1], "shutdown_seconds": 0.1}
obs = Observability(Settings(logging=logging, store={"enabled": False}, alerts={"defaults": False}))
obs.start()
for number in range(500):
    logger.info("said", number=number, text="x" * 300)
before = resident()
for number in range(20_000):
    logger.info("said", number=number, text="x" * 300)
print(resident() - before)
obs.abandon()
"""

REQUESTS = 300
KEPT = f"""
import asyncio, gc, os, sys
from collections import Counter
from fastapi import FastAPI
from sage_fastapi_obs import Observability, ObservabilityMiddleware, Settings

def counted():
    gc.collect(0)
    kinds = (type(one) for one in gc.get_objects())
    return Counter(f"{{kind.__module__}}.{{kind.__qualname__}}" for kind in kinds if isinstance(kind.__module__, str))

async def receive():
    return {{"type": "http.request", "body": b""}}

async def send(message):
    pass

async def ask():
    headers = [(b"traceparent", b"00-" + b"a" * 32 + b"-" + b"b" * 16 + b"-01")]
    await app({{"type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": headers}}, receive, send)

tracing = {{"sample_rate": 1.0, "otlp_endpoint": sys.argv[1], "shutdown_seconds": 0.1}}
logging = {{"output": os.devnull, "shutdown_seconds": 0.1}}
obs = Observability(Settings(tracing=tracing, logging=logging, store={{"path": sys.argv[2]}}, alerts={{"defaults": False}}))
app = FastAPI()
app.add_api_route("/", lambda: None)
app = ObservabilityMiddleware(app, observability=obs)

async def main():
    async with obs:
        await ask()
        before = counted()
        for _ in range({REQUESTS}):
            await ask()
        more = counted() - before
        ours = {{kind: number for kind, number in more.items() if kind.startswith(("sage", "opentelemetry", "_thread"))}}
        print(sum(ours.values()), ours)

asyncio.run(main())
"""


def test_lines_that_wait_take_what_they_are_long() -> None:
    """Not the buffers in which they were written: those would be ten times as much."""
    with hanging() as url:
        done = subprocess.run(
            [sys.executable, "-c", WAITING, f"{url}/v1/logs"],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "no_proxy": "*"},
        )
    assert int(done.stdout) < 48 * 1024 * 1024


def test_few_objects_of_a_kept_request_wait(tmp_path: Path) -> None:
    """For exporter and store together two of each, as Python's collector looks at them again and again: no copies of ids."""
    with hanging() as url:
        command = [sys.executable, "-c", KEPT, f"{url}/v1/traces", str(tmp_path)]
        env = {**os.environ, "no_proxy": "*"}
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=env, timeout=PATIENCE_SECONDS)
    number, kinds = done.stdout.split(maxsplit=1)
    # The store may have written some meanwhile.
    assert REQUESTS <= int(number) < 2.5 * REQUESTS, kinds

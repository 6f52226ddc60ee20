"""What waits for a server takes no more memory than the limit of the queue says."""

import os
import subprocess
import sys

from receivers import hanging

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

"""Real servers that tests start: found, waited for, and ended."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

PATIENCE_SECONDS = 60.0


def need(program: str) -> str:
    """Find a program; skip without it, but never where the tests are what decides."""
    found = shutil.which(program)
    if found is None:
        message = f"{program} is not installed: apt-get install prometheus"
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
    return found


def until(found: Callable[[], Any], what: str) -> Any:
    """Ask until there is an answer."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        try:
            answer = found()
        except (httpx.HTTPError, KeyError, IndexError):
            answer = None
        if answer:
            return answer
        time.sleep(0.1)
    pytest.fail(f"no {what} within {PATIENCE_SECONDS:.0f} s")


def stop(process: subprocess.Popen[Any]) -> None:
    """End a process as an operator would."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(15)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()

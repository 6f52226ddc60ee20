"""Real servers for the tests of the stack."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

ROOT = Path(__file__).parents[2]
PATIENCE_SECONDS = 60.0


def need(program: str, package: str) -> str:
    """Find a program; skip without it, but never where the tests are what decides."""
    found = shutil.which(program)
    if found is None:
        lacking(f"{program} is not installed: {package}")
    assert found is not None
    return found


def lacking(message: str) -> None:
    """Skip, or fail where nothing may be skipped."""
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)


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


def free_port() -> int:
    """Find a port that nobody has."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


@contextmanager
def running(command: list[str], log: Path, **env: str) -> Iterator[None]:
    """Run a program, and end it as an operator would."""
    with log.open("w") as output:
        process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, **env}, stdout=output, stderr=output)
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def serving(factory: str, folder: Path, **env: str) -> Iterator[int]:
    """Run an app with uvicorn; yield its port."""
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "--factory", factory, "--port", str(port), "--log-level", "warning"]
    with running(command, folder / "service.log", **env):
        until(lambda: httpx.get(f"http://127.0.0.1:{port}/monitoring/health/live").is_success, "service")
        yield port


@contextmanager
def prometheus(config: Path, folder: Path) -> Iterator[str]:
    """Run Prometheus; yield its address."""
    log = folder / "prometheus.log"
    flags = [
        "--web.listen-address=127.0.0.1:0",
        "--enable-feature=exemplar-storage",
        f"--storage.tsdb.path={folder / 'tsdb'}",
        "--web.enable-admin-api",
    ]
    with running([need("prometheus", "apt-get install prometheus"), f"--config.file={config}", *flags], log):
        address = until(lambda: re.search(r"Listening on.*address=(127\.0\.0\.1:\d+)", log.read_text()), "Prometheus")[1]
        yield f"http://{address}"


def query(address: str, expression: str) -> list[dict[str, Any]]:
    """Ask Prometheus for an instant vector."""
    answer = httpx.get(f"{address}/api/v1/query", params={"query": expression}, timeout=30).json()
    assert answer["status"] == "success", f"{expression}: {answer.get('error')}"
    result: list[dict[str, Any]] = answer["data"]["result"]
    return result

"""Programs and services that the tests of the stack run, and questions to Prometheus."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from servers import free_port, need, stop
from support import PATIENCE_SECONDS, until

from sage_fastapi_obs import Settings

ROOT = Path(__file__).parents[2]
NAMES = ("sage-backend", "ai-textbook-core", "customer-id", "rfs-demo")
DEMO = [Settings.from_env({}, path=ROOT / f"deploy/services/{name}.yaml") for name in NAMES]
"""The services that the dashboards under grafana/ are made for."""


def lacking(message: str) -> None:
    """Skip, or fail where nothing may be skipped."""
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)


@contextmanager
def running(command: list[str], log: Path, **env: str) -> Iterator[None]:
    """Run a program, and end it as an operator would."""
    with log.open("w") as output:
        process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, **env}, stdout=output, stderr=output)
    try:
        yield
    finally:
        stop(process)


@contextmanager
def serving(factory: str, folder: Path, port: int = 0, **env: str) -> Iterator[int]:
    """Run an app with uvicorn; yield its port, which is a free one unless it is given."""
    port = port or free_port()
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
    with running([need("prometheus"), f"--config.file={config}", *flags], log):
        address = until(lambda: re.search(r"Listening on.*address=(127\.0\.0\.1:\d+)", log.read_text()), "Prometheus")[1]
        until(lambda: httpx.get(f"http://{address}/-/ready").is_success, "Prometheus")
        yield f"http://{address}"


def query(address: str, expression: str) -> list[dict[str, Any]]:
    """Ask Prometheus for an instant vector."""
    answer = httpx.get(f"{address}/api/v1/query", params={"query": expression}, timeout=PATIENCE_SECONDS).json()
    assert answer["status"] == "success", f"{expression}: {answer.get('error')}"
    result: list[dict[str, Any]] = answer["data"]["result"]
    return result

"""Programs and services that the tests of the stack run, and questions to Prometheus."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from servers import free_port, program
from support import until

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
def serving(factory: str, folder: Path, port: int = 0, **env: str) -> Iterator[int]:
    """Run an app with uvicorn; yield its port, which is a free one unless it is given."""
    port = port or free_port()
    command = [sys.executable, "-m", "uvicorn", "--factory", factory, "--port", str(port), "--log-level", "warning"]
    with program(command, folder / "service.log", **env):
        until(lambda: httpx.get(f"http://127.0.0.1:{port}/monitoring/health/live").is_success, "service")
        yield port

"""Processes of jobs join the group of a service by its name, whoever has started them, and wherever."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from servers import free_port, stop
from support import PATIENCE_SECONDS, until

SERVICE = """
import sys, uvicorn
from fastapi import FastAPI
from sage_fastapi_obs import Observability, Settings

app = FastAPI()
Observability(Settings.from_env(monitoring={"access": "open"}, logging={"enabled": False})).install(app)
uvicorn.run(app, port=int(sys.argv[1]), log_level="critical")
"""
JOB = """
import sys
from sage_fastapi_obs import Observability, Settings, declare_counter

class Jobs:
    done = declare_counter("jobs_done_total", "Jobs that are done.")

obs = Observability(Settings.from_env(logging={"enabled": False}))
obs.enable_pack(Jobs)
obs.start()
for _ in sys.stdin:
    Jobs.done.inc()
obs.abandon()
"""


@contextmanager
def running(source: str, folder: Path, group: str, *arguments: str, service: str = "shop") -> Iterator[subprocess.Popen[Any]]:
    """Run a program in a directory of its own."""
    folder.mkdir(exist_ok=True)
    named = {"SAGE_OBS_WORKERS__GROUP": group, "SERVICE_NAME": service, "SAGE_OBS_STORE__PATH": str(folder)}
    env = {**os.environ, **named}
    command = [sys.executable, "-W", "ignore", "-c", source, *arguments]
    process = subprocess.Popen(command, cwd=folder, env=env, stdin=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        stop(process)
        process.stdin.close()


@pytest.fixture
def service(tmp_path: Path, request: Any) -> Iterator[str]:
    """Run a service with a group of its own; gives its address."""
    port = free_port()
    with running(SERVICE, tmp_path / "service", f"jobs-{port}", str(port)):
        address = f"http://127.0.0.1:{port}"
        until(lambda: httpx.get(f"{address}/monitoring/health/live").status_code == 200, "service")
        yield address


def workers(address: str) -> int:
    rows = httpx.get(f"{address}/monitoring/workers", timeout=PATIENCE_SECONDS).json()["workers"]
    return sum(row["state"] == "running" for row in rows)


def test_a_job_is_counted_by_the_service(service: str, tmp_path: Path) -> None:
    """Its metrics are on the page of the service, and stay there after its end; a job of another name or service is none."""
    group = f"jobs-{service.rpartition(':')[2]}"

    def jobs_done() -> list[str]:
        text = httpx.get(f"{service}/metrics", timeout=PATIENCE_SECONDS).text
        return [line for line in text.split("\n") if line.startswith("jobs_done_total ")]

    with (
        running(JOB, tmp_path / "job", group) as job,
        running(JOB, tmp_path / "other", f"{group}-other") as other,
        running(JOB, tmp_path / "strange", group, service="billing") as strange,
    ):
        until(lambda: workers(service) == 2, "job")
        for process in (job, other, strange):
            process.stdin.write("1\n2\n3\n")
            process.stdin.flush()
        until(lambda: jobs_done() == ["jobs_done_total 3.0"], "count")
        other.stdin.close()
        strange.stdin.close()
        assert (other.wait(PATIENCE_SECONDS), strange.wait(PATIENCE_SECONDS)) == (0, 0)
        assert workers(service) == 2
    until(lambda: workers(service) == 1, "end of the job")
    assert jobs_done() == ["jobs_done_total 3.0"]

"""Workers of real servers behind one port: whoever answers has the levels, stacks, requests and rows of all."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from servers import free_port
from support import PATIENCE_SECONDS, until

pytestmark = pytest.mark.stack

TOKEN = "a-token-of-sixteen-or-more"
WORKERS = 3
APP = """
from fastapi import FastAPI
from loguru import logger
from sage_fastapi_obs import Observability, Settings

app = FastAPI()
Observability(Settings(
    service={{"name": "shop"}}, store={{"path": {folder!r}}}, logging={{"output": {folder!r} + "/lines"}},
    monitoring={{"access": {access!r}, "token": {token!r}, "expose_logs": True}}, metrics={{"port": {port}}},
)).install(app)

@app.get("/boom")
async def boom():
    logger.warning("it breaks")
    raise LookupError
"""
SERVERS = {
    "uvicorn": ["uvicorn", "shop:app", "--timeout-worker-healthcheck", "60", "--workers", str(WORKERS), "--port"],
    "gunicorn": ["gunicorn", "shop:app", "-w", str(WORKERS), "-k", "asgi", "--preload", "-b"],
}


class Team:
    """The workers of a server."""

    def __init__(self, server: str, folder: Path, *, access: str = "open") -> None:
        self.port, self.metrics_port, self.folder = free_port(), free_port(), folder
        names = {"folder": str(folder), "access": access, "token": TOKEN, "port": self.metrics_port}
        (folder / "shop.py").write_text(textwrap.dedent(APP.format(**names)))
        *command, last = SERVERS[server]
        address = f"127.0.0.1:{self.port}" if last == "-b" else str(self.port)
        # A group of its own: a server's children die with it.
        self.process = subprocess.Popen(
            [sys.executable, "-m", *command, last, address],
            cwd=folder,
            process_group=0,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Ask one of the workers; a new connection leads to any of them."""
        headers = {"Authorization": f"Bearer {TOKEN}"}
        return httpx.request(
            method, f"http://127.0.0.1:{self.port}{path}", headers=headers, timeout=PATIENCE_SECONDS, **options
        )

    def get(self, page: str) -> Any:
        return self.ask("GET", f"/monitoring{page}").json()

    def running(self) -> dict[int, int]:
        """Return the processes of the workers that run, by their numbers."""
        rows = self.get("/workers")["workers"]
        return {row["worker"]: row["process_id"] for row in rows if row["state"] == "running"}


@pytest.fixture(params=SERVERS)
def team(request: Any, tmp_path: Path) -> Iterator[Team]:
    """Start a server, and wait until its workers know each other."""
    made = Team(request.param, tmp_path)
    try:
        # One that has just started cannot be asked yet.
        until(lambda: len(made.get("/loggers")["others"]) == len(made.running()) - 1 == WORKERS - 1, "workers")
        yield made
    finally:
        os.killpg(made.process.pid, signal.SIGKILL)
        made.process.wait()


def test_whoever_is_asked_answers_for_all(team: Team) -> None:
    """Rows, levels, stacks, metrics and a request just served are the same from each worker, also from a new one."""
    processes = set(team.running().values())
    put = team.ask("PUT", "/monitoring/loggers", json={"level": "error", "logger": "shop", "seconds": 600}).json()
    assert {put["process_id"], *(other["process_id"] for other in put["others"])} == processes
    victim = next(pid for pid in processes if pid != put["process_id"])
    os.kill(victim, signal.SIGKILL)
    until(lambda: len(team.running()) == WORKERS and victim not in team.running().values(), "new worker")
    answered = set()

    def levels_by_all() -> bool:
        levels = team.get("/loggers")
        every = [levels, *levels["others"]]
        # The new one may be about to ask.
        if [[one["level"] for one in each["loggers"]] for each in every] != [["error"]] * WORKERS:
            return False
        answered.add(levels["process_id"])
        return answered == set(team.running().values())

    until(lambda: len(team.get("/loggers")["others"]) == WORKERS - 1, "levels of the new worker")
    until(levels_by_all, "answer of each worker")
    seen = set()

    def stacks_by_all() -> bool:
        stacks = team.get("/stacks")
        seen.add(stacks["pid"])
        assert {thread["worker"] for thread in stacks["threads"]} == set(range(WORKERS))
        assert stacks["no_answer"] == []
        return seen == answered

    until(stacks_by_all, "stacks by each worker")
    served = [team.ask("GET", "/boom").headers["x-request-id"] for _ in range(5)]
    for found in served:
        until(lambda found=found: team.ask("GET", f"/monitoring/requests/{found}").status_code == 200, "request")

    def counted() -> float:
        series = team.get("/explorer/http_requests_total")["now"]
        return sum(one["value"] for one in series if one["labels"]["route"] == "/boom")

    until(lambda: {counted() for _ in range(20)} == {5}, "one total, whoever is asked")
    (row,) = [row for row in team.get("/workers")["workers"] if row["last_death"]]
    assert row["last_death"]["reason"] in ("killed", "unknown")
    assert team.get("/health")["workers"] == {"running": WORKERS, "hanging": [], "stopped": []}


@pytest.mark.parametrize("server", SERVERS)
def test_the_metrics_port_goes_from_worker_to_worker(server: str, tmp_path: Path) -> None:
    """However many workers are killed, one serves the port, and none of them warns; its page is that of all."""
    team = Team(server, tmp_path, access="port")
    page = f"http://127.0.0.1:{team.metrics_port}/metrics"

    def count() -> float:
        lines = httpx.get(page, timeout=PATIENCE_SECONDS).text.split("\n")
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith("http_requests_total{"))

    try:
        until(lambda: team.ask("GET", "/boom").status_code == 500, "worker")
        until(lambda: count() >= 1, "metrics")
        for _ in range(3):
            before = count()
            os.kill(_listener(team.metrics_port), signal.SIGKILL)
            until(lambda before=before: count() >= before, "metrics of the next worker")
        assert "metrics.port" not in (tmp_path / "lines").read_text().replace("metrics_port", "")
    finally:
        os.killpg(team.process.pid, signal.SIGKILL)
        team.process.wait()


def _listener(port: int) -> int:
    """Return the process that listens on a port."""
    inode = next(
        fields[9]
        for line in Path("/proc/net/tcp").read_text().split("\n")[1:]
        if (fields := line.split()) and fields[3] == "0A" and int(fields[1].partition(":")[2], 16) == port
    )
    while True:
        for path in Path("/proc").glob("[0-9]*/fd/*"):
            try:
                if str(path.readlink()) == f"socket:[{inode}]":
                    return int(path.parts[2])
            except OSError:
                continue
        time.sleep(0.01)

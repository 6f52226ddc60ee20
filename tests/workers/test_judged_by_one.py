"""A real server with workers: one judges the rules, all show the same, and a restart changes nothing."""

import json
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from servers import free_port
from support import PATIENCE_SECONDS, until

HERE = Path(__file__).parent
WORKERS = 3
SERVERS = {
    "uvicorn": "{python} -m uvicorn judged:app --workers {workers} --port {port} --log-level warning",
    "gunicorn": "{python} -m gunicorn judged:app --workers {workers} --bind 127.0.0.1:{port} --worker-class asgi --preload",
}


class Service:
    """A server with workers that is started again and again."""

    def __init__(self, name: str, folder: Path) -> None:
        self._folder = folder
        self._command = SERVERS[name]
        self._environment = os.environ | {
            "SERVICE_OF_TEST": f"judged-{uuid4().hex}",
            "LINES_OF_TEST": str(folder / "lines"),
            "STORE_OF_TEST": str(folder / "store"),
            "TOLD_OF_TEST": str(folder / "told"),
        }
        self.start()

    def start(self) -> None:
        """Start it, and wait for all workers."""
        port = free_port()
        self._url = f"http://127.0.0.1:{port}"
        command = self._command.format(python=sys.executable, port=port, workers=WORKERS).split()
        self._process = subprocess.Popen(
            command, cwd=HERE, env=self._environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        until(lambda: len(self.workers()) == WORKERS)

    def stop(self) -> None:
        """Stop it as an operator does."""
        self._process.terminate()
        try:
            self._process.wait(PATIENCE_SECONDS)
        finally:
            self._process.kill()
            self._process.wait()

    def get(self, path: str) -> Any:
        """Ask whichever worker takes the connection; None if it is killed meanwhile."""
        try:
            return httpx.get(f"{self._url}{path}", timeout=PATIENCE_SECONDS).json()
        except (httpx.TransportError, json.JSONDecodeError):
            return None

    def workers(self) -> dict[int, Any]:
        """Return what all workers that answer say, by their ids."""
        found = [one for _ in range(8 * WORKERS) if (one := self.get("/seen"))]
        return {one["pid"]: one for one in found}

    def leader(self) -> int:
        """Return the worker that leads; 0 if none of those that answer does."""
        leaders = [pid for pid, one in self.workers().items() if one["leads"]]
        assert len(leaders) <= 1 or self.leader()
        return leaders[0] if leaders else 0

    def told(self) -> list[str]:
        """Return what callbacks were told."""
        return (self._folder / "told").read_text().splitlines()

    def lines(self) -> list[dict[str, Any]]:
        """Return all log lines."""
        return [json.loads(line) for line in (self._folder / "lines").read_text().splitlines()]

    def all_say(self, firing: list[str], failures: int) -> bool:
        """Tell whether there are all workers, and all say the same."""
        found = self.workers()
        return len(found) == WORKERS and all((one["firing"], one["failures"]) == (firing, failures) for one in found.values())


@pytest.fixture(params=SERVERS)
def service(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """Run a server."""
    made = Service(request.param, tmp_path)
    yield made
    made.stop()


def test_an_alert_is_told_once_over_kills_and_a_restart(service: Service):
    """Each worker has each request once in its windows, and shows the alert, whoever was killed; so does the next server."""
    failures = 12
    for _ in range(failures):
        service.get("/fail")
    until(lambda: service.all_say(["failures"], failures), "alert")
    assert until(service.told) == ["failures firing"]
    for _ in range(3):
        leader = until(service.leader)
        os.kill(leader, signal.SIGKILL)
        until(lambda gone=leader: service.leader() not in (0, gone), "leader")
        service.get("/fail")
        failures += 1
        until(partial(service.all_say, ["failures"], failures), f"agreement of {failures}")
    service.stop()
    service.start()
    until(lambda: service.all_say(["failures"], failures), "agreement after a restart")
    service.get("/fail")
    until(lambda: service.all_say(["failures"], failures + 1), "agreement after a restart")
    assert service.told() == ["failures firing"]


def test_a_rule_that_the_leader_does_not_have(service: Service):
    """The worker that it was added in says so, once, and what to do; where it judges, it does."""
    follower = until(lambda: next((one["pid"] for one in service.workers().values() if not one["leads"]), 0))
    until(lambda: service.get(f"/late/{follower}"))
    until(lambda: "late" in service.workers()[follower]["problems"])
    said = [line for line in service.lines() if "late is not judged" in line["message"]]
    assert all("while the application starts" in line["message"] for line in said)

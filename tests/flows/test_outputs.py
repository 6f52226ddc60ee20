"""A real server whose log nobody reads, or cannot be written, serves on."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from receivers import hanging
from servers import free_port
from support import PATIENCE_SECONDS, until

APP = """
import os
from fastapi import FastAPI
from sage_fastapi_obs import Observability, Settings
if os.environ.get("CLOSED"):
    os.close(1)
app = FastAPI()
Observability(Settings.from_env(monitoring={"access": "open"})).install(app)


@app.get("/items/{number}")
async def read(number: int) -> dict[str, int]:
    return {"number": number}
"""
DROPPED = re.compile(r'^observability_log_lines_dropped_total\{cause="(\w+)",output="(\w+)"\} (\S+)$', re.MULTILINE)


class Server:
    """A uvicorn process."""

    def __init__(self, folder: Path, stdout: Any, *, stderr: Any = subprocess.DEVNULL, **env: str) -> None:
        (folder / "served.py").write_text(APP)
        port = free_port()
        command = [sys.executable, "-m", "uvicorn", "served:app", "--port", str(port), "--app-dir", str(folder)]
        env = {**os.environ, "SAGE_OBS_LOGGING__FORMAT": "json", "SAGE_OBS_LOGGING__LEVEL": "info", **env}
        self.process = subprocess.Popen(command, stdout=stdout, stderr=stderr, env=env)
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE_SECONDS)
        self.asked = 0
        until(self._answers)

    def _answers(self) -> bool:
        try:
            return self.client.get("/monitoring/health/live").is_success
        except httpx.TransportError:
            return False

    def requests_within(self, seconds: float) -> int:
        """Ask as often as answers come, and count them."""
        began, count = time.monotonic(), 0
        while time.monotonic() - began < seconds:
            assert self.client.get(f"/items/{self.asked}").json() == {"number": self.asked}
            self.asked += 1
            count += 1
        return count

    def dropped(self) -> dict[tuple[str, str], int]:
        page = self.client.get("/metrics").text
        return {(output, cause): int(float(count)) for cause, output, count in DROPPED.findall(page) if float(count)}

    def stop(self) -> None:
        self.client.close()
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(PATIENCE_SECONDS) in (0, -signal.SIGTERM)


@contextmanager
def served(*args: Any, **options: Any) -> Iterator[Server]:
    server = Server(*args, **options)
    try:
        yield server
    finally:
        server.client.close()
        if server.process.poll() is None:
            server.process.kill()
            server.process.wait()


@contextmanager
def killed(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Leave no process behind, also where the test ends early."""
    try:
        yield
    finally:
        process.kill()
        process.wait()


def requests_of_both(first: Server, second: Server) -> tuple[int, int]:
    """Ask two servers by turns, and count the answers of each: a busy machine is about as busy for both."""
    counts = [(first.requests_within(0.25), second.requests_within(0.25)) for _ in range(8)]
    return sum(one for one, _ in counts), sum(other for _, other in counts)


def numbers(rows: list[dict[str, Any]]) -> list[int]:
    """Read which requests the canonical lines are of."""
    return [int(row["path"].rpartition("/")[2]) for row in rows if row.get("route") == "/items/{number}"]


def test_a_reader_that_is_stopped_does_not_stop_the_service(tmp_path: Path) -> None:
    """Requests go on as fast; what was written is whole, what is missing is counted and said, all of it exactly."""
    out = tmp_path / "out"
    with out.open("wb") as sink:
        reader = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=sink)
    with killed(reader), served(tmp_path, reader.stdin) as server, served(tmp_path, subprocess.DEVNULL) as twin:
        reader.stdin.close()
        reader.send_signal(signal.SIGSTOP)
        # Past what the pipe and the backlog hold.
        assert until(lambda: server.requests_within(0.2) and server.dropped())
        normal, stopped = requests_of_both(twin, server)
        assert stopped >= normal / 20
        reader.send_signal(signal.SIGCONT)
        assert until(lambda: b"log lines were lost here" in out.read_bytes())
        server.requests_within(0.1)
        dropped = server.dropped()
        server.stop()
        assert reader.wait(PATIENCE_SECONDS) == 0
    rows = [json.loads(row) for row in out.read_text().splitlines()]
    lost = sum(row["data"]["lost"] for row in rows if row["message"] == "log lines were lost here")
    assert dropped == {("stdout", "full"): lost}
    found = numbers(rows)
    assert found == sorted(set(found))
    assert len(found) + lost == server.asked


@pytest.mark.parametrize("env", [{"SAGE_OBS_LOGGING__OUTPUT": "/dev/full"}, {"CLOSED": "1"}], ids=str)
def test_an_output_that_takes_nothing(env: dict[str, str], tmp_path: Path) -> None:
    """With a full disk or a closed descriptor each line is counted, said once, and the service serves on."""
    said = tmp_path / "err"
    with said.open("wb") as err, served(tmp_path, subprocess.DEVNULL, stderr=err, **env) as server:
        while server.asked < 20:
            server.requests_within(0.1)
        # The last lines have been gathered, and are yet to be written.
        until(lambda: sum(server.dropped().values()) >= server.asked)
        (((_, cause), dropped),) = server.dropped().items()
        server.stop()
    assert cause == "failed"
    # Beside the requests' there are the lines of the start.
    assert server.asked <= dropped <= server.asked + 10
    assert said.read_text().count("Logs failed (OSError") == 1


def test_a_bulk_endpoint_that_hangs(tmp_path: Path) -> None:
    """Requests go on as fast as without it, and the service ends in time."""
    with (
        hanging() as url,
        served(tmp_path, subprocess.DEVNULL) as twin,
        served(tmp_path, subprocess.DEVNULL, SAGE_OBS_LOGGING__ELASTICSEARCH_URL=url) as server,
    ):
        server.requests_within(0.2)
        normal, hung = requests_of_both(twin, server)
        server.stop()
    assert hung >= normal / 20

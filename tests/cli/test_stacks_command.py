"""`sage-obs stacks`: what services are doing whose event loops are blocked for good."""

import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from servers import free_port
from support import PATIENCE_SECONDS, until

from sage_fastapi_obs.cli import main, stacks_command
from sage_fastapi_obs.workers.control_client import SUFFIX
from sage_fastapi_obs.workers.control_socket import ControlSocket

SERVICE = """
import asyncio, select, sys, threading, time, uvicorn
from fastapi import FastAPI
from sage_fastapi_obs import Observability, Settings

app = FastAPI()
settings = Settings(
    service={"name": sys.argv[3]},
    store={"path": sys.argv[4]},
    logging={"enabled": False},
    insight={"stacks_signal": "SIGUSR2"},
)
Observability(settings).install(app)
lock = threading.Lock()
lock.acquire()

@app.get("/sleep/{name}")
async def sleep(name):
    time.sleep(3600)

@app.get("/lock/{name}")
async def wait_for_a_lock(name):
    secret = "s3cr3t"
    lock.acquire()

@app.get("/select/{name}")
async def call_c(name):
    select.select([], [], [])

@app.get("/wait/{name}")
async def wait(name):
    await asyncio.sleep(3600)

uvicorn.run(app, port=int(sys.argv[1]), loop=sys.argv[2], log_level="critical")
"""


@pytest.fixture
def serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., tuple[subprocess.Popen[bytes], str]]]:
    """Start services in processes of their own, and let the command find them."""
    monkeypatch.setenv("SAGE_OBS_STORE__PATH", str(tmp_path / "store"))
    monkeypatch.setattr(stacks_command, "_SECONDS", PATIENCE_SECONDS)
    script = tmp_path / "blocked.py"
    script.write_text(SERVICE)
    started: list[subprocess.Popen[bytes]] = []

    def start(loop: str, name: str) -> tuple[subprocess.Popen[bytes], str]:
        port = free_port()
        command = [sys.executable, "-W", "ignore", str(script), str(port), loop, name, str(tmp_path / "store")]
        started.append(subprocess.Popen(command, stderr=subprocess.PIPE))
        until(lambda: httpx.get(f"http://127.0.0.1:{port}/monitoring/health/live").status_code == 200, "service")
        return started[-1], f"http://127.0.0.1:{port}"

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stderr.close()


def send(url: str) -> socket.socket:
    """Send a request, and read nothing of what it gets."""
    address, _, path = url.removeprefix("http://").partition("/")
    host, _, port = address.partition(":")
    sent = socket.create_connection((host, int(port)))
    sent.sendall(f"GET /{path} HTTP/1.1\r\nHost: x\r\nX-Secret: s3cr3t\r\n\r\n".encode())
    return sent


def line_of(source: str) -> int:
    return next(number for number, line in enumerate(SERVICE.split("\n"), 1) if source in line)


@pytest.mark.stack
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize(
    ("path", "source"), [("sleep", "time.sleep"), ("lock", "lock.acquire()\n"), ("select", "select.select")]
)
def test_a_service_that_is_blocked_for_good_answers(loop: str, path: str, source: str, serve: Any, capsys: Any) -> None:
    """A hung event loop is named with its request, its line and the others that wait; a signal shows the same."""
    process, url = serve(loop, "shop")
    lines = SERVICE.split("\n")
    inside = next(number for number, line in enumerate(lines, 1) if source.strip() in line and line.startswith("    "))
    with closing(send(f"{url}/wait/s3cr3t?q=s3cr3t")):

        def is_shown(shown: str) -> bool:
            assert main(["stacks", "--service=shop"]) == 0
            return shown in capsys.readouterr().out

        until(lambda: is_shown("GET /wait/{name}"), "request")
        with closing(send(f"{url}/{path}/s3cr3t?q=s3cr3t")):
            until(lambda: is_shown(f"GET /{path}/{{name}}"), "blocking request")
            assert main(["stacks", "--service=shop", "--full"]) == 0
            out = capsys.readouterr().out
            assert f"shop, process {process.pid}: 2 in flight" in out
            row = next(row for row in out.split("\n") if f"/{path}/" in row) + out.partition(f"/{path}/")[2].split("\n")[1]
            assert "running at" in row
            assert f"blocked.py:{inside}" in row
            assert f"blocked.py:{line_of('await asyncio.sleep')}" in out
            assert "s3cr3t" not in out
            process.send_signal(signal.SIGUSR2)
            written = next(line for line in iter(process.stderr.readline, b"") if f"line {inside} in".encode() in line)
            assert b"blocked.py" in written


@pytest.mark.stack
def test_all_processes_are_listed_and_the_dead_are_cleared_away(serve: Any, tmp_path: Path, capsys: Any) -> None:
    """Without a name all services of the user are shown; of one that was killed nothing is left."""
    serve("asyncio", "shop")
    killed, _ = serve("asyncio", "billing")
    assert main(["stacks"]) == 0
    shown = capsys.readouterr().out
    assert [row.partition(",")[0] for row in shown.split("\n") if ", process" in row] == ["billing", "shop"]
    killed.kill()
    killed.wait()
    assert main(["stacks", "--service=billing"]) == 1
    assert "no process of billing answers" in capsys.readouterr().err
    assert len([*tmp_path.rglob(f"*{SUFFIX}")]) == 1


def test_one_that_does_not_answer_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """A process whose interpreter is held is told of, after a while, with what to do; and so is one that answers nonsense."""
    monkeypatch.setenv("SAGE_OBS_STORE__PATH", str(tmp_path))
    monkeypatch.setattr(stacks_command, "_SECONDS", 3.0)
    folder = next(iter(stacks_command.private_files.__globals__["_bases"](stacks_command.Settings.from_env().store)))
    private = stacks_command.private_files.__globals__["private_folder"](folder)
    free = threading.Event()
    hung = ControlSocket(lambda: private / "a", {"stacks": lambda _: free.wait(PATIENCE_SECONDS) and b""}, print, print)
    odd = ControlSocket(lambda: private / "b", {"stacks": lambda _: b"nonsense"}, print, print)
    other = ControlSocket(lambda: private / "c", {}, print, print)
    for one in (hung, odd, other):
        one.start()
    assert main(["stacks"]) == 1
    said = capsys.readouterr().err
    assert "a-" in next(row for row in said.split("\n") if "does not answer" in row and "insight.stacks_signal" in row)
    assert "b-" in next(row for row in said.split("\n") if "answers nonsense" in row)
    assert "c-" in next(row for row in said.split("\n") if "there is no verb 'stacks'" in row)
    free.set()
    for one in (hung, odd, other):
        one.close()

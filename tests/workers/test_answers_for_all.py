"""Pages of one worker that tell what all workers do: stacks, levels, kept requests, health and the workers themselves.

The workers are real processes, each at a port of its own, so that a test can choose whom it asks.
"""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from servers import free_port
from support import NO_KEEP_ALIVE, PATIENCE_SECONDS, until

from sage_fastapi_obs.cli import main
from sage_fastapi_obs.store.location import StoreKey, file_name

TOKEN = "a-token-of-sixteen-or-more"
BEARER = {"Authorization": f"Bearer {TOKEN}"}

WORKER = """
import asyncio, json, os, sys, threading, time, uvicorn
from pathlib import Path
from fastapi import FastAPI
from loguru import logger
from sage_fastapi_obs import Observability, Settings
from sage_fastapi_obs.store import store
from sage_fastapi_obs.workers import other_workers
from sage_fastapi_obs.workers.other_workers import DeathSeen, Sibling

number, port, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
other_workers.QUIET_SECONDS = 1.0
# Kept requests stay in memory until somebody asks for them to be written.
store.FLUSH_SECONDS = 3600.0
app = FastAPI()
obs = Observability(Settings(
    service={"name": "shop"}, store={"path": str(folder)}, logging={"output": str(folder / f"{number}.lines")},
    monitoring={"access": "open", "token": sys.argv[4], "expose_logs": True, "log_buffer_size": 0, **json.loads(sys.argv[5])},
    metrics={"port": int(sys.argv[6])},
))
obs.install(app)
started = time.time()
turned = 0.0

@app.get("/boom/{item}")
async def boom(item: str):
    logger.warning("it breaks")
    raise LookupError(item)

@app.get("/wait")
async def wait():
    await asyncio.sleep(3600)

@app.get("/block")
async def block():
    time.sleep(3600)

@app.get("/level/{level}")
async def level(level: str):
    obs.set_level(level)

def of(text):
    found = json.loads(text)
    is_alive = Path(f"/proc/{found['pid']}/cmdline").is_file() and bool(Path(f"/proc/{found['pid']}/cmdline").read_bytes())
    return Sibling(**{**found, "is_alive": is_alive, "socket": found["socket"] and Path(found["socket"]),
                      "last_death": DeathSeen(time.time(), "killed") if number == 2 else None})

# What the slots of a group say of its workers stands in files here.
obs.workers.find = lambda: [of(path.read_text()) for path in sorted(folder.glob("*.worker"))]

def beat():
    while True:
        path = obs._control.path
        found = dict(
            number=number, pid=os.getpid(), started=started, heartbeat=time.monotonic(), turned=turned,
            is_leader=number == 1, in_flight=len(obs.in_progress), requests=7, memory_bytes=1000, socket=path and str(path),
        )
        new = folder / f"{number}.new"
        new.write_text(json.dumps(found))
        new.rename(folder / f"{number}.worker")
        time.sleep(0.05)

async def turn():
    global turned
    while True:
        turned = time.monotonic()
        await asyncio.sleep(0.05)

@app.get("/turn")
async def start_turning():
    global turning
    turning = asyncio.create_task(turn())
    threading.Thread(target=beat, daemon=True).start()

uvicorn.run(app, port=port, log_level="critical")
"""


class Worker:
    """A worker, and how it is asked."""

    def __init__(self, number: int, folder: Path, metrics_port: int | None) -> None:
        self.number, self.port = number, free_port()
        more = json.dumps({"access": "port"} if metrics_port else {}), metrics_port or 0
        command = [sys.executable, "-W", "ignore", "-c", WORKER, *map(str, (number, self.port, folder, TOKEN, *more))]
        self.process = subprocess.Popen(command)
        where = f"http://127.0.0.1:{self.port}"
        self.http = httpx.Client(base_url=where, headers=BEARER, timeout=PATIENCE_SECONDS, limits=NO_KEEP_ALIVE)
        until(lambda: self.process.poll() is not None or self.http.get("/turn").status_code == 200, "worker")
        assert self.process.poll() is None
        until((folder / f"{number}.worker").exists, "heartbeat")
        if not metrics_port:
            until(lambda: self.workers()[str(number)]["state"] == "running", "turning loop")

    def get(self, page: str) -> Any:
        return self.http.get(f"/monitoring{page}").json()

    def routes(self) -> list[tuple[int, str]]:
        """Return the requests that the page of stacks has, each with its worker; without those for the page itself."""
        found = [(stack["worker"], stack["route"]) for stack in self.get("/stacks")["requests"]]
        return [(worker, route) for worker, route in found if route != "/monitoring/stacks"]

    def workers(self) -> dict[str, Any]:
        return {str(worker["worker"]): worker for worker in self.get("/workers")["workers"]}

    def send(self, path: str) -> Any:
        """Send a request, and do not wait for its answer."""
        sent = socket.create_connection(("127.0.0.1", self.port))
        sent.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        return closing(sent)


@pytest.fixture
def team(tmp_path: Path) -> Iterator[Callable[[int], list[Worker]]]:
    """Start workers of one service."""
    made: list[Worker] = []

    def start(count: int, metrics_port: int | None = None) -> list[Worker]:
        for _ in range(count):
            made.append(Worker(len(made) + 1, tmp_path, metrics_port))
        return made

    yield start
    for worker in made:
        worker.process.kill()
        worker.process.wait()
        worker.http.close()


def lines_of(folder: Path, number: int) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / f"{number}.lines").read_text().split("\n") if line]


def levels_set(folder: Path, number: int) -> list[str]:
    """Return the levels that a worker says it has set, in its lines."""
    return [line["data"]["to"] for line in lines_of(folder, number) if line["message"] == "log level changed"]


def warnings_about(port: int, folder: Path, number: int) -> list[str]:
    return [line["message"] for line in lines_of(folder, number) if f"metrics.port {port}" in line["message"]]


def test_stacks_are_those_of_all_workers(team: Any) -> None:
    """Each request and thread has the number of its worker; one that hangs tells, one that is stopped is named."""
    one, two, three = team(3)
    with one.send("/wait"), two.send("/wait"), ExitStack() as later:
        until(lambda: one.routes() == [(1, "/wait"), (2, "/wait")], "two requests")
        later.enter_context(two.send("/block"))
        until(lambda: one.routes() == [(1, "/wait"), (2, "/wait"), (2, "/block")], "blocking request")
        found = one.get("/stacks")
        assert {thread["worker"] for thread in found["threads"]} == {1, 2, 3}
        assert (found["pid"], found["no_answer"]) == (one.process.pid, [])
        assert three.routes() == [(1, "/wait"), (2, "/wait"), (2, "/block")]
        two.process.send_signal(signal.SIGSTOP)
        until(lambda: one.get("/stacks")["no_answer"] == [2], "worker without an answer")
        assert one.routes() == [(1, "/wait")]


def test_a_level_changes_everywhere_and_for_those_that_start_later(team: Any, tmp_path: Path) -> None:
    """PUT at one worker holds at all, also at a new one and one that was stopped; GET says where; None ends it."""
    one, two = team(2)
    put = one.http.put("/monitoring/loggers", json={"level": "debug", "logger": "shop.orders", "seconds": 600}).json()
    assert (put["worker"], put["loggers"][0]["level"]) == (1, "debug")
    assert [(other["worker"], other["loggers"][0]["level"]) for other in put["others"]] == [(2, "debug")]
    three = team(1)[2]
    found = three.get("/loggers")
    assert [found["worker"], *(other["worker"] for other in found["others"])] == [3, 1, 2]
    assert {each["loggers"][0]["logger"] for each in (found, *found["others"])} == {"shop.orders"}
    assert 0 < found["loggers"][0]["seconds_left"] <= 600
    two.process.send_signal(signal.SIGSTOP)
    until(lambda: one.workers()["2"]["state"] == "stopped", "stopped worker")
    ended = one.http.put("/monitoring/loggers", json={"level": None, "logger": "shop.orders"}).json()
    assert (ended["no_answer"], ended["loggers"], ended["others"][0]["loggers"]) == ([2], [], [])
    two.process.send_signal(signal.SIGCONT)
    until(lambda: two.get("/loggers")["loggers"] == [], "end of the change")
    until(lambda: levels_set(tmp_path, 3) == ["debug", "info"], "lines about both changes")


def test_set_level_reaches_all(team: Any) -> None:
    """The method of one worker changes the level of the others, and waits for none of them."""
    one, two = team(2)
    one.http.get("/level/trace")
    until(lambda: two.get("/loggers")["level"] == "trace", "level")
    assert one.get("/loggers")["level"] == "trace"


def test_a_request_is_found_by_whoever_is_asked(team: Any, tmp_path: Path, capsys: Any) -> None:
    """An id that one worker has just served leads at another to story, lines and trace, and in the terminal to the story."""
    one, two = team(2)

    def served(item: str, **headers: str) -> str:
        return one.http.get(f"/boom/{item}", headers=headers).headers["x-request-id"]

    def found(page: str) -> Any:
        # Its answer comes before it has ended, and is kept.
        return until(lambda: (answer := two.http.get(f"/monitoring/{page}")).status_code == 200 and answer.json(), page)

    request = found(f"requests/{served('7')}")["stories"][0]["request"]
    assert (request["route"], request["status"]) == ("/boom/{item}", 500)
    lines = found(f"logs/{served('7')}")
    assert [line["message"] for line in lines] == ["it breaks", "request failed"]
    served("8", traceparent="00-0123456789abcdef0123456789abcdef-0123456789abcdef-01")
    assert found("traces/0123456789abcdef0123456789abcdef")
    wanted = served("9")
    folder = next(path for path in tmp_path.glob("sage-obs-*"))
    file = folder / file_name(StoreKey("shop", str(Path.cwd())))
    until(lambda: main(["show", wanted, "--store", str(file)]) == 0, "story in the terminal")
    assert "/boom/{item}" in capsys.readouterr().out
    assert two.http.get("/monitoring/requests/nobody").status_code == 404


def test_the_workers_are_shown_and_health_names_those_that_do_not_work(team: Any) -> None:
    """Each has a row; one whose loop hangs, one that is stopped and a dead one are told apart, by each of the others."""
    one, two, three = team(3)
    shown = one.workers()
    assert {number: (row["process_id"], row["leader"], row["state"]) for number, row in shown.items()} == {
        str(worker.number): (worker.process.pid, worker.number == 1, "running") for worker in (one, two, three)
    }
    assert (shown["1"]["requests"], shown["1"]["memory_bytes"], shown["1"]["last_death"]) == (7, 1000, None)
    health = until(lambda: (found := one.get("/health"))["status"] == "healthy" and found, "health")
    assert health["workers"] == {"running": 3, "hanging": [], "stopped": []}
    with two.send("/block"):
        until(lambda: one.workers()["2"]["state"] == "hanging", "hanging worker")
        health = one.get("/health")
        assert (health["status"], health["workers"]["hanging"]) == ("degraded", [2])
        three.process.send_signal(signal.SIGSTOP)
        until(lambda: one.workers()["3"]["state"] == "stopped", "stopped worker")
        assert one.get("/health")["workers"] == {"running": 1, "hanging": [2], "stopped": [3]}
        assert one.http.get("/monitoring/health?strict=true").status_code == 503
        assert one.http.get("/monitoring/health/ready").status_code == 200
        three.process.kill()
        three.process.wait()
        until(lambda: one.workers()["3"]["state"] == "dead", "dead worker")
        assert one.get("/health")["workers"]["stopped"] == []


def test_one_worker_serves_the_metrics_port_and_another_takes_over(team: Any, tmp_path: Path) -> None:
    """The second says nothing of a port; when the first is killed, the port answers again."""
    port = free_port()
    one, two = team(2, port)
    page = f"http://127.0.0.1:{port}/metrics"
    assert httpx.get(page).status_code == 200
    assert (warnings_about(port, tmp_path, 1), warnings_about(port, tmp_path, 2)) == ([], [])
    one.process.kill()
    one.process.wait()
    until(lambda: httpx.get(page).status_code == 200, "metrics of the other worker")
    started = next(line for line in lines_of(tmp_path, 2) if line["message"] == "observability started")
    assert "metrics_port" not in started["data"]
    assert two.process.poll() is None


def test_a_metrics_port_that_a_stranger_has_is_said_and_taken_once_it_is_free(team: Any, tmp_path: Path) -> None:
    """Where no worker of the service has the port, each one warns; when the stranger has gone, one of them listens."""
    with socket.create_server(("0.0.0.0", 0)) as stranger:
        port = stranger.getsockname()[1]
        team(2, port)
        until(lambda: [len(warnings_about(port, tmp_path, number)) for number in (1, 2)] == [1, 1], "warning of each")
    until(lambda: httpx.get(f"http://127.0.0.1:{port}/metrics").status_code == 200, "metrics")


def test_a_forked_child_does_not_keep_the_metrics_port() -> None:
    """When a worker is killed whose child lives, as one of a pool, the port is free for the next."""
    source = """
import os, sys, time
from sage_fastapi_obs import Observability, Settings
obs = Observability(Settings(
    monitoring={"access": "port"}, metrics={"port": int(sys.argv[1])}, logging={"enabled": False}, store={"enabled": False}
))
obs.start()
child = os.fork()
if not child:
    time.sleep(3600)
print(child, flush=True)
time.sleep(3600)
"""
    port = free_port()
    command = [sys.executable, "-W", "ignore", "-c", source, str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        child = int(process.stdout.readline())
        process.kill()
    try:
        until(lambda: is_free(port), "free port")
        os.kill(child, 0)
    finally:
        os.kill(child, signal.SIGKILL)


def is_free(port: int) -> bool:
    with suppress(OSError), socket.create_server(("0.0.0.0", port)):
        return True
    return False

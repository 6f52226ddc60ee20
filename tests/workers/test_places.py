"""Where workers meet, and what they do where they cannot: the next folder, or a warning and each for itself."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from fastapi import FastAPI
from support import PATIENCE_SECONDS, Watched, client
from worker_process import Process

WITHOUT_ROOM = """
import asyncio, json, resource, sys

import httpx
from fastapi import FastAPI
from sage_fastapi_obs import Observability, Settings

# As a full disk: no file gets the room of a slot.
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
app = FastAPI()
settings = Settings(
    service={"name": sys.argv[2]}, logging={"output": sys.argv[1]}, monitoring={"access": "open"}, store={"enabled": False}
)
obs = Observability(settings)
obs.install(app)

async def ask():
    async with obs, httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
        print(json.dumps([(await client.get(page)).status_code for page in ("/metrics", "/monitoring/workers")]))

asyncio.run(ask())
print(json.dumps(obs.internal_errors.counts))
"""


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the runtime folder, which is empty."""
    folder = tmp_path / "runtime"
    folder.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    return folder


@pytest.fixture
def worker(runtime: Path) -> Iterator[Process]:
    """Start a worker once the folder is as a test wants it."""
    process = Process(f"places-{uuid4().hex}")
    yield process
    slot = process.do("slot")
    process.process.kill()
    process.process.join()
    if slot is not None:
        shutil.rmtree(slot[1], ignore_errors=True)


def private(runtime: Path) -> Path:
    """Return the folder of this user."""
    return runtime / f"sage-obs-{os.geteuid()}"


def test_nobody_else_can_look_into_the_folder(runtime: Path, worker: Process) -> None:
    """It is made for its owner alone, and so are its files."""
    _, folder = worker.do("slot")
    assert Path(folder).parent == private(runtime)
    assert private(runtime).stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in Path(folder).iterdir()} == {0o600}


@pytest.fixture
def planted_link(runtime: Path, tmp_path: Path) -> None:
    """Put a link in the place of the folder."""
    (tmp_path / "elsewhere").mkdir()
    private(runtime).symlink_to(tmp_path / "elsewhere")


@pytest.mark.usefixtures("planted_link")
def test_a_planted_link_is_not_followed(runtime: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """The next place is taken; nothing is written where the link leads."""
    worker: Process = request.getfixturevalue("worker")
    _, folder = worker.do("slot")
    assert not Path(folder).is_relative_to(runtime)
    assert [*(tmp_path / "elsewhere").iterdir()] == []


async def test_a_process_that_is_alone_is_one_row(watch: Callable[..., Watched], runtime: Path) -> None:
    """It judges its rules itself; of requests only those in flight are known in its slot."""
    watched = watch(workers={"enabled": True})
    app = FastAPI()
    watched.obs.install(app)
    async with watched.obs, client(app) as http:
        (row,) = (await http.get("/monitoring/workers")).json()["workers"]
    assert (row["process_id"], row["state"], row["leader"], row["requests"]) == (os.getpid(), "running", True, None)
    assert [*private(runtime).iterdir()] == []


def test_without_room_each_answers_for_itself(tmp_path: Path) -> None:
    """One warning says why; every page answers, and nothing fails inside."""
    lines = tmp_path / "lines"
    command = [sys.executable, "-W", "ignore", "-c", WITHOUT_ROOM, str(lines), f"places-{uuid4().hex}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE_SECONDS)
    assert done.returncode == 0, done.stderr
    statuses, errors = map(json.loads, done.stdout.splitlines())
    assert (statuses, errors) == ([200, 200], {})
    said = [json.loads(line) for line in lines.read_text().splitlines()]
    (alone,) = [line for line in said if "answers for itself alone" in line["message"]]
    assert alone["level"] == "warn"
    assert "large" in alone["data"]["reason"]

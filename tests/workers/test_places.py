"""Where workers meet, and what they do where they cannot: the next folder, or a warning and each for itself."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from fastapi import FastAPI
from support import PATIENCE_SECONDS, Watched, client
from worker_process import Process

NOBODY = 65_534
"""The id of a user and a group without rights."""
FILLS_UP = """
import asyncio, json, multiprocessing, sys

import httpx
from fastapi import FastAPI
from prometheus_client import Counter
from sage_fastapi_obs import Observability, Settings

def serve():
    app = FastAPI()
    settings = Settings(
        service={"name": sys.argv[1]}, logging={"enabled": False}, monitoring={"access": "open"}, store={"enabled": False}
    )
    obs = Observability(settings)
    obs.install(app)
    many = Counter("many", "m", ["number"], registry=obs.registry)
    for number in range(5_000):
        many.labels(number).inc()

    async def ask():
        async with obs, httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
            pages = [(await client.get(page)).status_code for page in ("/metrics", "/monitoring/workers", "/metrics")]
            print(json.dumps([pages, str(obs.worker.group.folder), obs.internal_errors.counts]))

    asyncio.run(ask())

worker = multiprocessing.get_context("fork").Process(target=serve)
worker.start()
worker.join()
sys.exit(worker.exitcode)
"""
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


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give a folder away")
def test_a_folder_of_another_user_is_not_used(runtime: Path, request: pytest.FixtureRequest) -> None:
    """The next place is taken, and nothing is put into it."""
    planted = private(runtime)
    planted.mkdir(mode=0o777)
    os.chown(planted, NOBODY, NOBODY)
    _, folder = request.getfixturevalue("worker").do("slot")
    assert not Path(folder).is_relative_to(runtime)
    assert [*planted.iterdir()] == []


def test_a_folder_that_others_may_enter_is_closed_to_them(runtime: Path, request: pytest.FixtureRequest) -> None:
    """It is used all the same, as it is the user's own."""
    private(runtime).mkdir(mode=0o755)
    _, folder = request.getfixturevalue("worker").do("slot")
    assert Path(folder).parent == private(runtime)
    assert private(runtime).stat().st_mode & 0o777 == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to start a process of another user")
def test_two_users_do_not_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers of one service and one parent have folders of their own, each of its user alone."""
    with tempfile.TemporaryDirectory() as shared:
        Path(shared).chmod(0o1777)
        monkeypatch.setenv("XDG_RUNTIME_DIR", shared)
        service = f"places-{uuid4().hex}"
        workers = [Process(service), Process(service, user=NOBODY)]
        folders = [Path(worker.do("slot")[1]) for worker in workers]
        assert [folder.parent.name for folder in folders] == ["sage-obs-0", f"sage-obs-{NOBODY}"]
        assert [folder.parent.stat().st_uid for folder in folders] == [0, NOBODY]
        assert {folder.parent.stat().st_mode & 0o777 for folder in folders} == {0o700}
        workers[0].do("begin", "lost")
        workers[0].process.kill()
        workers[0].process.join()
        workers[1].do("tick")
        assert workers[1].do("told") == []
        workers[1].process.kill()
        workers[1].process.join()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to make a file system")
@pytest.mark.parametrize(("kilobytes", "shares"), [(200, False), (400, True)])
def test_a_full_file_system_kills_nobody(kilobytes: int, shares: bool, tmp_path: Path) -> None:
    """Without room for a slot the next folder is used; where it fills up later, that is counted, and pages answer."""
    small = tmp_path / "small"
    small.mkdir()
    mount = f'mount -t tmpfs -o size={kilobytes}k none {small} && exec {sys.executable} -W ignore -c "$0" $1'
    command = ["unshare", "--mount", "sh", "-c", mount, FILLS_UP, f"places-{uuid4().hex}"]
    environment = os.environ | {"XDG_RUNTIME_DIR": str(small)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE_SECONDS, env=environment)
    assert done.returncode == 0, done.stderr
    statuses, folder, errors = json.loads(done.stdout)
    assert statuses == [200, 200, 200]
    assert Path(folder).is_relative_to(small) is shares
    assert bool(errors) is shares


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

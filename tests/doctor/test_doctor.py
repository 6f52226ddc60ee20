"""`sage-obs doctor` finds each fault however it came into an app, and nothing else."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from doctor.command_run import start
from doctor.planted_faults import HEAD, INSTALLED, PLANTS
from doctor.whole_apps import BLOCKED, BLOCKING, EXIT_AT_START, HARMLESS, RAISED, RAISING, SECRET, SECRETS, THREAD
from support import PATIENCE_SECONDS

from sage_fastapi_obs.doctor.fault import CHECKS

APPS: dict[str, tuple[str, list[str], dict[str, str]]] = {
    "healthy": (
        HEAD + INSTALLED,
        ["shop:app", "--json"],
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:{port}"},
    ),
    "healthy, as text": (
        HEAD + INSTALLED + THREAD,
        ["shop:app"],
        {},
    ),
    "harmless": (HEAD + INSTALLED + HARMLESS, ["shop:app", "--json", "--call"], {"LONGEST_SECONDS": "5"}),
    "blocking": (HEAD + INSTALLED + BLOCKING, ["shop:app", "--json"], {}),
    "secrets": (HEAD + INSTALLED + SECRETS, ["shop:app", "--json"], {}),
    "raising": (HEAD + INSTALLED + THREAD + RAISING, ["shop:app", "--json", "--call"], {"LONGEST_SECONDS": "5"}),
    "exit at the start": (HEAD + INSTALLED + THREAD + EXIT_AT_START, ["shop:app", "--lifespan"], {}),
    "interrupt": (HEAD + INSTALLED + THREAD + "raise KeyboardInterrupt\n", ["shop:app"], {}),
    "fault of the command": (HEAD + INSTALLED + THREAD + "import json\njson.dumps = None\n", ["shop:app", "--json"], {}),
    "ignored": (HEAD, ["shop:app", "--ignore", "not-watched"], {}),
    "no such check": (HEAD, ["shop:app", "--ignore", "everything"], {}),
    "no such module": (HEAD, ["nowhere:app"], {}),
    "production": (HEAD + "Observability(Settings(service={'environment': 'live'})).install(app)", ["shop:app"], {}),
    "production, not loaded": ("print('loaded', file=open('loaded', 'w'))", ["shop:app"], {"SAGE_OBS_PRESET": "production"}),
    "server": ("import time\ntime.sleep(3600)\n", ["shop:app"], {"MOST_SECONDS": "1"}),
    "no answer": (
        HEAD + "import asyncio\napp.add_middleware(Layer)\n"
        "async def never(*_): await asyncio.sleep(3600)\nLayer.__call__ = never\n" + INSTALLED,
        ["shop:app", "--json"],
        {"LONGEST_SECONDS": "1"},
    ),
    "no start": (
        HEAD + "from contextlib import asynccontextmanager\n@asynccontextmanager\nasync def fail(app):\n"
        "    raise ValueError('password=hunter2')\n    yield\napp = FastAPI(lifespan=fail)\n" + INSTALLED,
        ["shop:app", "--lifespan"],
        {},
    ),
}


class Ended:
    """One run of the command."""

    def __init__(self, status: int | None, folder: Path) -> None:
        self.status = status
        self.out, self.err = ((folder / name).read_text() for name in ("out", "err"))
        self.left = {path.name for path in folder.iterdir()} - {"out", "err", "shop.py", "__pycache__"}
        """Files that were made."""

    @property
    def told(self) -> Any:
        """What was printed as JSON."""
        assert self.status in (0, 1), self.err
        return json.loads(self.out)


class Collector(BaseHTTPRequestHandler):
    """Takes spans at the usual path, as an empty message."""

    def do_POST(self) -> None:
        self.send_response(404 if self.path != "/v1/traces" or self.headers["content-length"] != "0" else 200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def collector_port() -> Iterator[int]:
    """Serve while the apps are looked at."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Collector) as server:
        threading.Thread(target=server.serve_forever).start()
        yield server.server_port
        server.shutdown()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, collector_port: int) -> dict[str, Ended]:
    """Run the command for all apps."""
    asked: dict[str, tuple[str, Sequence[str], Mapping[str, str]]] = {
        name: (HEAD + INSTALLED * plant.installed + plant.code, ["shop:app", "--json", *plant.arguments], plant.environment)
        for name, plant in PLANTS.items()
    }
    started = {}
    for name, (code, arguments, environment) in {**APPS, **asked}.items():
        folder = tmp_path_factory.mktemp("app")
        (folder / "shop.py").write_text(code)
        given = {key: value.format(port=collector_port) for key, value in environment.items()}
        started[name] = start(folder, arguments, given), folder
        # Apps that only wait are looked at beside others.
        if "LONGEST_SECONDS" not in environment:
            started[name][0].join(PATIENCE_SECONDS)
    ended = {}
    for name, (process, folder) in started.items():
        process.join(PATIENCE_SECONDS)
        ended[name] = Ended(process.exitcode, folder)
    return ended


def test_each_check_is_planted_twice() -> None:
    """No check is without two ways in which its fault may come about."""
    assert [check for check in CHECKS if sum(plant.check == check for plant in PLANTS.values()) < 2] == []


@pytest.mark.parametrize("name", PLANTS)
def test_a_planted_fault_is_found(runs: dict[str, Ended], name: str) -> None:
    """It is told of with what to change, and nothing else is; nothing that the app writes is shown, and nothing is made."""
    plant, ended = PLANTS[name], runs[name]
    faults = ended.told["faults"]
    assert any(plant.told in fault["what"] for fault in faults if fault["check"] == plant.check), faults
    assert {fault["check"] for fault in faults} <= {plant.check, *plant.also}, faults
    assert all(fault["fix"] for fault in faults)
    assert len([fault for fault in faults if fault["check"] == plant.check]) == 1, faults
    assert ended.status == int(not all(fault["is_note"] for fault in faults))
    assert "s3cr3t" not in ended.out
    assert (ended.err, ended.left) == ("", set())


def test_nothing_is_found_where_nothing_is_wrong(runs: dict[str, Ended]) -> None:
    """A plain app is told of by its figures alone, as JSON and as text."""
    told = runs["healthy"].told
    assert (runs["healthy"].status, told["faults"]) == (0, [])
    assert told["figures"]["preset"] == "dev"
    assert told["figures"]["layers_us"]["ObservabilityMiddleware"] > 0
    assert runs["healthy, as text"].out.startswith("shop:app: nothing is wrong\n")


def test_a_check_may_be_ignored(runs: dict[str, Ended]) -> None:
    """What is meant can be left out, by a name that there is."""
    assert runs["ignored"].status == 0
    assert runs["no such check"].status == 2
    assert "there are not-watched, route-without-template" in runs["no such check"].err


def test_what_cannot_be_looked_at_is_said(runs: dict[str, Ended]) -> None:
    """An app that cannot be found or started, or that is in production, ends the command with what to change."""
    for name, said in {
        "no such module": "there is no module nowhere",
        "production": "the app says that this is 'live': use --force",
        "production, not loaded": "the environment says that this is 'production': use --force",
        "no start": "the app does not start: ValueError: password=REDACTED",
        "server": "importing shop has raised OverdueExit: the app has not come back within 1 s and is at",
        "exit at the start": "looking at the app has raised SystemExit: 0 (",
        "fault of the command": "looking at the app has raised TypeError: 'NoneType' object is not callable (",
    }.items():
        assert (runs[name].status, runs[name].out) == (2, ""), name
        assert runs[name].err.startswith(f"sage-obs doctor: {said}"), runs[name].err
        assert runs[name].err.count("\n") == 1, runs[name].err
        assert runs[name].left == set(), name


def test_an_app_that_never_answers_is_told_of(runs: dict[str, Ended]) -> None:
    """It is asked once, and not in all other ways."""
    assert [(fault["check"], fault["what"]) for fault in runs["no answer"].told["faults"]] == [
        ("failing-request", "synthetic requests ended with TimeoutError: ok (for 200)")
    ]


def test_whatever_a_route_raises_is_told_of(runs: dict[str, Ended]) -> None:
    """An exit, an interrupt or a cancellation of the app is none of the command, and a request without an end ends, too."""
    faults = runs["raising"].told["faults"]
    assert [fault["what"] for fault in faults] == [f"GET {path} ended with {error}" for path, error in RAISED.items()]
    assert {fault["check"] for fault in faults} == {"failing-request"}
    assert (runs["interrupt"].status, runs["interrupt"].out, runs["interrupt"].err) == (130, "", "")


def test_what_only_looks_wrong_is_not_told_of(runs: dict[str, Ended]) -> None:
    """Work for threads, names that mean something else, streams without an end and a guarded page are no faults."""
    assert (runs["harmless"].told["faults"], runs["harmless"].status) == ([], 0)


def test_each_function_that_the_loop_runs_is_read(runs: dict[str, Ended]) -> None:
    """Generators, objects that are called, methods, what a decorator wraps, and routes of WebSockets."""
    assert [fault["what"].split()[3] for fault in runs["blocking"].told["faults"]] == BLOCKED
    assert {fault["check"] for fault in runs["blocking"].told["faults"]} == {"loop-blocking"}


def test_each_secret_that_is_taken_is_found(runs: dict[str, Ended]) -> None:
    """However deep it is in models of any kind, and where it is no part of a model."""
    faults = runs["secrets"].told["faults"]
    assert sorted(fault["what"].split()[0] for fault in faults) == sorted(SECRET.split())
    assert {fault["check"] for fault in faults} == {"unredacted-field"}


def test_the_example_has_no_faults() -> None:
    """The shop is looked at as a user would, with its start and without."""
    for more in ([], ["--lifespan"]):
        command = [
            sys.executable,
            "-m",
            "sage_fastapi_obs",
            "doctor",
            "--factory",
            "example_app.app:create_app",
            "--json",
            *more,
        ]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE_SECONDS)
        assert (done.returncode, json.loads(done.stdout)["faults"], done.stderr) == (0, [], "")

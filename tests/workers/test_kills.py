"""Servers whose workers are killed all the time: no count is lost, and no request that was in flight is forgotten."""

import asyncio
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, KeysView
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from random import Random
from typing import Any
from uuid import uuid4

import httpx
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Exemplar
from servers import free_port, need, prometheus, query
from support import NO_KEEP_ALIVE, PATIENCE_SECONDS, SOAK, times, until

from sage_fastapi_obs.workers.siblings import is_running, start_time

HERE = Path(__file__).parent
SECONDS = float(os.environ.get("SOAK_SECONDS", "120")) if SOAK else 8.0
SERVERS = {
    "uvicorn": "{python} -m uvicorn killed:app --workers 4 --port {port} --log-level warning",
    "fastapi": "{python} run_like_fastapi.py {port}",
    "gunicorn": "{scripts}/gunicorn killed:app --workers 4 --bind 127.0.0.1:{port} --worker-class asgi",
    "gunicorn-preload": "{python} -m gunicorn killed:app --workers 4 --bind 127.0.0.1:{port} --worker-class asgi --preload",
    "gunicorn-uvicorn": (
        "{python} -m gunicorn killed:app --workers 4 --bind 127.0.0.1:{port} --worker-class uvicorn_worker.UvicornWorker"
    ),
    "uvicorn-reload": "{python} -m uvicorn killed:app --reload --port {port} --log-level warning",
    "granian": "{python} -m granian --interface asgi killed:app --workers 4 --port {port} --respawn-failed-workers",
}
RESPAWNS_SLOWLY = "granian"
"""It gives up where a worker dies again within six seconds."""
THOSE = [name for name in SERVERS if name != "uvicorn-reload"] if SOAK else ["uvicorn", "gunicorn-preload"]
CONFIG = """
global: {{scrape_interval: 1s}}
scrape_configs:
  - job_name: killed
    static_configs: [{{targets: ["127.0.0.1:{port}"]}}]
"""
SERIES = 'http_requests_total{route=~"/(work|quick)/.*"}'


@dataclass
class Service:
    """A server with workers."""

    process: subprocess.Popen[bytes]
    url: str
    folder: Path
    done: set[str] = field(default_factory=set)
    """Requests of which the whole answer has come."""
    failed: set[str] = field(default_factory=set)
    connections: list[socket.socket] = field(default_factory=list)
    """Of requests that are not answered."""

    look: str = ""
    """What its gauges have shown last."""
    servers: list[int] = field(default_factory=list)
    """The process that has started the workers, and those that it was replaced by."""

    @property
    def server(self) -> int:
        """The process that starts workers now."""
        return self.servers[-1]

    def workers(self) -> list[int]:
        """List the processes that serve."""
        children = Path(f"/proc/{self.server}/task/{self.server}/children").read_text().split()
        commands: dict[int, str] = {}
        for pid in map(int, children):
            # It may end meanwhile.
            with suppress(FileNotFoundError, ProcessLookupError):
                commands[pid] = Path(f"/proc/{pid}/cmdline").read_text()
        return [pid for pid, command in commands.items() if command and "resource_tracker" not in command]

    def reached(self) -> KeysView[str]:
        """List the requests that have reached the app."""
        return self.processes().keys()

    def arrivals(self) -> int:
        """Count them; the first one is sent again until there is an answer."""
        return len((self.folder / "reached").read_text().splitlines())

    def processes(self) -> dict[str, int]:
        """Return in which process each request has reached the app."""
        lines = map(str.split, (self.folder / "reached").read_text().splitlines())
        return {request_id: int(pid) for request_id, pid in lines}

    def lines(self) -> list[dict[str, Any]]:
        """Return all log lines."""
        return [json.loads(line) for line in (self.folder / "lines").read_text().splitlines()]

    def told(self, message: str) -> list[str]:
        """Return the ids of requests of which a line of this end was written, in order."""
        return [
            str(line.get("path") or line["route"]) and str(line["request_id"])
            for line in self.lines()
            if str(line["message"]).endswith(message)
        ]


@contextmanager
def serving(name: str, folder: Path, cwd: Path = HERE) -> Iterator[Service]:
    """Start a server; stop it."""
    port = free_port()
    environment = os.environ | {
        "SERVICE_OF_TEST": f"killed-{uuid4().hex}",
        "LINES_OF_TEST": str(folder / "lines"),
        "STORE_OF_TEST": str(folder / "store"),
        "REACHED_OF_TEST": str(folder / "reached"),
    }
    command = SERVERS[name].format(python=sys.executable, scripts=Path(sys.executable).parent, port=port).split()
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen(command, cwd=cwd, env=environment, stdout=output, stderr=output)
    service = Service(process, f"http://127.0.0.1:{port}", folder, servers=[process.pid])
    try:
        until(lambda: httpx.get(f"{service.url}/quick/start").is_success, "answer")
        service.done.add("start")
        yield service
    finally:
        for connection in service.connections:
            connection.close()
        for pid in service.servers[1:]:
            end(pid)
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(PATIENCE_SECONDS)
        process.kill()
        process.wait()


def end(pid: int) -> None:
    """End a server that is no child of ours any more."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
        until(lambda: not is_running(pid), "end of a server")


async def visit(service: Service, numbers: "count[int]", until_at: float) -> None:
    """Send requests, one after the other, each on a connection of its own."""
    http = httpx.AsyncClient(timeout=PATIENCE_SECONDS, limits=NO_KEEP_ALIVE)
    while time.monotonic() < until_at:
        request_id = f"r{next(numbers)}"
        path = "quick" if int(request_id[1:]) % 3 else "work"
        try:
            answer = await http.get(f"{service.url}/{path}/{request_id}", headers={"X-Request-ID": request_id.zfill(8)})
            assert answer.json() == {"id": request_id}
            service.done.add(request_id)
        except httpx.TransportError:
            service.failed.add(request_id)
            await asyncio.sleep(0.02)
    await http.aclose()


def counts(page: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Return the samples of a page that may never fall."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(page)
        if family.type in ("counter", "histogram")
        for sample in family.samples
        if "worker" not in sample.labels
    }


def metrics(service: Service, **headers: str) -> str:
    """Return the page of whoever answers; a worker that writes too many at once refuses."""
    url = f"{service.url}/metrics"
    page: str = until(lambda: httpx.get(url, headers=headers, timeout=PATIENCE_SECONDS).raise_for_status().text, "page")
    return page


async def scrape(service: Service, pages: list[str], until_at: float) -> None:
    """Read the metrics of whoever answers, five times a second; no count falls, and no family comes twice."""
    last: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
    http = httpx.AsyncClient(timeout=PATIENCE_SECONDS, limits=NO_KEEP_ALIVE)
    while time.monotonic() < until_at:
        with suppress(httpx.HTTPError):
            page = (await http.get(f"{service.url}/metrics")).raise_for_status().text
            found = counts(page)
            fallen = {key: (last[key], found.get(key)) for key in last if found.get(key, -1.0) < last[key]}
            assert not fallen, fallen
            helps = [line for line in page.splitlines() if line.startswith("# HELP")]
            assert len(helps) == len(set(helps))
            last = found
            pages.append(page)
        await asyncio.sleep(0.2)
    await http.aclose()


async def kill(service: Service, random: Random, until_at: float, name: str) -> int:
    """Kill a worker each second, sometimes politely; return how many."""
    killed = 0
    while time.monotonic() < until_at - 1.0:
        await asyncio.sleep(2.0 if name == RESPAWNS_SLOWLY else 1.0)
        if workers := service.workers():
            victim = max(workers, key=age) if name == RESPAWNS_SLOWLY else random.choice(workers)
            with suppress(ProcessLookupError):
                os.kill(victim, random.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM]))
                killed += 1
    return killed


def age(pid: int) -> int:
    """Return how much earlier a process was started than others; ids may begin anew."""
    return -start_time(pid)


def total(page: str, *routes: str) -> float:
    """Return how many requests of some routes were counted."""
    return sum(
        value
        for (name, labels), value in counts(page).items()
        if name == "http_requests_total" and dict(labels)["route"] in routes
    )


@pytest.mark.parametrize("name", THOSE)
def test_counts_are_exact_however_workers_die(name: str, tmp_path: Path) -> None:
    """What is counted is what was answered; what was in flight is named; nothing falls meanwhile."""
    with serving(name, tmp_path) as service, watching(service) as prometheus:
        pages: list[str] = []

        async def all_at_once() -> int:
            until_at = time.monotonic() + SECONDS
            numbers = count()
            visitors = [visit(service, numbers, until_at + 1.0) for _ in range(8)]
            _, killed, *_ = await asyncio.gather(
                scrape(service, pages, until_at), kill(service, Random(1), until_at, name), *visitors
            )
            return killed

        killed = asyncio.run(all_at_once())
        assert pages
        ids = {request_id.zfill(8): request_id for request_id in service.done | service.failed}

        def named(message: str) -> set[str]:
            return {ids[request_id] for request_id in service.told(message) if request_id in ids}

        # What the client has not got may be counted all the same: it was on its way.
        def is_exact() -> bool:
            counted = total(metrics(service), "/work/{request_id}", "/quick/{request_id}")
            # Who was killed just before its request reached the app has lost that, too.
            return counted == service.arrivals() - len(named("while serving") & service.reached())

        until(is_exact, "equal counts")
        assert not named("while serving") & service.done
        assert service.done <= service.reached()
        until(lambda: shows_the_living(service), "gauges of the living alone")
        assert exemplars(service)
        for page in pages:
            lint(page)
        counted = total(metrics(service), "/work/{request_id}", "/quick/{request_id}")
        until(lambda: query(prometheus, f"sum({SERIES}) == {counted}"), "last scrape")
        factor = grown_as_counted(prometheus)
        sys.stdout.write(
            f"{name}: {killed} kills, {len(pages)} pages, {counted:.0f} requests, {len(named('while serving'))} of them lost, "
            f"{len(service.failed)} failed at the client; increase() shows {factor:.4f} of the truth\n"
        )


@contextmanager
def watching(service: Service) -> Iterator[str]:
    """Run a Prometheus that scrapes all the time, and has seen the routes before they are visited; gives its address."""
    config = service.folder / "prometheus.yml"
    config.write_text(CONFIG.format(port=httpx.URL(service.url).port))
    for route in ("work", "quick"):
        until(lambda route=route: httpx.get(f"{service.url}/{route}/{uuid4().hex}").is_success, "answer")
    with prometheus(config, service.folder) as address:
        until(lambda: len(query(address, SERIES)) == 2, "first scrape")
        yield address


def grown_as_counted(address: str) -> float:
    """See that each series has grown, for Prometheus, by what was counted; return by how much more, as it extrapolates."""
    grown = f"sum(increase({SERIES}[1d])) / sum(max_over_time({SERIES}[1d]) - min_over_time({SERIES}[1d])) - 1"
    # In one question: it goes on to scrape.
    (parts,) = (float(one["value"][1]) for one in query(address, f"({grown}) * (min(count_over_time({SERIES}[1d])) - 1)"))
    assert query(address, f"sum(resets({SERIES}[1d])) == 0")
    # At both ends it goes on for up to 1.1 times the time between two scrapes.
    assert 0.0 <= parts <= 2.2 + 1e-9
    (more,) = (float(one["value"][1]) for one in query(address, grown))
    return 1.0 + more


def lint(page: str) -> None:
    """Let Prometheus' own tool find nothing wrong with a page."""
    checked = subprocess.run([need("promtool"), "check", "metrics"], input=page, capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")


def exemplars(service: Service) -> list[Exemplar]:
    """Return the exemplars of requests."""
    page = metrics(service, Accept="application/openmetrics-text; version=1.0.0")
    (family,) = [one for one in openmetrics(page) if one.name == "http_request_duration_seconds"]
    return [sample.exemplar for sample in family.samples if sample.exemplar is not None]


def shows_the_living(service: Service) -> bool:
    """Tell whether the gauges of a page are those of the living workers, and no request is in flight."""
    families = {family.name: family for family in text_string_to_metric_families(metrics(service))}
    # Counters of a worker that has died stay; who replaces it may have taken another slot.
    gauges = [family for family in families.values() if family.type == "gauge"]
    shown = {sample.labels["worker"] for family in gauges for sample in family.samples if "worker" in sample.labels}
    rows = httpx.get(f"{service.url}/monitoring/workers").json()["workers"]
    flying = sum(sample.value for sample in families["http_requests_in_flight"].samples)
    look = f"gauges of {sorted(shown)}, {flying} in flight, {[(row['worker'], row['state']) for row in rows]}\n"
    if look != service.look:
        # Shown if the test fails.
        service.look = look
        sys.stdout.write(look)
    # How many a server keeps is its own matter.
    return shown == {str(row["worker"]) for row in rows if row["state"] != "dead"} and flying == 0


def begin(service: Service, path: str) -> str:
    """Send a request that does not come back; return its id."""
    request_id = f"{path}-{uuid4().hex[:12]}"
    connection = socket.create_connection(("127.0.0.1", httpx.URL(service.url).port))
    service.connections.append(connection)
    connection.sendall(f"GET /{path}/{request_id} HTTP/1.1\r\nHost: here\r\nX-Request-ID: {request_id}\r\n\r\n".encode())
    until(lambda: request_id in service.reached(), "request")
    return request_id


def line_of(service: Service, request_id: str, message: str = "while serving") -> dict[str, Any]:
    """Wait for the line of a request that was lost."""

    def found() -> list[dict[str, Any]]:
        return [line for line in service.lines() if line.get("request_id") == request_id and line["message"].endswith(message)]

    (line,) = until(found, "line")
    return line


def test_what_a_killed_worker_was_serving_is_told(tmp_path: Path) -> None:
    """Its siblings say of each request what it was, how old, and why the worker may have died; whoever is asked finds it."""
    with serving("uvicorn", tmp_path) as service:
        stuck = begin(service, "stuck")
        os.kill(service.processes()[stuck], signal.SIGKILL)
        line = line_of(service, stuck)
        until(lambda: httpx.get(f"{service.url}/monitoring/requests/{stuck}").is_success, "request")
        assert (line["level"], line["route"], line["method"]) == ("error", "/stuck/{request_id}", "GET")
        assert len(line["trace_id"]) == 32
        for _ in range(5):
            found = httpx.get(f"{service.url}/monitoring/requests/{stuck}").json()
            assert found["stories"][0]["request"]["error_type"] == "worker_died"

        stream = begin(service, "stream")
        os.kill(service.processes()[stream], signal.SIGKILL)
        assert line_of(service, stream)["data"]["kind"] == "stream"

        blocked = begin(service, "blocked")
        pid = service.processes()[blocked]
        until(lambda: worker_of(service, pid)["loop_age_seconds"] > 3.5, "hanging worker")
        os.kill(pid, signal.SIGKILL)
        line = line_of(service, blocked)
        assert line["data"]["reason"] == "blocked"
        assert re.fullmatch(r"killed\.py:[0-9]+", line["data"]["at"])

        routes = ("/stuck/{request_id}", "/stream/{request_id}", "/blocked/{request_id}")
        expected = {f'requests_lost_total{{route="{route}"}} 1.0' for route in routes}
        expected.add('worker_deaths_total{reason="blocked"} 1.0')
        until(lambda: expected <= {*metrics(service).splitlines()}, "counts of what was lost")


def worker_of(service: Service, pid: int) -> dict[str, Any]:
    """Ask whoever answers how a worker does."""
    workers = httpx.get(f"{service.url}/monitoring/workers", timeout=PATIENCE_SECONDS).json()["workers"]
    return next(worker for worker in workers if worker["process_id"] == pid)


def test_workers_go_on_when_their_files_were_removed(tmp_path: Path) -> None:
    """They take slots again, say so, and one answers for all as before."""
    with serving("uvicorn", tmp_path) as service:
        until(lambda: len(httpx.get(f"{service.url}/monitoring/workers").json()["workers"]) == 4, "workers")
        folders = {line.parent for pid in service.workers() for line in slots_of(pid)}
        for folder in folders:
            shutil.rmtree(folder)
        until(lambda: sum("begins anew" in str(line["message"]) for line in service.lines()) == 4, "lines of the workers")
        until(lambda: len(httpx.get(f"{service.url}/monitoring/workers").json()["workers"]) == 4, "workers")
        before = total(metrics(service), "/quick/{request_id}")
        for number in range(10):
            assert httpx.get(f"{service.url}/quick/q{number}").is_success

        def pages() -> set[float]:
            return {total(metrics(service), "/quick/{request_id}") for _ in range(5)}

        until(lambda: pages() == {before + 10}, "one total, whoever is asked")


def slots_of(pid: int) -> list[Path]:
    """List the slots that a process has mapped."""
    maps = Path(f"/proc/{pid}/maps").read_text().splitlines()
    return [Path(line.split()[-1]) for line in maps if line.endswith(".slot")]


def test_a_new_generation_goes_on_where_the_old_one_has_ended(tmp_path: Path) -> None:
    """Gunicorn replaces all its workers at a HUP: the counts go on, and nobody is told to have died."""
    with serving("gunicorn-preload", tmp_path) as service:
        for number in range(20):
            assert httpx.get(f"{service.url}/quick/q{number}").is_success
        old = set(service.workers())
        service.process.send_signal(signal.SIGHUP)
        until(lambda: len(service.workers()) == 4 and not old & set(service.workers()), "new workers")
        until(lambda: httpx.get(f"{service.url}/quick/end").is_success, "answer")
        until(lambda: total(metrics(service), "/quick/{request_id}") == 22.0, "all requests")
        assert not [line for line in service.lines() if "died" in str(line["message"])]


@pytest.mark.parametrize("how", [signal.SIGQUIT, signal.SIGTERM])
def test_a_new_gunicorn_goes_on_beside_the_old_one(how: signal.Signals, tmp_path: Path) -> None:
    """A USR2 starts it; while both serve, and after the end of the old one, whoever is asked has all counts; nobody died."""
    with serving("gunicorn", tmp_path) as service:
        for _ in range(times(1, 3)):
            until(lambda: len(rows_of(service)) >= 4, "workers")
            old, before = service.server, {*service.workers()}
            service.servers.append(until(lambda old=old: replacement(old), "new arbiter"))
            until(lambda before=before: len(rows_of(service).keys() - before) == 4, "new workers")
            until(lambda before=before: asked_anew(service) not in before, "answer of a new worker")
            all_counted(service)
            os.kill(old, how)
            until(lambda before=before: not any(map(is_running, before)), "end of the old workers")
            all_counted(service)
        assert len({path for pid in service.workers() for path in slots_of(pid)[0].parent.glob("*.slot")}) == 8
        assert not [line for line in service.lines() if "died" in str(line["message"])]


def replacement(arbiter: int) -> int | None:
    """Have an arbiter start another one, and return that; it does not while it has not seen that it is the only one."""
    os.kill(arbiter, signal.SIGUSR2)
    children = Path(f"/proc/{arbiter}/task/{arbiter}/children").read_text().split()
    mark = f"GUNICORN_PID={arbiter}\0".encode()
    return next((int(pid) for pid in children if mark in Path(f"/proc/{pid}/environ").read_bytes()), None)


def rows_of(service: Service) -> dict[int, str]:
    """Return the states of the workers that whoever answers knows, by process."""
    rows = httpx.get(f"{service.url}/monitoring/workers", timeout=PATIENCE_SECONDS).json()["workers"]
    return {row["process_id"]: row["state"] for row in rows if row["state"] != "dead"}


def all_counted(service: Service) -> None:
    """See that whoever is asked has counted every request that has reached one of them, once the last one has returned."""

    def shown() -> set[float]:
        return {total(metrics(service), "/quick/{request_id}") for _ in range(8)}

    until(lambda: shown() == {service.arrivals()}, "equal counts")


def test_counts_go_on_over_reloads(tmp_path: Path) -> None:
    """A developer who saves a file goes on with the same counts; nobody is told to have died."""
    (tmp_path / "killed.py").write_text((HERE / "killed.py").read_text())
    with serving("uvicorn-reload", tmp_path, cwd=tmp_path) as service:
        for turn in range(times(2, 20)):
            before = set(service.processes().values())
            for number in range(3):
                assert httpx.get(f"{service.url}/quick/t{turn}-{number}").is_success
            (tmp_path / "killed.py").write_text(f"{(HERE / 'killed.py').read_text()}\n# {turn}\n")
            until(lambda before=before: asked_anew(service) not in before, "new process")
        all_counted(service)
        assert not [line for line in service.lines() if "died" in str(line["message"])]


def asked_anew(service: Service) -> int:
    """Send a request, and return the process that it has reached."""
    request_id = f"new-{uuid4().hex}"
    assert httpx.get(f"{service.url}/quick/{request_id}").is_success
    return service.processes()[request_id]

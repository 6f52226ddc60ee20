"""Requests per second and latencies over loopback: one uvicorn worker per variant, asked by `wrk` in turns of a second."""

import json
import os
import re
import shutil
import statistics
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx

from benchmarks.asked import REQUESTS, Header
from benchmarks.effort import Effort
from benchmarks.scrape import LIKE_PROMETHEUS
from benchmarks.serve import Service
from benchmarks.variants import VARIANTS, installed
from benchmarks.workers import Worker, receiver, say

__all__ = ["Slice", "measure", "measure_services", "read_wrk"]

COMPARED = ("bare", "ours-100", "ours-10", "usual-100")
SCRAPED = ("ours-100", "usual-100")
CONNECTIONS = 16
SCRAPE_EVERY_SECONDS = 1.0
DIFFERENT_REQUESTS = 4_096
"""More than a cache of the services keeps."""
SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0}
LUA = """local headers = {{
{rows}
}}
local requests, number = {{}}, 0
function init()
  for at, one in ipairs(headers) do requests[at] = wrk.format("GET", "{path}", one) end
end
function request()
  number = number % #requests + 1
  return requests[number]
end
"""


@dataclass(frozen=True, slots=True)
class Slice:
    """What `wrk` says about its turn; times in seconds."""

    per_second: float
    p50: float
    p99: float
    longest: float


def measure(effort: Effort) -> dict[str, Any]:
    """Measure each variant, and again while it is scraped; or say why not."""
    names = [name for name in COMPARED if installed(VARIANTS[name])]
    services = {name: Service(name) for name in names}
    services |= {f"{name} scraped": Service(name, series=effort.scraped_series) for name in SCRAPED if name in names}
    return {"scraped_series": effort.scraped_series, **measure_services("sockets", services, effort.socket_rounds)}


def measure_services(part: str, services: Mapping[str, Service], rounds: int, request: str = "plain") -> dict[str, Any]:
    """Measure services in turns, one of which is called "bare"; or say why not. `request`: the kind that `wrk` makes."""
    if (missing := _missing()) is not None:
        say(f"  {part}: skipped, {missing}")
        return {"skipped": missing}
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as folder, ExitStack() as stack:
        endpoint, script = stack.enter_context(receiver()), _script(Path(folder), request)
        urls = {
            key: f"http://127.0.0.1:{stack.enter_context(_server(service, Path(folder, f'{number}.log'), endpoint))}"
            for number, (key, service) in enumerate(services.items())
        }
        for url in urls.values():
            _wrk(url, script)
        slices = []
        for number in range(rounds):
            slices.append({key: _turn(key, url, script) for key, url in urls.items()})
            if not (number + 1) % 5:
                say(f"  {part}: round {number + 1} of {rounds}")
    return {"connections": CONNECTIONS, **_summary(slices)}


def _missing() -> str | None:
    if shutil.which("wrk") is None:
        return "wrk is not installed: apt-get install wrk"
    if not (find_spec("uvloop") and find_spec("httptools")):
        return "uvloop and httptools are not installed"
    return None


@contextmanager
def _server(service: Service, lines: Path, endpoint: str) -> Iterator[int]:
    with Worker("serve", json.dumps(asdict(service)), lines, endpoint, _cores()[0]) as worker:
        yield worker.read()


def _script(folder: Path, kind: str) -> Path:
    """Write the script by which `wrk` makes requests of a kind, each with ids of its own."""
    requests = [REQUESTS[kind]("/items/42") for _ in range(DIFFERENT_REQUESTS if kind != "plain" else 1)]
    rows = ",\n".join(_table(request.headers) for request in requests)
    path = f"{requests[0].path}?{requests[0].query.decode()}".rstrip("?")
    script = folder / f"{kind}.lua"
    script.write_text(LUA.format(rows=rows, path=path))
    return script


def _table(headers: Sequence[Header]) -> str:
    # Of a header in capitals `wrk` knows that it is there.
    texts = ((name.decode().title(), value.decode()) for name, value in headers)
    return f"{{{', '.join(f'[{json.dumps(name)}] = {json.dumps(value)}' for name, value in texts)}}}"


def _cores() -> tuple[str, str]:
    """Find a core for the servers, of which one at a time has work, and one for `wrk`; empty where none can be chosen."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    # The first core takes most of a machine's interrupts.
    return (str(cores[-1]), str(cores[-2])) if len(cores) > 2 and shutil.which("taskset") else ("", "")


def _turn(key: str, url: str, script: Path) -> Slice:
    with _scraping(url) if key.endswith("scraped") else nullcontext():
        return _wrk(url, script)


def _wrk(url: str, script: Path) -> Slice:
    core = _cores()[1]
    pinned = ["taskset", "-c", core] if core else []
    command = [*pinned, "wrk", "-t1", f"-c{CONNECTIONS}", "-d1s", "--latency", f"-s{script}", url]
    return read_wrk(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)


def read_wrk(printed: str) -> Slice:
    """Read what `wrk --latency` prints; answers other than 200 would be a fault of the measurement."""
    if "Non-2xx" in printed or "Socket errors" in printed:
        raise RuntimeError(printed)

    def seconds(pattern: str) -> float:
        found = re.search(pattern + r"\s+([\d.]+)(us|ms|s|m)\b", printed)
        assert found, printed
        return float(found[1]) * SECONDS[found[2]]

    rate = re.search(r"Requests/sec:\s+([\d.]+)", printed)
    assert rate, printed
    longest = seconds(r"Latency\s+\S+\s+\S+")
    return Slice(float(rate[1]), seconds(r"\b50%"), seconds(r"\b99%"), longest)


@contextmanager
def _scraping(url: str) -> Iterator[None]:
    """Scrape as Prometheus does, once a second from now."""
    done = threading.Event()

    def scrape() -> None:
        while True:
            httpx.get(f"{url}/metrics", headers=list(LIKE_PROMETHEUS), timeout=30.0).raise_for_status()
            if done.wait(SCRAPE_EVERY_SECONDS):
                return

    scraper = threading.Thread(target=scrape)
    scraper.start()
    try:
        yield
    finally:
        done.set()
        scraper.join()


def _summary(rounds: Sequence[Mapping[str, Slice]]) -> dict[str, Any]:
    """Take medians over rounds; ratios are those of a round, to the bare app."""

    def figures(key: str) -> dict[str, float]:
        own = [one[key] for one in rounds]
        beside = [(one[key], one["bare"]) for one in rounds]
        return {
            "per_second": statistics.median(one.per_second for one in own),
            "p50_ms": statistics.median(one.p50 for one in own) * 1e3,
            "p99_ms": statistics.median(one.p99 for one in own) * 1e3,
            "longest_ms": statistics.median(one.longest for one in own) * 1e3,
            "of_bare_per_second": statistics.median(one.per_second / bare.per_second for one, bare in beside),
            "of_bare_p50": statistics.median(one.p50 / bare.p50 for one, bare in beside),
            "of_bare_p99": statistics.median(one.p99 / bare.p99 for one, bare in beside),
        }

    return {"variants": {key: figures(key) for key in rounds[0]}}

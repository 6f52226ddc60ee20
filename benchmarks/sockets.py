"""Requests per second and latencies over loopback: one uvicorn worker per variant, asked by `wrk` in turns of a second."""

import os
import re
import shutil
import statistics
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx

from benchmarks.effort import Effort
from benchmarks.scrape import LIKE_PROMETHEUS
from benchmarks.variants import VARIANTS, installed
from benchmarks.workers import Worker, say

__all__ = ["Slice", "measure", "read_wrk"]

COMPARED = ("bare", "ours-100", "ours-10", "usual-100")
SCRAPED = ("ours-100", "usual-100")
CONNECTIONS = 16
SCRAPE_EVERY_SECONDS = 1.0
SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0}


@dataclass(frozen=True, slots=True)
class Slice:
    """What `wrk` says about its turn; times in seconds."""

    per_second: float
    p50: float
    p99: float
    longest: float


def measure(effort: Effort) -> dict[str, Any]:
    """Measure each variant, and again while it is scraped; or say why not."""
    if (missing := _missing()) is not None:
        say(f"  sockets: skipped, {missing}")
        return {"skipped": missing}
    names = [name for name in COMPARED if installed(VARIANTS[name])]
    servers = {name: (name, 0) for name in names}
    servers |= {f"{name} scraped": (name, effort.scraped_series) for name in SCRAPED if name in names}
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as folder, ExitStack() as stack:
        urls = {
            key: f"http://127.0.0.1:{stack.enter_context(_server(variant, series, Path(folder, f'{number}.log')))}"
            for number, (key, (variant, series)) in enumerate(servers.items())
        }
        for url in urls.values():
            _wrk(url)
        rounds = []
        for number in range(effort.socket_rounds):
            rounds.append({key: _turn(key, url) for key, url in urls.items()})
            if not (number + 1) % 5:
                say(f"  sockets: round {number + 1} of {effort.socket_rounds}")
    return {"connections": CONNECTIONS, "scraped_series": effort.scraped_series, **_summary(rounds)}


def _missing() -> str | None:
    if shutil.which("wrk") is None:
        return "wrk is not installed: apt-get install wrk"
    if not (find_spec("uvloop") and find_spec("httptools")):
        return "uvloop and httptools are not installed"
    return None


@contextmanager
def _server(variant: str, series: int, lines: Path) -> Iterator[int]:
    with Worker("serve", variant, series, lines, _cores()[0]) as worker:
        yield worker.read()


def _cores() -> tuple[str, str]:
    """Find a core for the servers, of which one at a time has work, and one for `wrk`; empty where none can be chosen."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    # The first core takes most of a machine's interrupts.
    return (str(cores[-1]), str(cores[-2])) if len(cores) > 2 and shutil.which("taskset") else ("", "")


def _turn(key: str, url: str) -> Slice:
    with _scraping(url) if key.endswith("scraped") else nullcontext():
        return _wrk(url)


def _wrk(url: str) -> Slice:
    core = _cores()[1]
    pinned = ["taskset", "-c", core] if core else []
    command = [*pinned, "wrk", "-t1", f"-c{CONNECTIONS}", "-d1s", "--latency", f"{url}/items/42"]
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

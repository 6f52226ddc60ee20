"""`python -m benchmarks.capacity`: what requests leave behind in lines, spans and series, and what that costs a Prometheus.

Takes two minutes and writes `capacity.json`, with which `scripts/document_capacity.py` calculates. Needs Prometheus.
"""

import asyncio
import gzip
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.machine import described
from example_app.traffic import Traffic

RESULTS = Path(__file__).with_name("capacity.json")
VISIT_SECONDS, VISITS_PER_SECOND = 40.0, 15.0
TARGETS = 60
"""How many instances the Prometheus scrapes; all show the page of the demo."""
SERIES, SAMPLES, INTERVAL_SECONDS = 1_000, 5_760, 15
"""Of the blocks whose size is measured: a day of samples."""


class _Taken(ThreadingHTTPServer):
    """Takes spans, and serves one page to those who ask for it."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.page = b""
        self.counts: Counter[str] = Counter()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: _Taken

    def do_POST(self) -> None:
        """Count the spans of a batch, and their bytes."""
        batch = self.rfile.read(int(self.headers["Content-Length"]))
        told = ExportTraceServiceRequest.FromString(batch)
        spans = sum(len(scope.spans) for resource in told.resource_spans for scope in resource.scope_spans)
        self.server.counts.update(spans=spans, bytes=len(batch))
        self._answer(b"")

    def do_GET(self) -> None:
        """Show the page."""
        self._answer(self.server.page)

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def _serving() -> Iterator[_Taken]:
    with _Taken() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@contextmanager
def _running(command: list[str], log: Path, **env: str) -> Iterator[None]:
    with log.open("wb") as output:
        process = subprocess.Popen(command, env={**os.environ, **env}, stdout=output, stderr=output)
    try:
        yield
    finally:
        process.terminate()
        process.wait(30)


def _until(url: str) -> None:
    for _ in range(600):
        try:
            if httpx.get(url).is_success:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    sys.exit(f"{url} does not answer")


def demo(folder: Path, server: _Taken, port: int = 18_321) -> dict[str, tuple[float, str]]:
    """Send visitors to the example service; return what a request leaves behind, with the unit."""
    lines, url = folder / "lines.jsonl", f"http://127.0.0.1:{port}"
    settings = {
        "EXAMPLE_URL": url,
        "SERVICE_NAME": "example-shop",
        "APP_ENV": "production",
        "SAGE_OBS_LOGGING__OUTPUT": str(lines),
        "SAGE_OBS_MONITORING__ACCESS": "local",
        "SAGE_OBS_TRACING__SAMPLE_RATE": "1",
        "SAGE_OBS_TRACING__OTLP_ENDPOINT": f"http://{server.address}/v1/traces",
    }
    command = [
        sys.executable,
        "-m",
        "uvicorn",
        "--factory",
        "example_app.app:create_app",
        "--port",
        str(port),
        "--log-level",
        "warning",
    ]
    with _running(command, folder / "shop.log", **settings):
        _until(f"{url}/monitoring/health/live")
        asyncio.run(_visit(url))
        page = httpx.get(f"{url}/metrics").text
    server.page = page.encode()
    samples = [sample for family in text_string_to_metric_families(page) for sample in family.samples]
    requests = sum(sample.value for sample in samples if sample.name == "http_requests_total")
    written = lines.read_bytes()
    count, spans = written.count(b"\n"), server.counts["spans"]
    return {
        "requests": (requests, "requests in the measurement"),
        "lines_per_request": (count / requests, "lines"),
        "line_bytes": (len(written) / count, "bytes"),
        "line_gzip_bytes": (len(gzip.compress(written)) / count, "bytes"),
        "spans_per_request": (spans / requests, "spans"),
        "span_bytes": (server.counts["bytes"] / spans, "bytes"),
        "series_per_instance": (len(samples), "series"),
        "page_bytes_per_series": (len(server.page) / len(samples), "bytes"),
    }


async def _visit(url: str) -> None:
    visiting = asyncio.create_task(Traffic(url, VISITS_PER_SECOND).run())
    await asyncio.sleep(VISIT_SECONDS)
    visiting.cancel()
    await asyncio.gather(visiting, return_exceptions=True)


def disk(folder: Path) -> float:
    """Return the bytes of a sample in a block, of counters that rise at random and at very different rates."""
    start = int(time.time()) // 86_400 * 86_400 - 86_400
    source, blocks = folder / "samples.om", folder / "blocks"
    with source.open("w") as text:
        text.write("# TYPE http_requests counter\n")
        for number in range(SERIES):
            rate, value = 10 ** random.uniform(-2, 1), 0  # noqa: S311 - no secret
            for at in range(start, start + SAMPLES * INTERVAL_SECONDS, INTERVAL_SECONDS):
                value += int(random.expovariate(1) * rate)
                text.write(f'http_requests_total{{route="/r{number}",instance="10.0.0.1:9090"}} {value} {at}\n')
        text.write("# EOF\n")
    command = ["promtool", "tsdb", "create-blocks-from", "openmetrics", str(source), str(blocks)]
    subprocess.run(command, check=True, capture_output=True)
    stored = sum(path.stat().st_size for path in blocks.rglob("*") if path.is_file())
    samples: int = sum(json.loads(path.read_text())["stats"]["numSamples"] for path in blocks.rglob("meta.json"))
    return stored / samples


def memory(folder: Path, server: _Taken) -> tuple[float, float]:
    """Return the bytes of memory and the microseconds of CPU per scraped sample that a real Prometheus takes per series."""
    targets = [{"targets": [server.address], "labels": {"instance": f"10.0.0.{number}:9090"}} for number in range(TARGETS)]
    job = {"job_name": "shop", "scrape_interval": "5s", "static_configs": targets}
    config = folder / "prometheus.json"
    config.write_text(json.dumps({"scrape_configs": [job]}))
    port = 18_322
    flags = [f"--web.listen-address=127.0.0.1:{port}", f"--storage.tsdb.path={folder / 'tsdb'}"]
    with _running(["prometheus", f"--config.file={config}", *flags], folder / "prometheus.log"):
        url = f"http://127.0.0.1:{port}"
        _until(f"{url}/-/ready")
        time.sleep(20)
        before = _own(url)
        time.sleep(30)
        after = _own(url)
    samples = after["prometheus_tsdb_head_samples_appended_total"] - before["prometheus_tsdb_head_samples_appended_total"]
    cpu = after["process_cpu_seconds_total"] - before["process_cpu_seconds_total"]
    return after["process_resident_memory_bytes"] / after["prometheus_tsdb_head_series"], 1e6 * cpu / samples


def _own(url: str) -> dict[str, float]:
    found = re.findall(r"^(\w+)(?:\{type=\"float\"\})? ([\d.e+]+)$", httpx.get(f"{url}/metrics").text, re.MULTILINE)
    return {name: float(value) for name, value in found}


HOW = {
    "requests": f"example service, {VISITS_PER_SECOND:.0f} visits a second for {VISIT_SECONDS:.0f} s, all scenarios",
    "lines_per_request": "lines of its log file, by requests of its own counter",
    "line_bytes": "size of the file, by lines",
    "line_gzip_bytes": "the file in gzip, by lines",
    "spans_per_request": "spans that an OTLP receiver got at a sample rate of 1, by requests",
    "span_bytes": "bytes of those batches (protobuf, not compressed), by spans",
    "series_per_instance": "samples of `/metrics` at the end: seven packs, some forty routes",
    "page_bytes_per_series": "size of that page, by samples",
    "sample_disk_bytes": f"blocks that promtool writes of {SERIES} counters, a day at {INTERVAL_SECONDS} s, index included",
    "series_memory_bytes": f"resident memory of a Prometheus 2 that scrapes that page from {TARGETS} targets, by series",
    "sample_cpu_us": "CPU of that Prometheus between two readings, by samples, queries and rules not included",
}
"""How each figure is measured."""


def main() -> None:
    """Measure everything, and write it down."""
    with tempfile.TemporaryDirectory() as name, _serving() as server:
        folder = Path(name)
        found = demo(folder, server)
        found["sample_disk_bytes"] = disk(folder), "bytes"
        per_series, per_sample = memory(folder, server)
        found |= {"series_memory_bytes": (per_series, "bytes"), "sample_cpu_us": (per_sample, "µs of CPU")}
    figures = {key: {"value": float(f"{value:.3g}"), "unit": unit, "how": HOW[key]} for key, (value, unit) in found.items()}
    RESULTS.write_text(json.dumps({"made": described(()), "figures": figures}, indent=1, ensure_ascii=False) + "\n")
    print(RESULTS.read_text())


if __name__ == "__main__":
    main()

"""Forks, loops, interpreter switches, exits, and real servers in processes of their own."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from receivers import SpanCollector
from receivers import serving as receiving
from servers import free_port
from support import PATIENCE_SECONDS, SOAK, drive, http_scope, until

from sage_fastapi_obs import ObservabilityMiddleware

HERE = Path(__file__).parent
SMALL_APP = """
import os
from fastapi import FastAPI
from sage_fastapi_obs import Observability, RequestLogger, Settings

app = FastAPI()
Observability(Settings(monitoring={"access": "open"})).install(app)


@app.get("/items/{item_id}")
async def read(item_id: int, log: RequestLogger) -> dict[str, int]:
    log.bind(item=item_id)
    return {"pid": os.getpid()}


@app.get("/boom")
def boom() -> None:
    raise RuntimeError("boom")
"""
CALLING = """
import asyncio
from opentelemetry.sdk.trace import TracerProvider
from sage_fastapi_obs import Observability, ObservabilityMiddleware, Settings


async def app(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})


async def call(obs):
    sent = []

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": "/", "headers": [], "query_string": b""}
    await ObservabilityMiddleware(app, observability=obs)(scope, None, send)
    return dict(sent[0]["headers"])[b"x-request-id"].decode()
"""


def python(source: str, *switches: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a program in a process of its own, and hold it to a clean exit with nothing said on stderr."""
    done = subprocess.run(
        [sys.executable, *switches, "-c", source],
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
        env={**os.environ, **env},
    )
    assert done.returncode == 0, done.stderr
    return done


STATE = """
import json, logging, sys, threading, warnings
import opentelemetry.trace, prometheus_client, loguru, opentelemetry.sdk.trace, fastapi, uvicorn, httpx


def state():
    root = logging.getLogger()
    core = loguru.logger._core
    uvicorns = [logging.getLogger(name) for name in ("uvicorn", "uvicorn.access", "uvicorn.error")]
    return {
        "root": [repr(root.handlers), root.level],
        "uvicorn": [(repr(one.handlers), one.propagate, one.level) for one in uvicorns],
        "loguru": [sorted(core.handlers), repr(core.patcher)],
        "threads": [thread.name for thread in threading.enumerate()],
        "registry": [metric.name for metric in prometheus_client.REGISTRY.collect()],
        "tracer provider": type(opentelemetry.trace.get_tracer_provider()).__name__,
        "propagator": repr(opentelemetry.propagate.get_global_textmap().fields),
        "warnings": [repr(warnings.showwarning), len(warnings.filters)],
        "hooks": [repr(sys.excepthook), repr(threading.excepthook)],
        "random": __import__("random").getstate()[1][:3] == START,
    }


START = __import__("random").getstate()[1][:3]
before = state()
"""


@pytest.mark.parametrize("then", ["pass", "sage_fastapi_obs.Observability().install(fastapi.FastAPI())", "built()"])
def test_importing_and_building_change_nothing_global(then: str) -> None:
    """Import, construction and installation touch no logging, thread, registry, provider, warning or random state."""
    built = """
def built():
    for _ in range(2):
        tracing = {"otlp_endpoint": "http://localhost:1/v1/traces"}
        settings = sage_fastapi_obs.Settings(tracing=tracing, monitoring={"access": "port"})
        sage_fastapi_obs.Observability(settings, new_id=lambda: "x")
"""
    done = python(f"{STATE}\nimport sage_fastapi_obs\n{built}\n{then}\nassert state() == before, (before, state())\n")
    assert (done.stdout, done.stderr) == ("", "")


@pytest.mark.parametrize("started", [False, True], ids=["before the start", "after the start"])
def test_forked_workers_are_complete(started: bool) -> None:
    """After a fork each child mints other ids, writes its lines, starts its own threads and counts for itself."""
    source = f"""{CALLING}
import os, sys, threading

lines = {{"output": "stderr", "gather_seconds": 0}}
obs = Observability(Settings(logging=lines, tracing={{"otlp_endpoint": "http://127.0.0.1:1/v1/traces"}}))
if {started}:
    obs.start()
    asyncio.run(call(obs))
children = []
for _ in range(2):
    pid = os.fork()
    if not pid:
        made = asyncio.run(call(obs))
        names = [thread.name for thread in threading.enumerate()]
        value = obs.registry.get_sample_value
        counted = value("http_requests_total", {{"method": "GET", "route": "unmatched", "status": "200"}})
        os.write(1, f"{{made}} {{names.count('sage-obs-spans-otlp')}} {{int(counted)}}\\n".encode())
        os._exit(0)
    children.append(pid)
assert all(os.waitpid(pid, 0)[1] == 0 for pid in children)
os._exit(0)
"""
    done = python(source, "-W", "ignore::DeprecationWarning")
    rows = [row.split() for row in done.stdout.splitlines()]
    assert len({row[0] for row in rows}) == 2
    assert [row[1:] for row in rows] == [["1", str(1 + started)]] * 2
    lines = [json.loads(row) for row in done.stderr.splitlines() if row.startswith("{")]
    assert {row[0] for row in rows} <= {line.get("request_id") for line in lines}


READING = """
import asyncio, os, signal, sys, threading
from prometheus_client import Counter
from starlette.requests import Request
from sage_fastapi_obs import Observability, Settings

obs = Observability(Settings(logging={"enabled": False}))
counter = Counter("jobs", "jobs", ["number"], registry=obs.registry)
for number in range(500):
    counter.labels(number).inc()
sys.setswitchinterval(1e-6)


async def scrape():
    scope = {"type": "http", "method": "GET", "path": "/metrics", "headers": [], "query_string": b""}
    return await obs.metrics_page.response(Request(scope))


def refresh():
    obs.status.refresh()


def write_page():
    asyncio.run(scrape())


def forked(work):
    pid = os.fork()
    if not pid:
        # Ends a child that waits for ever.
        signal.alarm(240)
        # A loop that runs in the parent leaves its mark on the thread that forks.
        working = threading.Thread(target=work)
        working.start()
        working.join()
        os._exit(0)
    return os.waitpid(pid, 0)[1]
"""


@pytest.mark.parametrize("read", ["refresh", "write_page"])
def test_a_fork_waits_for_who_reads_the_metrics(read: str) -> None:
    """A child can read metrics, whatever the thread that evaluates the rules or writes a page was doing when it was forked."""
    source = f"""{READING}
# A child waits for ever for an import that another thread was at; the first page imports AnyIO's part for asyncio.
{read}()
stopping = threading.Event()

def reads():
    while not stopping.is_set():
        {read}()

reader = threading.Thread(target=reads)
reader.start()
codes = []
while len(codes) < 30 and not any(codes):
    codes.append(forked({read}))
stopping.set()
reader.join()
assert not any(codes), codes
"""
    python(source, "-W", "ignore::DeprecationWarning")


def test_the_event_loop_forks_while_a_page_is_written() -> None:
    """Neither waits for the other for long, and the child can write pages; not even a collector that waits for the loop."""
    source = f"""{READING}
class WaitsForLoop:
    waits = threading.Event()

    def describe(self):
        return []

    def collect(self):
        call = asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop)
        self.waits.set()
        call.result()
        return []


async def main():
    global loop
    loop, codes = asyncio.get_running_loop(), []
    while len(codes) < 10 and not any(codes):
        scraping = asyncio.create_task(scrape())
        await asyncio.sleep(0.002)
        codes.append(forked(write_page))
        await scraping
    assert not any(codes), codes
    obs.registry.register(WaitsForLoop())
    scraping = asyncio.create_task(scrape())
    await asyncio.sleep(0)
    while not WaitsForLoop.waits.is_set():
        await asyncio.sleep(0.001)
    assert forked(int) == 0
    await scraping


asyncio.run(main())
"""
    python(source, "-W", "ignore::DeprecationWarning")


async def ok(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})


def test_no_loop_is_held_on_to(watch: Any) -> None:
    """One observability serves loop after loop, with the earlier ones closed, and with a start and end in each."""
    watched = watch()
    around = ObservabilityMiddleware(ok, observability=watched.obs)

    async def requests() -> None:
        await asyncio.gather(*(drive(around, http_scope()) for _ in range(3)))

    async def life() -> None:
        async with watched.obs:
            await requests()
            assert await watched.obs.health.results() == []

    asyncio.run(requests())
    asyncio.run(watched.obs.close())
    asyncio.run(life())
    asyncio.run(life())
    asyncio.run(requests())
    assert len(watched.access) == len(watched.server_spans) == 12
    assert watched.obs.internal_errors.counts == {}


def test_two_loops_at_once(watch: Any) -> None:
    """Two threads with a loop each share one observability."""
    watched = watch()
    around = ObservabilityMiddleware(ok, observability=watched.obs)
    watched.obs.start()

    async def requests() -> None:
        await asyncio.gather(*(drive(around, http_scope()) for _ in range(50)))

    threads = [threading.Thread(target=asyncio.run, args=(requests(),)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(watched.access) == len(watched.server_spans) == 100
    assert watched.value("http_requests_total", method="GET", route="unmatched", status="200") == 100


@pytest.mark.parametrize(
    ("switches", "env"),
    [(["-O"], {}), (["-OO"], {}), (["-X", "dev"], {}), ([], {"PYTHONWARNINGS": "error"}), (["-X", "utf8=0"], {"LC_ALL": "C"})],
    ids=str,
)
def test_interpreter_switches_make_no_difference(switches: list[str], env: dict[str, str]) -> None:
    """Optimised, in development mode, with warnings as errors and in the C locale: a request has its id and its line."""
    source = f"""{CALLING}
async def main():
    async with Observability() as obs:
        made = await call(obs)
    print(made)


asyncio.run(main())
"""
    done = python(source, *switches, **env)
    *printed, made = done.stdout.splitlines()
    lines = [json.loads(line) for line in printed]
    assert done.stderr == ""
    assert lines[0]["message"] == "observability started"
    # On a busy machine there may be other lines: asyncio and we say what was slow.
    assert [line["request_id"] for line in lines if line["logger"] == "sage_fastapi_obs.access"] == [made]


@pytest.fixture
def silent_collector() -> Iterator[int]:
    """Listen on a port, take connections, and never answer."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(50)
        yield listening.getsockname()[1]


HTTP, GRPC = "http://127.0.0.1:{}/v1/signal", "grpc://127.0.0.1:{}"
ENDINGS = ["", "import sys; sys.exit()", "asyncio.run(obs.close())"]
PAIRS = [(HTTP, "closed"), (HTTP, "silent"), (GRPC, "silent"), (GRPC, "closed")]
EXITS = [
    (*PAIRS[(place + number) % 4], ending)
    for place, ending in enumerate(ENDINGS)
    for number in ((0, 2) if not SOAK else range(4))
]
"""Each two of protocol, collector and ending; in the long form each three."""


@pytest.mark.soak
@pytest.mark.parametrize(("url", "collector", "ending"), EXITS)
def test_the_interpreter_exits_cleanly(url: str, collector: str, ending: str, silent_collector: int) -> None:
    """With signals left for a collector that is gone or hangs, closed or not: the process ends soon, without a traceback."""
    endpoint = url.format(1 if collector == "closed" else silent_collector)
    source = f"""{CALLING}
import atexit, sys, time

ends_at = time.monotonic()
# Registered first, it is called last.
atexit.register(lambda: print(time.monotonic() - ends_at, file=sys.stderr))
to = {{"otlp_endpoint": "{endpoint}"}}
within = {{**to, "shutdown_seconds": 0.3}}
obs = Observability(Settings(tracing=within, logging=within, metrics=to))
for _ in range(3):
    asyncio.run(call(obs))
ends_at = time.monotonic()
{ending}
"""
    for _ in range(3):
        # Left to itself the SDK takes as long as an export may, and thirty seconds at most; a busy machine does so once.
        done = python(source, OTEL_EXPORTER_OTLP_TIMEOUT="60")
        if (seconds := float(done.stderr.splitlines()[-1])) < 20:
            break
    assert seconds < 20
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    assert len(done.stdout.splitlines()) >= 4


def test_the_last_spans_are_handed_over_without_a_close() -> None:
    """A program that just ends has sent its spans to the collector by then."""
    with receiving(SpanCollector()) as collector:
        settings = f"Settings(tracing={{'otlp_endpoint': '{collector.url}/v1/traces', 'shutdown_seconds': 60}})"
        done = python(f"{CALLING}\nprint(asyncio.run(call(Observability({settings}))))", no_proxy="*")
    request_id = next(row for row in done.stdout.splitlines() if not row.startswith("{"))
    assert [headers["path"] for headers in collector.headers] == ["/v1/traces"]
    (span,) = collector.spans()
    assert request_id in {attribute.value.string_value for attribute in span.attributes}


def test_logurus_own_sink_is_back_after_a_close() -> None:
    """What loguru printed to stderr before, it prints after the end too, once, and not in between; however often."""
    source = f"""{CALLING}
from loguru import logger

obs = Observability()
logger.info("at first")
for _ in range(2):
    obs.start()
    logger.info("meanwhile")
    asyncio.run(obs.close())
    logger.info("afterwards")
"""
    done = python(source)
    assert [done.stderr.count(said) for said in ("at first", "meanwhile", "afterwards")] == [1, 0, 2]
    assert [done.stdout.count(said) for said in ("at first", "meanwhile", "afterwards")] == [0, 2, 0]


class Server:
    """A uvicorn process that serves the small app."""

    def __init__(self, folder: Path, *options: str) -> None:
        (folder / "small.py").write_text(SMALL_APP)
        self.port = free_port()
        self._out, self._err = folder / "out", folder / "err"
        command = [sys.executable, "-m", "uvicorn", "small:app", "--port", str(self.port), "--app-dir", str(folder), *options]
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = subprocess.Popen(command, stdout=out, stderr=err)

    @property
    def out(self) -> str:
        return self._out.read_text()

    @property
    def err(self) -> str:
        return self._err.read_text()

    @property
    def lines(self) -> list[dict[str, Any]]:
        """All lines of the standard output, each of which must be JSON."""
        return [json.loads(line) for line in self.out.splitlines()]

    def get(self, path: str, **options: Any) -> httpx.Response:
        return httpx.get(f"http://127.0.0.1:{self.port}{path}", timeout=PATIENCE_SECONDS, **options)

    def wait(self) -> None:
        """Wait until it answers."""
        until(lambda: self.process.poll() is not None or self.get("/monitoring/health/live"))
        assert self.process.poll() is None, self.err

    def stop(self) -> int:
        """Ask it to end, and return its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=PATIENCE_SECONDS)


@contextmanager
def serving(folder: Path, *options: str) -> Iterator[Server]:
    server = Server(folder, *options)
    try:
        server.wait()
        yield server
    finally:
        if server.process.poll() is None:
            server.process.kill()
            server.process.wait()


@pytest.mark.parametrize("parser", ["h11", "httptools"])
def test_uvicorn_writes_one_line_per_request(parser: str, tmp_path: Path) -> None:
    """A real server's output is our JSON lines alone, one per request, and it ends cleanly when asked to."""
    with serving(tmp_path, "--http", parser) as server:
        answered = server.get("/items/7", headers={"X-Request-ID": "r-1"})
        missing = server.get("/nowhere")
        failed = server.get("/boom", headers={"X-Request-ID": "r-3"})
        page = server.get("/metrics").text
        status = server.stop()
    assert answered.headers.get_list("x-request-id") == ["r-1"]
    assert (failed.status_code, failed.headers["x-request-id"]) == (500, "r-3")
    assert 'http_requests_total{method="GET",route="/items/{item_id}",status="200"} 1.0' in page
    access = [line for line in server.lines if line["logger"] == "sage_fastapi_obs.access"]
    assert [(line["request_id"], line["route"], line["status"], line["level"]) for line in access] == [
        ("r-1", "/items/{item_id}", 200, "info"),
        (missing.headers["x-request-id"], None, 404, "warn"),
        ("r-3", "/boom", 500, "error"),
    ]
    assert access[0]["data"] == {"item": 7}
    assert not [line for line in server.lines if line["logger"] == "uvicorn.access"]
    assert any(line["message"] == "observability started" for line in server.lines)
    assert status in (0, -signal.SIGTERM)
    assert "Traceback" not in server.err
    assert '"GET /items' not in server.err


def test_two_workers_serve_and_warn_of_nothing(tmp_path: Path) -> None:
    """With `--workers 2` both processes serve, each request has its line, and there is nothing to warn of."""
    with serving(tmp_path, "--workers", "2") as server:
        until(lambda: server.out.count("observability started") == 2)
        ids = {server.get("/items/1").headers["x-request-id"] for _ in range(20)}
        server.stop()
    assert [line for line in server.lines if line["level"] == "warn" and not line.get("route")] == []
    assert len(ids) == 20
    assert len([line for line in server.lines if line.get("route")]) == 20


def test_a_single_process_does_not_warn(tmp_path: Path) -> None:
    """A server with one process speaks for the whole service, and says nothing of workers."""
    with serving(tmp_path) as server:
        server.stop()
    assert not [line for line in server.lines if "worker" in line["message"]]

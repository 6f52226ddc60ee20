"""The page behind real servers: a stop with the page open, a reload, several workers, the metrics port."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from servers import free_port
from support import PATIENCE_SECONDS, until

pytestmark = pytest.mark.stack

TOKEN = "a-token-of-sixteen-or-more"
APP = """
from fastapi import FastAPI
from sage_fastapi_obs import Observability, Settings

app = FastAPI()
settings = Settings(
    service={{"name": "shop"}}, store={{"path": {folder!r}}}, logging={{"output": {folder!r} + "/lines"}},
    monitoring={{"access": {access!r}, "token": {token!r}}}, metrics={{"port": {port}}},
)
obs = Observability(settings)
obs.install(app)

@obs.health.check("loop", cache_seconds=0)
async def loop():
    import asyncio
    return asyncio.get_running_loop() is app.state.loop

@app.get("/version")
async def version() -> int:
    import asyncio
    app.state.loop = asyncio.get_running_loop()
    return 1
"""
WORKERS = ["uvicorn", "shop:app", "--timeout-worker-healthcheck", "60", "--port", "{port}", "--workers"]
SERVERS = {
    "uvicorn": ["uvicorn", "shop:app", "--port", "{port}"],
    "uvicorn with h11": ["uvicorn", "shop:app", "--http", "h11", "--port", "{port}"],
    "uvicorn with workers": [
        "uvicorn",
        "shop:app",
        "--workers",
        "2",
        "--timeout-worker-healthcheck",
        "60",
        "--port",
        "{port}",
    ],
    "gunicorn": ["gunicorn", "shop:app", "-k", "asgi", "-b", "127.0.0.1:{port}"],
    "granian": ["granian", "shop:app", "--interface", "asgi", "--port", "{port}"],
}
if sys.version_info < (3, 12):
    # There it does not wait for connections that stay open.
    SERVERS["hypercorn"] = ["hypercorn", "shop:app", "--bind", "127.0.0.1:{port}"]


class Service:
    """A server process."""

    def __init__(self, command: list[str], folder: Path, *, access: str = "open", token: str | None = TOKEN) -> None:
        self.port, self.metrics_port, self.folder = free_port(), free_port(), folder
        self.module = folder / "shop.py"
        self.module.write_text(APP.format(folder=str(folder), access=access, token=token, port=self.metrics_port))
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), *sys.path])}
        self.url = f"http://127.0.0.1:{self.port}"
        self.output = (folder / "output").open("w")
        self.process = subprocess.Popen(
            [sys.executable, "-m", *(part.format(port=self.port) for part in command)],
            cwd=folder,
            env=environment,
            process_group=0,
            stdout=self.output,
            stderr=subprocess.STDOUT,
        )
        until(lambda: self.get("/version").is_success, "first answer")

    def get(self, path: str, **options: Any) -> httpx.Response:
        """Ask over a connection of its own."""
        return httpx.get(f"{self.url}{path}", timeout=PATIENCE_SECONDS, **options)

    def text(self) -> str:
        """Return what the server has written."""
        return (self.folder / "output").read_text()


@contextmanager
def serving(command: list[str], folder: Path, **options: Any) -> Iterator[Service]:
    """Serve until the end of the block."""
    service = Service(command, folder, **options)
    try:
        yield service
    finally:
        if service.process.poll() is None:
            os.killpg(service.process.pid, signal.SIGKILL)
            service.process.wait()
        service.output.close()


class Viewer:
    """A page that is open: it reads events until the stream ends."""

    def __init__(self, url: str, **options: Any) -> None:
        self.lines: list[str] = []
        self.end = ""
        self._asked = {"timeout": PATIENCE_SECONDS, **options}
        self._thread = threading.Thread(target=self._look, args=[url], daemon=True)
        self._thread.start()
        until(lambda: any(line.startswith("data: ") for line in self.lines), "first event")

    def _look(self, url: str) -> None:
        try:
            with httpx.stream("GET", f"{url}/monitoring/live", **self._asked) as response:
                for line in response.iter_lines():
                    self.lines.append(line)
            self.end = "complete"
        except httpx.HTTPError as error:
            self.end = type(error).__name__

    def wait(self) -> str:
        """Wait for the end of the stream, and say what it was."""
        self._thread.join(PATIENCE_SECONDS)
        return self.end


@pytest.mark.parametrize("name", SERVERS)
def test_a_stop_with_the_page_open_ends(name: str, tmp_path: Path) -> None:
    """SIGTERM ends streams at once and the process soon, by itself and without an error.

    Hypercorn's workers get no signal: it breaks off what is open after its own time for that.
    """
    with serving(SERVERS[name], tmp_path) as service:
        viewers = [Viewer(service.url) for _ in range(3)]
        service.process.send_signal(signal.SIGTERM)
        service.process.wait(PATIENCE_SECONDS)
        ends = {viewer.wait() for viewer in viewers}
        assert ends == ({"RemoteProtocolError"} if name == "hypercorn" else {"complete"})
        assert service.process.returncode in {0, -signal.SIGTERM}
        assert "Traceback" not in service.text()
        assert "without completing" not in service.text()


def test_a_reload_with_the_page_open(tmp_path: Path) -> None:
    """After a change of the code the new process answers, though nobody has closed the page."""
    with serving(["uvicorn", "shop:app", "--reload", "--port", "{port}"], tmp_path) as service:
        viewer = Viewer(service.url)
        # An editor writes a file of another time and length.
        service.module.write_text(service.module.read_text().replace("return 1", "return 2222"))
        assert viewer.wait() == "complete"
        until(lambda: service.get("/version").json() == 2222, "answer of the new process")
        Viewer(service.url)


def test_any_worker_tells_the_same_total(tmp_path: Path) -> None:
    """With four workers, twenty questions over connections of their own have one answer, whoever gives it."""
    with serving([*WORKERS, "4"], tmp_path) as service:
        until(lambda: service.get("/monitoring/overview").json()["workers"]["count"] == 4, "four workers")
        for _ in range(40):
            service.get("/version")

        def told() -> list[tuple[Any, ...]]:
            documents = [service.get("/monitoring/overview").json() for _ in range(20)]
            return [
                (
                    # A worker that has not seen two ticks yet has no rate.
                    round((document["figures"]["requests_per_second"]["value"] or 0) * document["covered_seconds"]),
                    document["workers"]["count"],
                    document["workers"]["leader"],
                )
                for document in documents
            ]

        def tells_one_total() -> bool:
            # Rounded to four digits, a rate times its time is the number of requests.
            (first, *others), total = told(), _total(service)
            return first[:2] == (total, 4) and {*others} == {first} and total >= 40

        until(tells_one_total, "one answer of all workers")


def _total(service: Service) -> int:
    lines = service.get("/metrics").text.splitlines()
    return round(sum(float(line.split()[-1]) for line in lines if line.startswith("http_requests_total{")))


def test_the_metrics_port_serves_the_page_with_the_token(tmp_path: Path) -> None:
    """Metrics are there as ever; page, data, stream and login need the token, and the app's own port has none of it."""
    with serving(SERVERS["uvicorn"], tmp_path, access="port") as service:
        port = f"http://127.0.0.1:{service.metrics_port}"
        bearer = {"authorization": f"Bearer {TOKEN}"}
        with httpx.Client(base_url=port, timeout=PATIENCE_SECONDS, follow_redirects=True) as client:
            assert "http_requests_total" in client.get("/metrics").text
            for path in ("", "overview", "live", "summary", "health", "loggers", "workers"):
                assert (path, client.get(f"/monitoring/{path}").status_code) == (path, 401)
                assert (path, service.get(f"/monitoring/{path}", headers=bearer).status_code) == (path, 404)
            assert client.get("/monitoring/static/index.html").status_code == 200
            health = client.get("/monitoring/health", headers=bearer).json()
            # Checks run on the loop of the application, where its connections are.
            assert [(check["name"], check["status"]) for check in health["checks"]] == [("loop", "pass")]
            headers = {"origin": port}
            assert client.post("/monitoring/login", json={"token": TOKEN}, headers=headers).status_code == 200
            assert client.get("/monitoring").status_code == 200
            document = client.get("/monitoring/overview").json()
            assert document["health"]["checks"][0]["status"] == "pass"
            changed = client.put("/monitoring/loggers", json={"level": "debug"}, headers=headers)
            assert changed.status_code == 200
        viewer = Viewer(port, headers=bearer)
        service.process.send_signal(signal.SIGTERM)
        service.process.wait(PATIENCE_SECONDS)
        assert viewer.wait() == "complete"


def test_without_a_token_the_metrics_port_has_metrics_only(tmp_path: Path) -> None:
    """As before, for networks that protect it by the port."""
    with serving(SERVERS["uvicorn"], tmp_path, access="port", token=None) as service:
        port = f"http://127.0.0.1:{service.metrics_port}"
        assert httpx.get(f"{port}/metrics").status_code == 200
        for path in ("", "/", "/overview", "/live", "/login", "/static/index.html", "/health/live"):
            assert httpx.get(f"{port}/monitoring{path}").status_code == 404

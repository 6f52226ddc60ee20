"""Real servers, in processes of their own: what they say are lines of ours, and each request and failure is told once."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from servers import free_port
from support import PATIENCE_SECONDS, until

APP = """
import logging
from fastapi import FastAPI
from sage_fastapi_obs import Observability, Settings

app = FastAPI()
Observability(Settings(monitoring={"access": "open"})).install(app)


@app.get("/items/{item_id}")
def read(item_id: int) -> int:
    logging.getLogger("library").info("said")
    return item_id


@app.get("/boom")
def boom() -> None:
    raise RuntimeError("boom")
"""
GUNICORN = ("gunicorn", "served:app", "--bind", "127.0.0.1:{port}", "--access-logfile", "-")
SERVERS = {
    "uvicorn": ("uvicorn", "served:app", "--port", "{port}"),
    "gunicorn": (*GUNICORN, "--worker-class", "asgi"),
    "hypercorn": ("hypercorn", "served:app", "--bind", "127.0.0.1:{port}", "--access-logfile", "-", "--error-logfile", "-"),
    "granian": ("granian", "served:app", "--interface", "asgi", "--port", "{port}", "--access-log"),
}


def serve(name: str, folder: Path) -> tuple[str, str]:
    """Serve three requests; return what was written to standard output and error."""
    (folder / "served.py").write_text(APP)
    port = free_port()
    command = [sys.executable, "-m", *(part.format(port=port) for part in SERVERS[name])]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])}
    out, err = folder / "out", folder / "err"
    with out.open("wb") as out_file, err.open("wb") as err_file:
        process = subprocess.Popen(command, stdout=out_file, stderr=err_file, env=env)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE_SECONDS) as http:
            until(lambda: process.poll() is not None or http.get("/monitoring/health/live"))
            assert process.poll() is None, err.read_text()
            for number, path in enumerate(("/items/1", "/items/2", "/boom")):
                http.get(path, headers={"X-Request-ID": f"r-{number}"})
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=PATIENCE_SECONDS)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    return out.read_text(), err.read_text()


@pytest.mark.parametrize("name", SERVERS)
def test_a_server_speaks_in_our_lines(name: str, tmp_path: Path) -> None:
    """One line per request with its ids, no access lines of the server's, a failure told once, all its messages as lines."""
    out, err = serve(name, tmp_path)
    rows = out.splitlines()
    lines: list[dict[str, Any]] = [json.loads(row) for row in rows if row.startswith("{")]
    access = [line for line in lines if line["logger"] == "sage_fastapi_obs.access"]
    assert [(line["request_id"], line["status"]) for line in access] == [("r-0", 200), ("r-1", 200), ("r-2", 500)]
    assert [line["request_id"] for line in lines if line["message"] == "said"] == ["r-0", "r-1"]
    assert [line["message"] for line in lines if "error" in line] == ["request failed"]
    text = "\n".join([row for row in rows if not row.startswith("{")]) + err
    # Parent processes, which load no app, and what comes before its start and after its end are not ours.
    assert "Traceback" not in text
    assert "GET /" not in text
    assert any(line["logger"].startswith((name, f"_{name}")) for line in lines)

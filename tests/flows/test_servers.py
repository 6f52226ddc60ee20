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


SET_UPS = {
    "basicConfig": "logging.basicConfig(level='DEBUG', format='TEXT %(message)s')",
    "dictConfig": """
handler = {"class": "logging.StreamHandler", "stream": "ext://sys.stdout", "formatter": "text"}
servers = {name: {"handlers": ["console"], "propagate": False} for name in ("uvicorn", "uvicorn.access", "gunicorn.error")}
logging.config.dictConfig({
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"text": {"format": "TEXT %(message)s"}},
    "handlers": {"console": handler},
    "root": {"handlers": ["console"], "level": "INFO"},
    "loggers": {**servers, "library": {"handlers": ["console"]}},
})
""",
    "loguru": """
class InterceptHandler(logging.Handler):
    def emit(self, record):
        logger.opt(depth=6, exception=record.exc_info).log(record.levelname, record.getMessage())

logger.remove()
logger.configure(
    handlers=[{"sink": sys.stderr, "format": "TEXT {message}", "level": "INFO"}],
    patcher=lambda record: record["extra"].update(host="h1"),
)
logging.basicConfig(handlers=[InterceptHandler()], level=0, force=True)
for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "gunicorn.error", "gunicorn.access"):
    logging.getLogger(name).handlers, logging.getLogger(name).propagate = [InterceptHandler()], False
""",
}
"""How applications set logging up themselves."""
OWN = """
import contextlib, logging, logging.config, sys
from fastapi import FastAPI
from loguru import logger
from sage_fastapi_obs import Observability, Settings

def set_up():
    SET_UP

@contextlib.asynccontextmanager
async def lifespan(app):
    WHILE_STARTING
    logging.getLogger("library").info("started")
    yield

BEFORE
app = FastAPI(lifespan=lifespan)
Observability(Settings(monitoring={"access": "open"})).install(app)


@app.get("/items/{item_id}")
def read(item_id: int) -> int:
    logging.getLogger("library").info("said")
    logger.info("loguru said")
    return item_id


@app.get("/boom")
def boom() -> None:
    raise RuntimeError("boom")
"""


def serve(name: str, folder: Path, app: str = APP) -> tuple[str, str]:
    """Serve three requests; return what was written to standard output and error, which are one place but for `APP`."""
    (folder / "served.py").write_text(app)
    port = free_port()
    command = [sys.executable, "-m", *(part.format(port=port) for part in SERVERS[name])]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])}
    out, err = folder / "out", folder / "err"
    with out.open("wb") as out_file, err.open("wb") as err_file:
        process = subprocess.Popen(command, stdout=out_file, stderr=err_file if app is APP else subprocess.STDOUT, env=env)
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


@pytest.mark.parametrize("when", ["BEFORE", "WHILE_STARTING"])
@pytest.mark.parametrize(("name", "how"), [*(("uvicorn", how) for how in SET_UPS), ("gunicorn", "loguru")])
def test_an_app_that_sets_logging_up_itself(name: str, how: str, when: str, tmp_path: Path) -> None:
    """Whatever it sets up, before or while it starts, each line is there once, in our form, and is told of at the start."""
    set_up = SET_UPS[how].strip().replace("\n", "\n    ")
    app = OWN.replace("SET_UP", set_up).replace(when, "set_up()").replace("BEFORE", "").replace("WHILE_STARTING", "")
    rows = serve(name, tmp_path, app)[0].splitlines()
    lines: list[dict[str, Any]] = [json.loads(row) for row in rows if row.startswith("{")]
    by_us = [line for line in lines if line["message"] in ("said", "loguru said", "request completed", "request failed")]
    said = ["said", "loguru said", "request completed"]
    assert [(line["request_id"], line["message"]) for line in by_us] == [
        *(("r-0", message) for message in said),
        *(("r-1", message) for message in said),
        ("r-2", "request failed"),
    ]
    assert [line["logger"] for line in by_us][:3] == ["library", "served", "sage_fastapi_obs.access"]
    assert ("data" in by_us[1]) == (how == "loguru")
    assert [line["message"] for line in lines if "error" in line] == ["request failed"]
    # `basicConfig` does nothing where the root logger has a handler, such as ours.
    silenced = 0 if (how, when) == ("basicConfig", "WHILE_STARTING") else 1
    assert len([line for line in lines if "silenced" in line.get("data", {})]) == silenced
    text = "\n".join(row for row in rows if not row.startswith("{"))
    assert "Traceback" not in text
    assert "GET /" not in text
    # What is said before we are there, and after we have gone.
    assert "said" not in text

"""Sentry beside us, the real one: it gets what it would get without us, once, and the application's own sinks get all."""

import json
import subprocess
import sys
from typing import Any

import pytest

# Sentry is the process's, for good: each case has a process of its own.
SCRIPT = """
import asyncio, json, logging, sys, threading, time, warnings
import httpx, sentry_sdk
from fastapi import FastAPI, Response
from loguru import logger
from sentry_sdk.transport import Transport

got = []

class Keep(Transport):
    def capture_envelope(self, envelope):
        for item in envelope.items:
            if item.type == "event":
                event = item.payload.json
                crumbs = event.get("breadcrumbs", {}).get("values", [])
                crumbs = [(crumb["category"], crumb["message"].rsplit(" - ", 1)[-1]) for crumb in crumbs]
                said = (event.get("logentry") or {}).get("formatted", "").rsplit(" - ", 1)[-1]
                raised = [one["value"] for one in event.get("exception", {}).get("values", [])]
                got.append([event.get("logger"), said, raised, crumbs])
            elif item.type == "log":
                got.append(["log", [one["body"] for one in item.payload.json["items"]], [], []])

def init():
    sentry_sdk.init(dsn="http://k@127.0.0.1:9/1", transport=Keep, enable_logs=True)

# Sentry hears of what `logging` lets through, and we lower the default level to info.
logging.getLogger().setLevel("INFO")
logging.getLogger("httpx").setLevel("WARNING")
when = sys.argv[1]
if when != "after":
    init()
app = FastAPI()

@app.get("/raises")
def raises(pin: str):
    password = "hunter2-" + pin
    logging.getLogger("app").info("looking")
    raise RuntimeError("boom")

@app.get("/logs")
def logs():
    logging.getLogger("app").error("standard")

@app.get("/loguru")
def own():
    logger.error("own")

@app.get("/unavailable")
def unavailable():
    return Response(status_code=503)

@app.get("/thread")
def thread():
    def fail():
        raise LookupError("thread")
    one = threading.Thread(target=fail)
    one.start()
    one.join()
    warnings.warn("careful")

mine = []
if when != "bare":
    from sage_fastapi_obs import Observability, Settings
    from sage_fastapi_obs.logs.loguru_bridge import has_foreign_sinks
    Observability(Settings(logging={"output": "/dev/null"})).install(app)

async def main():
    async with app.router.lifespan_context(app), httpx.AsyncClient(
        transport=httpx.ASGITransport(app, raise_app_exceptions=False), base_url="http://localhost"
    ) as http:
        if when == "after":
            await http.get("/unavailable")
            init()
        said = {}
        listens = None
        for path in ("/raises?pin=4711", "/logs", "/loguru", "/unavailable", "/thread"):
            got.clear()
            sentry_sdk.get_isolation_scope().clear_breadcrumbs()
            await http.get(path)
            sentry_sdk.flush()
            said[path] = sorted(got, key=str)
        if when != "bare":
            listens = has_foreign_sinks()
            sink = logger.add(lambda message: mine.append(message.record["message"]), format="{message}")
            await http.get("/logs")
            logger.remove(sink)
        print(json.dumps({"said": said, "listens": listens, "mine": mine}))

asyncio.run(main())
"""


def sentry_events(when: str) -> dict[str, Any]:
    """Serve some requests beside Sentry; return what it got of each."""
    done = subprocess.run([sys.executable, "-c", SCRIPT, when], capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.fixture(scope="module")
def bare() -> Any:
    """Return what Sentry gets without us."""
    return sentry_events("bare")["said"]


@pytest.mark.parametrize("when", ["before", "after"])
def test_sentry_gets_what_it_gets_without_us(bare: Any, when: str) -> None:
    """The same events, breadcrumbs and logs, whether Sentry or we start first; a sink of the application's own gets all."""
    found = sentry_events(when)
    assert found["said"] == bare
    assert [event[0] for event in bare["/logs"] if event[0] != "log"] == ["app"]
    assert [event[1] for event in bare["/loguru"] if event[0] != "log"] == ["own"]
    # The quickest way of writing a access line is open all the same.
    assert found["listens"] is False
    assert found["mine"] == ["standard", "request completed"]

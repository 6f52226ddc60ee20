"""Where no thread can be started, as in a container at its limit: what threads do is done without them, or later."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from prometheus_client import Gauge
from receivers import Bulk, LogCollector, SpanCollector, serving
from support import LONG_ENOUGH, PATIENCE_SECONDS, client, eventually, no_threads

from sage_fastapi_obs import Observability, RequestLogger, Settings
from sage_fastapi_obs.alerting.rules import AlertCondition, AlertRule, Stat


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask for threads at every opportunity."""
    monkeypatch.setattr("sage_fastapi_obs.threads.RETRY_SECONDS", 0.0)
    monkeypatch.setattr("sage_fastapi_obs.lifecycle.RETRY_SECONDS", 0.0)


def messages(path: Path) -> list[str]:
    """Read what is in the file, without asking for anything to be written."""
    return [json.loads(row)["message"] for row in path.read_text().splitlines()]


def build_app() -> FastAPI:
    app = FastAPI()

    @app.get("/items/{number}")
    async def read(number: int, log: RequestLogger) -> int:
        log.info("read")
        return number

    return app


async def test_a_service_does_without_threads_and_takes_them_when_they_come(tmp_path: Path) -> None:
    """Lines are there at once and have their ids, rules are judged; later callbacks are told, spans sent, the port served."""
    path, told = tmp_path / "lines", []
    with serving(SpanCollector()) as collector:
        obs = Observability(
            Settings(
                logging={"output": str(path), "gather_seconds": 1.0},
                tracing={"otlp_endpoint": f"{collector.url}/v1/traces", "shutdown_seconds": LONG_ENOUGH},
                metrics={"port": 0},
                monitoring={"access": "port", "interval_seconds": 1},
                alerts={"defaults": False},
            )
        )
        load = Stat("load_ratio")
        rule = AlertRule(
            name="load", expression=load, condition=AlertCondition.GREATER_THAN, threshold=1, callbacks=(told.append,)
        )
        obs.status.alerts.add(rule)
        Gauge("load_ratio", "l", registry=obs.registry).set(5)
        app = build_app()
        obs.install(app)
        with no_threads():
            obs.start()
            async with client(app) as asking:
                answers = [await asking.get(f"/items/{number}") for number in range(3)]
            lines = [json.loads(row) for row in path.read_text().splitlines()]
            assert (obs.metrics_port, obs.status.is_active, told) == (None, False, [])
        assert [answer.json() for answer in answers] == [0, 1, 2]
        assert [line["message"] for line in lines if "request_id" in line] == ["read", "request completed"] * 3
        assert all(answer.headers["traceresponse"].split("-")[1] in str(lines) for answer in answers)
        assert {"Logs", "Tracing", "MetricsPort", "ServiceStatus"} <= obs.faults.counts.keys()
        async with client(app) as asking:
            answer = await asking.get("/items/3")
        assert obs.status.is_active
        address = f"http://127.0.0.1:{obs.metrics_port}/metrics"
        page = await asyncio.to_thread(httpx.get, address, timeout=PATIENCE_SECONDS)
        assert "http_requests_total" in page.text
        await eventually(lambda: told)
        assert [notice["state"] for notice in told] == ["firing"]
        await obs.close()
    traces = [each.headers["traceresponse"].split("-")[1] for each in (*answers, answer)]
    assert [span.trace_id.hex() for span in collector.spans()] == traces
    assert messages(path).count("request completed") == 4


async def test_pages_are_answered_and_a_level_that_nothing_would_end_is_refused(watch: Any) -> None:
    """On the loop meanwhile; and the end needs no thread either."""
    watched = watch(monitoring={"access": "open", "expose_logs": True, "token": "w" * 20})
    app = build_app()
    watched.obs.install(app)
    with no_threads():
        watched.obs.start()
        async with client(app) as asking:
            answered = (await asking.get("/items/1")).headers["x-request-id"]
            for path in ("/metrics", "/monitoring/summary", "/monitoring/alerts", f"/monitoring/logs/{answered}"):
                assert (path, (await asking.get(path)).status_code) == (path, 200)
            headers = {"authorization": f"Bearer {'w' * 20}"}
            changed = await asking.put("/monitoring/loggers", json={"level": "error"}, headers=headers)
            assert (changed.status_code, watched.obs.logs.levels.level_of(None)) == (503, "debug")
        await watched.obs.close()
    assert [line["path"] for line in watched.access if line["level"] == "info"] == ["/items/1"]


JOB = """
import json, sys, threading
from loguru import logger
from sage_fastapi_obs import Settings, configure_logging
configure_logging(Settings(logging=json.loads(sys.argv[1])))
threading.stack_size(1 << 46)
for number in range(5):
    logger.info(f"line {number}")
"""


@pytest.mark.parametrize("form", ["json", "console"])
def test_what_is_for_servers_waits_for_the_end(form: str, tmp_path: Path) -> None:
    """It is sent by whoever closes; all that is said is that there is no thread."""
    path = tmp_path / "lines"
    with serving(Bulk()) as bulk, serving(LogCollector()) as collector:
        places = {"elasticsearch_url": bulk.url, "otlp_endpoint": f"{collector.url}/v1/logs"}
        arguments = json.dumps({"output": str(path), "format": form, "shutdown_seconds": LONG_ENOUGH, **places})
        done = subprocess.run(
            [sys.executable, "-c", JOB, arguments],
            capture_output=True,
            text=True,
            check=True,
            timeout=PATIENCE_SECONDS,
            env={**os.environ, "no_proxy": "*"},
        )
    said = [f"line {number}" for number in range(5)]
    assert (bulk.messages(), [record.body.string_value for record in collector.records()]) == (said, said)
    assert path.read_text().count("line ") == 5
    assert [row.partition(";")[0] for row in done.stderr.splitlines()] == [
        "sage_fastapi_obs: Logs failed (NoThreadError: can't start new thread)"
    ]


def test_an_output_that_cannot_be_closed_stops_no_other(watch: Any) -> None:
    """Each is closed all the same, and logging is given back."""
    with serving(Bulk()) as bulk, serving(LogCollector()) as collector:
        watched = watch(logging={"elasticsearch_url": bulk.url, "otlp_endpoint": f"{collector.url}/v1/logs"})
        watched.obs.start()
        _, sender, _ = watched.obs.logs.output.each
        sender.close = None
        asyncio.run(watched.obs.close())
        del sender.close
        assert watched.obs.faults.counts == {"Logs": 1}
        assert [record.body.string_value for record in collector.records()] == ["observability started"]
        assert len(watched.lines) == 1
        sender.close(LONG_ENOUGH)

"""`/monitoring/logs/{id}`: the lines of one id, for whom the settings name."""

import sqlite3
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from kept_requests import path_of
from loguru import logger
from support import client, drive, http_scope

TOKEN = "a-token-of-sixteen-or-more"


def build(watch: Any, *, store: bool = True, **monitoring: Any) -> tuple[Any, FastAPI]:
    """Build a watched app that shows its lines, with or without a store."""
    monitoring = {"expose_logs": True, "access": "open", **monitoring}
    watched = watch(monitoring=monitoring, metrics={"port": 0}, **({} if store else {"store": {"enabled": False}}))
    app = FastAPI()
    watched.obs.install(app)

    @app.get("/items/{item}")
    async def read(item: int) -> None:
        logger.bind(operation="read_item", token="s3cret-in-a-field-of-the-application").info("reading")
        raise LookupError("nothing there")

    return watched, app


@pytest.mark.parametrize("buffered", [0, 1, 100])
@pytest.mark.parametrize("of", ["request_id", "correlation_id", "trace_id"])
async def test_an_id_leads_to_its_story(of: str, buffered: int, watch: Any) -> None:
    """The list has time, level, operation, message and error of each line, and what else was on it."""
    watched, app = build(watch, log_buffer_size=buffered)
    async with client(app) as http:
        await http.get("/items/7", headers={"X-Correlation-ID": "a/b:c=d@e+f", "X-Request-ID": "hop-1"})
        answer = await http.get(f"/monitoring/logs/{watched.access[0][of]}")
    story = answer.json()
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    assert [(line["level"], line["operation"], line["message"]) for line in story] == [
        ("info", "read_item", "reading"),
        ("error", None, "request failed"),
    ]
    assert story[0]["error"] is None
    assert story[1]["error"]["message"] == "nothing there"
    assert "LookupError" in story[1]["error"]["stack_trace"]
    assert story[1]["route"] == "/items/{item}"
    assert [line["timestamp"] for line in story] == [
        line["timestamp"] for line in watched.lines if line.get("request_id") == "hop-1"
    ]


@pytest.mark.parametrize("wanted", ["nobody", "", "hop", "hop-1x", "%00", "..%2f..", "x" * 5000])
async def test_an_unknown_id_is_404(wanted: str, watch: Any) -> None:
    """Also the beginning of a known one."""
    _, app = build(watch)
    async with client(app) as http:
        await http.get("/items/7", headers={"X-Request-ID": "hop-1"})
        answer = await http.get(f"/monitoring/logs/{wanted}")
    assert answer.status_code == 404
    assert "no recent lines" in answer.json()["detail"]


@pytest.mark.parametrize("monitoring", [{"expose_logs": False, "log_buffer_size": 100}, {"log_buffer_size": 0}])
async def test_where_they_are_not_shown_it_is_404(monitoring: Any, watch: Any) -> None:
    """Whether there are any or not, with what to set; the application's own question is answered where lines are kept."""
    watched, app = build(watch, store=False, **monitoring)
    async with client(app) as http:
        await http.get("/items/7", headers={"X-Request-ID": "hop-1"})
        answer = await http.get("/monitoring/logs/hop-1")
    assert answer.status_code == 404
    assert "monitoring.expose_logs" in answer.json()["detail"]
    assert bool(watched.obs.query_logs_by_correlation_id("hop-1")) == bool(monitoring["log_buffer_size"])


@pytest.mark.parametrize(
    ("access", "token", "given", "status"),
    [
        ("open", None, None, 200),
        ("local", None, None, 403),
        ("token", TOKEN, f"{TOKEN}x", 401),
        ("token", TOKEN, TOKEN, 200),
    ],
)
async def test_who_may_read_them(access: str, token: Any, given: Any, status: int, watch: Any) -> None:
    """Those who may see request data; a refusal shows nothing of a line."""
    watched, app = build(watch, access=access, token=token, log_buffer_size=100)
    await drive(app, http_scope("/items/7", headers=[(b"x-request-id", b"hop-1")]))
    headers = [] if given is None else [(b"authorization", f"Bearer {given}".encode())]
    for wanted in ("hop-1", "nobody"):
        scope = http_scope(f"/monitoring/logs/{wanted}", headers=headers, client=("10.0.0.7", 1))
        driven = await drive(app, scope)
        assert driven.sent[0]["status"] == (404 if wanted == "nobody" and status == 200 else status)
        assert (b"reading" in driven.sent[1]["body"]) == (status == 200 and wanted == "hop-1")
    assert watched.obs.internal_errors.counts == {}
    await watched.obs.close()


@pytest.mark.parametrize(("store", "buffered"), [(False, 5_000), (True, 0), (True, 100), (True, 5_000)])
async def test_it_is_the_newest_thousand(store: bool, buffered: int, watch: Any) -> None:
    """An id with more lines shows its last ones, each once, wherever they are kept."""
    watched, app = build(watch, store=store, log_buffer_size=buffered)
    watched.obs.start()
    for number in range(1_200):
        logger.bind(correlation_id="job").info(f"{number}")
    async with client(app) as http:
        story = (await http.get("/monitoring/logs/job")).json()
    assert [line["message"] for line in story] == [str(number) for number in range(200, 1_200)]


async def test_it_is_read_only(watch: Any) -> None:
    """Nothing can be changed or taken away."""
    _, app = build(watch)
    async with client(app) as http:
        for method in ("POST", "PUT", "DELETE"):
            assert (await http.request(method, "/monitoring/logs/x")).status_code == 405


async def test_code_asks_the_store_too(watch: Any, tmp_path: Path) -> None:
    """Without a buffer in the process; while the file cannot be read there are none, and that is counted."""
    watched, app = build(watch, log_buffer_size=0)
    async with client(app) as http:
        await http.get("/items/7", headers={"X-Correlation-ID": "job-7"})
    found = watched.obs.query_logs_by_correlation_id("job-7")
    assert [line.message for line in found] == ["reading", "request failed"]
    assert found[1].error is not None
    assert found[1].error.message == "nothing there"
    other = sqlite3.connect(path_of(tmp_path / "0"), isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    assert watched.obs.query_logs_by_correlation_id("job-7") == []
    other.close()
    assert watched.obs.internal_errors.counts == {"Logs": 1}


async def test_a_field_of_ours_may_have_any_value(watch: Any) -> None:
    """An application's `operation` that is no text is written as one."""
    watched, app = build(watch, store=False)
    watched.obs.start()
    logger.bind(correlation_id="job", operation=5).info("odd")
    async with client(app) as http:
        (line,) = (await http.get("/monitoring/logs/job")).json()
    assert line["operation"] == "5"

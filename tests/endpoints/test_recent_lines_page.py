"""`/monitoring/logs/{id}`: the lines of one id, for whom the settings name."""

from typing import Any

import pytest
from fastapi import FastAPI
from loguru import logger
from support import client, drive, http_scope

TOKEN = "a-token-of-sixteen-or-more"


def build(watch: Any, **monitoring: Any) -> tuple[Any, FastAPI]:
    """Build a watched app that shows its lines."""
    watched = watch(monitoring={"expose_logs": True, "access": "open", **monitoring}, metrics={"port": 0})
    app = FastAPI()
    watched.obs.install(app)

    @app.get("/items/{item}")
    async def read(item: int) -> None:
        logger.bind(operation="read_item", token="s3cret-in-a-field-of-the-application").info("reading")
        raise LookupError("nothing there")

    return watched, app


@pytest.mark.parametrize("of", ["request_id", "correlation_id", "trace_id"])
async def test_an_id_leads_to_its_story(of: str, watch: Any) -> None:
    """The list has time, level, operation, message and error of each line, and what else was on it."""
    watched, app = build(watch)
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
    watched, app = build(watch, **monitoring)
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
    assert watched.obs.faults.counts == {}
    await watched.obs.close()


async def test_it_is_the_newest_thousand(watch: Any) -> None:
    """An id with more lines shows its last ones."""
    watched, app = build(watch, log_buffer_size=5_000)
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

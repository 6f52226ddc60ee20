"""`/monitoring/loggers`: who may look, who may change, and what is refused."""

import json
import logging
import os
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from hypothesis import given, settings, strategies
from loguru import logger
from support import drive, eventually, http_scope, times

from sage_fastapi_obs import Observability, Settings

TOKEN = "a-token-of-sixteen-or-more"
PATH = "/monitoring/loggers"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


def build(watch: Any, level: str = "info", **monitoring: Any) -> tuple[Any, FastAPI]:
    """Build a watched app with a token."""
    watched = watch(monitoring={"token": TOKEN, **monitoring}, logging={"level": level}, metrics={"port": 0})
    app = FastAPI()
    watched.obs.install(app)
    return watched, app


def asking(app: Any, **options: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost", **options)


async def test_a_change_is_made_shown_and_given_back(watch: Any) -> None:
    """PUT answers with the new levels, GET shows them, null gives back; each change is a line with the id of its request."""
    watched, app = build(watch)
    logging.getLogger("tests.loggers").setLevel(logging.ERROR)
    async with asking(app, headers=BEARER) as http:
        before = (await http.get(PATH)).json()
        changed = await http.put(PATH, json={"level": "DEBUG", "logger": None, "seconds": 60})
        named = await http.put(PATH, json={"level": "warning", "logger": "shop.orders"})
        logger.debug("now")
        shown = (await http.get(PATH)).json()
        for name in (None, "shop.orders"):
            after = (await http.put(PATH, json={"level": None, "logger": name})).json()
        logger.debug("no more")
    logging.getLogger("tests.loggers").setLevel(logging.NOTSET)
    assert before["process_id"] == os.getpid()
    assert (before["configured"], before["level"], before["loggers"]) == ("info", "info", [])
    assert before["standard_library"]["tests.loggers"] == "error"
    assert "root" in before["standard_library"]
    assert changed.json()["level"] == "debug"
    assert changed.headers["cache-control"] == "no-store"
    assert [(one["logger"], one["level"]) for one in shown["loggers"]] == [(None, "debug"), ("shop.orders", "warn")]
    assert 50 < shown["loggers"][0]["seconds_left"] <= 60
    assert 290 < shown["loggers"][1]["seconds_left"] <= 300
    assert after["loggers"] == []
    messages = [line["message"] for line in watched.lines]
    assert "now" in messages
    assert "no more" not in messages
    line = next(line for line in watched.lines if line["message"] == "log level changed")
    assert line["request_id"] == changed.headers["x-request-id"]
    assert named.status_code == 200


async def test_a_change_ends_on_time(watch: Any) -> None:
    """After its seconds the configured level is back, and that is a line."""
    watched, app = build(watch)
    async with asking(app, headers=BEARER) as http:
        await http.put(PATH, json={"level": "debug", "seconds": 1})
    given_back = "log level given back"
    lines = await eventually(lambda: [line for line in watched.lines if line["message"] == given_back])
    assert lines[0]["data"] == {"changed_logger": None, "from": "debug", "to": "info"}
    logger.debug("too late")
    assert "too late" not in [line["message"] for line in watched.lines]


@pytest.mark.parametrize(
    ("access", "token", "given", "status"),
    [
        ("open", None, None, 403),
        ("local", None, TOKEN, 403),
        ("token", TOKEN, None, 401),
        ("port", TOKEN, f"{TOKEN}x", 401),
        ("open", TOKEN, "", 401),
        *((access, TOKEN, TOKEN, 200) for access in ("open", "local", "token", "port")),
    ],
)
async def test_a_change_needs_the_token(access: str, token: Any, given: Any, status: int, watch: Any) -> None:
    """Always, whoever may read, and while none is set nobody may; a refusal changes nothing."""
    watched, app = build(watch, access=access, token=token)
    headers = {} if given is None else {"Authorization": f"Bearer {given}"}
    async with asking(app) as http:
        answer = await http.put(PATH, json={"level": "debug"}, headers=headers)
    assert answer.status_code == status
    assert len(watched.obs.logs.levels.changes) == (status == 200)
    assert TOKEN not in answer.text
    if status == 403:
        assert answer.json()["detail"] == "closed: set monitoring.token (SAGE_OBS_MONITORING__TOKEN)"
    await watched.obs.close()


@pytest.mark.parametrize(
    ("access", "headers", "status"),
    [("open", {}, 200), ("local", {}, 200), ("token", {}, 401), ("token", BEARER, 200), ("port", {}, 404)],
)
async def test_looking_follows_the_setting(access: str, headers: Any, status: int, watch: Any) -> None:
    """Levels are shown to whom other pages are."""
    watched, app = build(watch, access=access)
    async with asking(app) as http:
        assert (await http.get(PATH, headers=headers)).status_code == status
        assert (await http.post(PATH, headers=BEARER, json={"level": "debug"})).status_code == 405
    await watched.obs.close()


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "body: Invalid JSON"),
        (b"level=debug", "body: Invalid JSON"),
        (b"[]", "body: Input should be an object"),
        (b"{}", "level: Field required"),
        (b'{"level": "loud"}', "level: Input should be 'trace', 'debug', 'info', 'warn', 'error' or 'critical'"),
        (b'{"level": 10}', "level: Input should be 'trace'"),
        (b'{"level": "debug", "seconds": 0}', "seconds: Input should be greater than or equal to 1"),
        (b'{"level": "debug", "seconds": 86401}', "seconds: Input should be less than or equal to 86400"),
        (b'{"level": "debug", "seconds": 1e999}', "seconds: Input should be a"),
        (b'{"level": "debug", "seconds": null}', "seconds: Input should be a valid integer"),
        (b'{"level": "debug", "seconds": "60"}', "seconds: Input should be a valid integer"),
        (b'{"level": "debug", "logger": 5}', "logger: Input should be a valid string"),
        (b'{"level": "debug", "logger": ""}', "logger: String should match pattern"),
        (b'{"level": "debug", "logger": "a..b"}', "logger: String should match pattern"),
        (b'{"level": "debug", "logger": ".a"}', "logger: String should match pattern"),
        (b'{"level": "debug", "logger": "a\\n"}', "logger: String should match pattern"),
        (b'{"level": "debug", "logger": "' + b"x" * 201 + b'"}', "logger: String should have at most 200 characters"),
        (b'{"level": "debug", "for": 5}', "for: Extra inputs are not permitted"),
        (b'{"level": "loud", "seconds": 0}', "seconds: Input should be greater"),
    ],
    ids=str,
)
async def test_bad_input_is_refused_with_what_would_be_right(body: bytes, said: str, watch: Any) -> None:
    """422 names each fault and shows an example; nothing is changed."""
    _, app = build(watch)
    async with asking(app, headers=BEARER) as http:
        answer = await http.put(PATH, content=body)
        levels = await http.get(PATH)
    assert answer.status_code == 422
    assert said in answer.json()["detail"]
    assert '{"level": "debug", "logger": null, "seconds": 300}' in answer.json()["detail"]
    assert levels.json()["loggers"] == []


async def test_a_body_without_end_is_not_read_to_its_end(watch: Any) -> None:
    """413 after a few kilobytes."""
    _, app = build(watch)
    read = 0

    def parts() -> Any:
        nonlocal read
        while True:
            read += 1
            yield {"type": "http.request", "body": b"x" * 1000, "more_body": True}

    headers = [(b"authorization", f"Bearer {TOKEN}".encode())]
    driven = await drive(app, http_scope(PATH, "PUT", headers=headers), parts())
    assert driven.sent[0]["status"] == 413
    assert read < 10
    async with asking(app, headers=BEARER) as http:
        assert (await http.get(PATH)).json()["loggers"] == []


async def test_too_many_changes_are_refused(watch: Any) -> None:
    """With what to do about it."""
    _, app = build(watch)
    async with asking(app, headers=BEARER) as http:
        answers = [await http.put(PATH, json={"level": "debug", "logger": f"l{number}"}) for number in range(101)]
    assert [answer.status_code for answer in answers] == [200] * 100 + [422]
    assert "give some back first" in answers[-1].json()["detail"]


@given(strategies.binary(max_size=200) | strategies.text(max_size=50).map(lambda text: json.dumps({"level": text}).encode()))
@settings(deadline=None, max_examples=times(60))
async def test_no_body_breaks_it(body: bytes) -> None:
    """Whatever is sent, the answer is 200 or 422."""
    obs = Observability(Settings(monitoring={"token": TOKEN}, logging={"output": "/dev/null"}))
    app = FastAPI()
    obs.install(app)
    async with asking(app, headers=BEARER) as http:
        answer = await http.put(PATH, content=body)
    await obs.close()
    assert answer.status_code in (200, 422)
    assert obs.internal_errors.counts == {}


async def test_without_logging_there_are_no_levels(watch: Any) -> None:
    """The page is not there."""
    watched = watch(logging={"enabled": False}, monitoring={"token": TOKEN})
    app = FastAPI()
    watched.obs.install(app)
    async with asking(app, headers=BEARER) as http:
        assert (await http.get(PATH)).status_code == 404

"""What the shop does about common problems by itself: for a while, not twice in a row, told and taken back."""

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st
from servers import free_port, need
from support import PATIENCE_SECONDS, client

from example_app import remediation
from example_app.remediation import Action, Remediation

TOKEN = "a token for the webhook"
BEARER = {"authorization": f"Bearer {TOKEN}"}


class Done:
    """Keeps what was begun and ended."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def action(self, name: str, seconds: float = 3600.0, pause_seconds: float = 60.0) -> Action:
        return Action(
            name, lambda: self.said.append(f"{name} begun"), lambda: self.said.append(f"{name} ended"), seconds, pause_seconds
        )


@given(st.lists(st.tuples(st.integers(0, 90), st.booleans()), max_size=30))
async def test_an_action_never_runs_twice_at_once_or_in_a_row(told: list[tuple[int, bool]]):
    """Whatever is told and when: begun and ended alternate, a pause lies between beginnings; the close ends what is left."""
    done, at, begun_at = Done(), 0.0, []
    rescue = Remediation({"Slow": done.action("shed", seconds=30, pause_seconds=60)}, clock=lambda: at)
    for after, is_over in told:
        at += after
        before = len(done.said)
        rescue.handle("Slow", is_over=is_over)
        rescue.handle("Unknown", is_over=is_over)
        if done.said[before:] == ["shed begun"]:
            begun_at.append(at)
    rescue.close()
    assert done.said == ["shed begun", "shed ended"] * len(begun_at)
    assert all(later - earlier >= 90 for earlier, later in pairwise(begun_at))


async def test_an_action_ends_by_itself():
    """Its time is over, also if nobody says that the alert is."""
    ended = asyncio.Event()
    rescue = Remediation({"Slow": Action("shed", lambda: None, ended.set, 0.01, 60)})
    rescue.handle("Slow", is_over=False)
    await asyncio.wait_for(ended.wait(), PATIENCE_SECONDS)
    ended.clear()
    rescue.handle("Slow", is_over=True)
    assert not ended.is_set()


@asynccontextmanager
async def shop(watch: Any, token: str = TOKEN) -> AsyncIterator[tuple[Any, httpx.AsyncClient, Remediation]]:
    """Serve an app with the actions and the receiver."""
    watched = watch(service={"name": "shop"}, logging={"level": "info"}, metrics={"packs": ["http", "result"]})
    app = FastAPI()
    watched.obs.install(app)
    rescue = remediation.install(app, watched.obs, token)
    async with watched.obs, client(app) as asking:
        watched.breaker = app.state.breaker
        yield watched, asking, rescue
        rescue.close()


def webhook(alert: str, status: str = "firing", service: str | None = "shop") -> dict[str, Any]:
    """Write a webhook as Alertmanager does."""
    labels = {"alertname": alert, **({"service": service} if service else {})}
    return {"version": "4", "receiver": "remediation", "alerts": [{"status": status, "labels": labels, "annotations": {}}]}


def breaker_status(watched: Any) -> float:
    """Read the state that others see of the one breaker."""
    (status,) = watched.series("circuit_breaker_status").values()
    return status


async def test_a_webhook_begins_and_ends_each_action(watch: Any):
    """Load is shed by readiness, the breaker opens, lines become fewer; all is counted, told, and taken back with the alert."""
    async with shop(watch) as (watched, asking, _):

        async def ready() -> int:
            return (await asking.get("/monitoring/health/ready")).status_code

        watched.obs.set_level("debug", seconds=600)
        for alert in ("HighResponseTime", "OrdersFail", "LinesDropped"):
            told = await asking.post("/remediation", json=webhook(alert), headers=BEARER)
            assert (told.status_code, told.json()) == (202, {"alerts": 1})
        assert await ready() == 503
        await asyncio.sleep(0)
        assert breaker_status(watched) == 1
        assert watched.breaker.is_open
        assert watched.obs.logs.levels.level_of(None) == "warn"
        for alert in ("HighResponseTime", "OrdersFail", "LinesDropped"):
            await asking.post("/remediation", json=webhook(alert, "resolved"), headers=BEARER)
        await asyncio.sleep(0)
        assert await ready() == 200
        assert breaker_status(watched) == 0
        assert not watched.breaker.is_open
        assert watched.obs.logs.levels.level_of(None) == "info"
        counted = {
            name: {outcome: watched.value("remediations_total", action=name, outcome=outcome) for outcome in ("begun", "ended")}
            for name in ("shed_load", "open_breaker", "fewer_lines")
        }
        assert counted == {name: {"begun": 1, "ended": 1} for name in counted}
        await asking.post("/remediation", json=webhook("HighResponseTime"), headers=BEARER)
        assert watched.value("remediations_total", action="shed_load", outcome="refused") == 1
        assert await ready() == 200
    said = [(line["message"], line["data"]["action"]) for line in watched.lines if line["message"].startswith("remediation")]
    assert said.count(("remediation begun", "shed_load")) == said.count(("remediation ended", "shed_load")) == 1
    assert ("remediation refused: it was done a short time ago", "shed_load") in said


@pytest.mark.parametrize(
    ("content", "headers", "status"),
    [
        (json.dumps(webhook("OrdersFail")), {}, 401),
        (json.dumps(webhook("OrdersFail")), {"authorization": "Bearer wrong"}, 401),
        (json.dumps(webhook("OrdersFail")), {"authorization": f"Basic {TOKEN}"}, 401),
        ("{", BEARER, 422),
        ('{"alerts": [{"status": "odd", "labels": {}}]}', BEARER, 422),
        (json.dumps({"alerts": webhook("OrdersFail")["alerts"] * 101}), BEARER, 422),
        (" " * 1_000_001, BEARER, 413),
        (json.dumps(webhook("OrdersFail", service="other")), BEARER, 202),
        (json.dumps(webhook("SomethingElse")), BEARER, 202),
        ('{"alerts": [{"status": "firing", "labels": {}}]}', BEARER, 202),
    ],
)
async def test_what_is_no_business_of_the_shop_changes_nothing(content: str, headers: dict[str, str], status: int, watch: Any):
    """Without the token, of another service, of an unknown alert, too long, or no webhook at all: nothing is begun."""
    async with shop(watch) as (watched, asking, _):
        told = await asking.post("/remediation", content=content, headers=headers)
        assert told.status_code == status, told.text
        assert not watched.breaker.is_open
        assert watched.value("remediations_total", action="open_breaker", outcome="begun") == 0


async def test_without_a_token_there_is_no_receiver(watch: Any):
    """Nobody can tell the shop what to do, and a token that could be guessed is refused at the start."""
    async with shop(watch, token="") as (_, asking, _):
        assert (await asking.post("/remediation", json=webhook("OrdersFail"), headers=BEARER)).status_code == 404
    with pytest.raises(ValueError, match="at least 16 characters"):
        remediation.install(FastAPI(), watch().obs, "short")


async def test_the_shop_opens_its_breaker_when_orders_fail(run_example: Any):
    """A rule in the process begins the action: orders are refused at once, and told when to come again."""
    async with run_example(SAGE_OBS_MONITORING__INTERVAL_SECONDS="1", SAGE_OBS_MONITORING__ACCESS="local") as example:
        order = {"item_id": 1, "count": 1}
        assert (await example.client.post("/api/orders", json=order)).status_code == 201
        await example.client.post("/trouble", params={"seconds": 600})
        # uvicorn closes a connection whose request failed a moment after the answer: another request on it could be lost.
        each_its_own = {"Connection": "close"}
        answers = []
        deadline = asyncio.get_running_loop().time() + PATIENCE_SECONDS
        while not answers or answers[-1].status_code != 503:
            assert asyncio.get_running_loop().time() < deadline
            answers.append(await example.client.post("/api/orders", json=order, headers=each_its_own))
            await asyncio.sleep(0.1)
        assert answers[-1].headers["retry-after"] == "10"
        page = (await example.client.get("/metrics")).text
        assert 'remediations_total{action="open_breaker",outcome="begun"} 1.0' in page
        assert 'circuit_breaker_status{name="prices"} 1.0' in page


@pytest.mark.stack
async def test_alertmanager_tells_the_shop(run_example: Any, tmp_path: Path):
    """A real Alertmanager posts an alert with the token: the instance is not ready, until the alert is resolved."""
    program = shutil.which("alertmanager") or need("prometheus-alertmanager")
    async with run_example(EXAMPLE_REMEDIATION_TOKEN=TOKEN, SAGE_OBS_MONITORING__ACCESS="local") as example:
        (tmp_path / "token").write_text(TOKEN)
        sent = {
            "url": f"{example.url}/remediation",
            "http_config": {"authorization": {"credentials_file": str(tmp_path / "token")}},
        }
        config = {
            "route": {"receiver": "remediation", "group_wait": "100ms", "group_interval": "1s"},
            "receivers": [{"name": "remediation", "webhook_configs": [sent]}],
        }
        (tmp_path / "alertmanager.yml").write_text(json.dumps(config))
        port = free_port()
        command = [program, f"--config.file={tmp_path / 'alertmanager.yml'}", f"--storage.path={tmp_path / 'data'}"]
        command += [f"--web.listen-address=127.0.0.1:{port}", "--cluster.listen-address="]
        process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
        )
        try:
            url = f"http://127.0.0.1:{port}"
            await eventually(lambda: httpx.get(f"{url}/-/ready").is_success)
            alert = {"labels": {"alertname": "HighResponseTime", "service": "example"}}
            (await example.client.post(f"{url}/api/v2/alerts", json=[alert])).raise_for_status()
            await eventually(lambda: httpx.get(f"{example.url}/monitoring/health/ready").status_code == 503)
            over = (datetime.now(UTC) - timedelta(seconds=1)).isoformat()
            (await example.client.post(f"{url}/api/v2/alerts", json=[{**alert, "endsAt": over}])).raise_for_status()
            await eventually(lambda: httpx.get(f"{example.url}/monitoring/health/ready").status_code == 200)
        finally:
            process.terminate()
            await process.wait()


async def eventually(holds: Any) -> None:
    """Wait until something holds; whoever does not answer yet does not count."""
    deadline = asyncio.get_running_loop().time() + PATIENCE_SECONDS
    while True:
        try:
            if await asyncio.to_thread(holds):
                return
        except httpx.TransportError:
            pass
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.1)

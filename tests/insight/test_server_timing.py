"""`Server-Timing`: where the time went, for developers and for nobody else."""

import re
import sys
from collections.abc import Callable
from typing import Any

import pytest
from fastapi import FastAPI, Response
from support import Watched, client

from sage_fastapi_obs import Observability, Settings

TOKEN = "a-token-of-sixteen"
exact = pytest.mark.skipif(not hasattr(sys, "monitoring"), reason="the interpreter tells of functions from Python 3.12 on")


async def sent_by(obs: Observability, **headers: str) -> list[str]:
    """Make a request of an app that has a header of its own; return all lines of it."""
    app = FastAPI()

    @app.get("/")
    async def read(response: Response) -> None:
        response.headers["Server-Timing"] = "app;dur=1"

    obs.install(app)
    async with obs, client(app) as visitor:
        answer = await visitor.get("/", headers=headers)
    return answer.headers.get_list("server-timing")


async def test_strangers_learn_nothing(watch: Callable[..., Watched]) -> None:
    """Without the preset of development and without the token, only the app's own header is sent."""
    assert await sent_by(watch().obs) == ["app;dur=1"]
    assert await sent_by(watch(logging={"debug_token": TOKEN}).obs) == ["app;dur=1"]
    obs = watch(logging={"debug_token": TOKEN}).obs
    assert await sent_by(obs, **{"X-Debug-Log": "another-token-of-it"}) == ["app;dur=1"]
    obs = watch(logging={"debug_token": TOKEN}, insight={"enabled": False}).obs
    assert await sent_by(obs, **{"X-Debug-Log": TOKEN}) == ["app;dur=1"]


async def test_who_sends_the_token_sees_the_times(watch: Callable[..., Watched]) -> None:
    """In a line beside the app's own, with names and milliseconds as browsers read them."""
    own, ours = await sent_by(watch(logging={"debug_token": TOKEN}).obs, **{"X-Debug-Log": TOKEN})
    assert own == "app;dur=1"
    assert re.fullmatch(r"(?:[a-z_]+;dur=\d+\.\d, )*total;dur=\d+\.\d", ours)


@exact
async def test_it_has_the_parts_that_are_over(watch: Callable[..., Watched]) -> None:
    """When the response starts, dependencies, endpoint and serialization have ended."""
    _, ours = await sent_by(watch(logging={"debug_token": TOKEN}).obs, **{"X-Debug-Log": TOKEN})
    assert [part.partition(";")[0] for part in ours.split(", ")] == ["dependencies", "endpoint", "serialization", "total"]


@pytest.mark.parametrize(("build", "count"), [(Settings.dev, 2), (Settings.production, 1), (Settings, 1)])
async def test_the_development_preset_has_it(build: Any, count: int, tmp_path: Any) -> None:
    """Every response of it, and none of production."""
    settings = build(logging={"output": str(tmp_path / "lines")}, store={"enabled": False})
    assert len(await sent_by(Observability(settings))) == count

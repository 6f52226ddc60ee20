"""What visitors of the example leave behind for its dashboards."""

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from example_app import visitors
from example_app.textbooks import MOST_TEXTBOOKS


async def test_somebody_always_learns(run_example: Callable[..., Any], monkeypatch: pytest.MonkeyPatch):
    """Learners stay while others come: between visits, the panel about learning sessions has something to show."""
    monkeypatch.setattr(visitors, "LEARNERS", 3)
    async with run_example() as example, httpx.AsyncClient(base_url=example.url, timeout=None, trust_env=False) as client:
        guests = visitors.Visitors(client)
        open_sessions = []
        for _ in range(6):
            await guests.learn()
            value = await example.metrics()
            open_sessions.append(sum(value("active_learning_sessions", textbook_id=one) or 0 for one in {*guests._learning}))
        await guests.aclose()
    assert open_sessions == [1, 2, 3, 3, 3, 3]


async def test_a_textbook_that_has_gone_has_no_sessions(run_example: Callable[..., Any]):
    """Sessions of a textbook that made room for others are over: the gauge has no series of it."""
    async with run_example() as example:
        new = {"grade_level": "grade-1", "subject": "math", "pages": ["one"]}
        first = (await example.client.post("/textbooks", json=new)).json()["textbook_id"]
        await example.client.post(f"/textbooks/{first}/sessions/start")
        for _ in range(MOST_TEXTBOOKS):
            await example.client.post("/textbooks", json=new)
        value = await example.metrics()
    assert value("active_learning_sessions", textbook_id=first) == 0

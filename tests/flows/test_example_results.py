"""Users and orders of the example service, by what they answer, count and tell."""

import json

import httpx
import pytest
from fastapi import FastAPI
from support import client

from example_app import results

CARD = "4111111111111111"
ANSWERS = [
    ("GET", "/results/users/1", None, 200),
    ("GET", "/results/users/77", None, 404),
    ("GET", "/results/users/3", None, 423),
    ("POST", "/results/orders", {"item": "tea", "count": 2, "card": CARD}, 201),
    ("POST", "/results/orders", {"item": "gold", "card": CARD}, 404),
    ("POST", "/results/orders", {"item": "tea", "card": "4111111111111110"}, 402),
    ("POST", "/results/orders", {"item": "tea", "count": 21, "card": CARD}, 409),
    ("POST", "/results/orders", {"item": "tea", "card": "x"}, 422),
]


@pytest.fixture
async def shop(watch):
    """Run the routes in an app of their own."""
    watched = watch(alerts={"defaults": False})
    app = FastAPI()
    app.include_router(results.api)
    watched.obs.install(app)
    async with watched.obs, client(app) as opened:
        yield watched, opened


async def test_failures_are_answers(shop):
    """Each step that gives a Failure has its own status; nothing is an exception, and each outcome is counted once."""
    watched, opened = shop
    for method, path, body, status in ANSWERS:
        answer = await opened.request(method, path, json=body)
        assert answer.status_code == status, answer.text
    success, failure = (
        {key[1][1]: value for key, value in watched.series(f"result_{status}_total").items()}
        for status in ("success", "failure")
    )
    assert success == {"user_service.get_user": 1, "order_processing": 1}
    assert failure == {"user_service.get_user": 2, "order_processing": 3}
    assert watched.value("orders_by_category_total", category="leaves") == 1
    assert watched.value("revenue_total") == pytest.approx(6.4)
    assert watched.series("request_errors_total") == {}
    assert CARD not in json.dumps(watched.lines)


async def test_a_batch_gives_what_it_can(shop):
    """Users that cannot be read are told beside those that can."""
    watched, opened = shop
    found = (await opened.post("/results/users/batch", json=[1, 77, 2, 3])).json()
    assert [user["name"] for user in found["users"]] == ["ada", "grace"]
    assert found["problems"] == ["no such user", "user is locked"]
    assert found["success_rate"] == 0.5
    assert watched.value("flux_result_items_total", operation="user_batch", status="failure") == 2


async def test_an_order_is_told_step_by_step(shop):
    """The lines of one order, by its correlation id, say how far it got and why it ended there."""
    watched, opened = shop
    headers = {"x-correlation-id": "req_7"}
    await opened.post("/results/orders", json={"item": "tea", "card": "4111111111111110"}, headers=headers)
    lines = [line for line in watched.lines if line.get("correlation_id") == "req_7"]
    assert [line["message"] for line in lines] == [
        "Operation started",
        "order is valid",
        "step failed",
        "performance measured",
        "Operation failed",
        "request completed",
    ]
    assert lines[2]["error"] == {"type": "Problem", "message": "the card is not good"}
    assert {line["operation"] for line in lines[:-1]} == {"order_processing"}
    assert {line["trace_id"] for line in lines} == {lines[0]["trace_id"]}


async def test_service_levels_are_answered(shop):
    """One failure in two is more than is promised."""
    _, opened = shop
    answer: httpx.Response = await opened.get("/results/sla")
    assert answer.json()["sla_compliant"]
    await opened.get("/results/users/1")
    await opened.get("/results/users/77")
    found = (await opened.get("/results/sla")).json()
    assert not found["sla_compliant"]
    assert found["actual"]["error_rate"] == 50

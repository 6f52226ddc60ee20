import logging

import httpx
import pytest
from fastapi.testclient import TestClient
from shop_fastapi import app


@pytest.fixture
def client():
    with TestClient(app, raise_server_exceptions=False) as opened:
        yield opened


def test_one_request(client, telemetry):
    client.get("/carts/2")
    last = telemetry.last
    last.assert_consistent()
    last.assert_one_line(status=200)
    last.assert_one_line(message="cart read", number=2)
    last.assert_no_secret("t0ps3cret")
    last.assert_route("/carts/{number}")
    last.assert_queries(max=2, min=2)
    assert last.redactions == ["line 'cart read': token"]


def test_too_many_queries(client, telemetry):
    client.get("/carts/9")
    with pytest.raises(AssertionError, match="9 queries, not 0 to 3"):
        telemetry.last.assert_queries(max=3)


def test_a_failure(client, telemetry):
    client.get("/broken")
    telemetry.last.assert_consistent()
    telemetry.assert_fires("HighErrorRate")
    telemetry.last.assert_one_line(level="error", error_type="RuntimeError")


def test_the_failure_of_the_test_before_does_not_count(client, telemetry):
    client.get("/carts/1")
    assert telemetry.firing == []


def test_a_websocket(client, telemetry):
    with client.websocket_connect("/live"):
        pass
    telemetry.last.assert_consistent()


async def test_with_httpx(telemetry, caplog):
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://shop") as client:
        await client.get("/carts/1")
    with caplog.at_level("INFO"):
        logging.getLogger("shop").info("heard")
    telemetry.last.assert_consistent()
    assert "heard" in caplog.messages

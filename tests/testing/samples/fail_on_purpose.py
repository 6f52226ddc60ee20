from fastapi.testclient import TestClient
from shop_fastapi import app


def test_that_fails(telemetry):
    with TestClient(app) as client:
        client.get("/carts/1")
    assert telemetry.last.status == 404

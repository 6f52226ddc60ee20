import httpx
import pytest
from fastapi.testclient import TestClient
from opentelemetry import trace
from shop_layers import SENT, app, watched


def test_one_request(telemetry):
    TestClient(app).get("/orders/7")
    last = telemetry.last
    last.assert_consistent()
    last.assert_one_line(message="order 7 read")
    last.assert_route("/orders/{number}")
    last.assert_queries(max=1, min=1)
    assert last.headers["x-shop"] == "layers"
    assert len(last.server_spans) == 1
    with pytest.raises(AssertionError, match="span price: card"):
        last.assert_no_secret("4111")


def test_with_our_middleware(telemetry):
    with TestClient(watched, raise_server_exceptions=False) as client:
        for path in ("/orders/7", "/broken", "/nowhere"):
            client.get(path)
            telemetry.last.assert_consistent()
            telemetry.last.assert_one_line()
    telemetry.assert_fires("HighErrorRate")
    assert [len(request.server_spans) for request in telemetry.requests] == [1, 1, 1]


async def test_two_server_spans(telemetry):
    async def twice(scope, receive, send):
        span = trace.get_tracer("gateway").start_span("gateway", kind=trace.SpanKind.SERVER)
        await app(scope, receive, send)
        span.end()

    observed = telemetry.observe(twice)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(observed), base_url="http://shop") as client:
        await client.get("/orders/7")
    assert len(telemetry.requests) == 1
    with pytest.raises(AssertionError, match="2 server spans"):
        telemetry.last.assert_consistent()


def test_a_failure_goes_where_it_went_before(telemetry):
    before = len(SENT)
    assert TestClient(app, raise_server_exceptions=False).get("/broken").status_code == 500
    telemetry.last.assert_consistent()
    assert isinstance(telemetry.last.error, RuntimeError)
    assert len(SENT) == before + 1

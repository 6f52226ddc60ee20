"""Span, histogram, log line and response headers of one request say the same, to the last digit."""

import asyncio

import httpx
import pytest
from fastapi.responses import StreamingResponse
from kinds_of_requests import KINDS, build_app
from support import Watched, client, drive, http_scope

DURATIONS = {
    f"{name}_duration_seconds_bucket" for name in ("http_request", "http_stream", "websocket_handshake", "websocket_connection")
}
"""Of what a span lasts; work after the response has a time of its own."""


def assert_agreement(watched: Watched, headers: httpx.Headers | None) -> None:
    """Hold the four views of the one request that was made against one another."""
    (line,) = watched.access
    (span,) = watched.server_spans
    (count,) = [(dict(key), value) for key, value in watched.series("http_requests_total").items()]
    sums = watched.series("http_request_duration_seconds_sum") | watched.series("http_stream_duration_seconds_sum")
    ((sum_key, seconds),) = sums.items()

    duration_ns = span.end_time - span.start_time
    assert duration_ns % 1_000 == 0
    assert line["duration_ms"] == duration_ns / 1_000_000
    assert seconds == duration_ns / 1_000_000_000

    attributes = span.attributes
    assert line["status"] == attributes["http.response.status_code"]
    assert count == ({"method": count[0]["method"], "route": count[0]["route"], "status": str(line["status"])}, 1)
    assert dict(sum_key) == count[0]
    assert line["route"] == attributes.get("http.route")
    assert count[0]["route"] == (line["route"] or "unmatched")
    assert count[0]["method"] == attributes["http.request.method"]
    assert line.get("error_type") == attributes.get("error.type")

    assert line["trace_id"] == f"{span.context.trace_id:032x}"
    assert line["span_id"] == f"{span.context.span_id:016x}"
    assert line["request_id"] == attributes["sage.request_id"]
    assert line["correlation_id"] == attributes["sage.correlation_id"]
    if headers is not None:
        assert headers["x-request-id"] == line["request_id"]
        assert headers["x-correlation-id"] == line["correlation_id"]
        assert headers["traceresponse"] == f"00-{line['trace_id']}-{line['span_id']}-01"
    exemplars = {
        (sample.exemplar.labels["trace_id"], sample.exemplar.labels["span_id"], sample.exemplar.value)
        for metric in watched.obs.registry.collect()
        for sample in metric.samples
        if sample.exemplar and sample.name in DURATIONS
    }
    assert exemplars == {(line["trace_id"], line["span_id"], seconds)}


@pytest.mark.parametrize(("method", "path"), KINDS)
async def test_one_request_four_views(watch, method, path):
    """Whatever the route does, the signals agree on duration, status, route and ids."""
    watched = watch()
    app = build_app()
    watched.obs.install(app)
    async with client(app) as c:
        try:
            response = await c.request(method, path, content=b"x" * 100_000 if method == "POST" else None)
            assert watched.access[0]["status"] == response.status_code
            headers = response.headers
        except ValueError:
            # The client sees a broken stream as the exception that broke it.
            headers = None
    assert_agreement(watched, headers)
    if method == "POST":
        assert watched.access[0]["request_bytes"] == 100_000
        assert watched.value("http_request_size_bytes_sum", method="POST", route="/upload") == 100_000


async def test_a_cancelled_request(watch, telemetry):
    """Cancelled before the answer: 499 everywhere, and nobody's error."""
    watched = watch()
    app = build_app()
    watched.obs.install(app)

    entered = asyncio.Event()

    async def never() -> dict[str, str]:
        entered.set()
        await asyncio.Event().wait()
        return {}

    app.add_api_route("/never", never)
    waiting = asyncio.create_task(drive(app, http_scope("/never")))
    await entered.wait()
    waiting.cancel()
    driven = await waiting
    assert isinstance(driven.error, asyncio.CancelledError)
    telemetry.last.assert_consistent()
    assert (watched.access[0]["status"], watched.access[0]["error_type"]) == (499, "cancelled")
    assert_agreement(watched, None)


async def test_a_client_that_leaves_during_a_stream(watch, telemetry):
    """The status that was sent stays, and the reason is said by all."""
    watched = watch()
    app = build_app()

    async def endless():
        while True:
            yield b"x"
            await asyncio.sleep(0)

    @app.get("/endless")
    async def serve() -> StreamingResponse:
        return StreamingResponse(endless())

    watched.obs.install(app)
    streaming = asyncio.Event()

    async def receive() -> dict[str, str]:
        await streaming.wait()
        return {"type": "http.disconnect"}

    async def send(message: dict[str, object]) -> None:
        if message["type"] == "http.response.body":
            streaming.set()

    await app(http_scope("/endless", asgi={"version": "3.0", "spec_version": "2.3"}), receive, send)
    telemetry.last.assert_consistent()
    assert (watched.access[0]["status"], watched.access[0]["error_type"]) == (200, "client_disconnect")
    assert_agreement(watched, None)

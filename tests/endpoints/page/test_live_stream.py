"""The overview as events: shared, bounded, no traffic of the app, and at its end when the service stops."""

import asyncio
import json
from typing import Any

import httpx
import pytest
import trio
from fastapi import FastAPI
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.gzip import GZipMiddleware
from support import eventually, http_scope

from sage_fastapi_obs import Observability, Settings
from sage_fastapi_obs.endpoints.page import live_stream
from sage_fastapi_obs.endpoints.page.live_stream import MOST_VIEWERS


class Viewer:
    """Somebody who looks, at the edge of ASGI: takes what is sent, and leaves when told to."""

    def __init__(self, app: Any, query: str = "", **scope: Any) -> None:
        self.sent: list[dict[str, Any]] = []
        self.takes = asyncio.Event()
        self.takes.set()
        self._left = asyncio.Event()
        self.task = asyncio.create_task(
            app(http_scope("/monitoring/live", query_string=query.encode(), **scope), self._receive, self._send)
        )

    async def _receive(self) -> dict[str, Any]:
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: dict[str, Any]) -> None:
        await self.takes.wait()
        self.sent.append(message)

    async def leave(self) -> None:
        """Close the connection."""
        self._left.set()
        await self.task

    @property
    def text(self) -> str:
        """Everything so far."""
        return b"".join(message.get("body", b"") for message in self.sent).decode()

    @property
    def events(self) -> list[dict[str, Any]]:
        """The documents so far."""
        return [json.loads(line[6:]) for line in self.text.splitlines() if line.startswith("data: ")]


class Service:
    """An app with the stream."""

    def __init__(self, **monitoring: Any) -> None:
        self.app = FastAPI()
        monitoring = {"access": "open", "interval_seconds": 1, **monitoring}
        self.obs = Observability(Settings(monitoring=monitoring, logging={"enabled": False}, store={"enabled": False}))
        self.obs.install(self.app)
        self.app.get("/orders")(self.orders)

    async def orders(self) -> str:
        """Answer a request."""
        return "ok"


async def test_a_viewer_gets_the_overview_at_once_and_again_when_it_has_changed():
    """The first event comes without waiting; each has a number, and the last is of the newest traffic."""
    service = Service()
    async with service.obs:
        viewer = Viewer(service.app, "seconds=600")
        await eventually(lambda: viewer.events)
        head = {name.decode(): value.decode() for name, value in viewer.sent[0]["headers"]}
        assert (viewer.sent[0]["status"], head["content-type"]) == (200, "text/event-stream")
        assert (head["cache-control"], head["x-accel-buffering"]) == ("no-store", "no")
        assert "content-length" not in head
        assert viewer.text.startswith("retry: 1000\n\nid: 1\ndata: {")
        await eventually(lambda: len(viewer.events) >= 3)
        await viewer.leave()
    assert {event["seconds"] for event in viewer.events} == {600}
    ids = [int(line[4:]) for line in viewer.text.splitlines() if line.startswith("id: ")]
    assert ids == list(range(1, len(ids) + 1))
    assert len(viewer.text) / len(ids) < 8_000


async def test_the_stream_ends_when_the_stop_is_noticed():
    """A server waits for open connections before it says that it stops: the signal alone ends the stream, properly."""
    service = Service()
    async with service.obs:
        viewers = [Viewer(service.app) for _ in range(3)]
        await eventually(lambda: all(viewer.events for viewer in viewers))
        service.obs._drain()
        for viewer in viewers:
            await viewer.task
            assert viewer.sent[-1] == {"type": "http.response.body", "body": b"", "more_body": False}
        late = Viewer(service.app)
        await late.task
        assert late.sent[0]["status"] == 503


@pytest.mark.parametrize("around", [BaseHTTPMiddleware, GZipMiddleware])
async def test_through_middleware_of_the_app(around):
    """Middleware that looks into responses lets events through as they come, and the stream ends as without it."""
    service = Service()
    options = {"dispatch": lambda request, call_next: call_next(request)} if around is BaseHTTPMiddleware else {}
    service.app.add_middleware(around, **options)
    async with service.obs:
        headers = [(b"accept-encoding", b"gzip")]
        stays, leaves = Viewer(service.app, headers=headers), Viewer(service.app, headers=headers)
        await eventually(lambda: stays.events and leaves.events)
        await leaves.leave()
        service.obs._drain()
        await stays.task
    assert stays.sent[-1]["more_body"] is False


async def test_a_viewer_that_takes_nothing_is_left(monkeypatch):
    """A connection that is open and dead keeps neither memory nor the stop of the service."""
    monkeypatch.setattr(live_stream, "_STALL_SECONDS", 0.01)
    service = Service()
    async with service.obs:
        viewer = Viewer(service.app)
        await eventually(lambda: viewer.events)
        viewer.takes.clear()
        await viewer.task
        assert "more_body" not in viewer.sent[-1] or viewer.sent[-1]["more_body"]


async def test_there_is_room_for_so_many_and_no_more():
    """The next one is told why, and gets in when somebody has left."""
    service = Service()
    async with service.obs:
        viewers = [Viewer(service.app) for _ in range(MOST_VIEWERS)]
        await eventually(lambda: all(viewer.events for viewer in viewers))
        refused = Viewer(service.app)
        await refused.task
        assert refused.sent[0]["status"] == 503
        assert json.loads(refused.text) == {"detail": f"{MOST_VIEWERS} others are looking"}
        assert (b"retry-after", b"5") in refused.sent[0]["headers"]
        await viewers[0].leave()
        let_in = Viewer(service.app)
        await eventually(lambda: let_in.events)
        for viewer in (*viewers[1:], let_in):
            await viewer.leave()


async def test_all_viewers_share_what_is_read(monkeypatch):
    """However many look, the metrics are read as often as for one; and not at all for nobody."""
    service, reads = Service(interval_seconds=300), []
    async with service.obs:
        await eventually(lambda: service.obs.status.windows.ticks)
        read = service.obs.status.windows._read

        def noted():
            reads.append(None)
            return read()

        monkeypatch.setattr(service.obs.status.windows, "_read", noted)
        viewers = [Viewer(service.app) for _ in range(5)]
        await eventually(lambda: all(len(viewer.events) >= 3 for viewer in viewers))
        documents = {event["time"] for viewer in viewers for event in viewer.events}
        assert len(reads) <= len(documents) + 1
        for viewer in viewers:
            await viewer.leave()
        await asyncio.sleep(0)
        before = len(reads)
        await asyncio.sleep(2)
        assert len(reads) == before


async def test_a_stream_is_no_traffic_of_the_app():
    """Neither while it is open nor after its end does it count among requests, and it leaves nothing behind."""
    service = Service()
    async with service.obs:
        viewer = Viewer(service.app)
        await eventually(lambda: len(viewer.events) >= 2)
        assert viewer.events[-1]["figures"]["in_flight"]["value"] in {None, 0}
        await viewer.leave()
    names = [sample for family in service.obs.registry.collect() for sample in family.samples if "http" in sample.name]
    assert not [sample for sample in names if sample.value and "le" not in sample.labels]


async def test_an_open_page_is_no_request_that_hangs():
    """Who looks for what is in flight finds the app's own requests."""
    service = Service()
    async with (
        service.obs,
        httpx.AsyncClient(transport=httpx.ASGITransport(service.app), base_url="http://localhost") as client,
    ):
        viewer = Viewer(service.app)
        await eventually(lambda: viewer.events)
        found = (await client.get("/monitoring/stacks")).json()["requests"]
        workers = (await client.get("/monitoring/workers")).json()["workers"]
        await viewer.leave()
    assert {request["route"] for request in found} == {"/monitoring/stacks"}
    assert [worker["in_flight"] for worker in workers] == [0]


async def test_the_head_of_a_stream_ends():
    """Whoever asks for the headers alone gets these."""
    viewer = Viewer(Service().app, method="HEAD")
    await viewer.task
    assert [message["type"] for message in viewer.sent] == ["http.response.start", "http.response.body"]


async def test_a_failure_of_ours_ends_the_stream_and_is_counted(monkeypatch):
    """The app and its server see a response that ends; the browser asks again."""
    service = Service()
    async with service.obs:
        monkeypatch.setattr(service.obs.status, "view", lambda _seconds: 1 / 0)
        viewer = Viewer(service.app)
        await viewer.task
        assert viewer.sent[-1]["more_body"] is False
        assert service.obs.internal_errors.counts["LiveStream"] == 1


@pytest.mark.parametrize("query", ["seconds=59", "seconds=604801", "seconds=x", "second=300"])
async def test_a_stream_of_nonsense_is_refused(query):
    """The same as for the document."""
    viewer = Viewer(Service().app, query)
    await viewer.task
    assert viewer.sent[0]["status"] == 422


def test_on_trio():
    """The stream needs no asyncio."""
    service, sent = Service(), []

    async def main() -> None:
        async def receive() -> dict[str, Any]:
            await trio.sleep_forever()

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)
            if b"data: " in message.get("body", b""):
                service.obs._drain()

        await service.app(http_scope("/monitoring/live"), receive, send)

    trio.run(main)
    assert sent[-1] == {"type": "http.response.body", "body": b"", "more_body": False}

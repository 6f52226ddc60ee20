"""`/monitoring/live`: the overview as server-sent events, to a bounded number of viewers, until the service stops."""

import time
from collections.abc import Callable
from contextlib import suppress
from itertools import count

from anyio import create_task_group, fail_after, sleep
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from sage_fastapi_obs.active import count_internal_error
from sage_fastapi_obs.endpoints.access import Access
from sage_fastapi_obs.endpoints.json_page import JsonPage, problem
from sage_fastapi_obs.endpoints.page.overview import Overview, OverviewQuery, OverviewResponse
from sage_fastapi_obs.endpoints.page.static_files import SECURITY_HEADERS

MOST_VIEWERS = 32
_LOOK_SECONDS = 0.25
"""How often a stream looks for news, and whether the service stops: the server waits for its end."""
_SILENCE_SECONDS = 5.0
"""After so long the same is sent again, so that a viewer knows that it is still so."""
_STALL_SECONDS = 2.0
"""A viewer that takes nothing for so long is left: it would keep the server from stopping."""
_LIFE_SECONDS = 3600.0
"""A viewer asks again after so long, as who may look can change."""
_RETRY_MS = 1000
_HEADERS = {
    **SECURITY_HEADERS,
    "Cache-Control": "no-store",
    "Content-Type": "text/event-stream",
    # Otherwise nginx would gather the events.
    "X-Accel-Buffering": "no",
}


class LiveStream:
    """Sends the overview to all who look."""

    def __init__(self, access: Access, overview: Overview, is_stopping: Callable[[], bool]) -> None:
        self._overview = overview
        self._is_stopping = is_stopping
        self._page = JsonPage(
            *("/live", "live_stream", "The overview as events", self._answer, OverviewResponse, OverviewQuery),
            guard=access.rejection,
        )
        self.viewers = 0

    def route(self, prefix: str) -> Route:
        """Build the route."""
        return self._page.route(prefix)

    async def _answer(self, query: OverviewQuery, _request: Request) -> Response:
        if self._is_stopping():
            return problem("the service is stopping", 503, {"Retry-After": "1"})
        if self.viewers >= MOST_VIEWERS:
            return problem(f"{MOST_VIEWERS} others are looking", 503, {"Retry-After": "5"})
        return _Events(self, query.seconds)

    async def send_events(self, seconds: int, send: Send) -> None:
        """Send each new document until the service stops, or for an hour; the first one at once.

        Raises `TimeoutError` where the viewer takes none.
        """
        numbers, until = count(1), time.monotonic() + _LIFE_SECONDS
        last, sent_at = b"", 0.0
        event = b"retry: %d\n\n" % _RETRY_MS
        while not self._is_stopping() and time.monotonic() < until:
            body = await self._overview.body(seconds)
            if body != last or time.monotonic() - sent_at >= _SILENCE_SECONDS:
                event += b"id: %d\ndata: %s\n\n" % (next(numbers), body)
                with fail_after(_STALL_SECONDS):
                    await send({"type": "http.response.body", "body": event, "more_body": True})
                last, sent_at, event = body, time.monotonic(), b""
            await sleep(_LOOK_SECONDS)


class _Events(Response):
    """The response to one viewer."""

    def __init__(self, stream: LiveStream, seconds: int) -> None:
        super().__init__(headers=_HEADERS)
        del self.headers["Content-Length"]
        self._stream = stream
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._stream.viewers += 1
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            if scope["method"] == "HEAD" or await self._is_sent(receive, send):
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            self._stream.viewers -= 1

    async def _is_sent(self, receive: Receive, send: Send) -> bool:
        """Send events; tell whether the viewer was there until the end."""
        is_sent = False

        async def send_all() -> None:
            nonlocal is_sent
            is_sent = await self._is_sent_safely(send)
            tasks.cancel_scope.cancel()

        async with create_task_group() as tasks:
            tasks.start_soon(_until_left, receive, tasks.cancel_scope.cancel)
            tasks.start_soon(send_all)
        return is_sent

    async def _is_sent_safely(self, send: Send) -> bool:
        try:
            await self._stream.send_events(self._seconds, send)
        except OSError:
            # So some servers say that the viewer has left, and we that it takes nothing.
            return False
        except Exception as error:
            count_internal_error("LiveStream", error)
        return True


async def _until_left(receive: Receive, leave: Callable[[], None]) -> None:
    with suppress(OSError):
        while (await receive())["type"] != "http.disconnect":
            pass
    leave()

"""Steady traffic over all routes: mostly what goes well, and some of everything that does not."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import anyio
import httpx

try:
    from websockets.asyncio.client import connect
    from websockets.exceptions import WebSocketException
except ImportError:
    CHATS = False
else:
    CHATS = True

__all__ = ["CALLS", "Call", "Traffic"]

MOST_AT_ONCE = 100
TIMEOUT_SECONDS = 5.0
CLIENT_TYPES = ("mobile", "pad", "pos", "web")


@dataclass(frozen=True, slots=True)
class Call:
    """One thing visitors do."""

    method: str
    path: str
    body: dict[str, Any] | None = None
    times: int = 1
    """How often, in a round of all calls."""


CALLS = (
    Call("GET", "/api/items", times=5),
    Call("GET", "/api/items/1", times=5),
    Call("GET", "/api/items/77"),  # 404: no such item
    Call("GET", "/api/items/x"),  # 422: no number
    Call("GET", "/api/items/2/price", times=3),
    Call("POST", "/api/orders", {"item_id": 2, "count": 1}, times=4),  # two hops, and work in the background
    Call("POST", "/api/orders", {"item_id": 2, "count": 13}),  # 201, and the work in the background fails
    Call("POST", "/api/orders", {"item_id": 2, "count": 0}),  # 422: none
    Call("POST", "/api/orders", {"item_id": 77, "count": 1}),  # 409: not for sale
    Call("POST", "/identify", {"location": "Table 3"}, times=2),
    Call("POST", "/identify", {}),  # 422: nothing given
    Call("GET", "/slow"),
    Call("GET", "/boom"),  # 500: unhandled
    Call("GET", "/export"),  # a stream
    Call("GET", "/events"),  # server-sent events
    Call("GET", "/admin/reports/2024", times=2),  # a mounted app
    Call("GET", "/wp-login.php"),  # 404: no such route
    Call("WEBSOCKET", "/chat/help"),
    Call("WEBSOCKET", "/chat/closed"),  # refused
)


class Traffic:
    """Visitors of one service, at a steady rate; a bounded number at once, so a slow service gets fewer."""

    def __init__(self, url: str, rate: float) -> None:
        self._url = url
        self._interval_seconds = 1 / rate
        self._places = anyio.Semaphore(MOST_AT_ONCE)
        self.made = 0
        """Visits begun."""

    async def run(self) -> None:
        """Send visitors until cancelled."""
        limits = httpx.Limits(max_keepalive_connections=20)
        async with (
            httpx.AsyncClient(base_url=self._url, timeout=TIMEOUT_SECONDS, limits=limits, trust_env=False) as client,
            anyio.create_task_group() as visits,
        ):
            due = anyio.current_time()
            for call in _rounds():
                await self._places.acquire()
                self.made += 1
                visits.start_soon(self._visit, client, call)
                # What a slow service has held up is not made up for with a burst.
                due = max(due + self._interval_seconds, anyio.current_time())
                await anyio.sleep_until(due)

    async def _visit(self, client: httpx.AsyncClient, call: Call) -> None:
        try:
            if call.method == "WEBSOCKET":
                await self._chat(call.path)
            else:
                headers = {"X-Client-Type": random.choice(CLIENT_TYPES)}
                await client.request(call.method, call.path, json=call.body, headers=headers)
        except (httpx.HTTPError, OSError):
            # The service is going, or too slow; the demo says so.
            pass
        finally:
            self._places.release()

    async def _chat(self, path: str) -> None:
        if not CHATS:
            return
        address = self._url.replace("http", "ws", 1) + path
        try:
            async with connect(address, open_timeout=TIMEOUT_SECONDS, proxy=None) as socket:
                for text in ("hello", "is there tea?"):
                    await socket.send(text)
                    await socket.recv()
                    await anyio.sleep(random.uniform(0.1, 0.5))
        except (WebSocketException, EOFError):
            # Refused, or the service is going.
            pass


def _rounds() -> Iterator[Call]:
    """Deal all calls in a random order, again and again: even a short run sees each."""
    deck = [call for call in CALLS for _ in range(call.times)]
    while True:
        random.shuffle(deck)
        yield from deck

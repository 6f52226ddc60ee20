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
GRACE_SECONDS = 2.0
TIMEOUT_SECONDS = 5.0
CLIENT_TYPES = ("mobile", "pad", "pos", "web")


@dataclass(frozen=True, slots=True)
class Call:
    """One thing visitors do; `{order}` in the path is the order placed last."""

    method: str
    path: str
    body: dict[str, Any] | None = None
    times: int = 1
    """How often, in a round of all calls."""


CALLS = (
    Call("GET", "/api/catalogue/items", times=5),
    Call("GET", "/api/catalogue/items/2", times=5),
    Call("GET", "/api/catalogue/items/99"),  # 404: no such item
    Call("GET", "/api/catalogue/items?limit=1000"),  # 422: too many
    Call("GET", "/api/catalogue/export"),  # a stream
    Call("POST", "/api/orders", {"item_id": 2, "quantity": 1}, times=3),  # with work in the background
    Call("POST", "/api/orders", {"item_id": 2, "quantity": 0}),  # 422: none
    Call("GET", "/api/orders/{order}", times=3),
    Call("POST", "/api/orders/{order}/payment", {"method": "card"}, times=2),
    Call("POST", "/api/orders/{order}/payment", {"method": "voucher"}),  # 500: unhandled
    Call("GET", "/api/orders/{order}/events"),  # server-sent events
    Call("GET", "/api/orders/{order}/quote", times=2),  # two hops
    Call("POST", "/identify", {"location": "Table 3", "card": "4711"}, times=2),
    Call("POST", "/identify", {}),  # 422: nothing given
    Call("GET", "/admin/stock/2", times=2),  # a mounted app
    Call("GET", "/admin/reports/sales"),  # slow
    Call("GET", "/wp-login.php"),  # 404: no such route
    Call("WEBSOCKET", "/chat/help"),
)


class Traffic:
    """Visitors of one service, at a steady rate; a bounded number at once, so a slow service gets fewer."""

    def __init__(self, client: httpx.AsyncClient, rate: float) -> None:
        self._client = client
        self._interval_seconds = 1 / rate
        self._places = anyio.Semaphore(MOST_AT_ONCE)
        self._order = 1
        self.failed_request_id: str | None = None
        """The request answered with a 5xx last."""
        self.correlation_id: str | None = None
        """What the request that went over two hops last has in common with the other hop."""

    async def run(self, stop: anyio.Event) -> None:
        """Send visitors until told to stop, then give those inside a moment to finish."""
        async with anyio.create_task_group() as visits:
            due = anyio.current_time()
            for call in _rounds():
                await self._places.acquire()
                if stop.is_set():
                    break
                visits.start_soon(self._visit, call)
                # What a slow service has held up is not made up for with a burst.
                due = max(due + self._interval_seconds, anyio.current_time())
                with anyio.move_on_after(due - anyio.current_time()):
                    await stop.wait()
            visits.cancel_scope.deadline = anyio.current_time() + GRACE_SECONDS

    async def _visit(self, call: Call) -> None:
        try:
            if call.method == "WEBSOCKET":
                await self._chat(call.path)
            else:
                await self.send(call)
        except (httpx.HTTPError, OSError):
            # The service is going, or too slow; the demo notices and says so.
            pass
        finally:
            self._places.release()

    async def send(self, call: Call) -> httpx.Response:
        """Make one request, and remember what is worth looking up."""
        headers = {"X-Client-Type": random.choice(CLIENT_TYPES)}
        path = call.path.replace("{order}", str(self._order))
        response = await self._client.request(call.method, path, json=call.body, headers=headers)
        if response.status_code == 201:
            self._order = response.json()["order"]["id"]
        if response.status_code >= 500:
            self.failed_request_id = response.headers.get("x-request-id")
        elif path.endswith("/quote"):
            self.correlation_id = response.headers.get("x-correlation-id")
        return response

    async def _chat(self, path: str) -> None:
        if not CHATS:
            return
        address = str(self._client.base_url.join(path)).replace("http", "ws", 1)
        try:
            async with connect(address, open_timeout=TIMEOUT_SECONDS, proxy=None) as socket:
                for text in ("hello", "is the kettle in stock?"):
                    await socket.send(text)
                    await socket.recv()
                    await anyio.sleep(random.uniform(0.1, 0.5))
        except (WebSocketException, EOFError):
            pass


def _rounds() -> Iterator[Call]:
    """Deal all calls in a random order, again and again: even a short run sees each."""
    deck = [call for call in CALLS for _ in range(call.times)]
    while True:
        random.shuffle(deck)
        yield from deck

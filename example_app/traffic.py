"""Traffic over all routes: mostly what goes well, and some of everything that does not."""

import random
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import anyio
import httpx

from example_app.visitors import VISIT_ENDS, Visitors

try:
    from websockets.asyncio.client import connect
    from websockets.exceptions import WebSocketException
except ImportError:
    CHATS = False
else:
    CHATS = True

__all__ = ["SCENARIOS", "Call", "Tale", "Traffic"]

MOST_AT_ONCE = 100
TIMEOUT_SECONDS = 5.0
CLIENT_TYPES = ("mobile", "pad", "pos", "web")


@dataclass(frozen=True, slots=True)
class Call:
    """One thing visitors do."""

    method: str
    path: str
    body: dict[str, Any] | list[int] | None = None
    times: int = 1
    """How often, in a round of all calls."""


Story = Callable[[Visitors], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Tale:
    """Several things that one visitor does after another."""

    story: Story
    times: int = 1


SCENARIOS: dict[str, tuple[Call | Tale, ...]] = {
    "steady": (
        Call("GET", "/api/items", times=10),
        Call("GET", "/api/items/1", times=10),
        Call("GET", "/api/items/2/price", times=6),
        Call("POST", "/api/orders", {"item_id": 2, "count": 1}, times=8),  # two hops, and work in the background
        Call("POST", "/identify", {"location": "Table 3"}, times=4),
        Call("GET", "/export", times=2),  # a stream
        Call("GET", "/events", times=2),  # server-sent events
        Call("GET", "/admin/reports/2024", times=4),  # a mounted app
        Call("WEBSOCKET", "/chat/help", times=2),
        Call("POST", "/orders", {"item": "tea", "count": 2, "card": "4111111111111111"}, times=4),
        Call("POST", "/orders", {"item": "coffee", "card": "4111111111111111"}, times=4),
        Call("POST", "/did/resolve", {}, times=2),
        Call("GET", "/results/users/1", times=4),  # results in place of exceptions
        Call("POST", "/results/users/batch", [1, 2], times=2),
        Call("POST", "/results/orders", {"item": "tea", "card": "4111111111111111"}, times=4),
        Call("GET", "/results/sla"),
        Tale(Visitors.converse, times=12),
        Tale(Visitors.introduce, times=4),
        Tale(Visitors.move, times=2),
        Tale(Visitors.learn, times=4),
        Tale(Visitors.log_in, times=6),
    ),
    "errors": (
        Call("GET", "/api/items/77"),  # 404: no such item
        Call("GET", "/api/items/x"),  # 422: no number
        Call("POST", "/api/orders", {"item_id": 2, "count": 13}),  # 201, and the work in the background fails
        Call("POST", "/api/orders", {"item_id": 2, "count": 0}),  # 422: none
        Call("POST", "/api/orders", {"item_id": 77, "count": 1}),  # 409: not for sale
        Call("POST", "/identify", {}),  # 422: nothing given
        Call("GET", "/boom"),  # 500: unhandled
        Call("GET", "/wp-login.php"),  # 404: no such route
        Call("WEBSOCKET", "/chat/closed"),  # refused
        Call("POST", "/orders", {"item": "tea", "card": "4111111111111112"}),  # 409: the card is not good
        Call("POST", "/textbooks", {"grade_level": "grade-1", "subject": "art", "pages": ["a bell\a"]}),  # one picture fails
        Call("GET", "/results/users/3"),  # 423: the user is locked
        Call("POST", "/results/users/batch", [1, 3, 77]),  # two of three fail
        Call("POST", "/results/orders", {"item": "tea", "card": "4111111111111110"}),  # 402: the card is not good
        Tale(Visitors.forge),
        Tale(Visitors.dawdle),
        Tale(Visitors.babble),
        Tale(Visitors.pry),
        Tale(Visitors.guess),  # until the account is locked
        Tale(Visitors.hammer),
        Tale(Visitors.cut_off),
    ),
    "replay": (Tale(Visitors.replay, times=2),),
    "slow": (Call("GET", "/slow", times=2), Tale(Visitors.congest)),
    "delays": (Tale(Visitors.linger, times=2),),
}
"""What can be watched, each by itself or all together."""


class Traffic:
    """Visitors of one service, at a steady rate; a bounded number at once, so a slow service gets fewer."""

    def __init__(self, url: str, rate: float, scenarios: Iterable[str] = SCENARIOS) -> None:
        self._url = url
        self._deck = [visit for name in scenarios for visit in SCENARIOS[name] for _ in range(visit.times)]
        self._interval_seconds = 1 / rate
        self._places = anyio.Semaphore(MOST_AT_ONCE)
        self.made = 0
        """Visits begun."""

    async def run(self) -> None:
        """Send visitors until cancelled."""
        limits = httpx.Limits(max_keepalive_connections=20)
        async with (
            httpx.AsyncClient(base_url=self._url, timeout=TIMEOUT_SECONDS, limits=limits, trust_env=False) as client,
            aclosing(Visitors(client)) as visitors,
            anyio.create_task_group() as visits,
        ):
            due = anyio.current_time()
            for visit in self._rounds():
                await self._places.acquire()
                self.made += 1
                visits.start_soon(self._visit, client, visitors, visit)
                # What a slow service has held up is not made up for with a burst.
                due = max(due + self._interval_seconds, anyio.current_time())
                await anyio.sleep_until(due)

    async def _visit(self, client: httpx.AsyncClient, visitors: Visitors, visit: Call | Tale) -> None:
        try:
            if isinstance(visit, Tale):
                await visit.story(visitors)
            elif visit.method == "WEBSOCKET":
                await self._chat(visit.path)
            else:
                headers = {"X-Client-Type": random.choice(CLIENT_TYPES)}
                await client.request(visit.method, visit.path, json=visit.body, headers=headers)
        except VISIT_ENDS:
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

    def _rounds(self) -> Iterator[Call | Tale]:
        """Deal all visits in a random order, again and again: even a short run sees each."""
        while True:
            random.shuffle(self._deck)
            yield from self._deck

"""Who is named as the holder of a connection, without any pool."""

import asyncio
from typing import Any

import pytest
from fastapi import FastAPI, Request, Response
from support import client

from sage_fastapi_obs import Observability, Settings
from sage_fastapi_obs.insight.connection_waits import ConnectionWaits
from sage_fastapi_obs.insight.pool_use import MOST_HOLDERS, Asking, PoolUse
from sage_fastapi_obs.request.exchange import SCOPE_KEY, Exchange, current_exchange
from sage_fastapi_obs.request.explanation import Explanation
from sage_fastapi_obs.request.request_name import request_name


@pytest.fixture
def obs() -> Observability:
    return Observability(Settings(logging={"enabled": False}, store={"enabled": False}))


class Requests:
    """Requests that take connections of one pool and give them back, one step after the other."""

    def __init__(self, obs: Observability, connections: int) -> None:
        self._obs = obs
        self.use = PoolUse(lambda: connections)

    def new(self, route: str) -> Exchange:
        exchange = Exchange({"type": "http"}, 0, 0, self._obs)
        exchange.route = route
        return exchange

    def ask(self, exchange: Exchange | None) -> Asking:
        token = current_exchange.set(exchange)
        asking = self.use.ask().__enter__()
        current_exchange.reset(token)
        return asking

    def give(self, asking: Asking, connection: int) -> None:
        token = current_exchange.set(asking.exchange)
        asking.asked_ns -= 100_000_000
        asking.given(connection)
        current_exchange.reset(token)

    def take(self, exchange: Exchange | None, connection: int) -> None:
        self.ask(exchange).given(connection)

    def why(self, exchange: Exchange) -> list[str]:
        exchange.duration_us = 10_000_000
        explanation = Explanation()
        ConnectionWaits().explain(exchange, explanation)
        return [text.partition(" for ")[2] for text in explanation.why]


def test_the_longest_holder_is_named(obs: Observability):
    """Of several that hold a connection it is the one that has it longest, whoever gives one back first."""
    requests = Requests(obs, 2)
    requests.take(requests.new("/report"), 1)
    requests.take(requests.new("/quick"), 2)
    waiting = requests.new("/waiting")
    asking = requests.ask(waiting)
    requests.use.give_back(2)
    requests.give(asking, 2)
    assert requests.why(waiting) == ["a connection held by GET /report"]


def test_who_was_before_in_the_queue_is_named(obs: Observability):
    """A request that took the connection while another waited, and gave it back, is the one that was waited for."""
    requests = Requests(obs, 1)
    requests.take(None, 1)
    first, second = requests.new("/report"), requests.new("/waiting")
    of_first, of_second = requests.ask(first), requests.ask(second)
    requests.use.loans[1].since_ns += 10**15
    requests.use.give_back(1)
    requests.give(of_first, 1)
    requests.use.give_back(1)
    requests.give(of_second, 1)
    assert requests.why(second) == ["a connection held by GET /report"]


def test_one_that_holds_half_of_them_waits_for_itself(obs: Observability):
    """As where a request asks for many at once: who else has one for longer is not to blame."""
    requests = Requests(obs, 4)
    gathering = requests.new("/gather")
    requests.take(requests.new("/quick"), 0)
    for connection in (1, 2, 3):
        requests.take(gathering, connection)
    asking = requests.ask(gathering)
    requests.use.give_back(1)
    requests.give(asking, 1)
    assert requests.why(gathering) == ["a connection held by itself"]


def test_a_pool_with_room_is_not_held(obs: Observability):
    """A wait while there was room is one for a new connection."""
    requests = Requests(obs, 2)
    requests.take(requests.new("/report"), 1)
    waiting = requests.new("/waiting")
    requests.give(requests.ask(waiting), 2)
    assert requests.why(waiting) == ["a new connection"]


def test_what_is_kept_is_bounded(obs: Observability):
    """However many holders there were, and however many connections nobody gives back, what is kept does not grow."""
    requests = Requests(obs, 1)
    waiting = requests.new("/waiting")
    for number in range(100):
        requests.take(requests.new(f"/report/{number}"), 1)
        asking = requests.ask(waiting)
        requests.use.give_back(1)
        requests.give(asking, 1)
        requests.use.give_back(1)
    assert len(requests.why(waiting)) <= MOST_HOLDERS + 1
    for number in range(5_000):
        requests.take(None, number)
    assert len(requests.use.loans) == 1_024


def test_a_route_that_has_no_answer_yet_has_its_name(obs: Observability):
    """The route of a request that still runs is found by what the router left; what no route matches is no path."""
    names: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        names.append(request_name(scope[SCOPE_KEY]))
        await Response()(scope, receive, send)

    fast = FastAPI()
    fast.mount("/mounted", app)

    @fast.get("/items/{item}")
    async def items(request: Request, item: str) -> None:
        names.append(request_name(request.scope[SCOPE_KEY]))

    async def ask() -> None:
        obs.install(fast)
        async with client(fast) as http:
            await http.get("/items/geheim")
            await http.get("/mounted/geheim")

    asyncio.run(ask())
    assert names == ["GET /items/{item}", "GET /mounted/{path}"]

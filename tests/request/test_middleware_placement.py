"""Where the middleware ends up among the layers of an app, and that all others stay as they were."""

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.middleware.base import BaseHTTPMiddleware

from sage_fastapi_obs import Observability, ObservabilityMiddleware, Settings

Calls = list[str]


class Plain:
    """A layer as Starlette's own are."""

    def __init__(self, app: Any, name: str, calls: Calls) -> None:
        self.app, self.name, self.calls = app, name, calls

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Note that it was called."""
        self.calls.append(self.name)
        await self.app(scope, receive, send)


class Fixed(Plain):
    """A layer that lets nobody change it."""

    def __setattr__(self, name: str, value: Any) -> None:
        """Refuse, once there is something to change."""
        if name in self.__dict__:
            raise AttributeError(name)
        super().__setattr__(name, value)


class OtherName:
    """A layer that keeps what is inside of it elsewhere, and in `app` something else."""

    def __init__(self, app: Any, name: str, calls: Calls) -> None:
        self._inner, self.name, self.calls, self.app = app, name, calls, name

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Note that it was called."""
        self.calls.append(self.name)
        await self._inner(scope, receive, send)


class Base(BaseHTTPMiddleware):
    """A layer of the kind that most applications write."""

    def __init__(self, app: Any, name: str, calls: Calls) -> None:
        super().__init__(app)
        self.name, self.calls = name, calls

    async def dispatch(self, request: Any, call_next: Any) -> Any:
        """Note that it was called."""
        self.calls.append(self.name)
        return await call_next(request)


def closure(app: Any, name: str, calls: Calls) -> Callable[..., Any]:
    """Make a layer that is a function."""

    async def layer(scope: Any, receive: Any, send: Any) -> None:
        calls.append(name)
        await app(scope, receive, send)

    return layer


KEEP_IN_APP = (Plain, Base)
KINDS = (*KEEP_IN_APP, Fixed, OtherName, closure)


def made(kinds: list[Any], position: int) -> tuple[FastAPI, Calls, Observability]:
    """Build an app with such layers, from the outside in, and ours at this position among them."""
    calls: Calls = []
    obs = Observability(Settings(logging={"enabled": False}, alerts={"defaults": False}))
    app = FastAPI()

    @app.get("/ok")
    async def ok() -> None:
        calls.append("app")

    layers: list[Any] = [(kind, {"name": str(number), "calls": calls}) for number, kind in enumerate(kinds)]
    layers.insert(position, (ObservabilityMiddleware, {"observability": obs}))
    for kind, arguments in reversed(layers):
        app.add_middleware(kind, **arguments)
    return app, calls, obs


def ours_along(app: FastAPI) -> int:
    """Count our layers along `.app`."""
    layer, count = app.middleware_stack, 0
    while layer is not None:
        count += isinstance(layer, ObservabilityMiddleware)
        layer = getattr(layer, "app", None)
    return count


async def ask(app: FastAPI, obs: Observability, times: int) -> None:
    """Make requests."""
    async with obs, httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        for _ in range(times):
            response = await client.get("/ok")
            assert response.status_code == 200
            assert len(response.headers.get_list("x-request-id")) == 1


@settings(max_examples=40, deadline=None)
@given(kinds=st.lists(st.sampled_from(KINDS), max_size=4), data=st.data())
def test_all_other_layers_are_called_as_before(kinds: list[Any], data: st.DataObject) -> None:
    """Whatever layers there are and wherever ours was added, each other one is called once per request, in its order."""
    position = data.draw(st.integers(0, len(kinds)))
    app, calls, obs = made(kinds, position)
    asyncio.run(ask(app, obs, 3))
    assert calls == [*map(str, range(len(kinds))), "app"] * 3
    assert isinstance(app.middleware_stack, ObservabilityMiddleware)
    assert obs.registry.get_sample_value("http_requests_total", {"method": "GET", "route": "/ok", "status": "200"}) == 3


@pytest.mark.parametrize("position", [0, 1, 2])
async def test_no_second_layer_of_ours_stays_behind(position: int) -> None:
    """Among layers as Starlette's, the one that was added is taken out, so that it costs no request anything."""
    app, _, obs = made([*KEEP_IN_APP], position)
    await ask(app, obs, 2)
    assert ours_along(app) == 1

"""Apps that are not Starlette's, wrapped and mounted: each request is counted by its route, and nothing of ours fails."""

import falcon.asgi
import pytest
from a2wsgi import WSGIMiddleware
from fastapi import FastAPI
from flask import Flask
from litestar import Litestar, get
from litestar.params import FromPath
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Host, Mount
from support import client

from sage_fastapi_obs import ObservabilityMiddleware


def litestar():
    """Build an app whose routes cannot be asked."""

    @get("/items/{n:int}")
    async def item(n: FromPath[int]) -> int:
        return n

    return Litestar([item])


def falcon_app():
    """Build an app with a router of another kind."""

    class Item:
        async def on_get(self, request, response, n) -> None:
            response.text = n

    app = falcon.asgi.App()
    app.add_route("/items/{n}", Item())
    return app


def flask():
    """Build an app of WSGI, in a wrapper that has it in `.app`."""
    app = Flask("shop")
    app.add_url_rule("/items/<n>", view_func=lambda n: n)
    wrapped = WSGIMiddleware(app)
    wrapped.app = app
    return wrapped


class Odd:
    """An ASGI app whose attributes are whatever they like to be."""

    def __init__(self, routes) -> None:
        self.routes = routes
        self.app = self.path = self.endpoint = self

    async def __call__(self, scope, receive, send) -> None:
        await PlainTextResponse("odd")(scope, receive, send)


class Raises(Odd):
    """One that cannot be asked for anything."""

    def __init__(self) -> None:
        pass

    def __getattr__(self, name: str):
        raise RuntimeError(name)


class LeavesTraces(Odd):
    """One that writes into the scope what routers of Starlette's write there."""

    async def __call__(self, scope, receive, send) -> None:
        scope["route"] = "/items"
        await super().__call__(scope, receive, send)


APPS = {
    "litestar": litestar,
    "falcon": falcon_app,
    "flask": flask,
    "a number": lambda: Odd(7),
    "text": lambda: Odd("/items"),
    "numbers": lambda: Odd([1, None]),
    "a table": lambda: Odd({"/items": 1}),
    "a function": lambda: Odd(list),
    "raises": Raises,
    "leaves traces": lambda: LeavesTraces([]),
}


@pytest.mark.parametrize("name", APPS)
async def test_other_frameworks(watch, name):
    """Mounted, everything below is one route; wrapped, its routes are its own affair; never an internal error."""
    watched = watch()
    host = Host("api.example.org", APPS[name]())
    starlette = Starlette(routes=[Mount("/s/{x}", APPS[name]()), host])
    app = FastAPI()
    app.mount("/f/{x}", APPS[name]())
    app.mount("/f-in/{x}", starlette)
    app.mount("/", APPS[name]())
    watched.obs.install(app)
    statuses = []
    for outermost, path in (
        (app, "/f/1/items/2"),
        (app, "/f/1/nowhere"),
        (app, "/f-in/1/s/2/items/3"),
        (app, "/items/2"),
        (ObservabilityMiddleware(starlette, observability=watched.obs), "/s/1/items/2"),
        (ObservabilityMiddleware(starlette, observability=watched.obs), "/items/2"),
        (ObservabilityMiddleware(APPS[name](), observability=watched.obs), "/items/2"),
    ):
        async with client(outermost, headers={"host": "api.example.org"}) as c:
            statuses.append((await c.get(path)).status_code)
    assert max(statuses) < 500
    routes = ["/f/{x}/{path}", "/f/{x}/{path}", "/f-in/{x}/s/{x}/{path}", "/{path}", "/s/{x}/{path}", "/{path}", None]
    if "/{mount}" in (watched.access[2]["route"] or ""):
        # One name in two mounts.
        routes[2] = "/{mount}/{path}"
    assert [line["route"] for line in watched.access] == routes
    assert not watched.series("observability_internal_errors_total")


async def test_an_app_mounted_in_itself(watch):
    """However deep one goes in a circle of mounts, it is found."""
    watched = watch()
    app = FastAPI()
    app.add_api_route("/leaf/{n}", lambda n: n)
    app.mount("/again/{x}", app)
    app.mount("/files", PlainTextResponse("x"))
    watched.obs.install(app)
    async with client(app) as c:
        for path in ("/leaf/1", "/again/2/leaf/1", "/again/2/files/x"):
            assert (await c.get(path)).status_code == 200
    assert [line["route"] for line in watched.access] == ["/leaf/{n}", "/again/{x}/leaf/{n}", "/again/{x}/files/{path}"]
    assert not watched.series("observability_internal_errors_total")

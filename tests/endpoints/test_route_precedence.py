"""Our pages are found first, in plain routes, whatever else the app routes and in which order."""

from contextlib import asynccontextmanager
from itertools import permutations

import pytest
from fastapi import APIRouter, FastAPI
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import BaseRoute, Match, Mount, Route, WebSocketRoute
from support import client, drive, http_scope

from sage_fastapi_obs import ObservabilityMiddleware

PAGES = ("/metrics", "/monitoring/", "/monitoring/health/live", "/monitoring/health")


async def theirs(request) -> PlainTextResponse:
    return PlainTextResponse("theirs")


async def answers(app, *paths: str, method: str = "GET") -> list[tuple[int, bool]]:
    """Ask for paths; tell each status, and whether the app itself has answered."""
    async with client(app) as c:
        found = [await c.request(method, path) for path in paths]
    return [(one.status_code, one.text == "theirs") for one in found]


def catch_all(app) -> None:
    """Answer whatever nobody else does."""
    app.router.routes.append(Route("/{path:path}", theirs, methods=["GET", "POST"]))


def mount(app) -> None:
    """Mount an app at the root."""
    app.mount("/", Starlette(routes=[Route("/{path:path}", theirs)]))


def inserted(app) -> None:
    """Put a route at the head of the list."""
    app.router.routes.insert(0, Route("/{path:path}", theirs))


def replaced(app) -> None:
    """Put another list in the place of the routes."""
    app.router.routes = [Route("/{path:path}", theirs), *app.router.routes]


@pytest.mark.parametrize("kind", [FastAPI, Starlette])
@pytest.mark.parametrize("other", [catch_all, mount, inserted, replaced])
@pytest.mark.parametrize("when", ["before", "after", "running"])
async def test_pages_are_found_first(watch, kind, other, when):
    """Before a catch-all and a mount at the root, added earlier, later, or while it runs; all else is the app's."""
    watched = watch()
    app = kind()
    if when == "before":
        other(app)
    watched.obs.install(app)
    if when == "after":
        other(app)
    if when == "running":
        await answers(app, "/first")
        other(app)
    assert await answers(app, *PAGES) == [(200, False)] * len(PAGES)
    assert await answers(app, "/", "/metricsx", "/monitoring/mine") == [(200, True)] * 3


@pytest.mark.parametrize("order", list(permutations(["catch all", "pages", "middleware"])))
@pytest.mark.parametrize(("prefix", "nested"), [("", False), ("/ops/{team}", True)])
async def test_an_included_router_is_found_first(watch, order, prefix, nested):
    """Also where the router was included by hand, below prefixes and in another router."""
    watched = watch()
    app = FastAPI()
    for step in order:
        if step == "catch all":
            catch_all(app)
        elif step == "middleware":
            app.add_middleware(ObservabilityMiddleware, observability=watched.obs)
        else:
            outer = APIRouter()
            outer.include_router(watched.obs.router, prefix=prefix)
            app.include_router(outer if nested else watched.obs.router, prefix="" if nested else prefix)
    below = prefix.replace("{team}", "tea")
    assert await answers(app, *(below + page for page in PAGES)) == [(200, False)] * len(PAGES)
    assert await answers(app, "/other") == [(200, True)]


async def test_around_an_app_that_has_our_router(watch):
    """The middleware around the app finds the router through what is between them."""
    watched = watch()
    app = FastAPI()
    wrapped = ObservabilityMiddleware(app, observability=watched.obs)
    catch_all(app)
    app.include_router(watched.obs.router)
    assert await answers(wrapped, *PAGES) == [(200, False)] * len(PAGES)


async def test_a_route_added_by_the_lifespan(watch):
    """What the app's own lifespan adds comes after our pages, our router among it."""
    watched = watch()

    @asynccontextmanager
    async def lifespan(app):
        catch_all(app)
        app.include_router(watched.obs.router)
        yield

    app = FastAPI(lifespan=lifespan)
    app.add_middleware(ObservabilityMiddleware, observability=watched.obs)
    async with app.router.lifespan_context(app):
        await drive(app, {"type": "lifespan", "state": {}}, [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])
        assert await answers(app, *PAGES) == [(200, False)] * len(PAGES)


async def test_other_methods_and_websockets_are_the_apps(watch):
    """A page takes GET and HEAD; what else the app has at its path goes on as without us."""
    watched = watch()
    app = FastAPI()
    app.router.routes.append(Route("/metrics", theirs, methods=["POST"]))

    @app.websocket("/metrics")
    async def socket(websocket) -> None:
        await websocket.close()

    watched.obs.install(app)
    assert await answers(app, "/metrics", method="POST") == [(200, True)]
    assert (await answers(app, "/monitoring/health", method="POST"))[0][0] == 405
    sent = (await drive(app, http_scope("/metrics", type="websocket"), [{"type": "websocket.connect"}])).sent
    assert sent[0]["type"] == "websocket.close"
    assert not [line for line in watched.lines if line["level"] == "warn"]


@pytest.mark.parametrize("kind", [FastAPI, Starlette])
async def test_whoever_walks_the_routes_finds_plain_ones(watch, kind):
    """A middleware that looks for its template among the app's routes finds ours as well."""
    watched = watch()
    app = kind(routes=[Route("/mine/{x}", theirs), WebSocketRoute("/ws", theirs)])
    seen = []

    class Walks:
        def __init__(self, app) -> None:
            self.app = app

        async def __call__(self, scope, receive, send) -> None:
            routes = scope["app"].routes
            seen.append(next((route.path for route in routes if route.matches(scope)[0] is Match.FULL), None))
            await self.app(scope, receive, send)

    app.add_middleware(Walks)
    watched.obs.install(app)
    assert all(isinstance(route, Route) for route in app.routes if route.path.startswith(("/metrics", "/monitoring")))
    assert [status for status, _ in await answers(app, "/mine/3", *PAGES, "/nowhere")] == [200] * (1 + len(PAGES)) + [404]
    assert seen == ["/mine/{x}", *PAGES, None]
    assert watched.access[-1]["route"] is None
    assert "/metrics" not in getattr(app, "openapi", dict)().get("paths", {})


@pytest.mark.parametrize(
    "taken", [[Route("/metrics", theirs)], [Mount("/metrics", routes=[]), Mount("/monitoring", routes=[])]]
)
async def test_a_path_that_the_app_has_too_is_said_once(watch, taken):
    """Whoever had the path before learns at the start that it is ours now, and what to change."""
    watched = watch()
    app = FastAPI(routes=[*taken, Route("/monitoring/{x:path}", theirs), Mount("/other", routes=[])])
    watched.obs.install(app)
    for _ in range(2):
        assert await answers(app, *PAGES) == [(200, False)] * len(PAGES)
    said = [line for line in watched.lines if line["level"] == "warn"]
    assert [line["path"] for line in said] == [route.path for route in taken]
    assert all("change metrics.path or monitoring.prefix" in line["message"] for line in said)


async def test_a_mounted_app_has_its_pages_below_its_mount(watch):
    """Installed into an app that is mounted, behind a proxy, they are found first there, and nowhere else."""
    watched = watch()
    app, sub = FastAPI(), FastAPI()
    catch_all(sub)
    watched.obs.install(sub)
    app.mount("/sub", sub)
    catch_all(app)
    assert await answers(app, "/sub/metrics", "/sub/x", "/metrics") == [(200, False), (200, True), (200, True)]


@pytest.mark.parametrize("included", [False, True])
async def test_a_request_to_the_app_asks_no_page(watch, included):
    """The app's own requests are matched with none of our routes, however many there are and whoever came first."""
    watched = watch()
    app = FastAPI()
    asked = []

    class Counts(Route):
        def matches(self, scope):
            asked.append(scope["path"])
            return super().matches(scope)

    watched.obs.router.routes[:] = [Counts(page.path, page.endpoint) for page in watched.obs.router.routes]
    if included:
        app.include_router(watched.obs.router)
        app.add_middleware(ObservabilityMiddleware, observability=watched.obs)
    else:
        watched.obs.install(app)
    app.router.routes.append(Route("/mine", theirs))
    assert await answers(app, "/mine") == [(200, True)]
    assert asked == []
    assert await answers(app, "/metrics") == [(200, False)]


class Unreadable(BaseRoute):
    """A route of an application's own kind, which says nothing about itself."""

    @property
    def path(self) -> str:
        raise RuntimeError

    app = endpoint = methods = path_regex = path
    path_format = None
    """FastAPI reads it itself."""

    def matches(self, scope):
        return (Match.FULL, {}) if scope["path"] == "/own" else (Match.NONE, {})

    async def handle(self, scope, receive, send):
        await PlainTextResponse("theirs")(scope, receive, send)


class Listed(Unreadable):
    """One that has several paths."""

    path = ("/metrics", "/own")


@pytest.mark.parametrize("added", [False, True])
@pytest.mark.parametrize("kind", [Unreadable, Listed])
async def test_routes_of_another_kind_do_not_matter(watch, kind, added):
    """Our pages are found beside routes that cannot be read; no request goes unseen, and nothing of ours fails."""
    watched, app = watch(), FastAPI()
    app.router.routes += [kind(), Route("/mine", theirs)]
    if added:
        app.add_middleware(ObservabilityMiddleware, observability=watched.obs)
        app.include_router(watched.obs.router)
    else:
        watched.obs.install(app)
    assert await answers(app, "/own", "/mine", "/metrics") == [(200, True), (200, True), (200, False)]
    assert [line["route"] for line in watched.access if line["path"] in ("/own", "/mine")] == [None, "/mine"]
    assert watched.obs.internal_errors.counts == {}

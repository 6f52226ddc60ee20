"""Route templates over every kind of routing; run with several versions of FastAPI."""

from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import httpx
import pytest
from fastapi import APIRouter, FastAPI, WebSocket, routing
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import PlainTextResponse, RedirectResponse
from starlette.routing import Host, Mount, Route, Router
from starlette.staticfiles import StaticFiles
from support import client, drive, http_scope

from sage_fastapi_obs import ObservabilityMiddleware
from sage_fastapi_obs.request.route import UNKNOWN_MOUNT, RouteTemplates


async def answer(request) -> PlainTextResponse:
    return PlainTextResponse("x")


def build_app(folder: Path, **options: Any) -> FastAPI:
    """Build an app with every kind of routing, and endpoints that say 404 and 307 themselves."""
    app = FastAPI(**options)
    app.add_api_route("/gone/{item}", lambda item: PlainTextResponse("gone", 404))
    app.add_api_route("/moved/{item}", lambda item: RedirectResponse("/elsewhere", 307))
    inner = APIRouter(prefix="/inner")
    inner.add_api_route("/{x}", lambda x: x)
    outer = APIRouter(prefix="/outer")
    outer.include_router(inner)
    app.include_router(outer)
    app.include_router(outer, prefix="/again")
    app.add_api_route("/plain/{item}", lambda item: item)
    app.add_route("/raw/{z}", answer)
    app.add_route("/twin/a", answer)
    app.add_route("/twin/b/{c}", answer)

    sub = FastAPI()
    sub.add_api_route("/leaf/{n}", lambda n: n)
    sub.add_api_route("/gone/{n}", lambda n: PlainTextResponse("gone", 404))
    sub.include_router(inner, prefix="/included")
    app.mount("/sub", sub)
    app.mount("/tenants/{tenant}", sub)
    app.mount("/years/{year:int}", sub)
    app.mount("/static", StaticFiles(directory=folder))
    deep = Mount("/deep/{d}", routes=[Route("/c/{e}", answer)])
    app.mount("/starlette", Router(routes=[Route("/a/{b}", answer), deep]))
    app.router.routes.append(Host("api.example.org", Router(routes=[Route("/hosted/{h}", answer)])))

    @app.websocket("/ws/{room}")
    async def socket(websocket: WebSocket, room: str) -> None:
        await websocket.accept()
        await websocket.close()

    return app


CASES = [
    ("GET", "/gone/3", 404, "/gone/{item}"),
    ("GET", "/moved/3", 307, "/moved/{item}"),
    ("GET", "/outer/inner/1", 200, "/outer/inner/{x}"),
    ("GET", "/again/outer/inner/1", 200, "/again/outer/inner/{x}"),
    ("GET", "/plain/3", 200, "/plain/{item}"),
    ("POST", "/plain/3", 405, "/plain/{item}"),
    ("HEAD", "/plain/3", 405, "/plain/{item}"),
    ("OPTIONS", "/plain/3", 405, "/plain/{item}"),
    ("GET", "/plain/3/", 307, None),
    ("GET", "/nowhere", 404, None),
    ("GET", "/raw/3", 200, "/raw/{z}"),
    ("HEAD", "/raw/3", 200, "/raw/{z}"),
    ("GET", "/twin/a", 200, "/twin/a"),
    ("GET", "/twin/b/7", 200, "/twin/b/{c}"),
    ("GET", "/sub/leaf/3", 200, "/sub/leaf/{n}"),
    ("GET", "/sub/included/inner/3", 200, "/sub/included/inner/{x}"),
    ("GET", "/sub/gone/3", 404, "/sub/gone/{n}"),
    ("GET", "/sub/nowhere", 404, None),
    ("POST", "/sub/leaf/3", 405, "/sub/leaf/{n}"),
    ("GET", "/tenants/acme/leaf/3", 200, "/tenants/{tenant}/leaf/{n}"),
    ("GET", "/tenants/leaf/leaf/leaf", 200, "/tenants/{tenant}/leaf/{n}"),
    ("GET", "/tenants/acme/nowhere", 404, None),
    ("GET", "/years/2024/leaf/3", 200, "/years/{year}/leaf/{n}"),
    ("GET", "/starlette/a/1", 200, "/starlette/a/{b}"),
    ("GET", "/starlette/deep/5/c/6", 200, "/starlette/deep/{d}/c/{e}"),
    ("GET", "/static/page.txt", 200, "/static/{path}"),
    ("GET", "/static/nowhere", 404, "/static/{path}"),
    ("GET", "/docs", 200, "/docs"),
    ("GET", "/openapi.json", 200, "/openapi.json"),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Make a folder with one static file."""
    (tmp_path / "page.txt").write_text("x")
    return tmp_path


def told(watched) -> list[tuple]:
    """Tell what the line and the span of each request have as its route, and what the metrics have."""
    spans = [span.attributes.get("http.route") for span in watched.server_spans]
    labels = {dict(key)["route"] for key in watched.series("http_requests_total")}
    assert labels == {line["route"] or "unmatched" for line in watched.access}
    return list(zip([line["route"] for line in watched.access], spans, strict=True))


@pytest.mark.skipif(version("fastapi") < "0.142", reason="this FastAPI has no telemetry of its own")
@pytest.mark.parametrize("copied", [False, True])
async def test_the_span_of_fastapi_says_the_same(watch, folder, copied):
    """Adopted, its span has the route of the line and of the metrics, and the name that goes with it."""
    watched = watch()
    app = build_app(folder, telemetry={"tracer_provider": watched.provider, "operation_spans": False})
    if copied:
        copying(app)
    watched.obs.install(app)
    async with client(app) as c:
        for method, path, *_ in CASES:
            await c.request(method, path)
    found = told(watched)
    assert all(ours == theirs for ours, theirs in found), found
    assert all(ours == route for (ours, _), (*_, route) in zip(found, CASES, strict=True) if route is not None)
    assert all(span.name.partition(" ")[2] == span.attributes.get("http.route", "") for span in watched.server_spans)


FRONTENDS = [
    ("/api/x", "/api/x"),
    ("/", "/{path}"),
    ("/a.js", "/{path}"),
    ("/a/b/c", "/{path}"),
    ("//a.js", "/{path}"),
    ("/ui", "/ui/{path}"),
    ("/ui/", "/ui/{path}"),
    ("/ui/a.js", "/ui/{path}"),
    ("/v1/docs/a.js", "/v1/docs/{path}"),
    ("/sub/web/a.js", "/sub/web/{path}"),
    ("/t/tea/web/a.js", "/t/{team}/web/{path}"),
]


@pytest.mark.skipif(not hasattr(FastAPI, "frontend"), reason="this FastAPI has no frontends")
@pytest.mark.parametrize("copied", [False, True])
@pytest.mark.parametrize("telemetry", [False, True])
@pytest.mark.parametrize("root_path", ["", "/proxied"])
async def test_frontends_are_routes(watch, folder, copied, telemetry, root_path):
    """The pages of `frontend()` have its path as their route, whether there is a file or none."""
    watched = watch()
    (folder / "a.js").write_text("x")
    app = FastAPI(telemetry={"tracer_provider": watched.provider, "operation_spans": False} if telemetry else None)
    app.add_api_route("/api/x", lambda: 1)
    app.frontend("/", directory=folder)
    app.frontend("/ui", directory=folder)
    router, sub = APIRouter(prefix="/v1"), FastAPI()
    router.frontend("/docs", directory=folder)
    app.include_router(router)
    sub.frontend("/web", directory=folder)
    app.mount("/sub", sub)
    app.mount("/t/{team}", sub)
    if copied:
        copying(app)
    watched.obs.install(app)
    transport = httpx.ASGITransport(app, root_path=root_path)
    async with httpx.AsyncClient(transport=transport, base_url="http://testserver") as c:
        for path, _ in FRONTENDS:
            await c.get(root_path + path)
    found = told(watched)
    assert [ours for ours, _ in found] == [route for _, route in FRONTENDS]
    assert [theirs for _, theirs in found] == [(root_path if telemetry else "") + route for _, route in FRONTENDS]


@pytest.mark.parametrize("root_path", ["", "/proxied"])
async def test_every_signal_has_the_whole_template(watch, folder, root_path):
    """Label, span and line have the template with all prefixes; a proxy's root path is no part of it."""
    watched = watch()
    app = build_app(folder)
    watched.obs.install(app)
    transport = httpx.ASGITransport(app, root_path=root_path)
    async with httpx.AsyncClient(transport=transport, base_url="http://testserver") as c:
        statuses = [(await c.request(method, root_path + path)).status_code for method, path, _, _ in CASES]
    assert statuses == [status for _, _, status, _ in CASES]
    assert [line["route"] for line in watched.access] == [route for *_, route in CASES]
    assert [span.attributes.get("http.route") for span in watched.server_spans] == [route for *_, route in CASES]
    names = [f"{method} {route}" if route else method for method, _, _, route in CASES]
    assert [span.name for span in watched.server_spans] == names
    labels = {dict(key)["route"] for key in watched.series("http_requests_total")}
    assert labels == {route or "unmatched" for *_, route in CASES}


async def test_host_routes(watch, folder):
    """A route under a host is a route."""
    watched = watch()
    app = build_app(folder)
    watched.obs.install(app)
    async with client(app, headers={"host": "api.example.org"}) as c:
        assert (await c.get("/hosted/1")).status_code == 200
    assert watched.access[0]["route"] == "/hosted/{h}"


async def test_websocket_routes(watch, folder):
    """A websocket's route has its template."""
    watched = watch()
    app = build_app(folder)
    watched.obs.install(app)
    await drive(app, http_scope("/ws/tea", type="websocket"), [{"type": "websocket.connect"}])
    assert watched.access[0]["route"] == "/ws/{room}"


async def test_a_preflight_answered_by_a_middleware_has_no_route(watch, folder):
    """Nobody routed it, and its path is no label."""
    watched = watch()
    app = build_app(folder)
    app.add_middleware(CORSMiddleware, allow_origins=["*"])
    watched.obs.install(app)
    async with client(app) as c:
        headers = {"origin": "http://a", "access-control-request-method": "GET"}
        assert (await c.options("/plain/3", headers=headers)).status_code == 200
    assert watched.access[0]["route"] is None


class CopiesScope:
    """A middleware that keeps what the router found to itself."""

    def __init__(self, app) -> None:
        self.app = app

    async def __call__(self, scope, receive, send) -> None:
        await self.app(dict(scope), receive, send)


def copying(app, *, sub_apps_too: bool = True):
    """Add such a middleware to an app, and to those mounted in it."""
    app.add_middleware(CopiesScope)
    mounted = {id(route.app): route.app for route in app.routes if isinstance(route, Mount)}
    for sub_app in mounted.values():
        if sub_apps_too and isinstance(sub_app, FastAPI):
            sub_app.add_middleware(CopiesScope)
    return app


@pytest.mark.parametrize("sub_apps_too", [False, True])
async def test_a_copied_scope_has_the_same_routes(watch, folder, sub_apps_too):
    """Where a middleware hides what the router found, the route is found once more: also that of a 404, a 405 and a 307."""
    watched = watch()
    app = copying(build_app(folder), sub_apps_too=sub_apps_too)
    watched.obs.install(app)
    async with client(app) as c:
        for _ in range(2):
            assert [(await c.request(method, path)).status_code for method, path, *_ in CASES] == [one[2] for one in CASES]
    assert [line["route"] for line in watched.access] == [route for *_, route in CASES] * 2


async def test_copies_below_a_mount(watch):
    """The middleware of a mount, and one around a mounted app, hide nothing either."""
    watched = watch()
    inner = Router(routes=[Route("/leaf/{n}", answer)])
    app = FastAPI()
    app.mount("/around/{a}", CopiesScope(CopiesScope(inner)))
    app.router.routes.append(Mount("/own/{a}", app=CopiesScope(inner)))
    app.mount("/files", CopiesScope(PlainTextResponse("x")))
    watched.obs.install(app)
    async with client(app) as c:
        for path in ("/around/1/leaf/2", "/own/1/leaf/2", "/own/1/nowhere", "/files/a"):
            await c.get(path)
    assert [line["route"] for line in watched.access] == ["/around/{a}/leaf/{n}", "/own/{a}/leaf/{n}", None, "/files/{path}"]


class Endless(Route):
    """A route that counts who asks it, and with what."""

    asked: ClassVar[list[str]] = []

    def matches(self, scope):
        self.asked.append(scope["path"])
        return super().matches(scope)


async def test_what_is_matched_anew_is_remembered_within_bounds(watch):
    """A copied scope costs one more look per path; paths that nobody asks twice do not fill the memory."""
    watched = watch()
    app = FastAPI()
    app.router.routes.append(Endless("/r/{x}", answer))
    app.add_middleware(CopiesScope)
    watched.obs.install(app)
    async with client(app) as c:
        Endless.asked.clear()
        for _ in range(5):
            await c.get("/r/1")
        assert Endless.asked == ["/r/1"] * 6
        for number in range(1100):
            await c.get(f"/r/{number}")
        await c.get("/r/" + "x" * 10_000)
    remembered = app.middleware_stack._routes._remembered
    assert len(remembered) <= 1024
    assert all(len(path) < 1000 for _, _, path, *_ in remembered)
    assert {line["route"] for line in watched.access} == {"/r/{x}"}


class Counting(Route):
    """A route that counts how often it is asked."""

    asked = 0

    def matches(self, scope):
        type(self).asked += 1
        return super().matches(scope)


async def test_routes_are_matched_once(watch):
    """The router's own match is used: no route is asked more often than without us."""
    routes = [Counting(f"/r{number}/{{x}}", answer) for number in range(50)]
    app = FastAPI()
    app.router.routes.extend(routes)
    asked = []
    for outermost in (app, ObservabilityMiddleware(app, observability=watch().obs)):
        Counting.asked = 0
        async with client(outermost) as c:
            for _ in range(3):
                assert (await c.get("/r49/1")).status_code == 200
        asked.append(Counting.asked)
    assert asked[0] == asked[1] == 150


def test_a_mount_nobody_knows_is_never_its_path():
    """A prefix that no mount of the app explains is one constant value."""

    async def leaf(scope, receive, send) -> None: ...

    found = RouteTemplates(leaf).template(
        {"type": "http", "path": "/secret/a", "root_path": "/secret", "app_root_path": "", "endpoint": leaf}
    )
    assert found == f"{UNKNOWN_MOUNT}/{{path}}"


async def test_nested_mounts_may_repeat_a_parameter(watch):
    """One name twice in nested mounts makes no pattern, and still no path."""
    watched = watch()
    app = FastAPI()
    app.mount("/a/{x}", Router(routes=[Mount("/b/{x}", routes=[Route("/c", answer)])]))
    watched.obs.install(app)
    async with client(app) as c:
        assert (await c.get("/a/1/b/2/c")).status_code == 200
    assert watched.access[0]["route"] == f"{UNKNOWN_MOUNT}/c"


@pytest.mark.skipif(not hasattr(APIRouter(), "mount"), reason="this FastAPI has no mount on routers")
async def test_a_mount_inside_an_included_router(watch, folder):
    """Where FastAPI follows it, its template has both prefixes; where it does not, nothing matched."""
    watched = watch()
    sub = FastAPI()
    sub.add_api_route("/leaf/{n}", lambda n: n)
    router = APIRouter()
    router.mount("/m/{k}", sub)
    app = FastAPI()
    app.include_router(router, prefix="/included")
    watched.obs.install(app)
    async with client(app) as c:
        status = (await c.get("/included/m/7/leaf/3")).status_code
    assert watched.access[0]["route"] == ("/included/m/{k}/leaf/{n}" if status == 200 else None)


@pytest.mark.skipif(not hasattr(routing, "_FASTAPI_EFFECTIVE_ROUTE_CONTEXT_KEY"), reason="this FastAPI keeps no such context")
async def test_a_fastapi_that_keeps_its_context_elsewhere(watch, folder, monkeypatch):
    """Where the context of a route is not found, templates may lack the prefix of a router, and are never paths."""
    monkeypatch.setattr(routing, "_FASTAPI_EFFECTIVE_ROUTE_CONTEXT_KEY", "renamed")
    watched = watch()
    app = build_app(folder)
    watched.obs.install(app)
    async with client(app) as c:
        statuses = [(await c.get(path)).status_code for path in ("/outer/inner/7", "/plain/7", "/sub/leaf/3", "/nowhere")]
    assert statuses == [200, 200, 200, 404]
    routes = [line["route"] for line in watched.access]
    assert (routes[0] or "").endswith("/{x}")
    assert routes[1:] == ["/plain/{item}", "/sub/leaf/{n}", None]
    assert watched.obs.faults.counts == {}

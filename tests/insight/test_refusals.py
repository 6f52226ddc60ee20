"""Why requests are refused and fail: what was not valid, which line raised; handlers of the app notice nothing of it."""

import asyncio
import gc
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from fastapi import APIRouter, Body, Depends, FastAPI, Header, HTTPException, Request, Response, WebSocket
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import HTTPBearer
from hypothesis import given
from hypothesis import strategies as st
from pydantic import AliasChoices, AliasPath, BaseModel, ConfigDict, Field, create_model, field_validator
from pydantic_core import PydanticCustomError
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route
from support import Watched, client, drive, http_scope, samples

from sage_fastapi_obs import Observability, ObservabilityMiddleware, Settings
from sage_fastapi_obs.insight.validation import DeclaredNames, Problems

HERE = "tests/insight/test_refusals.py"
SECRET = "s3cr3t"
METRIC = "http_validation_errors_total"
Watch = Callable[..., Watched]


@pytest.fixture(autouse=True)
def without_collector() -> Iterator[None]:
    """Keep the garbage collector away: what it takes would be another reason."""
    gc.disable()
    yield
    gc.enable()


class Item(BaseModel):
    """A part of an order, which takes no other fields."""

    model_config = ConfigDict(extra="forbid")
    price: float


class Order(BaseModel):
    """What a client sends."""

    items: list[Item]
    counts: dict[int, int] = {}


class OwnError(Exception):
    """One that only the app's handler knows."""


class OwnSubclassError(OwnError):
    """One below it."""


def order_app(**options: Any) -> FastAPI:
    """Build an app that takes orders."""
    app = FastAPI(**options)

    @app.post("/orders")
    async def orders(order: Order, page: int = 1) -> None:
        """Take an order."""

    return app


async def refused(watched: Watched, app: Any, *requests: tuple[str, str], **options: Any) -> list[dict[str, Any]]:
    """Send requests to a watched app, and return their lines."""
    async with watched.obs, client(app) as http:
        for method, path in requests:
            await http.request(method, path, **options)
    assert watched.obs.internal_errors.counts == {}
    return watched.access


async def test_a_422_says_what_was_not_valid_and_where(watch: Watch) -> None:
    """The line of a refused request has location and kind of each error, by declared names; a counter has them too."""
    watched, app = watch(), order_app()
    watched.obs.install(app)
    body = {"items": [{"price": SECRET}, {SECRET: 1}, {}], "counts": {SECRET: 1, "1": SECRET}}
    line, *_ = await refused(watched, app, ("POST", f"/orders?page={SECRET}"), json=body)
    assert line["validation"] == [
        "query.page: int_parsing",
        "body.items.*.price: float_parsing",
        "body.items.*.price: missing",
        "body.items.*.*: extra_forbidden",
        "body.counts.*.[key]: int_parsing",
        "body.counts.*: int_parsing",
    ]
    assert line["cause"] == "validation"
    assert line["why"] == [
        "refused: query.page: int_parsing, body.items.*.price: float_parsing, body.items.*.price: missing, and 3 more"
    ]
    assert watched.value(METRIC, route="/orders", location="body.items.*.price", kind="missing") == 1
    assert len(watched.series(METRIC)) == 6


async def on_error(request: Request, error: Exception) -> Response:
    """Answer as an app's own handler does, without any of it."""
    return JSONResponse({"handled": type(error).__name__}, 400)


def on_error_in_a_thread(request: Request, error: Exception) -> Response:
    """Answer so, in a thread."""
    name = threading.current_thread().name
    return JSONResponse({"handled": type(error).__name__, "in": "loop" if name == "MainThread" else "pool"}, 400)


async def on_error_with_success(request: Request, error: Exception) -> Response:
    """Answer that all is well."""
    return JSONResponse({"handled": type(error).__name__}, 200)


def by_construction(handler: Any) -> FastAPI:
    return order_app(exception_handlers={RequestValidationError: handler})


def by_decorator(handler: Any) -> FastAPI:
    app = order_app()
    app.exception_handler(RequestValidationError)(handler)
    return app


def for_a_superclass(handler: Any) -> FastAPI:
    app = order_app()
    del app.exception_handlers[RequestValidationError]
    app.add_exception_handler(ValueError, handler)
    app.exception_handlers[RequestValidationError.__mro__[1]] = handler
    return app


HANDLERS = [on_error, on_error_in_a_thread, on_error_with_success]
PLACES = [by_construction, by_decorator, for_a_superclass]


@pytest.mark.parametrize("handler", HANDLERS)
@pytest.mark.parametrize("build", PLACES)
@pytest.mark.parametrize("is_late", [False, True])
async def test_handlers_of_the_app_answer_as_without_us(watch: Watch, handler: Any, build: Any, is_late: bool) -> None:
    """Whatever answers a 422: answer and tables are those of the bare app, and the line says why."""
    watched, bare = watch(), build(handler)
    app = order_app() if is_late else build(handler)
    watched.obs.install(app)
    if is_late:
        app.exception_handlers.clear()
        app.exception_handlers.update(bare.exception_handlers)
    async with client(bare) as http:
        expected = await http.post("/orders", json={})
    async with watched.obs, client(app) as http:
        got = await http.post("/orders", json={})
    assert (got.status_code, got.json()) == (expected.status_code, expected.json())
    assert type(app.exception_handlers) is dict
    assert app.exception_handlers == bare.exception_handlers
    assert [line["validation"] for line in watched.access] == [["body.items: missing"]]
    assert watched.value(METRIC, route="/orders", location="body.items", kind="missing") == 1


async def test_an_app_finds_its_very_own_handlers_in_the_scope(watch: Watch) -> None:
    """Who looks into the tables of a scope finds the handlers themselves, and adds nothing to what is known of the request."""
    watched, app, seen = watch(), FastAPI(exception_handlers={OwnError: on_error, 418: on_error_in_a_thread}), list[Any]()
    watched.obs.install(app)

    @app.get("/")
    def look(request: Request) -> None:
        by_class, by_status = request.scope["starlette.exception_handlers"]
        seen.extend([by_class[OwnError], by_class.get(OwnError), by_status[418], OwnError in by_class, 418 in by_status])
        assert isinstance(by_class, dict)

    async with watched.obs, client(app) as http:
        assert (await http.get("/")).status_code == 200
    assert seen == [on_error, on_error, on_error_in_a_thread, True, True]
    assert "why" not in watched.access[0]


async def test_a_handler_that_fails_is_the_exception_of_its_request(watch: Watch) -> None:
    """Where a handler raises, the request has failed with that, and its line still says what was not valid."""
    watched, app = watch(), order_app()
    watched.obs.install(app)

    @app.exception_handler(RequestValidationError)
    async def handler(request: Request, error: RequestValidationError) -> None:
        raise OwnError(SECRET)

    line, *_ = await refused(watched, app, ("POST", "/orders"), json={})
    assert line["why"] == [
        "refused: body.items: missing",
        f"raised {OwnError.__module__}.OwnError at {place('raise OwnError(SECRET)')}",
    ]
    assert line["error_type"].endswith("OwnError")


def place(source: str) -> str:
    """Return how the first line of this file with some text is written."""
    lines = Path(__file__).read_text().split("\n")
    return f"{HERE}:{next(number for number, line in enumerate(lines, 1) if source in line and 'place(' not in line)}"


async def test_apps_in_an_app_say_it_too(watch: Watch) -> None:
    """Apps that are mounted, also in wrappers and in each other, have handlers of their own, which are seen as well."""
    watched, app, inner, innermost = watch(), FastAPI(), order_app(), order_app()
    innermost.add_exception_handler(RequestValidationError, on_error)
    inner.mount("/below", Starlette(routes=[Mount("/here", innermost)]))
    watched.obs.install(app)
    router = APIRouter()
    router.mount("/inner", Wrapper(inner))
    app.include_router(router, prefix="/api")
    app.mount("/app", Wrapper(inner))
    lines = await refused(watched, app, ("POST", "/app/orders"), ("POST", "/app/below/here/orders"), json={})
    assert [(line["status"], line["route"], line["validation"]) for line in lines] == [
        (422, "/app/orders", ["body.items: missing"]),
        (400, "/app/below/here/orders", ["body.items: missing"]),
    ]


class Wrapper:
    """A middleware as people write it."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self.app(scope, receive, send)


class Closed:
    """A middleware that does not say what is in it."""

    def __init__(self, app: Any) -> None:
        self._inside = [app]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self._inside[0](scope, receive, send)


async def test_what_is_mounted_or_hidden_is_seen_from_its_second_refusal_on(watch: Watch) -> None:
    """An app that is mounted while the service runs, or whose layers do not say what is in them, says why from then on."""
    watched, app, late = watch(), order_app(), order_app()
    app.add_middleware(Closed)
    watched.obs.install(app)
    async with watched.obs, client(app) as http:
        await http.post("/orders", json={})
        app.mount("/late", Closed(late))
        await http.post("/late/orders", json={})
        await http.post("/orders", json={})
        await http.post("/late/orders", json={})
    assert ["validation" in line for line in watched.access] == [False, False, True, True]


@pytest.mark.parametrize("enabled", [False, True])
async def test_nothing_is_touched_where_it_is_switched_off(watch: Watch, enabled: bool) -> None:
    """Without insight the tables of the app are the framework's own."""
    watched, app, kinds = watch(insight={"enabled": enabled}), FastAPI(), set[type]()
    watched.obs.install(app)

    @app.get("/")
    def look(request: Request) -> None:
        kinds.update(map(type, request.scope["starlette.exception_handlers"]))

    await refused(watched, app, ("GET", "/"))
    assert (kinds == {dict}) is not enabled


async def test_two_observabilities_do_not_meet() -> None:
    """An app that is mounted in two others is explained by each for its own requests."""
    shared, registries = order_app(), list[Any]()
    for _ in range(2):
        obs, app = Observability(Settings(logging={"enabled": False}, store={"enabled": False})), FastAPI()
        obs.install(app)
        app.mount("/shared", shared)
        async with obs, client(app) as http:
            await http.post("/shared/orders", json={})
        registries.append(samples(obs.registry, METRIC))
    assert [[*found.values()] for found in registries] == [[1.0], [1.0]]


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int


class Dog(BaseModel):
    kind: Literal["dog"]
    tricks: list[int]


class Everything(BaseModel):
    """Declares in many ways."""

    model_config = ConfigDict(extra="forbid", alias_generator=lambda name: name.title())
    pet: Annotated[Cat | Dog, Field(discriminator="kind")]
    number: int | list[int]
    deep: int = Field(validation_alias=AliasChoices("first_name", AliasPath("path_name", "step")))
    own: str

    @field_validator("own")
    @classmethod
    def refuse(cls, value: str) -> str:
        raise PydanticCustomError("own_kind" if len(value) < 20 else value, "no")


async def test_all_that_is_declared_has_its_name(watch: Watch) -> None:
    """Aliases, tags of unions and headers have the names that clients know; what is not declared has none."""
    watched, app = watch(), FastAPI()
    watched.obs.install(app)

    def dependency(x_tenant: Annotated[int, Header()], q: Annotated[int, Field(alias="filter[a]")]) -> None: ...

    @app.post("/{number}", dependencies=[Depends(dependency)])
    async def everything(number: int, one: Everything, other: Annotated[int, Body(alias="otherOne")]) -> None: ...

    one = {"Pet": {"kind": "dog", "tricks": [SECRET]}, "Number": SECRET, "first_name": SECRET, "Own": "x", SECRET: 1}
    requests = [("POST", f"/{SECRET}?filter[a]={SECRET}")]
    line, *_ = await refused(watched, app, *requests, json={"one": one, "otherOne": SECRET}, headers={"x-tenant": SECRET})
    assert set(line["validation"]) == {
        "path.number: int_parsing",
        "header.x-tenant: int_parsing",
        "query.filter[a]: int_parsing",
        "body.one.Pet.dog.tricks.*: int_parsing",
        "body.one.Number.int: int_parsing",
        "body.one.Number.*: list_type",
        "body.one.first_name: int_parsing",
        "body.one.Own: own_kind",
        "body.one.*: extra_forbidden",
        "body.otherOne: int_parsing",
    }


WORDS_OF_SCHEMAS = (
    *("name", "type", "fields", "choices", "config", "metadata", "default", "default_factory", "function"),
    *("serialization", "alias", "validation_alias", "cls", "cls_name", "schema_ref", "items_schema", "mode"),
)


async def test_fields_may_be_named_like_parts_of_a_schema(watch: Watch) -> None:
    """A field called `name`, `type` or `config` is one like others, and what is below it keeps its names too."""
    watched, app = watch(), FastAPI()
    watched.obs.install(app)
    deepest: Any = create_model("Deepest", name=(int, ...), kind=(int, ...))

    def add(word: str) -> None:
        model: Any = create_model(f"With_{word}", **{word: (list[deepest], ...)})  # type: ignore[call-overload]

        @app.post(f"/{word}")
        async def take(body: model) -> None: ...

    for word in WORDS_OF_SCHEMAS:
        add(word)
    async with watched.obs, client(app) as http:
        for word in WORDS_OF_SCHEMAS:
            await http.post(f"/{word}", json={word: [{"kind": SECRET}]})
    assert {line["route"].strip("/"): line["validation"] for line in watched.access} == {
        word: [f"body.{word}.*.name: missing", f"body.{word}.*.kind: int_parsing"] for word in WORDS_OF_SCHEMAS
    }


@given(
    st.recursive(
        st.one_of(st.none(), st.booleans(), st.integers(), st.just(SECRET)),
        lambda inner: st.one_of(
            st.lists(inner, max_size=3),
            st.dictionaries(
                st.sampled_from(["items", "price", "counts", SECRET, f"{SECRET}.price", f"items: {SECRET}"]), inner, max_size=4
            ),
        ),
        max_leaves=12,
    )
)
def test_no_key_or_value_of_a_client_is_in_a_location(body: Any) -> None:
    """Whatever a client sends, only declared words and asterisks are shown."""
    app = order_app()
    route = next(route for route in app.routes if getattr(route, "path", "") == "/orders")

    async def post() -> None:
        async with client(app) as http:
            response = await http.post("/orders", json=body)
        errors = response.json()["detail"] if response.status_code == 422 else []
        shown = Problems(errors, DeclaredNames().of(route)).shown()
        assert bool(shown) is (response.status_code == 422)
        assert SECRET not in " ".join(shown)
        assert all(len(text) < 300 for text in shown)

    asyncio.run(post())


def test_many_errors_are_bounded() -> None:
    """Of a hundred thousand errors ten are shown and the rest is counted; deep locations and odd ones are cut."""
    errors = [{"loc": ("body", "items", number), "type": f"kind_{number % 17}"} for number in range(100_000)]
    problems = Problems(errors, frozenset({"body", "items"}))
    shown = problems.shown()
    assert len(problems.found) == 10
    assert shown[0] == "body.items.*: kind_0"
    assert shown[10] == f"and {100_000 - sum(number % 17 < 10 for number in range(200))} more"
    assert Problems([{"loc": ("body",) * 5_000, "type": "x"}], frozenset({"body"})).found == [("body." * 10 + "…", "x")]
    odd = [None, {}, {"loc": 3, "type": 4}, {"loc": (b"x", None), "type": "has a space"}, {"loc": [], "type": "x" * 65}]
    assert Problems(odd, frozenset()).shown() == ["*: other", "*.*: other"]


async def test_a_response_that_does_not_fit_says_where(watch: Watch) -> None:
    """A response model that does not fit is told of in the same way."""
    watched, app = watch(), FastAPI()
    watched.obs.install(app)

    @app.get("/", response_model=Item)
    def answer() -> Any:
        return {"price": SECRET, SECRET: 1}

    line, *_ = await refused(watched, app, ("GET", "/"))
    assert line["why"] == ["the response does not fit its model: response.price: float_parsing, response.*: extra_forbidden"]
    assert (line["cause"], line["status"]) == ("response_validation", 500)
    assert watched.value(METRIC, route="/", location="response.price", kind="float_parsing") == 1


async def test_a_socket_that_is_refused_says_why(watch: Watch) -> None:
    """A handshake whose parameters are not valid is refused, with the reason on its line."""
    watched, app = watch(), FastAPI()
    watched.obs.install(app)

    @app.websocket("/socket")
    async def socket(websocket: WebSocket, page: int) -> None:
        raise AssertionError

    scope = {**http_scope("/socket"), "type": "websocket", "query_string": f"page={SECRET}".encode(), "subprotocols": []}
    async with watched.obs:
        await drive(app, scope, [{"type": "websocket.connect"}])
    assert watched.access[0]["validation"] == ["query.page: int_parsing"]
    assert watched.value(METRIC, route="/socket", location="query.page", kind="int_parsing") == 1


def refusing_app() -> FastAPI:
    """Build an app that refuses and fails in many ways."""
    app = FastAPI(exception_handlers={OwnError: on_error})

    def guard() -> None:
        raise HTTPException(403, SECRET)

    @app.get("/guarded", dependencies=[Depends(guard)])
    def guarded() -> None: ...

    @app.get("/own")
    async def own() -> None:
        raise OwnSubclassError(SECRET)

    @app.get("/key")
    def key() -> None:
        {}[SECRET]

    @app.get("/library")
    async def library() -> None:
        int(SECRET)

    @app.get("/group")
    async def group() -> None:
        async def fail() -> None:
            raise KeyError(SECRET)  # in a group

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(fail())

    @app.get("/unavailable")
    def unavailable() -> None:
        raise HTTPException(503)

    @app.get("/returned")
    def returned() -> Response:
        return Response(status_code=409)

    @app.get("/bearer", dependencies=[Depends(HTTPBearer())])
    def bearer() -> None: ...

    @app.get("/cause")
    def cause() -> None:
        exec(f"try:\n  1 / 0\nexcept Exception as error:\n  raise {SECRET!r} and OSError from error", {})

    return app


REFUSALS = {
    "/guarded": (f"answered 403 at {place('raise HTTPException(403, SECRET)')}", "refused"),
    "/own": (f"answered 400 at {place('raise OwnSubclassError(SECRET)')}", "refused"),
    "/key": (f"raised KeyError at {place('{}[SECRET]')}", "exception"),
    "/library": (f"raised ValueError at {place('int(SECRET)')}", "exception"),
    "/group": (f"raised KeyError at {place('raise KeyError(SECRET)  # in a group')}", "exception"),
    "/unavailable": (f"answered 503 at {place('raise HTTPException(503)')}", "refused"),
    "/returned": ("answered 409, without an exception", "refused"),
    "/bearer": ("answered 401 in fastapi/security/http.py", "refused"),
    "/cause": (f"raised OSError at {place('exec(')}", "exception"),
    f"/{SECRET}": ("no route matches", "refused"),
}


@pytest.mark.parametrize("path", REFUSALS)
async def test_a_refusal_names_the_line_of_the_application(watch: Watch, path: str) -> None:
    """A request that was refused or has failed says by which line of the application, and quotes nothing of the exception."""
    watched, app = watch(), refusing_app()
    watched.obs.install(app)
    line, *_ = await refused(watched, app, ("GET", path))
    assert (line["why"], line["cause"]) == ([REFUSALS[path][0]], REFUSALS[path][1])


@pytest.mark.parametrize(("method", "said"), [("PUT", "PUT"), ("S3CR3T", None)])
async def test_a_method_that_a_route_does_not_have_is_named_if_it_is_known(watch: Watch, method: str, said: str | None) -> None:
    """A 405 names the method, but not any word that a client makes up."""
    watched, app = watch(), refusing_app()
    watched.obs.install(app)
    line, *_ = await refused(watched, app, (method, "/own"))
    assert line["why"] == [f"the route has no method {said}" if said else "the route has no such method"]


async def test_ids_that_are_refused_say_so(watch: Watch) -> None:
    """A request that we refuse ourselves says why."""
    watched, app = watch(http={"incoming_ids": "reject"}), refusing_app()
    watched.obs.install(app)
    line, *_ = await refused(watched, app, ("GET", "/own"), headers={"X-Request-ID": "{s3cr3t}"})
    assert line["why"][0].startswith("refused: x-request-id must be")


async def test_any_asgi_app_says_what_it_can(watch: Watch) -> None:
    """An app without FastAPI names the line of its exception, and the status of its answers."""
    watched = watch()

    async def endpoint(request: Any) -> Response:
        raise LookupError(SECRET)

    starlette = Starlette(routes=[Route("/starlette", endpoint)])

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/starlette":
            await starlette(scope, receive, send)
        else:
            await PlainTextResponse("no", 403)(scope, receive, send)

    lines = await refused(watched, ObservabilityMiddleware(app, observability=watched.obs), ("GET", "/starlette"), ("GET", "/"))
    assert [line["why"] for line in lines] == [
        [f"raised LookupError at {place('raise LookupError(SECRET)')}"],
        ["answered 403, without an exception"],
    ]


async def test_a_client_that_left_was_not_refused(watch: Watch) -> None:
    """Nothing is said of why a request was refused that its client has given up."""
    watched, app = watch(), FastAPI()
    watched.obs.install(app)

    @app.get("/")
    async def wait(request: Request) -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        raise HTTPException(418)

    async with watched.obs:
        await drive(app, http_scope("/"))
    assert watched.access[0]["status"] == 499
    assert "why" not in watched.access[0]


async def test_nothing_of_a_request_is_in_any_signal(watch: Watch) -> None:
    """Values, keys, texts of exceptions and headers are in no line, span or metric about refusals."""
    watched, app = watch(monitoring={"access": "open"}), refusing_app()
    app.include_router(order_app().router)
    watched.obs.install(app)
    body = {"items": [{"price": SECRET, SECRET: SECRET}], "counts": {SECRET: SECRET}}
    async with watched.obs, client(app) as http:
        for path in [*REFUSALS][:-1]:
            await http.get(path, headers={"x-secret": SECRET}, params={"q": SECRET})
        await http.post("/orders", json=body, params={"page": SECRET})
        pages = [(await http.get(page)).text for page in ("/metrics", "/monitoring/requests?limit=50")]
    explained = [{name: line[name] for name in ("why", "cause", "validation") if name in line} for line in watched.access]
    assert sum(map(bool, explained)) == 10
    assert SECRET not in str(explained)
    assert SECRET not in pages[0]

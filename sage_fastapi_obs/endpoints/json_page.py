"""What a JSON page is: its path, the model of its query, its handler, and the model of its response.

Pages are plain routes, so that they work in any Starlette app and stay out of the application's OpenAPI. FastAPI writes a
document of their own.
"""

from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeAlias, TypeVar

from fastapi import APIRouter
from fastapi import Query as QueryParameters
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, compile_path

from sage_fastapi_obs.endpoints.background_worker import OneAtATime
from sage_fastapi_obs.field_descriptions import DescribedFields

UNCACHED = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
_FRESH_SECONDS = 1.0
MOST_CACHED = 32
MOST_WAITING = 64
LONGEST_BODY_BYTES = 4_096
MOST_QUERY_BYTES = 16_384
_MOST_PARAMETERS = 64

Body = TypeVar("Body", bound=BaseModel)
Handler: TypeAlias = Callable[[Any, Request], Awaitable[Response]]
"""Answers a request whose query is valid."""
Guard: TypeAlias = Callable[[Request], Response | None]
"""Returns the response to a request that may not see a page, or None."""


class PageQuery(DescribedFields, BaseModel):
    """Query parameters of a page; unknown ones are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ProblemResponse(BaseModel):
    """Why a request was not answered."""

    detail: str


def _allow_everyone(_: Request) -> None:
    """Let everyone see a page."""


@dataclass(frozen=True, slots=True)
class JsonPage:
    """One page."""

    path: str
    """Below `monitoring.prefix`."""
    name: str
    summary: str
    handler: Handler
    response: type[BaseModel]
    query: type[PageQuery] = PageQuery
    guard: Guard = _allow_everyone
    """Asked before the query is read, so that those who may not see a page learn nothing of it, and cannot make it work."""
    other_statuses: Mapping[int, str] = field(default_factory=dict)
    """Statuses besides 200 that come with the same model, and what they mean."""
    problems: Mapping[int, str] = field(default_factory=dict)
    """Statuses that come with a `ProblemResponse`, and what they mean."""

    def route(self, prefix: str) -> Route:
        """Build the route."""
        return Route(f"{prefix}{self.path}", self._answer, name=f"sage_obs_{self.name}")

    async def _answer(self, request: Request) -> Response:
        if (rejection := self.guard(request)) is not None:
            return rejection
        query_string: bytes = request.scope.get("query_string", b"")
        if len(query_string) > MOST_QUERY_BYTES:
            return problem(f"the query is longer than {MOST_QUERY_BYTES} bytes", 414)
        try:
            query = _validated(self.query, query_string)
        except ValueError as error:
            return problem(str(error), 422)
        return await self.handler(query, request)

    def document(self, router: APIRouter, prefix: str) -> None:
        """Add the page to a router, from which FastAPI writes its OpenAPI."""
        model = self.query

        # Without a docstring, which would be the description of the page.
        def endpoint(_query: Annotated[model, QueryParameters()]) -> None:  # type: ignore[valid-type]
            pass

        problems = {414: "The query is too long.", 422: "The parameters are not valid.", **self.problems}
        documented: dict[int | str, dict[str, Any]] = {
            **{status: {"description": text, "model": ProblemResponse} for status, text in problems.items()},
            **{status: {"description": text, "model": self.response} for status, text in self.other_statuses.items()},
        }
        router.add_api_route(
            f"{prefix}{self.path}",
            endpoint,
            operation_id=f"sage_obs_{self.name}",
            summary=self.summary,
            description="",
            response_description="Answered.",
            response_model=self.response,
            responses=documented,
            openapi_extra={"parameters": _path_parameters(self.path)},
        )


def _path_parameters(path: str) -> list[dict[str, Any]]:
    """Describe the parameters in a path, which the endpoints of the document do not take."""
    schema = {"type": "string", "minLength": 1}
    return [{"name": name, "in": "path", "required": True, "schema": schema} for name in compile_path(path)[2]]


def openapi_document(pages: Sequence[JsonPage], prefix: str, title: str) -> dict[str, Any]:
    """Write the OpenAPI document of some pages."""
    router = APIRouter()
    for page in pages:
        page.document(router, prefix)
    return get_openapi(title=title, version="1", routes=router.routes)


def _validated(model: type[PageQuery], query_string: bytes) -> PageQuery:
    """Read a query; raises ValueError that says all that is wrong with it."""
    if query_string.count(b"&") >= _MOST_PARAMETERS:
        raise ValueError(f"there are more than {_MOST_PARAMETERS} parameters")
    pairs = QueryParams(query_string).multi_items()
    if repeated := [name for name, times in Counter(name for name, _ in pairs).items() if times > 1]:
        raise ValueError(f"{min(repeated)[:40]!r} is given more than once")
    try:
        return model.model_validate(dict(pairs))
    except ValidationError as error:
        wrong = error.errors(include_url=False, include_context=False, include_input=False)
        names = ", ".join(model.model_fields) or "none"
        messages = (
            f"{str(one['loc'][0])[:40]!r} is no parameter; there are: {names}"
            if one["type"] == "extra_forbidden"
            else f"{one['loc'][0]}: {one['msg']}"
            for one in wrong
        )
        raise ValueError("; ".join(messages)[:500]) from None


async def read_body(request: Request, model: type[Body], hint: str) -> Body | Response:
    """Read the JSON body of a change; else return a response that says what is wrong, and never repeats what was sent.

    `hint` says what can be sent.
    """
    if (body := await short_body(request, LONGEST_BODY_BYTES)) is None:
        return too_long(LONGEST_BODY_BYTES)
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        wrong = error.errors(include_url=False, include_context=False, include_input=False)
        messages = (f"{'.'.join(map(str, one['loc']))[:40] or 'body'}: {one['msg']}" for one in wrong)
        return problem(f"{'; '.join(messages)[:500]}. {hint}", 422)


class ResponseCache:
    """Makes responses that take some work in a thread, one at a time, and shares each with all who ask within a second."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """`clock`: monotonic seconds."""
        self._clock = clock
        self._bodies: OrderedDict[object, tuple[float, bytes]] = OrderedDict()
        self._one_at_a_time = OneAtATime()

    @property
    def waiting(self) -> int:
        """How many requests of this event loop wait for their turn."""
        return self._one_at_a_time.waiting

    async def response(self, key: object, make: Callable[[], BaseModel]) -> Response:
        """Answer with a model; `key` says what was asked for."""
        if self.waiting >= MOST_WAITING:
            return too_many_waiting()
        return _json(await self._one_at_a_time.run(lambda _: self._body(key, make)))

    def _body(self, key: object, make: Callable[[], BaseModel]) -> bytes:
        made_at, body = self._bodies.get(key, (-_FRESH_SECONDS, b""))
        if body and 0 <= self._clock() - made_at < _FRESH_SECONDS:
            return body
        body = make().model_dump_json().encode()
        self._bodies[key] = (self._clock(), body)
        self._bodies.move_to_end(key)
        if len(self._bodies) > MOST_CACHED:
            self._bodies.popitem(last=False)
        return body


def json_response(model: BaseModel, status: int = 200, *, exclude_none: bool = True) -> Response:
    """Answer with a model, by default without those of its fields that are None."""
    return _json(model.model_dump_json(exclude_none=exclude_none).encode(), status)


async def short_body(request: Request, most_bytes: int) -> bytes | None:
    """Read the body of a request; None where it is longer, of which no more is read."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > most_bytes:
            return None
    return body


def too_long(most_bytes: int) -> Response:
    """Turn a request away because of the length of its body."""
    return problem(f"the body is longer than {most_bytes} bytes", 413)


def too_many_waiting() -> Response:
    """Turn a request away because many others wait for their turn."""
    return problem("too many are waiting", 503, {"Retry-After": "5"})


def problem(detail: str, status: int, headers: Mapping[str, str] | None = None) -> Response:
    """Say why a request is not answered."""
    return JSONResponse({"detail": detail}, status, {**UNCACHED, **(headers or {})})


def _json(body: bytes, status: int = 200) -> Response:
    return Response(body, status, {**UNCACHED, "Content-Type": "application/json"})

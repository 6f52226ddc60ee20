"""Pages that answer a question in JSON: parameters and answers are models, from which their OpenAPI is written as well.

Plain routes rather than FastAPI's own, so that they work in any Starlette app and stay out of the application's OpenAPI.
"""

from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias
from urllib.parse import parse_qsl

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.json_schema import models_json_schema
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from sage_fastapi_obs.endpoints.background_worker import OneAtATime

__all__ = ["MOST_QUERY_BYTES", "UNCACHED", "Answer", "Guard", "Page", "Problem", "Query", "Shared", "openapi_of", "problem"]

UNCACHED = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
FRESH_SECONDS = 1.0
MOST_REMEMBERED = 32
MOST_WAITING = 64
MOST_QUERY_BYTES = 16_384
MOST_PARAMETERS = 64

Answer: TypeAlias = Callable[[Any, Request], Awaitable[Response]]
"""Answers a page's valid parameters."""
Guard: TypeAlias = Callable[[Request], Response | None]
"""Returns the answer to a request that may not see a page, or None."""


class Query(BaseModel):
    """Parameters of a page; unknown ones are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Problem(BaseModel):
    """Why a request was not answered."""

    detail: str


def _open(_: Request) -> None:
    """Let everyone see a page."""


@dataclass(frozen=True, slots=True)
class Page:
    """One page: where it is, what it takes, what it answers."""

    path: str
    name: str
    summary: str
    answer: Answer
    model: type[BaseModel]
    query: type[Query] = Query
    guard: Guard = _open
    """Asked first, so that those who may not see a page learn nothing of its parameters, and cannot make it work."""
    problems: Mapping[int, str] = field(default_factory=dict)
    """Statuses that it may answer with a `Problem`, and why."""
    also: Mapping[int, str] = field(default_factory=dict)
    """Other statuses with which it answers with its model."""

    def route(self) -> Route:
        """Build the route."""

        async def endpoint(request: Request) -> Response:
            refusal = self.guard(request)
            if refusal is not None:
                return refusal
            given: bytes = request.scope.get("query_string", b"")
            if len(given) > MOST_QUERY_BYTES:
                return problem(f"the query is longer than {MOST_QUERY_BYTES} bytes", 414)
            try:
                query = self._asked(given.decode("latin-1"))
            except ValueError as error:
                return problem(str(error), 422)
            return await self.answer(query, request)

        return Route(self.path, endpoint, name=self.name)

    def _asked(self, text: str) -> Query:
        """Read the parameters; raises ValueError with all that is wrong with them."""
        if text.count("&") >= MOST_PARAMETERS:
            raise ValueError(f"there are more than {MOST_PARAMETERS} parameters")
        given = parse_qsl(text, keep_blank_values=True)
        if repeated := [name for name, times in Counter(name for name, _ in given).items() if times > 1]:
            raise ValueError(f"{min(repeated)[:40]!r} is given more than once")
        try:
            return self.query.model_validate(dict(given))
        except ValidationError as error:
            faults = error.errors(include_url=False, include_context=False, include_input=False)
            known = ", ".join(self.query.model_fields) or "none"
            wrong = [
                f"{str(fault['loc'][0])[:40]!r} is no parameter; there are: {known}"
                if fault["type"] == "extra_forbidden"
                else f"{fault['loc'][0]}: {fault['msg']}"
                for fault in faults
            ]
            raise ValueError("; ".join(wrong)[:500]) from None

    def described(self) -> dict[str, Any]:
        """Describe the page as an operation of OpenAPI 3.1."""
        schema = self.query.model_json_schema()
        parameters = [
            {"name": name, "in": "query", "required": False, "description": one.pop("description", ""), "schema": one}
            for name, one in schema.get("properties", {}).items()
        ]
        answers = {200: "Answered.", **self.also}
        problems = {414: "The query is too long.", 422: "The parameters are not valid.", **self.problems}
        return {
            "operationId": self.name,
            "summary": self.summary,
            "parameters": parameters,
            "responses": {
                **{str(status): _response(text, self.model) for status, text in answers.items()},
                **{str(status): _response(text, Problem) for status, text in problems.items() if status not in answers},
            },
        }


class Shared:
    """Answers that take some work: made in a thread, one at a time, and shared by all who ask within a second."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """`clock`: monotonic seconds."""
        self._clock = clock
        self._kept: OrderedDict[object, tuple[float, bytes]] = OrderedDict()
        self._turns = OneAtATime()

    async def response(self, key: object, make: Callable[[], BaseModel]) -> Response:
        """Answer with a model; `key` says what was asked for."""
        if self._turns.waiting >= MOST_WAITING:
            return problem("too many are waiting", 503, {"Retry-After": "5"})
        body = await self._turns.run(lambda _: self._body(key, make))
        return Response(body, headers={**UNCACHED, "Content-Type": "application/json"})

    def _body(self, key: object, make: Callable[[], BaseModel]) -> bytes:
        kept = self._kept.get(key)
        if kept is not None and 0 <= self._clock() - kept[0] < FRESH_SECONDS:
            return kept[1]
        body = make().model_dump_json().encode()
        self._kept[key] = (self._clock(), body)
        self._kept.move_to_end(key)
        while len(self._kept) > MOST_REMEMBERED:
            self._kept.popitem(last=False)
        return body


def problem(detail: str, status: int, headers: Mapping[str, str] | None = None) -> Response:
    """Say why a request is not answered."""
    return JSONResponse({"detail": detail}, status, {**UNCACHED, **(headers or {})})


def openapi_of(pages: Sequence[Page], title: str) -> dict[str, Any]:
    """Write the OpenAPI document of some pages."""
    models: list[type[BaseModel]] = [*{page.model: None for page in pages}, Problem]
    _, definitions = models_json_schema(
        [(model, "serialization") for model in models], ref_template="#/components/schemas/{model}"
    )
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": "1"},
        "paths": {page.path: {"get": page.described()} for page in pages},
        "components": {"schemas": definitions["$defs"]},
    }


def _response(description: str, model: type[BaseModel]) -> dict[str, Any]:
    schema = {"$ref": f"#/components/schemas/{model.__name__}"}
    return {"description": description, "content": {"application/json": {"schema": schema}}}

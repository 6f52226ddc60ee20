"""What FastAPI and Starlette leave in a scope, and keep in their routers, without documenting it.

Checked with FastAPI 0.115 to 0.165 and Starlette 0.37 to 1.10. Where a version lacks something, the documented `scope["route"]`
and `routes` say what they can: a template may then lack the prefix of a router, and is never a path.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from opentelemetry.trace import Span
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.types import Scope


def route_of(scope: Scope) -> Any:
    """Return the route that matched or, since FastAPI 0.137, its context: that has the prefixes of `include_router()`."""
    route = scope.get("route")
    context = scope["fastapi"].get("effective_route_context") if "fastapi" in scope else None
    # An outer router's context stays in the scope when a mounted app routes on, so it must be this route's.
    return route if context is None or getattr(context, "original_route", None) is not route else context


def flattened(routes: Iterable[Any]) -> Iterator[Any]:
    """Yield plain routes; FastAPI >= 0.137 keeps included routers as one object with a context per route."""
    for route in routes:
        if hasattr(route, "effective_route_contexts"):
            for context in route.effective_route_contexts():
                yield getattr(context, "starlette_route", None) or context
        elif callable(readable_attribute(route, "matches")):
            yield route


def frontend_path(scope: Scope) -> str | None:
    """Return the path of the file that FastAPI's `frontend()` serves; None for any other request."""
    path: str | None = scope["fastapi"].get("frontend_path") if "fastapi" in scope else None
    return path


def frontend_scope(app: Any, scope: Scope) -> Scope:
    """Return what FastAPI adds to a scope that no route matches, where a `frontend()` does."""
    match = getattr(getattr(app, "router", app), "_match_low_priority", None)
    found: Scope = {} if match is None else match(scope)[1]
    return found


def native_span(scope: Scope) -> Span | None:
    """Return the server span that FastAPI's own telemetry has open for a request."""
    span: Span | None = getattr(scope.get("fastapi.telemetry"), "span", None)
    return span


def readable_attribute(owner: Any, name: str) -> Any:
    """Read an attribute of an object that anybody may have written; None where that fails."""
    try:
        return getattr(owner, name, None)
    except Exception:
        return None


HANDLERS_KEY = "starlette.exception_handlers"
"""Where a scope has the tables of handlers that its app looks exceptions up in, by class and by status."""
_HANDLER_TABLES = ("_exception_handlers", "_status_handlers")
_MOST_LAYERS = 100


def handler_layers(stack: Any) -> Iterator[ExceptionMiddleware]:
    """Yield the layers of an app that answer exceptions by its handlers, as far as each layer says what is in it."""
    for _ in range(_MOST_LAYERS):
        if stack is None:
            return
        if isinstance(stack, ExceptionMiddleware):
            yield stack
        stack = readable_attribute(stack, "app")


def replace_handlers(layer: ExceptionMiddleware, table: type[dict[Any, Any]]) -> None:
    """Let a layer keep its handlers in another kind of dictionary."""
    for name in _HANDLER_TABLES:
        handlers = getattr(layer, name, None)
        if type(handlers) is dict:
            setattr(layer, name, table(handlers))


def declared_fields(route: Any) -> Iterator[tuple[str, Any]]:
    """Yield what a route of FastAPI reads and returns: each name that an error may have for it, and its schema or None."""
    returned = getattr(route, "response_field", None)
    for field in (*fields_read_by(route), *((returned,) if returned is not None else ())):
        schema = getattr(getattr(field, "_type_adapter", None), "core_schema", None)
        for name in {getattr(field, attribute, None) for attribute in ("name", "alias", "validation_alias")}:
            if isinstance(name, str):
                yield name, schema


def fields_read_by(route: Any) -> Iterator[Any]:
    """Yield what FastAPI knows of each part of a request that a route reads; nothing for routes of others."""
    for each in dependants_of(getattr(route, "dependant", None)):
        for kind in ("path", "query", "header", "cookie", "body"):
            yield from getattr(each, f"{kind}_params", ())


def dependants_of(dependant: Any) -> Iterator[Any]:
    """Yield what FastAPI knows of a route's endpoint, and of all that it depends on; nothing for None."""
    waiting, seen = [dependant], set[int]()
    while waiting:
        each = waiting.pop()
        if each is not None and id(each) not in seen:
            seen.add(id(each))
            yield each
            waiting += getattr(each, "dependencies", ())

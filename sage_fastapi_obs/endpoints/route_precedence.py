"""Routes requests for our pages to them first, before catch-alls, mounts and routes that the app adds later."""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

from fastapi import APIRouter
from starlette.routing import Match, Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from sage_fastapi_obs.request.fastapi_internals import flattened, readable_attribute
from sage_fastapi_obs.request.route import routed_by


class Precedence:
    """Wraps an app's router: a path that may be one of our pages is matched with them first.

    As the first routes of the app, they would be matched with every request.
    """

    def __init__(self, router: ASGIApp, pages: Sequence[Route]) -> None:
        self._router = router
        self._pages = pages
        self._own_router = APIRouter(routes=[*pages])
        self._first_segments = tuple({_first_segment(page.path_format) for page in pages})

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Route a request. Not a coroutine function, so that a request to the app costs one call only.

        What a page does not accept (another method, a websocket) goes to the app, which may have a route for it.
        """
        path: str = scope.get("path", "")
        if root_path := scope.get("root_path"):
            path = path.removeprefix(root_path)
        if path.startswith(self._first_segments) and any(page.matches(scope)[0] is Match.FULL for page in self._pages):
            return self._own_router(scope, receive, send)
        return self._router(scope, receive, send)


def give_precedence(app: Any, pages: APIRouter, prefixes: Sequence[str]) -> set[str]:
    """Route requests to those of our pages first that are among the routes of an app.

    `prefixes`: the paths that our pages are below. Returns the paths of the app's own routes that are hidden by ours.
    """
    owner = routed_by(app)
    router = getattr(owner, "router", owner)
    endpoints = {id(page.endpoint) for page in pages.routes if isinstance(page, Route)}

    def is_ours(route: Any) -> bool:
        return id(readable_attribute(route, "endpoint")) in endpoints or readable_attribute(route, "original_router") is pages

    ours, others = _split(flattened(getattr(router, "routes", ())), is_ours)
    if not ours:
        return set()
    if not isinstance(router.middleware_stack, Precedence):
        router.middleware_stack = Precedence(router.middleware_stack, ours)
        # `Precedence` finds ours, so that they may come last in the list.
        ours_in_list, others_in_list = _split(router.routes, is_ours)
        router.routes[:] = others_in_list + ours_in_list
    taken = {*prefixes, *(page.path for page in ours)}
    paths = ((readable_attribute(route, "path"), route) for route in others)
    return {path for path, route in paths if isinstance(path, str) and path in taken and _answers_get(route)}


def _split(routes: Iterable[Any], is_ours: Callable[[Any], bool]) -> tuple[list[Any], list[Any]]:
    """Split routes into ours and others."""
    split: tuple[list[Any], list[Any]] = [], []
    for route in routes:
        split[0 if is_ours(route) else 1].append(route)
    return split


def _answers_get(route: Any) -> bool:
    return isinstance(route, Mount) or "GET" in (readable_attribute(route, "methods") or ())


def _first_segment(path: str) -> str:
    return "/" + path.partition("{")[0].lstrip("/").partition("/")[0]

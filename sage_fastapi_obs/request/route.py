"""The template of the route that served a request, read from what the router left in the scope."""

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any

from starlette.routing import Match, Mount, compile_path
from starlette.types import Scope

__all__ = ["RouteTemplates"]

REMEMBERED_PREFIXES = 1024
UNKNOWN_MOUNT = "/{mount}"
"""Stands for a mount whose template cannot be found: one value, and never the path."""
_NOT_ROUTED = frozenset({307, 308, 404, 405})


class RouteTemplates:
    """Finds route templates for one app, without matching the route table again.

    The routes are walked once, for the templates of parameterised mounts (Starlette keeps only the concrete prefix) and
    for routers that leave no route in the scope, only its endpoint.
    """

    def __init__(self, app: Any) -> None:
        self._app = app
        self._endpoints: dict[int, list[tuple[re.Pattern[str], str]]] | None = None
        self._mounts: dict[str, re.Pattern[str]] = {}
        self._prefix_template = lru_cache(REMEMBERED_PREFIXES)(self._find_prefix_template)
        self._rematched = lru_cache(REMEMBERED_PREFIXES)(self._rematch)

    def template(self, scope: Scope, status: int) -> str | None:
        """Return the template with all its prefixes, or None when no route matched."""
        if "app_root_path" in scope or "route" not in scope:
            return self._template_by_search(scope, status)
        # Nearly always: an app's own route, in no mount.
        route = scope["route"]
        # FastAPI >= 0.137 keeps include_router() prefixes here, no longer on the route itself. An outer router's context
        # stays in the scope when a mounted app routes on, so it must be this route's.
        context = scope["fastapi"].get("effective_route_context") if "fastapi" in scope else None
        if context is not None and context.original_route is route:
            route = context
        return getattr(route, "path_format", None) or self._template_by_search(scope, status)

    def _template_by_search(self, scope: Scope, status: int) -> str | None:
        leaf = self._leaf(scope)
        if leaf is not None:
            return leaf if "app_root_path" not in scope else self._prefix(scope) + leaf
        endpoint = scope.get("endpoint")
        if endpoint is None:
            # Either nothing matched, or a middleware copied the scope and kept the router's answer to itself.
            if status in _NOT_ROUTED or scope.get("method") == "OPTIONS":
                return None
            return self._rematched(scope["type"], scope.get("method", "GET"), scope["path"], scope.get("root_path", ""))
        if "app_root_path" in scope and not hasattr(endpoint, "routes"):
            return self._prefix(scope) + "/{path}"
        return None

    def _leaf(self, scope: Scope) -> str | None:
        route = scope.get("route")
        if route is None or isinstance(route, Mount):
            return self._leaf_by_endpoint(scope)
        context = scope["fastapi"].get("effective_route_context") if "fastapi" in scope else None
        if context is not None and context.original_route is route:
            return _path_format(context)
        return _path_format(route)

    def _leaf_by_endpoint(self, scope: Scope) -> str | None:
        endpoint = scope.get("endpoint")
        if endpoint is None:
            return None
        candidates = self._walked().get(id(endpoint))
        if not candidates:
            return None
        if len(candidates) == 1:
            return candidates[0][1]
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        return next((template for regex, template in candidates if regex.match(path)), None)

    def _prefix(self, scope: Scope) -> str:
        """Return the template of the mounts that led here; a proxy's root path is not part of the route."""
        root_path: str = scope.get("root_path", "")
        return self._prefix_template(root_path.removeprefix(scope["app_root_path"]))

    def _find_prefix_template(self, prefix: str) -> str:
        if not prefix:
            return ""
        self._walked()
        if prefix in self._mounts:
            return prefix
        return next((template for template, regex in self._mounts.items() if regex.match(prefix)), UNKNOWN_MOUNT)

    def _walked(self) -> dict[int, list[tuple[re.Pattern[str], str]]]:
        if self._endpoints is None:
            self._endpoints = {}
            self._walk(_routes_of(self._app), "")
        return self._endpoints

    def _walk(self, routes: Iterable[Any], prefix: str) -> None:
        for route in _flattened(routes):
            path = getattr(route, "path", "")
            if hasattr(route, "routes"):
                inner = prefix + path
                if path:
                    self._add_mount(inner)
                self._walk(route.routes or (), inner)
            elif hasattr(route, "endpoint") and hasattr(route, "path_regex"):
                found = self._endpoints.setdefault(id(route.endpoint), [])  # type: ignore[union-attr]
                if all(template != route.path_format for _, template in found):
                    found.append((route.path_regex, route.path_format))

    def _add_mount(self, path: str) -> None:
        try:
            regex, template, _ = compile_path(path)
        except ValueError:
            # Nested mounts may use one parameter name twice, which a single pattern cannot.
            return
        self._mounts.setdefault(template, regex)

    def _rematch(self, kind: str, method: str, path: str, root_path: str) -> str | None:
        scope: Scope = {"type": kind, "method": method, "path": path, "root_path": root_path, "headers": [], "path_params": {}}
        routes: Iterable[Any] | None = _routes_of(self._app)
        while routes is not None:
            matched = next((found for found in map(_matcher(scope), _flattened(routes)) if found is not None), None)
            if matched is None:
                return None
            route, child_scope = matched
            scope = {**scope, "route": route, **child_scope}
            routes = route.routes if hasattr(route, "routes") and route.routes else None
        return self.template(scope, status=200) if scope.get("endpoint") is not None else None


def _matcher(scope: Scope) -> Any:
    def match(route: Any) -> tuple[Any, Scope] | None:
        matched, child_scope = route.matches(scope)
        return (route, child_scope) if matched is Match.FULL else None

    return match


def _path_format(route: Any) -> str | None:
    return getattr(route, "path_format", None) or getattr(route, "path", None)


def _routes_of(app: Any) -> Iterable[Any]:
    """Find the routes of an app, through any middlewares that keep what they wrap in `.app`."""
    for _ in range(100):
        if app is None:
            break
        if hasattr(app, "routes"):
            routes: Iterable[Any] = app.routes
            return routes
        app = getattr(app, "app", None)
    return ()


def _flattened(routes: Iterable[Any]) -> Iterator[Any]:
    """Yield plain routes; FastAPI >= 0.137 keeps included routers as one object with a context per route."""
    for route in routes:
        if hasattr(route, "effective_route_contexts"):
            for context in route.effective_route_contexts():
                yield getattr(context, "starlette_route", None) or context
        else:
            yield route

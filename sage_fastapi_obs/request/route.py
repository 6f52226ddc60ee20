"""The template of the route that served a request, read from what the router left in the scope."""

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

from starlette.routing import Host, Match, Mount, compile_path
from starlette.types import Scope

from sage_fastapi_obs.request.fastapi_internals import flattened, frontend_path, frontend_scope, readable_attribute, route_of

_REMEMBERED_PREFIXES = _REMEMBERED_PATHS = 1024
_LONGEST_REMEMBERED_PATH = 512
_MOST_MOUNTS = 10
"""One in the other: an app may be mounted in itself."""
UNKNOWN_MOUNT = "/{mount}"
"""Stands for a mount whose template cannot be found: one value, and never the path."""
_ALL_BELOW = "/{path}"
"""Template for everything below an app without visible routes: files, and apps of other frameworks."""
_ANYTHING = re.compile("")
_LEFT_BY_ROUTERS = ("app_root_path", "endpoint", "route")


class RouteTemplates:
    """Finds route templates for one app, without matching the route table again.

    The routes are walked once, for the templates of parameterised mounts (Starlette keeps only the concrete prefix) and
    for routers that leave no route in the scope, only its endpoint. They are matched again only where a middleware has
    passed on a copy of the scope, which hides the router's result.
    """

    def __init__(self, app: Any) -> None:
        self._app = app
        self._endpoints: dict[int, list[tuple[re.Pattern[str], str]]] | None = None
        self._mounts: dict[str, re.Pattern[str]] = {}
        self._walked_routes = 0
        self._prefix_template = lru_cache(_REMEMBERED_PREFIXES)(self._find_prefix_template)
        self._remembered: dict[tuple[Any, ...], str | None] = {}

    def template(self, scope: Scope) -> str | None:
        """Return the template with all its prefixes, or None when no route matched."""
        if "app_root_path" in scope or "route" not in scope:
            return self._template_by_search(scope)
        # Nearly always: an app's own route, in no mount.
        return getattr(route_of(scope), "path_format", None) or self._template_by_search(scope)

    def template_of(self, kind: str, method: str, path: str) -> str | None:
        """Return the template of the route that would serve a request, of which no scope is left."""
        return self._match_again({"type": kind, "method": method, "path": path, "headers": [], "root_path": ""})

    def _template_by_search(self, scope: Scope) -> str | None:
        found = self._search(scope)
        telemetry = scope.get("fastapi.telemetry")
        return found if telemetry is None else _route_of_both(found, telemetry, scope)

    def _search(self, scope: Scope) -> str | None:
        leaf = self._leaf(scope) or _frontend(scope)
        if leaf is not None:
            return self._prefix(scope) + leaf
        endpoint = scope.get("endpoint")
        if endpoint is None:
            # A router that has seen this scope has found nothing; one that has not may have worked on a copy.
            return None if "router" in scope or _is_preflight(scope) else self._matched_again(scope)
        if _routes_of(endpoint):
            # The mounted app has found nothing, or one of its middlewares has copied the scope.
            return self._matched_again(scope)
        return self._prefix(scope) + _ALL_BELOW if "app_root_path" in scope else None

    def _leaf(self, scope: Scope) -> str | None:
        route = route_of(scope)
        template = None if isinstance(route, (Mount, Host)) else _path_format(route)
        return self._leaf_by_endpoint(scope) if template is None else template

    def _leaf_by_endpoint(self, scope: Scope) -> str | None:
        endpoint = scope.get("endpoint")
        if endpoint is None:
            return None
        candidates = self._walked().get(id(endpoint))
        if not candidates:
            return None
        if len(candidates) == 1:
            return candidates[0][1]
        path = _below_root(scope)
        return next((template for regex, template in candidates if regex.match(path)), None)

    def _prefix(self, scope: Scope) -> str:
        """Return the template of the mounts that led here; a proxy's root path is not part of the route."""
        if "app_root_path" not in scope:
            return ""
        root_path: str = scope.get("root_path", "")
        return self._prefix_template(root_path.removeprefix(scope["app_root_path"]))

    def _find_prefix_template(self, prefix: str) -> str:
        if not prefix:
            return ""
        if prefix not in self._mounts and self._walked_routes != len(_routes_of(self._app)):
            # Mounted since.
            self._endpoints = None
        self._walked()
        if prefix in self._mounts:
            return prefix
        return next((template for template, regex in self._mounts.items() if regex.match(prefix)), UNKNOWN_MOUNT)

    def _walked(self) -> dict[int, list[tuple[re.Pattern[str], str]]]:
        if self._endpoints is None:
            self._endpoints = {}
            routes = _routes_of(self._app)
            self._walked_routes = len(routes)
            self._walk(routes, "", ())
        return self._endpoints

    def _walk(self, routes: Sequence[Any], prefix: str, above: tuple[int, ...]) -> None:
        """Note endpoints and mounts; `above` are the tables that led here: an app may be mounted in itself."""
        for route in flattened(routes):
            endpoint, regex, app = (readable_attribute(route, name) for name in ("endpoint", "path_regex", "app"))
            if endpoint is not None and regex is not None:
                self._add_endpoint(endpoint, regex, route.path_format)
            elif app is not None:
                path = readable_attribute(route, "path") or ""
                if path:
                    self._add_mount(prefix + path)
                below = _routes_of(app)
                if not below:
                    self._add_endpoint(app, _ANYTHING, _ALL_BELOW)
                elif id(below) not in above:
                    self._walk(below, prefix + path, (*above, id(routes)))

    def _add_endpoint(self, endpoint: Any, regex: re.Pattern[str], template: str) -> None:
        assert self._endpoints is not None
        found = self._endpoints.setdefault(id(endpoint), [])
        if all(template != other for _, other in found):
            found.append((regex, template))

    def _add_mount(self, path: str) -> None:
        try:
            regex, template, _ = compile_path(path)
        except ValueError:
            # Nested mounts may use one parameter name twice, which a single pattern cannot.
            return
        self._mounts.setdefault(template, regex)

    def _matched_again(self, scope: Scope) -> str | None:
        path: str = scope["path"]
        host = next((value for name, value in scope["headers"] if name == b"host"), None)
        key = (scope["type"], scope.get("method"), path, scope.get("root_path"), scope.get("app_root_path"), host)
        if key not in self._remembered:
            template = self._match_again(scope)
            if len(path) > _LONGEST_REMEMBERED_PATH:
                return template
            if len(self._remembered) >= _REMEMBERED_PATHS:
                self._remembered.clear()
            self._remembered[key] = template
        return self._remembered[key]

    def _match_again(self, scope: Scope) -> str | None:
        """Match the route tables as the routers did."""
        asked = {key: value for key, value in scope.items() if key not in _LEFT_BY_ROUTERS}
        asked.update(root_path=scope.get("app_root_path", scope.get("root_path", "")), path_params={}, fastapi={})
        app, prefix = routed_by(self._app), ""
        while app is not None:
            route = _matching(app, asked)
            if not isinstance(route, (Mount, Host)):
                leaf = _frontend(asked) if route is None else _path_format(route)
                return None if leaf is None else prefix + leaf
            prefix += getattr(route, "path_format", "").removesuffix(_ALL_BELOW)
            app = routed_by(route.app)
        return prefix + _ALL_BELOW if prefix or "endpoint" in asked else None


def routed_by(app: Any) -> Any:
    """Find the router of an app, through middlewares that keep what they wrap in `.app`; None for apps of other frameworks."""
    for _ in range(100):
        routes = readable_attribute(app, "routes")
        if isinstance(routes, Sequence) and any(callable(readable_attribute(route, "matches")) for route in routes):
            return app
        app = readable_attribute(app, "app")
        if app is None:
            break
    return None


def endpoints_of(app: Any, depth: int = 0) -> Iterator[Any]:
    """Yield the endpoints of an app and of those that are mounted in it."""
    for route in flattened(_routes_of(app)):
        endpoint = readable_attribute(route, "endpoint")
        if endpoint is not None:
            yield endpoint
        elif depth < _MOST_MOUNTS:
            yield from endpoints_of(readable_attribute(route, "app"), depth + 1)


def _routes_of(app: Any) -> Sequence[Any]:
    """Find the routes of an app; empty for apps of other frameworks."""
    routes: Sequence[Any] = getattr(routed_by(app), "routes", ())
    return routes


def _matching(app: Any, scope: Scope) -> Any:
    """Find the route that a router would choose, and bring the scope to where it leads; None for none."""
    partial: tuple[Any, Scope] | None = None
    for route in flattened(app.routes):
        matched, child_scope = route.matches(scope)
        if matched is Match.FULL:
            scope.update(child_scope)
            return route
        if matched is Match.PARTIAL and partial is None:
            partial = route, child_scope
    if partial is None:
        partial = None, frontend_scope(app, scope)
    scope.update(partial[1])
    return partial[0]


def _path_format(route: Any) -> str | None:
    found = readable_attribute(route, "path_format") or readable_attribute(route, "path")
    return found if isinstance(found, str) else None


def _below_root(scope: Scope) -> str:
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


def _frontend(scope: Scope) -> str | None:
    """Return the template of FastAPI's `frontend()`, which is known only by the path of the file below it."""
    below = frontend_path(scope)
    return None if below is None else _below_root(scope).removesuffix(below).rstrip("/") + _ALL_BELOW


def _is_preflight(scope: Scope) -> bool:
    """Tell whether a browser asks beforehand, which a middleware answers."""
    return scope.get("method") == "OPTIONS" and any(name == b"access-control-request-method" for name, _ in scope["headers"])


def _route_of_both(found: str | None, telemetry: Any, scope: Scope) -> str | None:
    """Agree with FastAPI's own telemetry, if its span is the server span: both use the more precise template."""
    theirs: str | None = getattr(telemetry, "route", None)
    if theirs is None:
        return found
    root_path: str = scope.get("app_root_path", scope.get("root_path", ""))
    if found is None:
        return theirs.removeprefix(root_path.rstrip("/"))
    if found != theirs and theirs.endswith(_ALL_BELOW) and hasattr(telemetry.span, "update_name"):
        # It does not look into apps that are Starlette's and not FastAPI's.
        telemetry.route = root_path.rstrip("/") + found
        telemetry.span.update_name(f"{telemetry.span_method} {telemetry.route}")
    return found

"""The layers of an app from the outside to the inside, its `Observability`, and its routes."""

import inspect
from collections.abc import Iterator
from typing import Any, NamedTuple

from starlette.applications import Starlette
from starlette.routing import Host, Mount

from sage_fastapi_obs.observability import Observability
from sage_fastapi_obs.request.fastapi_internals import flattened, readable_attribute
from sage_fastapi_obs.request.middleware import ObservabilityMiddleware
from sage_fastapi_obs.request.route import routed_by

_METRICS_PACKAGES = frozenset(
    {"prometheus_client", "prometheus_fastapi_instrumentator", "starlette_exporter", "starlette_prometheus"}
)
_MOST_LAYERS = 100
_MOST_MOUNTS = 10
"""One in the other: an app may be mounted in itself."""


class FoundRoute(NamedTuple):
    """A route, a mount, or a WebSocket route of an app."""

    path: str
    """The template, with those of all mounts around it."""
    methods: frozenset[str]
    """Empty for mounts and WebSockets."""
    route: Any
    """The object of Starlette, FastAPI or whoever made it."""
    prefix: str
    """The templates of the mounts alone."""

    @property
    def is_mount(self) -> bool:
        """Whether this leads to another app."""
        return isinstance(self.route, (Mount, Host))


def layers_of(app: Any) -> Iterator[Any]:
    """Yield an app and what is inside of it, as far as each layer keeps that in `.app`; an app of Starlette is the last."""
    for _ in range(_MOST_LAYERS):
        if app is None:
            return
        yield app
        if isinstance(app, Starlette):
            return
        app = readable_attribute(app, "app")


def layer_name(layer: Any) -> str:
    """Name a layer by its class; a function, and one that is made of a function, by that."""
    if inspect.isroutine(layer):
        return layer.__qualname__.rpartition(".")[2]
    function = readable_attribute(layer, "dispatch_func")
    name = getattr(function, "__qualname__", "dispatch")
    return type(layer).__qualname__ if name.endswith("dispatch") else str(name)


def metrics_package(found: FoundRoute) -> str | None:
    """Name the other package whose page of metrics a route or a mount leads to, perhaps through layers; None for the rest."""
    for served in layers_of(found.route.app if found.is_mount else getattr(found.route, "endpoint", None)):
        package = str(getattr(served, "__module__", None) or type(served).__module__).partition(".")[0]
        if package in _METRICS_PACKAGES:
            return package
    return None


def starlette_of(app: Any) -> Starlette | None:
    """Return the app of Starlette or FastAPI inside of an app's layers; None for those of other frameworks."""
    return next((layer for layer in layers_of(app) if isinstance(layer, Starlette)), None)


def observability_of(app: Any) -> Observability | None:
    """Return what watches an app; None where nothing does."""
    return next((found for layer in layers_of(app) for found in _watching(layer) if isinstance(found, Observability)), None)


def _watching(layer: Any) -> Iterator[Any]:
    if isinstance(layer, ObservabilityMiddleware):
        yield layer.observability
    elif isinstance(layer, Starlette):
        yield getattr(layer.state, "sage_fastapi_obs", None)
        yield from (added.kwargs.get("observability") for added in layer.user_middleware)


def routes_of(app: Any, prefix: str = "", depth: int = 0) -> Iterator[FoundRoute]:
    """Yield the routes of an app, and after each mount those of the app that is mounted there."""
    for route in flattened(getattr(routed_by(app), "routes", ())):
        path = prefix + _template(route)
        yield FoundRoute(path, frozenset(getattr(route, "methods", None) or ()), route, prefix)
        if isinstance(route, (Mount, Host)) and depth < _MOST_MOUNTS:
            yield from routes_of(route.app, path, depth + 1)


def _template(route: Any) -> str:
    """Return the template of a route; that of a mount is its prefix, and a host has none."""
    if isinstance(route, Mount):
        return route.path
    return "" if isinstance(route, Host) else str(getattr(route, "path_format", None) or getattr(route, "path", ""))

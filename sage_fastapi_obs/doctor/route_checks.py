"""Routes that metrics and spans cannot tell apart, and layers around and inside of the app."""

import re
import sys
from collections.abc import Iterator
from typing import Any

from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles

from sage_fastapi_obs.doctor.fault import Fault
from sage_fastapi_obs.doctor.observations import Observations
from sage_fastapi_obs.inspection.app_layers import layer_name, layers_of, metrics_package, observability_of
from sage_fastapi_obs.request.middleware import ObservabilityMiddleware
from sage_fastapi_obs.request.route import routed_by

_ALL_PATHS = re.compile(r"/\{\w+:path\}")
_BASE = "starlette.middleware.base.BaseHTTPMiddleware"


def not_watched(seen: Observations) -> Iterator[Fault]:
    """Find out whether the app is watched at all."""
    observability = seen.inspected.observability
    if observability is not None and not observability.enabled:
        yield Fault("not-watched", "nothing is recorded: the setting enabled is false", "leave it out, or set it to true")
    if observability is not None:
        return
    inner = [found.path for found in seen.inspected.routes if found.is_mount and observability_of(found.route.app)]
    for path in inner:
        yield Fault(
            *("middleware-order", f"only the app that is mounted at {path} is watched, and nothing around it"),
            "call Observability(...).install(app) with the outer app: it watches what is mounted, too",
        )
    if not inner:
        yield Fault("not-watched", "nothing watches this app", "add Observability(Settings.from_env()).install(app)")


def routes_without_template(seen: Observations) -> Iterator[Fault]:
    """Find what is one route for all paths below it."""
    if seen.inspected.starlette is None and routed_by(seen.inspected.app) is None:
        yield Fault(
            *(
                "route-without-template",
                "the app has no routes that are known here: all its requests have the route 'unmatched'",
            ),
            "mount it into an app of Starlette or FastAPI, each part at a path of its own",
        )
    for found in seen.inspected.routes:
        route = found.route
        if (
            found.is_mount
            and routed_by(route.app) is None
            and metrics_package(found) is None
            and not any(isinstance(layer, StaticFiles) for layer in layers_of(route.app))
        ):
            yield Fault(
                *("route-without-template", f"all requests to {layer_name(route.app)} below {found.path or '/'} are one route"),
                "mount its parts at paths of their own, or name what matters in a field of the access line",
            )
        elif _ALL_PATHS.fullmatch(getattr(route, "path", "")) and not isinstance(route, Mount):
            yield Fault(
                *(
                    "route-without-template",
                    f"the route {found.prefix}{route.path} takes every path, also those that nobody serves",
                ),
                "give what it serves routes of their own, so that anything else is a 404",
            )
    answer = seen.answers.get("ok")
    if answer is not None and answer.status == 200 and answer.exchange is not None and answer.exchange.route is None:
        yield Fault(
            *("route-without-template", "no layer says which route has served a request: all have the route 'unmatched'"),
            "let middlewares pass on the scope that they were given",
        )


def base_http_middleware(seen: Observations) -> Iterator[Fault]:
    """Find middlewares that run the app in a task of its own."""
    costs = {cost.layer: cost.cpu_us for cost in seen.costs}
    apps = [("", seen.inspected.app), *((found.path, found.route.app) for found in seen.inspected.routes if found.is_mount)]
    for path, app in apps:
        for name in dict.fromkeys(_base_http_layers(app)):
            where = f" of the app mounted at {path}" if path else ""
            cost = f", and costs each request {costs[name]:.0f} µs" if name in costs and not path else ""
            yield Fault(
                "base-http-middleware",
                f"{name}{where} is a BaseHTTPMiddleware: it runs the app in a task of its own, so context variables that "
                f"routes set are lost outside of it, and request.is_disconnected() stays false{cost}",
                "write it as a class with `async def __call__(self, scope, receive, send)`",
            )


def middleware_order(seen: Observations) -> Iterator[Fault]:
    """Find layers whose own answers nobody sees, as they are outside of ours."""
    if seen.inspected.observability is None:
        return
    for layer in layers_of(seen.inspected.app):
        if isinstance(layer, (ObservabilityMiddleware, Starlette)):
            return
        yield Fault(
            "middleware-order",
            f"{layer_name(layer)} is wrapped around the watched app: what it answers itself is not recorded, and has no ids",
            "add it by app.add_middleware, or wrap the result: ObservabilityMiddleware(app, observability=obs)",
        )


def _base_http_layers(app: Any) -> Iterator[str]:
    """Name them, as layers and as what an app of Starlette will build its layers of."""
    if _BASE.rpartition(".")[0] not in sys.modules:
        return
    for layer in layers_of(app):
        if _is_base_http(type(layer)):
            yield layer_name(layer)
        for added in getattr(layer, "user_middleware", ()):
            if isinstance(added.cls, type) and _is_base_http(added.cls):
                function = added.kwargs.get("dispatch")
                yield getattr(function, "__qualname__", added.cls.__qualname__)


def _is_base_http(kind: type) -> bool:
    return any(f"{base.__module__}.{base.__qualname__}" == _BASE for base in kind.__mro__)

"""Sees the exceptions that the handlers of an app answer, whoever has written those: nothing is put around a handler.

The layer that answers exceptions looks the handler up while it handles the exception, so that is known then.
"""

import sys
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import WebSocketException
from starlette.routing import Host, Mount
from starlette.types import ASGIApp, Scope

from sage_fastapi_obs.insight.facts import current_facts
from sage_fastapi_obs.insight.raised_error import raised_error
from sage_fastapi_obs.request.exchange import current_exchange
from sage_fastapi_obs.request.fastapi_internals import HANDLERS_KEY, flattened, handler_layers, replace_handlers
from sage_fastapi_obs.request.route import routed_by

_MOST_APPS = 1_000


class SeenHandlers(dict[Any, Any]):
    """The handlers of a layer, by status or by class; to look for one notes the exception that is being handled."""

    def get(self, key: Any, default: Any = None) -> Any:
        """Return a handler, as for a status."""
        _note(sys.exception())
        return super().get(key, default)

    def __contains__(self, key: object) -> bool:
        """Tell whether there is a handler, as for a class of the exception."""
        _note(sys.exception())
        return super().__contains__(key)


def see_handlers(app: ASGIApp) -> None:
    """Let an app, and those that are mounted in it, look handlers up in tables that note exceptions; does nothing twice."""
    waiting, seen = [app], set[int]()
    while waiting and len(seen) < _MOST_APPS:
        found = routed_by(waiting.pop())
        if found is None or id(found) in seen:
            continue
        seen.add(id(found))
        if isinstance(found, Starlette):
            _see(found)
        waiting += [route.app for route in flattened(found.routes) if isinstance(route, (Mount, Host))]


def see_handlers_of(scope: Scope) -> None:
    """Do so for the app that has answered a request, where its layers were not found, or it was mounted since."""
    tables = scope.get(HANDLERS_KEY)
    if tables is None or isinstance(tables[0], SeenHandlers):
        return
    layer = getattr(tables[0].get(WebSocketException), "__self__", None)
    for found in (layer, getattr(scope.get("app"), "middleware_stack", None)):
        _see_stack(found)


def _see(app: Starlette) -> None:
    if app.middleware_stack is not None:
        _see_stack(app.middleware_stack)
        return
    build = app.build_middleware_stack
    if getattr(build, "sees_handlers", False):
        return

    def build_seen() -> ASGIApp:
        stack = build()
        _see_stack(stack)
        return stack

    build_seen.sees_handlers = True  # type: ignore[attr-defined]
    app.build_middleware_stack = build_seen  # type: ignore[method-assign]


def _see_stack(stack: Any) -> None:
    for layer in handler_layers(stack):
        replace_handlers(layer, SeenHandlers)


def _note(error: BaseException | None) -> None:
    exchange = current_exchange.get()
    if error is None or exchange is None:
        return
    try:
        facts = current_facts()
        if facts is not None and (facts.raised is None or facts.raised.identity != id(error)):
            facts.raised = raised = raised_error(error)
            if raised.errors is not None:
                facts.not_valid = raised
    except Exception as fault:
        exchange.observer.internal_errors.count("Insight", fault)

"""How another request is named: `GET /items/{id}`, never by its path."""

from typing import Any

from sage_fastapi_obs.catalog import known_method
from sage_fastapi_obs.request.exchange import Exchange
from sage_fastapi_obs.request.fastapi_internals import route_of


def route_name(exchange: Exchange) -> str | None:
    """Name a request, also one that has no answer yet; None while no route has matched."""
    template: Any = exchange.route
    if template is None and "route" in exchange.scope:
        template = getattr(route_of(exchange.scope), "path_format", None)
    return f"{known_method(exchange.method)} {template}" if isinstance(template, str) else None

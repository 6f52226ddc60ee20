"""How one request is called where it is told of to others: `GET /report`."""

from sage_fastapi_obs.catalog import UNMATCHED, known_method
from sage_fastapi_obs.request.exchange import Exchange


def request_name(exchange: Exchange) -> str:
    """Return method and route, never the path; also while the request runs and has no answer yet."""
    return f"{known_method(exchange.method)} {exchange.route or _route_so_far(exchange) or UNMATCHED}"


def _route_so_far(exchange: Exchange) -> str | None:
    watches = [*exchange.observer.in_progress.copy()]
    return next((watch.template for watch in watches if watch.exchange is exchange), None)

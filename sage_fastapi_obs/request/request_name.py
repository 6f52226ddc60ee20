"""How one request is called where it is told of to others: `GET /report`."""

from sage_fastapi_obs.catalog import UNMATCHED, known_method
from sage_fastapi_obs.request.exchange import Exchange
from sage_fastapi_obs.request.watch import in_flight

NOT_YET = "(route not known yet)"


def request_name(exchange: Exchange) -> str:
    """Return method and route, never the path; also while the request runs and has no answer yet."""
    unknown = UNMATCHED if exchange.finished else NOT_YET
    return f"{known_method(exchange.method)} {exchange.route or _route_so_far(exchange) or unknown}"


def _route_so_far(exchange: Exchange) -> str | None:
    watches = in_flight(exchange.observer.in_progress)
    return next((watch.route_so_far() for watch in watches if watch.exchange is exchange), None)

"""Who may read the monitoring pages."""

import hmac
import re
from ipaddress import ip_address

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response

from sage_fastapi_obs.endpoints.pages import problem
from sage_fastapi_obs.settings import MonitoringSettings

__all__ = ["Access"]

_OF_PROXIES = frozenset(
    {
        *("via", "forwarded", "forwarded-for", "client-ip", "http-client-ip", "proxy-client-ip", "wl-proxy-client-ip"),
        *("x-real-ip", "x-client-ip", "x-cluster-client-ip", "true-client-ip", "do-connecting-ip", "x-proxyuser-ip"),
        *("x-remote-ip", "x-remote-addr", "x-originating-ip", "x-scheme", "x-url-scheme", "x-host", "front-end-https"),
        *("cdn-loop", "surrogate-capability", "x-rewrite-url", "x-bluecoat-via", "x-varnish", "x-cloud-trace-context"),
    }
)
_BEGINNINGS_OF_PROXIES = (
    *("x-forwarded", "x-original-", "x-envoy-", "x-proxy-", "x-haproxy-", "x-kong-", "x-arr-", "x-azure-", "x-appengine-"),
    *("x-amzn-", "x-amz-cf-", "x-vercel-", "x-nf-", "cf-", "fastly-", "fly-", "akamai-", "ali-cdn-", "tailscale-", "ngrok-"),
)
"""Headers that proxies, load balancers, caches and tunnels add to what they pass on, or how those begin."""
_HOST = re.compile(r"(?:\[([^\[\]]*)\]|([^:\[\]]*))(?::[0-9]*)?")
_OWN_PAGE = frozenset({"same-origin", "none"})
"""What browsers say of requests by a page of the very same origin, and by a person: `Sec-Fetch-Site`."""


class Access:
    """Decides by the settings whether a request may see request data."""

    def __init__(self, settings: MonitoringSettings) -> None:
        self._mode = settings.access
        self._token = settings.token.get_secret_value().encode() if settings.token is not None else None

    @property
    def description(self) -> str:
        """Say who may read, for the start-up line."""
        if self._mode == "token" and self._token is None:
            return "nobody: set monitoring.token (SAGE_OBS_MONITORING__TOKEN)"
        return {"open": "everyone", "local": "this machine", "token": "bearer token", "port": "metrics port"}[self._mode]

    def refusal(self, request: Request) -> Response | None:
        """Return the answer to a request that may not see request data, or None."""
        match self._mode:
            case "open":
                return None
            case "token":
                return self._without_token(request)
            case "port":
                return problem("metrics are served on their own port (metrics.port)", 404)
        return None if _is_local(request) else _not_local()

    def refusal_to_change(self, request: Request) -> Response | None:
        """Return the answer to a request that may not change anything, or None: a token is needed, whoever may read."""
        return self._without_token(request, "")

    def _without_token(self, request: Request, otherwise: str = ", or monitoring.access") -> Response | None:
        if self._token is None:
            return problem(f"closed: set monitoring.token (SAGE_OBS_MONITORING__TOKEN){otherwise}", 403)
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode("utf-8", "replace"), self._token):
            return None
        return problem("a bearer token is needed", 401, {"WWW-Authenticate": "Bearer"})


def _not_local() -> Response:
    detail = (
        "open to this machine only, by a name such as localhost, not through a proxy and not from another site's page: "
        "type the address, or set monitoring.access to 'token' (with monitoring.token), 'port' or 'open'"
    )
    return problem(detail, 403)


def _is_local(request: Request) -> bool:
    """Tell whether a client is on this machine and speaks for itself: not for somebody behind a proxy or a foreign page."""
    return (
        request.client is not None
        and _is_loopback(request.client.host)
        and not any(name in _OF_PROXIES or name.startswith(_BEGINNINGS_OF_PROXIES) for name in request.headers)
        and _names_this_machine(request.headers)
    )


def _names_this_machine(headers: Headers) -> bool:
    """Tell whether a request is meant for this machine by its own name, and not by one that somebody else has pointed to it."""
    hosts = headers.getlist("host")
    return (
        len(hosts) == 1
        and (host := _HOST.fullmatch(hosts[0])) is not None
        and _is_own_name(host[1] or host[2])
        and all(origin.partition("://")[2] == hosts[0] for origin in headers.getlist("origin"))
        and _OWN_PAGE.issuperset(headers.getlist("sec-fetch-site"))
    )


def _is_own_name(host: str) -> bool:
    name = host.lower().removesuffix(".")
    return name == "localhost" or name.endswith(".localhost") or _is_loopback(name)


def _is_loopback(host: str) -> bool:
    try:
        address = ip_address(host)
    except ValueError:
        return False
    # Newer versions of Python see for themselves what a mapped address is.
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback

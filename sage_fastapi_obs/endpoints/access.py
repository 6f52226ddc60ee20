"""Who may read the monitoring pages, and who may change anything: `monitoring.access` and `monitoring.token`.

Probes are open to everyone, and tell no details to those whom `Access.refusal` refuses.
"""

import hmac
import re
from collections.abc import Sequence
from ipaddress import ip_address

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response

from sage_fastapi_obs.endpoints.json_page import problem
from sage_fastapi_obs.settings import MonitoringSettings

__all__ = ["Access"]

_PROXY_HEADERS = frozenset(
    {
        *("via", "forwarded", "forwarded-for", "client-ip", "http-client-ip", "proxy-client-ip", "wl-proxy-client-ip"),
        *("x-real-ip", "x-client-ip", "x-cluster-client-ip", "true-client-ip", "do-connecting-ip", "x-proxyuser-ip"),
        *("x-remote-ip", "x-remote-addr", "x-originating-ip", "x-scheme", "x-url-scheme", "x-host", "front-end-https"),
        *("cdn-loop", "surrogate-capability", "x-rewrite-url", "x-bluecoat-via", "x-varnish", "x-cloud-trace-context"),
    }
)
_PROXY_HEADER_PREFIXES = (
    *("x-forwarded", "x-original-", "x-envoy-", "x-proxy-", "x-haproxy-", "x-kong-", "x-arr-", "x-azure-", "x-appengine-"),
    *("x-amzn-", "x-amz-cf-", "x-vercel-", "x-nf-", "cf-", "fastly-", "fly-", "akamai-", "ali-cdn-", "tailscale-", "ngrok-"),
)
"""Headers that proxies, load balancers, caches and tunnels add to the requests they pass on."""
_HOST = re.compile(r"(?:\[([^\[\]]*)\]|([^:\[\]]*))(?::[0-9]*)?")
_SAME_SITE = frozenset({"same-origin", "none"})
"""`Sec-Fetch-Site` of a request that a page of this very origin has sent, or a person by typing the address."""
_NOT_LOCAL = (
    "open to this machine only, by a name such as localhost, not through a proxy and not from another site's page: "
    "type the address, or set monitoring.access to 'token' (with monitoring.token), 'port' or 'open'"
)


class Access:
    """Decides whether a request may read, or change, what the pages show."""

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
        """Return the response to a request that may not read, or None when it may."""
        match self._mode:
            case "open":
                return None
            case "local":
                return None if _is_local(request) else problem(_NOT_LOCAL, 403)
            case "token":
                return self._without_token(request, "set monitoring.token (SAGE_OBS_MONITORING__TOKEN), or monitoring.access")
            case "port":
                return problem("metrics are served on their own port (metrics.port)", 404)

    def refusal_to_change(self, request: Request) -> Response | None:
        """Return the response to a request that may not change anything, or None: that takes the token in every mode."""
        return self._without_token(request, "set monitoring.token (SAGE_OBS_MONITORING__TOKEN)")

    def _without_token(self, request: Request, hint: str) -> Response | None:
        if self._token is None:
            return problem(f"closed: {hint}", 403)
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode("utf-8", "replace"), self._token):
            return None
        return problem("a bearer token is needed", 401, {"WWW-Authenticate": "Bearer"})


def _is_local(request: Request) -> bool:
    """Tell whether a request comes from this machine: directly, and not from a page of another site."""
    headers = request.headers
    return (
        request.client is not None
        and _is_loopback(request.client.host)
        and not any(name in _PROXY_HEADERS or name.startswith(_PROXY_HEADER_PREFIXES) for name in headers)
        and _names_this_machine(headers.getlist("host"))
        and _is_from_no_other_site(headers)
    )


def _names_this_machine(hosts: Sequence[str]) -> bool:
    """Tell whether a request is for `localhost` or a loopback address.

    Any other name may be one that somebody has made resolve to this machine (DNS rebinding).
    """
    host = _HOST.fullmatch(hosts[0]) if len(hosts) == 1 else None
    return host is not None and _is_own_name(host[1] or host[2])


def _is_from_no_other_site(headers: Headers) -> bool:
    own_origin = all(origin.partition("://")[2] == headers["host"] for origin in headers.getlist("origin"))
    return own_origin and _SAME_SITE.issuperset(headers.getlist("sec-fetch-site"))


def _is_own_name(host: str) -> bool:
    name = host.lower().removesuffix(".")
    return name == "localhost" or name.endswith(".localhost") or _is_loopback(name)


def _is_loopback(host: str) -> bool:
    try:
        address = ip_address(host)
    except ValueError:
        return False
    # An IPv4 address inside an IPv6 one; newer versions of Python do this by themselves.
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback

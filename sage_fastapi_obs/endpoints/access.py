"""Who may read the monitoring pages, and who may change anything: `monitoring.access` and `monitoring.token`.

Probes are open to everyone, and tell no details to those whom `Access.rejection` refuses.
"""

import hmac
import re
from collections.abc import Container, Sequence
from ipaddress import ip_address

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response

from sage_fastapi_obs.endpoints.json_page import problem
from sage_fastapi_obs.endpoints.login_cookie import FAILURE_SECONDS, Failures, LoginCookie
from sage_fastapi_obs.endpoints.request_origin import is_from_another_site, is_from_the_page
from sage_fastapi_obs.settings import MonitoringSettings

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
_NOT_LOCAL = (
    "open to this machine only, by a name such as localhost or one of monitoring.allowed_hosts, not through a proxy and not "
    "from another site's page: type the address, or set monitoring.access to 'token' (with monitoring.token), 'port' or 'open'"
)
_HOW_TO_OPEN = "set monitoring.token (SAGE_OBS_MONITORING__TOKEN)"


class Access:
    """Decides whether a request may read, or change, what the pages show."""

    def __init__(self, settings: MonitoringSettings) -> None:
        self._mode = settings.access
        self._token = settings.token.get_secret_value().encode() if settings.token is not None else None
        self._allowed_hosts = frozenset(map(str.lower, settings.allowed_hosts))
        self._cookie = None if self._token is None else LoginCookie(self._token)
        self._failures = Failures()

    @property
    def description(self) -> str:
        """Say who may read, for the start-up line."""
        if self._mode == "token" and self._token is None:
            return f"nobody: {_HOW_TO_OPEN}"
        return {"open": "everyone", "local": "this machine", "token": "bearer token", "port": "metrics port"}[self._mode]

    def rejection(self, request: Request) -> Response | None:
        """Return the response to a request that may not read, or None when it may."""
        rejection = self.door_rejection(request)
        if rejection is not None or self._mode != "token":
            return rejection
        return self._without_token(request, trusts_cookie=not is_from_another_site(request.headers))

    def door_rejection(self, request: Request) -> Response | None:
        """Return the response to a request that may not even log in, or None when it may."""
        match self._mode:
            case "open":
                return None
            case "local":
                return None if _is_local(request, self._allowed_hosts) else problem(_NOT_LOCAL, 403)
            case "token":
                return problem(f"closed: {_HOW_TO_OPEN}, or monitoring.access", 403) if self._token is None else None
            case "port":
                return problem("metrics are served on their own port (metrics.port)", 404)

    def change_rejection(self, request: Request) -> Response | None:
        """Return the response to a request that may not change anything, or None: that takes the token in every mode.

        Of a browser that has logged in, only what the page itself sends may.
        """
        return self._without_token(request, trusts_cookie=is_from_the_page(request.headers))

    def login_rejection(self, request: Request) -> Response | None:
        """Return the response to a request that may not try to log in, or None when it may."""
        if not is_from_the_page(request.headers):
            return problem("only the page itself logs in: send the token as Authorization: Bearer", 403)
        return self.door_rejection(request) or self._without_tries(request)

    def log_in(self, request: Request, token: str, response: Response) -> Response:
        """Return the response with a cookie, or another one where the token is wrong."""
        if self._cookie is None or not self._is_token(request, token):
            return problem("this is not the token", 401, {"WWW-Authenticate": "Bearer"})
        self._cookie.set(request, response)
        return response

    def log_out(self, request: Request, response: Response) -> Response:
        """Return the response, which takes the cookie back."""
        if self._cookie is not None:
            self._cookie.remove(request, response)
        return response

    def _without_token(self, request: Request, *, trusts_cookie: bool) -> Response | None:
        if trusts_cookie and self._cookie is not None and self._cookie.is_in(request):
            return None
        if (rejection := self._without_tries(request)) is not None:
            return rejection
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self._is_token(request, given.strip()):
            return None
        return problem("a bearer token is needed", 401, {"WWW-Authenticate": "Bearer"})

    def _without_tries(self, request: Request) -> Response | None:
        if self._token is None:
            return problem(f"closed: {_HOW_TO_OPEN}", 403)
        if self._failures.are_too_many(request):
            detail = "too many wrong tokens came from this address: wait a minute"
            return problem(detail, 429, {"Retry-After": f"{FAILURE_SECONDS:.0f}"})
        return None

    def _is_token(self, request: Request, given: str) -> bool:
        is_right = self._token is not None and hmac.compare_digest(given.encode("utf-8", "replace"), self._token)
        if not is_right:
            self._failures.add(request)
        return is_right


def _is_local(request: Request, allowed_hosts: Container[str]) -> bool:
    """Tell whether a request comes from this machine: directly, and not from a page of another site."""
    headers = request.headers
    return (
        request.client is not None
        and _is_loopback(request.client.host)
        and not any(name in _PROXY_HEADERS or name.startswith(_PROXY_HEADER_PREFIXES) for name in headers)
        and _names_this_machine(headers.getlist("host"), allowed_hosts)
        and _is_from_no_other_site(headers)
    )


def _names_this_machine(hosts: Sequence[str], allowed_hosts: Container[str]) -> bool:
    """Tell whether a request is for `localhost`, a loopback address or a host of the settings.

    Any other name may be one that somebody has made resolve to this machine (DNS rebinding).
    """
    host = _HOST.fullmatch(hosts[0]) if len(hosts) == 1 else None
    if host is None:
        return False
    name = (host[1] or host[2]).lower().removesuffix(".")
    return name in allowed_hosts or name == "localhost" or name.endswith(".localhost") or _is_loopback(name)


def _is_from_no_other_site(headers: Headers) -> bool:
    own_origin = all(origin.partition("://")[2] == headers["host"] for origin in headers.getlist("origin"))
    return own_origin and not is_from_another_site(headers)


def _is_loopback(host: str) -> bool:
    try:
        address = ip_address(host)
    except ValueError:
        return False
    # An IPv4 address inside an IPv6 one; newer versions of Python do this by themselves.
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback

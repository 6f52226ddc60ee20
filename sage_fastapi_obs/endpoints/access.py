"""Who may read the monitoring pages."""

import hmac
from ipaddress import ip_address

from starlette.requests import Request
from starlette.responses import Response

from sage_fastapi_obs.endpoints.pages import problem
from sage_fastapi_obs.settings import MonitoringSettings

__all__ = ["Access"]

_FORWARDED = ("forwarded", "x-forwarded-for", "x-real-ip")


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
    detail = "open to this machine only: set monitoring.access to 'token' (with monitoring.token), 'port' or 'open'"
    return problem(detail, 403)


def _is_local(request: Request) -> bool:
    """Tell whether a client is on this machine and speaks for itself, not for somebody behind a proxy."""
    if request.client is None or any(header in request.headers for header in _FORWARDED):
        return False
    try:
        return ip_address(request.client.host).is_loopback
    except ValueError:
        return False

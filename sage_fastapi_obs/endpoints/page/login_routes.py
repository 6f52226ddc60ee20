"""`POST /monitoring/login`: gives the token once, and the browser a cookie for it; `logout` takes that back."""

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from sage_fastapi_obs.endpoints.access import Access
from sage_fastapi_obs.endpoints.json_page import UNCACHED, problem, short_body, too_long
from sage_fastapi_obs.endpoints.login_cookie import LIFE_SECONDS

_LONGEST_BODY_BYTES = 8192
_WRONG_BODY = 'the body is not as in {"token": "…"}'


class _Login(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    token: SecretStr = Field(max_length=4096)


class LoginRoutes:
    """Lets browsers in that have the token, and out again."""

    def __init__(self, access: Access) -> None:
        self._access = access

    def routes(self, prefix: str) -> list[Route]:
        """List the routes."""
        return [
            Route(f"{prefix}/login", self._log_in, methods=["POST"], name="sage_obs_login"),
            Route(f"{prefix}/logout", self._log_out, methods=["POST"], name="sage_obs_logout"),
        ]

    async def _log_in(self, request: Request) -> Response:
        if (rejection := self._access.login_rejection(request)) is not None:
            return rejection
        if (body := await short_body(request, _LONGEST_BODY_BYTES)) is None:
            return too_long(_LONGEST_BODY_BYTES)
        try:
            token = _Login.model_validate_json(body).token.get_secret_value()
        except ValidationError:
            # What it says of the body could be the token.
            return problem(_WRONG_BODY, 422)
        return self._access.log_in(request, token, _answer(LIFE_SECONDS))

    async def _log_out(self, request: Request) -> Response:
        return self._access.login_rejection(request) or self._access.log_out(request, _answer(0))


def _answer(seconds: int) -> Response:
    """Say how long the browser is let in."""
    return JSONResponse({"seconds": seconds}, headers=UNCACHED)

"""The header by which a request asks for its lines, whatever the level and the sampling are."""

import hmac

from sage_fastapi_obs.request.exchange import Exchange
from sage_fastapi_obs.settings import LoggingSettings

DEBUG_HEADER = b"x-debug-log"
"""Carries `logging.debug_token` as its value."""


class DebugToken:
    """Tells which requests carry the token; falsy where there is none."""

    def __init__(self, settings: LoggingSettings) -> None:
        token = settings.debug_token
        self._token = None if token is None else token.get_secret_value().encode()

    def __bool__(self) -> bool:
        return self._token is not None

    def is_sent_by(self, exchange: Exchange) -> bool:
        """Tell whether a request carries it, in a time that does not depend on how much of it is right."""
        given = exchange.headers.get(DEBUG_HEADER)
        return given is not None and self._token is not None and hmac.compare_digest(given, self._token)

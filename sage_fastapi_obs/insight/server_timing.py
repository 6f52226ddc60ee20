"""The header that shows developers in their browser where the time of a request went."""

from sage_fastapi_obs.insight.insight_recorder import InsightRecorder
from sage_fastapi_obs.request.debug_token import DebugToken
from sage_fastapi_obs.request.exchange import Exchange
from sage_fastapi_obs.request.headers import SERVER_TIMING
from sage_fastapi_obs.request.recorder import Headers, Recorder
from sage_fastapi_obs.settings import Settings


class ServerTiming(Recorder):
    """Sends `Server-Timing: dependencies;dur=1.2, endpoint;dur=530.1, total;dur=532.8`, in milliseconds.

    It tells of the inside of a service, so only the development preset has it, and who sends the debug token.
    """

    component = "Insight"

    def __init__(self, insight: InsightRecorder, token: DebugToken, *, is_for_all: bool) -> None:
        self._insight = insight
        self._token = token
        self._is_for_all = is_for_all

    def response_started(self, exchange: Exchange, headers: Headers) -> None:
        """Send what is known when the response starts."""
        if not (self._is_for_all or self._token.is_sent_by(exchange)):
            return
        total_us = (exchange.observer.clock() - exchange.started_ns) // 1_000
        timings = {**self._insight.timings(exchange), "total": total_us}
        shown = ", ".join(f"{name};dur={microseconds / 1_000:.1f}" for name, microseconds in timings.items())
        headers.append((SERVER_TIMING, shown.encode()))


def server_timing(settings: Settings, insight: InsightRecorder | None) -> ServerTiming | None:
    """Build the header; None where nobody may see it."""
    token, is_for_all = DebugToken(settings.logging), settings.preset == "dev"
    if insight is None or not (token or is_for_all):
        return None
    return ServerTiming(insight, token, is_for_all=is_for_all)

"""Asks the observers why a request was slow, was refused or failed, at its end."""

from collections.abc import Callable
from typing import Any

from sage_fastapi_obs.insight.application_code import ApplicationCode
from sage_fastapi_obs.insight.exception_handlers import see_handlers
from sage_fastapi_obs.insight.observer import CauseObserver, overridden
from sage_fastapi_obs.insight.raised_error import raised_error
from sage_fastapi_obs.insight.refusals import raised_clause
from sage_fastapi_obs.insight.troubled_time import TroubledTime
from sage_fastapi_obs.internal_errors import InternalErrors
from sage_fastapi_obs.request.exchange import Exchange
from sage_fastapi_obs.request.explanation import Explanation, Finding
from sage_fastapi_obs.request.recorder import Recorder
from sage_fastapi_obs.request.route import endpoints_of


class InsightRecorder(Recorder):
    """Gives each request that needs one its explanation, before anybody else sees its end."""

    component = "Insight"

    def __init__(
        self,
        observers: list[CauseObserver],
        slow_us: Callable[[str | None], int],
        internal_errors: InternalErrors,
        code: ApplicationCode,
        troubled: TroubledTime,
        shortest_slow_us: int = 0,
    ) -> None:
        """Build it.

        `slow_us`: the duration from which on a request of a route is slow; `shortest_slow_us`: no shorter one is, of any route.
        `code`: tells which lines observers name. `troubled`: when requests may have lost time that need not have been slow.
        """
        self._observers = observers
        self._slow_us, self._shortest_slow_us = slow_us, shortest_slow_us
        self._troubled = troubled
        self._internal_errors = internal_errors
        self.code = code
        """Tells lines of the application from those of libraries."""
        started = overridden(observers, "request_started")
        if len(started) == 1:
            # Called by each request, so without the loop.
            self.request_started = started[0]  # type: ignore[method-assign,assignment]
        self._started = started
        self._concerns = overridden(observers, "concerns")
        self._timing = [observer for observer in observers if type(observer).timings is not CauseObserver.timings]
        self._explain = overridden(observers, "explain")

    def add_application(self, app: Any) -> None:
        """Count the packages of an app's routes to the application, and see what its exception handlers answer."""
        self.code.add_packages_of(endpoints_of(app))
        see_handlers(app)

    def start(self) -> None:
        """Start the observers."""
        for observer in self._observers:
            observer.start()

    def stop(self) -> None:
        """Stop them."""
        for observer in reversed(self._observers):
            observer.stop()

    def request_started(self, exchange: Exchange) -> None:
        """Let observers see the request."""
        for started in self._started:
            started(exchange)

    def request_finished(self, exchange: Exchange) -> None:
        """Explain it, if there is anything to say."""
        troubled = self._troubled
        if (
            exchange.duration_us < self._shortest_slow_us
            and exchange.status < 400
            and exchange.facts is None
            and exchange.started_ns >= troubled.until_ns
            and not troubled.is_now
            and exchange.error_type is None
        ):
            # Nearly every request.
            return
        answered_us = exchange.answered_us if exchange.streamed or exchange.socket is not None else exchange.duration_us
        is_slow = answered_us >= self._slow_us(exchange.route)
        if is_slow or exchange.status >= 400 or exchange.error_type is not None or self._is_of_concern(exchange):
            self._find_out(exchange, is_slow=is_slow)
        exchange.facts = None

    def background_finished(self, exchange: Exchange) -> None:
        """Say at which line the work after the response has failed."""
        background = exchange.background
        if background is not None and background.error is not None:
            background.why = raised_clause(exchange, raised_error(background.error))

    def timings(self, exchange: Exchange) -> dict[str, int]:
        """Return where its time went so far, in microseconds by name; of two observers the later one knows better."""
        found: dict[str, int] = {}
        for observer in self._timing:
            found |= observer.timings(exchange)
        return found

    def _is_of_concern(self, exchange: Exchange) -> bool:
        # Not `any`: a generator costs more than what it asks.
        for concerns in self._concerns:  # noqa: SIM110
            if concerns(exchange):
                return True
        return False

    def _find_out(self, exchange: Exchange, *, is_slow: bool) -> None:
        explanation = Explanation(is_slow=is_slow, timings=self.timings(exchange) or None)
        for explain in self._explain:
            try:
                explain(exchange, explanation)
            except Exception as error:
                self._internal_errors.count(self.component, error)
        explanation.rank(exchange.duration_us)
        if is_slow and not explanation.findings:
            explanation.findings.append(
                Finding("unknown", "no cause found: nothing that is watched took long", exchange.duration_us)
            )
        if explanation.is_telling:
            exchange.explanation = explanation

"""Failures of our own parts: how they are counted, and by which name. They never reach a request."""

import sys
import time
from collections.abc import Callable

_NOTICE_INTERVAL_SECONDS = 60.0


class InternalErrors:
    """Counts failures by component, and writes of each component to stderr at most once a minute."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.counts: dict[str, int] = {}
        """By component, as `observability_internal_errors_total` shows them."""
        self._clock = clock
        self._noticed_at: dict[str, float] = {}

    def count(self, component: str, error: BaseException) -> None:
        """Count one failure; never raises."""
        self.counts[component] = self.counts.get(component, 0) + 1
        now = self._clock()
        if now - self._noticed_at.get(component, -_NOTICE_INTERVAL_SECONDS) < _NOTICE_INTERVAL_SECONDS:
            return
        self._noticed_at[component] = now
        try:
            sys.stderr.write(
                f"sage_fastapi_obs: {component} failed ({type(error).__name__}: {error}); requests are not affected, "
                f"failures are counted in observability_internal_errors_total\n"
            )
        except Exception:  # noqa: S110 - a closed stderr must not reach the request, and nothing else is left to write to
            pass


def component_of(part: object) -> str:
    """Return the name by which failures of an object are counted: `component` of its class, else the name of its class."""
    kind = type(part)
    component: str = vars(kind).get("component", kind.__name__)
    return component

"""What watches one kind of cause."""

from collections.abc import Callable

from sage_fastapi_obs.request.exchange import Exchange
from sage_fastapi_obs.request.explanation import Explanation


class CauseObserver:
    """Base of the observers; override the methods you need. None of them may raise for what a client sends."""

    component = "Insight"

    def start(self) -> None:
        """Begin to observe, in the thread of the event loop that serves."""

    def stop(self) -> None:
        """Stop observing, and give back what was changed outside of this package."""

    def request_started(self, exchange: Exchange) -> None:
        """See a request before the app does; every request pays for it."""

    def concerns(self, exchange: Exchange) -> bool:  # noqa: ARG002 - for those that override it
        """Tell at its end whether there is something to say about a request that is fine, but has notes or lost time."""
        return False

    def timings(self, exchange: Exchange) -> dict[str, int]:  # noqa: ARG002 - for those that override it
        """Return where the time of a request went so far, in microseconds by name; also before it has ended."""
        return {}

    def explain(self, exchange: Exchange, explanation: Explanation) -> None:
        """Add findings and figures about a request that has ended, and is slow, failed, refused, or concerns some observer."""


def overridden(observers: list[CauseObserver], method: str) -> tuple[Callable[..., object], ...]:
    """Return a method of those observers that have it."""
    base = getattr(CauseObserver, method)
    return tuple(getattr(observer, method) for observer in observers if getattr(type(observer), method) is not base)

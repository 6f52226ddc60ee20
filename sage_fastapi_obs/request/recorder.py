"""What watches an exchange, and the one place where a watcher's failure is contained.

When each method is called:

- `request_started`: before the app sees the request. Everything about the request is known, nothing about the response.
- `response_started`: the app has sent its status; append to `headers` to add response headers. For a websocket: the
  handshake was answered. Not called when the app never answers.
- `request_finished`: once, when the server has the last byte, or when the app failed or was cancelled.
- `background_finished`: only when the app went on working after the last byte, or failed there.
- `app_returned`: at the very end, in the context of `request_started`; undo there what was attached.
"""

from collections.abc import Callable, Sequence

from sage_fastapi_obs.internal_errors import InternalErrors, component_of
from sage_fastapi_obs.request.exchange import Exchange

Headers = list[tuple[bytes, bytes]]


class Recorder:
    """Base of the recorders; override the methods you need."""

    def request_started(self, exchange: Exchange) -> None:
        """See a request before the app does."""

    def response_started(self, exchange: Exchange, headers: Headers) -> None:
        """See the status, and append response headers."""

    def request_finished(self, exchange: Exchange) -> None:
        """See the exchange whole."""

    def background_finished(self, exchange: Exchange) -> None:
        """See what the app did after the last byte."""

    def app_returned(self, exchange: Exchange) -> None:
        """Undo what `request_started` attached to the context."""


class RecorderCallbacks:
    """The methods of a sequence of recorders, bound once, in the order in which they are called.

    Whoever calls them does so in a loop of its own, which is cheaper for a request than a call through here, and hands what one
    raises to `failed`.
    """

    __slots__ = (
        "_internal_errors",
        "app_returned",
        "background_finished",
        "request_finished",
        "request_started",
        "response_started",
    )

    def __init__(
        self, recorders: Sequence[Recorder], internal_errors: InternalErrors, *, first: Sequence[Recorder] = ()
    ) -> None:
        """`first`: called before all others at each moment, in this order, as the others act on what they find or decide."""
        self._internal_errors = internal_errors
        recorders, backwards = [*first, *recorders], [*first, *recorders[::-1]]
        self.request_started = tuple(r.request_started for r in recorders if _overrides(r, "request_started"))
        self.response_started = tuple(r.response_started for r in recorders if _overrides(r, "response_started"))
        self.request_finished = tuple(r.request_finished for r in backwards if _overrides(r, "request_finished"))
        self.background_finished = tuple(r.background_finished for r in recorders if _overrides(r, "background_finished"))
        self.app_returned = tuple(r.app_returned for r in backwards if _overrides(r, "app_returned"))

    def failed(self, callback: Callable[..., None], error: Exception) -> None:
        """Count the failure of a recorder."""
        self._internal_errors.count(component_of(getattr(callback, "__self__", callback)), error)


def _overrides(recorder: Recorder, method: str) -> bool:
    return getattr(type(recorder), method) is not getattr(Recorder, method)

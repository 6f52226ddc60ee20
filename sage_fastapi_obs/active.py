"""Which `Observability` the calling code acts on, for all functions and loggers that are given none.

In a request it is that of the request, also in threads and tasks that have the request's context. Elsewhere it is the one
that was started last in this process, and is not closed. Without any, as in a script, in an import, or in a test of a function
alone, nothing is recorded and nothing is raised.
"""

from collections.abc import Callable
from typing import Any, Protocol
from weakref import ReferenceType, ref

from sage_fastapi_obs.internal_errors import InternalErrors
from sage_fastapi_obs.request.exchange import current_exchange
from sage_fastapi_obs.settings import Settings


class ActiveObservability(Protocol):
    """The parts of an `Observability` that its users reach by this way; those of layers above this one are of any type."""

    settings: Settings
    clock: Callable[[], int]
    wall_clock: Callable[[], int]
    internal_errors: InternalErrors
    instruments: Any
    """`metrics.instruments.Instruments`."""
    collected: Any
    """`packs.result.named_metrics.NamedMetrics`."""
    status: Any
    """`alerting.service_status.ServiceStatus`."""

    @property
    def children(self) -> Any:
        """`tracing.child_spans.ChildSpans`, which opens spans; None while no spans are recorded."""
        ...

    @property
    def dropped_headers(self) -> Any:
        """`request.propagation_headers.DroppedHeaders`."""
        ...

    def enable_pack(self, pack: object) -> None:
        """Switch a pack on."""
        ...

    def query_logs_by_correlation_id(self, correlation_id: str, limit: int = ...) -> list[Any]:
        """Return the recent lines of an id."""
        ...

    def abandon(self) -> None:
        """Close without waiting."""
        ...


_started: list[ReferenceType[ActiveObservability]] = []
"""In the order of their starts. Weak references: one that is dropped without a close is not kept alive by this list."""
_callbacks: list[Callable[[ActiveObservability], None]] = []
_errors_of_no_one = InternalErrors()
"""Failures while no `Observability` runs: they are written to stderr."""


def request_observability() -> ActiveObservability | None:
    """Return the `Observability` of the request; None outside requests."""
    exchange = current_exchange.get()
    observability: ActiveObservability | None = None if exchange is None else exchange.observer
    return observability


def active_observability() -> ActiveObservability | None:
    """Return the `Observability` of the request, or else the one that was started last; None without any."""
    observability = request_observability()
    if observability is not None:
        return observability
    # A copy: another thread may be closing one.
    for reference in reversed(_started[:]):
        if (started := reference()) is not None:
            return started
    return None


def count_internal_error(component: str, error: Exception, observability: ActiveObservability | None = None) -> None:
    """Count an internal error on an `Observability`, by default the active one; never raises."""
    try:
        counting = active_observability() if observability is None else observability
        (_errors_of_no_one if counting is None else counting.internal_errors).count(component, error)
    except Exception:  # noqa: S110 - the observer of this exchange is another library's, and nothing is left that could count
        pass


def register(observability: ActiveObservability) -> None:
    """Add one that has started."""
    _started.append(ref(observability))
    for callback in [*_callbacks]:
        try:
            callback(observability)
        except Exception as error:
            count_internal_error("home", error, observability)


def unregister(observability: ActiveObservability) -> None:
    """Remove one that is closed."""
    _started[:] = [reference for reference in _started if reference() not in (observability, None)]


def on_start(callback: Callable[[ActiveObservability], None]) -> None:
    """Call a function with each `Observability` that starts later; adding the same function again changes nothing."""
    if callback not in _callbacks:
        _callbacks.append(callback)

"""Which `Observability` application code acts on, when it calls a function that names none.

In a request it is that of the request, also in threads and tasks that have the request's context. Elsewhere it is the one
that was started last in this process, and is not closed. Where there is none, as in a script, in an import, or in a test of a
function alone, nothing is recorded and nothing is raised: the code runs as what it is, unwatched.
"""

from collections.abc import Callable
from typing import Any, Protocol, cast
from weakref import ReferenceType, ref

from sage_fastapi_obs.internal_errors import InternalErrors
from sage_fastapi_obs.metrics.instruments import Instruments
from sage_fastapi_obs.request.exchange import current_exchange
from sage_fastapi_obs.settings import Settings
from sage_fastapi_obs.tracing.child_spans import ChildSpans

__all__ = ["ActiveObservability", "active_observability", "count_fault", "on_start", "register", "unregister"]


class Collects(Protocol):
    """Takes numbers by the names of metrics."""

    def collect(self, name: Any, number: Any, metric_type: Any, labels: Any) -> None:
        """Take one number."""


class ActiveObservability(Protocol):
    """What application code needs of an `Observability`."""

    settings: Settings
    clock: Callable[[], int]
    wall_clock: Callable[[], int]
    faults: InternalErrors
    instruments: Instruments

    @property
    def collected(self) -> Collects:
        """What takes the metrics that an application collects by their names."""
        ...

    @property
    def children(self) -> ChildSpans | None:
        """What opens spans; None while there is nothing to hand them to."""
        ...

    def enable_pack(self, pack: object) -> None:
        """Switch a pack on."""
        ...


_started: list[ReferenceType[ActiveObservability]] = []
"""From the first to the last; the process's only list of them. One that is dropped without a close is gone from here, too."""
_welcomes: list[Callable[[ActiveObservability], None]] = []
"""What is done with each that starts."""


def on_start(do: Callable[[ActiveObservability], None]) -> None:
    """Do something with each that starts from now on; the same thing once."""
    if do not in _welcomes:
        _welcomes.append(do)


def register(home: ActiveObservability) -> None:
    """Note one that has started."""
    _started.append(ref(home))
    for do in [*_welcomes]:
        try:
            do(home)
        except Exception as fault:
            count_fault(home, "home", fault)


def unregister(home: ActiveObservability) -> None:
    """Forget one that was closed."""
    _started[:] = [one for one in _started if one() not in (home, None)]


def active_observability() -> ActiveObservability | None:
    """Return the one to act on, or None."""
    exchange = current_exchange.get()
    if exchange is not None and exchange.observer is not None:
        return cast("ActiveObservability", exchange.observer)
    # A copy: another thread may be closing one.
    return next((home for one in reversed(_started[:]) if (home := one()) is not None), None)


def count_fault(home: ActiveObservability, component: str, fault: Exception) -> None:
    """Count a failure of ours; never raises."""
    try:
        home.faults.count(component, fault)
    except Exception:  # noqa: S110 - the observer of this exchange is none of ours, and there is nobody left to tell
        pass

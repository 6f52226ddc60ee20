"""Which causes are observed."""

from collections.abc import Callable

from sage_fastapi_obs.insight.calls import SlowCalls
from sage_fastapi_obs.insight.connection_waits import ConnectionWaits
from sage_fastapi_obs.insight.insight_recorder import InsightRecorder
from sage_fastapi_obs.insight.observer import CauseObserver
from sage_fastapi_obs.insight.thread_pool import ThreadPool
from sage_fastapi_obs.insight.time_split import TimeSplit
from sage_fastapi_obs.request.watch import Observer
from sage_fastapi_obs.settings import Settings


def insight(settings: Settings, observability: Observer, slow_us: Callable[[str | None], int]) -> InsightRecorder:
    """Build the observers. `slow_us`: the duration from which on a request of a route is slow."""
    del settings
    observers: list[CauseObserver] = [TimeSplit(), ThreadPool(), SlowCalls(), ConnectionWaits()]
    return InsightRecorder(observers, slow_us, observability.internal_errors)

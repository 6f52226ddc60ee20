"""Which causes are observed."""

from sage_fastapi_obs.insight.application_code import ApplicationCode
from sage_fastapi_obs.insight.blocked_loop import BlockedLoop
from sage_fastapi_obs.insight.busy_threads import BusyThreads
from sage_fastapi_obs.insight.calls import SlowCalls
from sage_fastapi_obs.insight.connection_waits import ConnectionWaits
from sage_fastapi_obs.insight.garbage_collection import GarbageCollection
from sage_fastapi_obs.insight.insight_recorder import InsightRecorder
from sage_fastapi_obs.insight.loop_sampler import LoopSampler
from sage_fastapi_obs.insight.observer import CauseObserver
from sage_fastapi_obs.insight.queue_time import QueueTime
from sage_fastapi_obs.insight.refusals import Refusals
from sage_fastapi_obs.insight.thread_pool import ThreadPool
from sage_fastapi_obs.insight.time_split import TimeSplit
from sage_fastapi_obs.insight.troubled_time import TroubledTime
from sage_fastapi_obs.insight.waiting import SlowWaits
from sage_fastapi_obs.insight.watch_thread import WatchThread
from sage_fastapi_obs.metrics.collector_pauses import CollectorPauses
from sage_fastapi_obs.request.watch import Observer
from sage_fastapi_obs.settings import Settings
from sage_fastapi_obs.tracing.retention import Retention


def insight(settings: Settings, observability: Observer, retention: Retention) -> InsightRecorder:
    """Build the observers. `retention`: knows how long the requests of a route usually take."""
    code, troubled = ApplicationCode(), TroubledTime()
    pauses = CollectorPauses(long_ended=troubled.extend)
    watch = WatchThread(observability.in_progress, observability.internal_errors, observability.clock)
    sampler = LoopSampler(watch, code, observability, troubled)
    pool = ThreadPool()
    observers: list[CauseObserver] = [
        BlockedLoop(watch, sampler, troubled, pauses, settings.insight.blocked_loop_seconds, retention.median_us),
        GarbageCollection(pauses),
        Refusals(),
        TimeSplit(),
        pool,
        SlowCalls(),
        ConnectionWaits(),
        BusyThreads(watch, troubled),
        # The last one: it leaves out what others have found.
        SlowWaits(watch, code, pool, troubled, retention.median_us),
    ]
    if settings.insight.queue_header is not None:
        observers.insert(0, QueueTime(settings.insight.queue_header))
    return InsightRecorder(
        observers, retention.slow_us, observability.internal_errors, code, troubled, retention.shortest_slow_us
    )

"""Which causes are observed."""

from collections.abc import Callable

from sage_fastapi_obs.insight.application_code import ApplicationCode
from sage_fastapi_obs.insight.insight_recorder import InsightRecorder
from sage_fastapi_obs.insight.observer import CauseObserver
from sage_fastapi_obs.insight.queue_time import QueueTime
from sage_fastapi_obs.insight.refusals import Refusals
from sage_fastapi_obs.insight.stacks import Stacks
from sage_fastapi_obs.request.watch import Observer
from sage_fastapi_obs.settings import Settings


def insight(
    settings: Settings, observability: Observer, slow_us: Callable[[str | None], int], readable: Callable[[str], str]
) -> InsightRecorder:
    """Build the observers.

    `slow_us`: the duration from which on a request of a route is slow. `readable` cuts and redacts a text of the caller's.
    """
    code = ApplicationCode()
    stacks = Stacks(settings.service.name, observability, code, readable)
    observers: list[CauseObserver] = [stacks, Refusals(code)]
    if settings.insight.queue_header is not None:
        observers.append(QueueTime(settings.insight.queue_header))
    return InsightRecorder(observers, slow_us, observability.internal_errors, stacks)

"""The worker of one `Observability`: its parts, and what they need of the others."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from sage_fastapi_obs.catalog import WORKER_METRICS
from sage_fastapi_obs.internal_errors import InternalErrors
from sage_fastapi_obs.metrics.http_recorder import HttpMetrics
from sage_fastapi_obs.metrics.instruments import Instruments
from sage_fastapi_obs.store.location import StoreKey
from sage_fastapi_obs.store.store import Store
from sage_fastapi_obs.workers.death_report import DeathReport
from sage_fastapi_obs.workers.worker import Worker


def build_worker(
    key: StoreKey,
    group: str | None,
    observer: Any,
    *,
    instruments: Instruments,
    http: HttpMetrics | None,
    store: Store | None,
    readable: Callable[[str], str],
    log: Callable[[str, str, Mapping[str, Any]], object],
    warn: Callable[[str, Mapping[str, Any]], object],
    where: Callable[[], str],
    errors: InternalErrors,
) -> Worker:
    """Build it; it starts nothing. `observer`: whose requests these are. `log` and `warn` write lines."""
    instruments.add(WORKER_METRICS)
    count_death, count_lost = [partial(_count, instruments, metric.name) for metric in WORKER_METRICS]
    count_answered = None if http is None else http.count_untimed
    report = DeathReport(log, readable, observer, store, count_death, count_lost, count_answered)
    return Worker(key, group, numbers=None, report=report, where=where, warn=warn, errors=errors)


def _count(instruments: Instruments, name: str, value: str) -> None:
    instrument = instruments.get(name)
    if instrument is not None:
        instrument.with_values(value).inc()

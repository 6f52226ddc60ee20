"""The worker of one `Observability`: its parts, and what they need of the others."""

import os
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from sage_fastapi_obs.catalog import WORKER_METRICS
from sage_fastapi_obs.metrics.http_recorder import HttpMetrics
from sage_fastapi_obs.metrics.instruments import Instruments
from sage_fastapi_obs.request.watch import in_flight
from sage_fastapi_obs.settings import Settings
from sage_fastapi_obs.store.location import socket_prefix, store_key
from sage_fastapi_obs.store.store import Store
from sage_fastapi_obs.workers.control_socket import ControlSocket
from sage_fastapi_obs.workers.death_report import DeathReport
from sage_fastapi_obs.workers.other_workers import Sibling, Workers
from sage_fastapi_obs.workers.shared_levels import VERB as LEVELS
from sage_fastapi_obs.workers.shared_levels import SharedLevels
from sage_fastapi_obs.workers.shared_numbers import SAVE, SharedNumbers
from sage_fastapi_obs.workers.worker import Worker

FLUSH = "flush"
"""The verb that has a worker write what it has kept."""
_FLUSH_SECONDS = 1.0
"""Longest wait for that."""
Log: TypeAlias = Callable[[str, str, Mapping[str, Any]], object]
Warn: TypeAlias = Callable[[str, Mapping[str, Any]], None]


class WorkerParts(NamedTuple):
    """What makes this process one of several."""

    everyone: Workers
    """All workers."""
    levels: SharedLevels
    """Log levels of all workers."""
    control: ControlSocket
    """At which other processes ask this one."""
    numbers: SharedNumbers
    """Of all workers."""
    worker: Worker | None
    """Its slot; None where the settings switch that off."""


def build_workers(
    observability: Any, http: HttpMetrics | None, readable: Callable[[str], str], log: Log, warn: Warn
) -> WorkerParts:
    """Build everything, and start nothing.

    `readable` cuts and redacts a text of the caller's. `log` and `warn` write lines; `warn` not over the network.
    """
    settings, errors, started = observability.settings, observability.internal_errors, time.time()
    numbers = SharedNumbers(
        *(observability.registry, observability.collected.unexported, http, errors),
        interval_seconds=settings.monitoring.interval_seconds,
        wall_clock=lambda: observability.wall_clock() / 1_000_000_000,
    )
    report = _build_report(observability, http, readable, log)
    worker = _build_worker(observability, numbers, report, warn) if settings.workers.enabled else None
    everyone = Workers(lambda: (worker.everyone() if worker is not None else []) or [_alone(observability, started, control)])
    levels = SharedLevels(observability.logs, everyone)
    control = ControlSocket(
        partial(_socket_prefix, settings, worker),
        {
            "stacks": partial(_stacks_of, observability),
            LEVELS: levels.answer,
            FLUSH: partial(_flush, observability.store),
            SAVE: numbers.answer,
        },
        warn,
        partial(errors.count, ControlSocket.component),
        None if worker is None else worker.tick,
    )
    if worker is not None:
        worker.listen_at(control)
    if observability.store is not None:
        observability.store.reader.hurry_others = lambda: bool(everyone.ask(FLUSH, seconds=_FLUSH_SECONDS))
    return WorkerParts(everyone, levels, control, numbers, worker)


def _alone(observability: Any, started: float, control: ControlSocket) -> Sibling:
    """Return this process where it has no slot."""
    now = time.monotonic()
    # As in a slot, our own pages do not count.
    serving = sum(not watch.exchange.excluded for watch in in_flight(observability.in_progress))
    return Sibling(*(0, os.getpid(), True, started, now, now, serving), is_leader=True, socket=control.path)


def _build_worker(observability: Any, numbers: SharedNumbers, report: DeathReport, warn: Warn) -> Worker:
    settings, stacks = observability.settings, observability.stacks
    return Worker(
        *(store_key(settings.service.name), settings.workers.group),
        numbers=numbers if settings.metrics.enabled else None,
        report=report,
        where=str if stacks is None else stacks.loop_line,
        warn=warn,
        errors=observability.internal_errors,
    )


def _build_report(observability: Any, http: HttpMetrics | None, readable: Callable[[str], str], log: Log) -> DeathReport:
    observability.instruments.add(WORKER_METRICS)
    count_death, count_lost = [partial(_count, observability.instruments, metric.name) for metric in WORKER_METRICS]
    count_answered = None if http is None else http.count_untimed
    return DeathReport(log, readable, observability, observability.store, count_death, count_lost, count_answered)


def _socket_prefix(settings: Settings, worker: Worker | None) -> Path:
    """Return where `sage-obs stacks` looks for the socket; without a store, where siblings know of it."""
    group = None if worker is None else worker.group
    if settings.store.enabled:
        return socket_prefix(settings.store, store_key(settings.service.name))
    if group is None:
        raise OSError("there is neither a store nor a slot")
    return group.folder / "worker"


def _stacks_of(observability: Any, _: Any) -> bytes:
    stacks = observability.stacks
    return b"" if stacks is None else stacks.report().model_dump_json().encode()


def _flush(store: Store | None, _: Any) -> bytes:
    return b"" if store is None or store.flush(_FLUSH_SECONDS) else b"late"


def _count(instruments: Instruments, name: str, value: str) -> None:
    instrument = instruments.get(name)
    if instrument is not None:
        instrument.with_values(value).inc()

"""The worker of one `Observability`: its parts, and what they need of the others."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple, TypeAlias

from sage_fastapi_obs.catalog import WORKER_METRICS
from sage_fastapi_obs.metrics.http_recorder import HttpMetrics
from sage_fastapi_obs.metrics.instruments import Instruments
from sage_fastapi_obs.store.location import socket_prefix, store_key
from sage_fastapi_obs.workers.control_socket import ControlSocket
from sage_fastapi_obs.workers.death_report import DeathReport
from sage_fastapi_obs.workers.shared_numbers import SAVE, SharedNumbers
from sage_fastapi_obs.workers.worker import Worker

Log: TypeAlias = Callable[[str, str, Mapping[str, Any]], object]
Warn: TypeAlias = Callable[[str, Mapping[str, Any]], None]


class Workers(NamedTuple):
    """What makes this process one of several."""

    control: ControlSocket
    """At which other processes ask this one."""
    numbers: SharedNumbers
    """Of all workers."""
    worker: Worker | None
    """Its slot; None where the settings switch that off."""


def build_workers(
    observability: Any, http: HttpMetrics | None, readable: Callable[[str], str], log: Log, warn: Warn
) -> Workers:
    """Build everything, and start nothing.

    `readable` cuts and redacts a text of the caller's. `log` and `warn` write lines; `warn` not over the network.
    """
    settings, errors = observability.settings, observability.internal_errors
    numbers = SharedNumbers(
        *(observability.registry, observability.collected.unexported, http, errors),
        interval_seconds=settings.monitoring.interval_seconds,
        wall_clock=lambda: observability.wall_clock() / 1_000_000_000,
    )
    report = _build_report(observability, http, readable, log)
    worker = _build_worker(observability, numbers, report, warn) if settings.workers.enabled else None
    control = ControlSocket(
        partial(socket_prefix, settings.store, store_key(settings.service.name)),
        {"stacks": partial(_stacks_of, observability), SAVE: numbers.answer},
        warn,
        partial(errors.count, ControlSocket.component),
        None if worker is None else worker.tick,
    )
    if worker is not None:
        worker.listen_at(control)
    return Workers(control, numbers, worker)


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


def _stacks_of(observability: Any, _: Any) -> bytes:
    stacks = observability.stacks
    return b"" if stacks is None else stacks.report().model_dump_json().encode()


def _count(instruments: Instruments, name: str, value: str) -> None:
    instrument = instruments.get(name)
    if instrument is not None:
        instrument.with_values(value).inc()

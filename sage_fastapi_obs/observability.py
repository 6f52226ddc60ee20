"""`Observability`: all parts of one app's observability, and the order in which they are built, called and started."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from operator import attrgetter
from typing import Any

from fastapi import APIRouter
from opentelemetry.trace import TracerProvider
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.types import ASGIApp, Scope

from sage_fastapi_obs import active
from sage_fastapi_obs.alerting.service_status import ServiceStatus
from sage_fastapi_obs.catalog import PACKS, CountCollector, register
from sage_fastapi_obs.delivery.senders import Senders
from sage_fastapi_obs.endpoints.metrics_page import MetricsPage
from sage_fastapi_obs.endpoints.metrics_port import MetricsPort
from sage_fastapi_obs.endpoints.recent_lines_page import lines_or_recent
from sage_fastapi_obs.endpoints.router import monitoring_router
from sage_fastapi_obs.endpoints.status_pages import Report
from sage_fastapi_obs.errors import DeclarationError
from sage_fastapi_obs.insight.assembly import insight
from sage_fastapi_obs.insight.server_timing import server_timing
from sage_fastapi_obs.insight.stacks import Stacks
from sage_fastapi_obs.insight.stacks_signal import StacksSignal
from sage_fastapi_obs.install import PagePlacement, install
from sage_fastapi_obs.legacy.aliases import Aliases
from sage_fastapi_obs.lifecycle import Lifecycle, Steps
from sage_fastapi_obs.logs import takeover
from sage_fastapi_obs.logs.access_recorder import AccessRecorder
from sage_fastapi_obs.logs.held_lines import HeldLineCounts
from sage_fastapi_obs.logs.recent_lines import LogEntry, recent_lines_of
from sage_fastapi_obs.logs.writer import OWN_LOGGER, LogWriter
from sage_fastapi_obs.metrics.exemplars import KeptExemplars
from sage_fastapi_obs.metrics.http_recorder import HttpMetrics
from sage_fastapi_obs.metrics.instruments import Instruments
from sage_fastapi_obs.metrics.otlp_push import MetricOutput
from sage_fastapi_obs.operations.own_metrics import metrics_of
from sage_fastapi_obs.packs.result.named_metrics import NamedMetrics
from sage_fastapi_obs.privacy.redaction import Redaction
from sage_fastapi_obs.request.excluded_requests import ExcludedRequests
from sage_fastapi_obs.request.ids import Identity, new_request_id
from sage_fastapi_obs.request.propagation_headers import DroppedHeaders
from sage_fastapi_obs.request.recorder import Recorder, RecorderCallbacks
from sage_fastapi_obs.settings import Settings
from sage_fastapi_obs.settings.inspection_mode import in_force
from sage_fastapi_obs.startup_message import startup_fields, startup_remarks
from sage_fastapi_obs.store.exchange_records import ExchangeEncoder
from sage_fastapi_obs.store.location import store_key
from sage_fastapi_obs.store.store import Store
from sage_fastapi_obs.store.store_recorder import StoredLines, StoreRecorder
from sage_fastapi_obs.tracing.child_spans import ChildSpans
from sage_fastapi_obs.tracing.retention import Retention, RetentionLosses
from sage_fastapi_obs.tracing.server_span import ServerSpans
from sage_fastapi_obs.workers.wiring import build_workers


class Observability(Lifecycle):
    """Everything one app needs to be watched.

    `Observability().install(app)` is all it takes. Building it starts nothing: parts start with the app's lifespan, or
    with `start()`, `async with`, or the first request, in the process that serves.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        tracer_provider: TracerProvider | None = None,
        registry: CollectorRegistry | None = None,
        clock: Callable[[], int] = time.perf_counter_ns,
        wall_clock: Callable[[], int] = time.time_ns,
        new_id: Callable[[], str] = new_request_id,
        status_clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Build all parts.

        `tracer_provider`: the application's own; it is never replaced or shut down. `registry`: where the metrics live; a
        new one by default. `clock`: monotonic nanoseconds. `wall_clock`: Unix time in nanoseconds. `new_id`: mints request ids.
        `status_clock`: monotonic seconds, by which windows and alerts go.
        """
        self.settings = settings = in_force(settings)
        super().__init__(enabled=settings.enabled)
        self.clock, self.wall_clock = clock, wall_clock
        self.registry = CollectorRegistry(auto_describe=True) if registry is None else registry
        # Parts register their metrics while they are built, and `/metrics` shows them in that order: the page's own first.
        self.metrics_page = MetricsPage(self.registry, self.internal_errors, measured=settings.metrics.enabled)

        # The signals of a request.
        self._senders = Senders()
        redaction = Redaction(settings.logging, query_values=settings.tracing.query_values)
        self._retention = Retention(settings)
        self.insight = insight(settings, self, self._retention) if settings.insight.enabled else None
        """Finds why requests are slow, are refused or fail; None where the settings switch it off."""
        self._tracing = ServerSpans(
            *(settings.tracing, settings.service, settings.http, redaction, tracer_provider),
            log=self._warn_locally,
            failed=partial(self.internal_errors.count, ServerSpans.component),
            senders=self._senders,
            observer=self,
            retention=self._retention,
            is_stored=settings.store.enabled,
        )
        self.logs = LogWriter(
            *(settings.logging, settings.service, self.internal_errors, wall_clock, self, redaction, recent_lines_of(settings)),
            senders=self._senders,
        )
        """What writes the lines."""
        self.store = self._build_store(redaction) if settings.store.enabled else None
        """Keeps requests that matter; None where the settings switch it off."""
        self.stacks = (
            None if self.insight is None else Stacks(settings.service.name, self, self.insight.code, redaction.readable)
        )
        """Tells which requests are in flight, and where they are."""
        self._stacks_signal = StacksSignal(settings.insight.stacks_signal if settings.insight.enabled else None)
        self.instruments = Instruments(settings.metrics, self.registry, self.internal_errors, partial(self._log, "info"))
        self._metric_output = MetricOutput(
            *(settings.metrics, settings.service, self.registry, self.internal_errors, self._warn_locally, self._senders),
            shutdown_seconds=settings.tracing.shutdown_seconds,
        )
        self.collected = NamedMetrics(self.instruments, self.internal_errors)
        """Metrics that the application collects by name."""

        http = HttpMetrics(settings.metrics, self.instruments, self.in_progress) if "http" in self.instruments.packs else None
        self.workers, self._levels, self._control, self.numbers, self.worker = build_workers(
            *(self, http, redaction.readable, self._log, self._warn_locally)
        )
        self.metrics_page.all_workers = self.numbers.for_page

        # What is computed from the metrics.
        self.status = ServiceStatus(
            settings,
            self.numbers.readings,
            self.health,
            self.internal_errors,
            self._log_alert,
            from_zero=registry is None,
            history=None if self.store is None else self.store.history,
            clock=status_clock,
            wall_clock=lambda: wall_clock() / 1_000_000_000,
        )
        """Windows, alerts and service levels."""
        self.status.show_active = self._show_active
        self.status.review.collected_names = partial(attrgetter("names"), self.collected)
        if self.worker is not None and settings.metrics.enabled:
            self.worker.rules = self.status

        # What operators open.
        self._port = MetricsPort(self.metrics_page, settings, self.workers, self._control, self._pages_of_port)
        self.router: APIRouter = self._router(settings)
        """The monitoring endpoints, for `app.include_router`."""
        self._pages = PagePlacement(settings, self.router, self._warn)
        # Our own pages are no traffic of the app.
        own_pages = settings.metrics.path, settings.monitoring.prefix
        self._excluded_requests = ExcludedRequests((*settings.http.exclude_paths, *own_pages))
        self.excluded = self._excluded_requests.beginnings

        self._build_callbacks(Identity(settings.http, redaction, new_id), http, redaction)
        if settings.metrics.enabled:
            self._register_collectors()

    def _router(self, settings: Settings, health: Report | None = None) -> APIRouter:
        return monitoring_router(
            *(settings, self.metrics_page, self.status, self.logs, self.store),
            None if self.stacks is None else self.stacks.report,
            *(self.workers, self._levels, self.numbers.families, self.settings, health),
        )

    def _pages_of_port(self) -> APIRouter | None:
        """Build what the metrics port serves besides metrics; nothing without a token, which it takes there."""
        monitoring = self.settings.monitoring
        if monitoring.token is None:
            return None
        settings = self.settings.model_copy(update={"monitoring": monitoring.model_copy(update={"access": "token"})})
        return self._router(settings, lambda: self.health.report_of(self.status.notifications.loop))

    def _build_callbacks(self, identity: Identity, http: HttpMetrics | None, redaction: Redaction) -> None:
        """Put the recorders in order: ids before the span that has them.

        `request_finished` runs in reverse, so that the log line leaves before the metrics change.
        """
        settings = self.settings
        tracing = self._tracing if settings.tracing.enabled else None
        logs = AccessRecorder(self.logs, redaction.readable) if settings.logging.enabled else None
        held_lines = self.logs.held_lines if settings.logging.enabled else None
        exemplars = KeptExemplars() if settings.metrics.enabled and settings.metrics.exemplars else None
        store = None if self.store is None else StoreRecorder(self.store)
        in_flight = None if self.worker is None else self.worker.in_flight
        acting = (store, tracing, in_flight, exemplars, http, logs, held_lines)
        deciding = (self.insight, self._retention, server_timing(settings, self.insight)) if any(acting) else ()
        self.callbacks = self._callbacks(identity, *acting, first=deciding)
        self.excluded_callbacks = self._callbacks(identity, logs)

    def _build_store(self, redaction: Redaction) -> Store:
        store = Store(
            self.settings.store,
            store_key(self.settings.service.name),
            ExchangeEncoder(self.logs.build, redaction.readable),
            log=self._warn_locally,
            failed=partial(self.internal_errors.count, StoreRecorder.component),
            clock=self.wall_clock,
        )
        self.logs.add_to_store = StoredLines(store, self, self.wall_clock).add
        return store

    def _callbacks(self, *recorders: Recorder | None, first: Iterable[Recorder | None] = ()) -> RecorderCallbacks:
        return RecorderCallbacks(_present(recorders), self.internal_errors, first=_present(first))

    def _register_collectors(self) -> None:
        """Register the metrics that are read from other parts when they are asked for."""
        for losses in self._losses():
            self.registry.register(losses)
        if groups := self.settings.metrics.alias_groups:
            register(Aliases(self.registry, groups), self.registry)
        self.registry.register(self.status.metrics)
        self.registry.register(self._excluded_requests)
        if self.settings.logging.enabled and self.logs.held_lines is not None:
            self.registry.register(HeldLineCounts(self.logs.held_lines))

    def _losses(self) -> Iterator[CountCollector]:
        if self.settings.logging.enabled:
            yield self.logs.losses
        yield from (self._metric_output.losses, RetentionLosses(self._retention))
        if self.store is not None:
            yield self.store.losses
        if self.settings.tracing.enabled:
            yield from (self._tracing.losses, self._tracing.dropped_headers)

    def _start_steps(self) -> Steps:
        settings = self.settings
        return (
            (self._senders.start, True),
            (self.logs.start, settings.logging.enabled),
            (self._tracing.start, settings.tracing.enabled),
            *_steps("start", self.store, self.insight, self.stacks, self.worker, self._stacks_signal),
            (self._control.start, self.worker is not None or (self.insight is not None and self.store is not None)),
            (self._levels.follow, settings.logging.enabled),
            (partial(active.register, self), True),
            (self._port.start, settings.metrics.enabled and settings.monitoring.access == "port"),
            (self.status.start, settings.metrics.enabled),
            (self.instruments.runtime.start, "runtime" in self.instruments.packs),
            (self._metric_output.start, settings.metrics.enabled),
            (self._log_startup, settings.logging.enabled),
        )

    def _before_startup(self, app: ASGIApp) -> Steps:
        return () if self.worker is None else ((partial(self.worker.add_application, app), True),)

    def _after_startup(self, app: ASGIApp) -> Steps:
        return (
            (partial(self.place_pages, app), True),
            (takeover.reattach_root, self.settings.logging.enabled),
        )

    def _drain(self) -> None:
        super()._drain()
        if self.worker is not None:
            self.worker.note_stop()

    def _leave_steps(self) -> Steps:
        return (
            (partial(active.unregister, self), True),
            (self.instruments.runtime.stop, True),
            *_steps("stop", self.insight),
        )

    def _stop_steps(self, *, wait: bool) -> Steps:
        """Stop the log output last, so that the others can write why they fail."""
        return (
            (self.status.close if wait else self.status.abandon, self.settings.metrics.enabled),
            *_steps("close", self.store),
            (self._metric_output.close, self.settings.metrics.enabled),
            (self._tracing.close, self.settings.tracing.enabled),
            (self._port.close, True),
            *_steps("close", self._control, self.worker, self._stacks_signal),
            (self.logs.close, self.settings.logging.enabled),
        )

    def flush(self, seconds: float = 5.0) -> bool:
        """Hand over all lines, spans and metrics so far, as before a function is frozen; tell whether that was done in time.

        Blocks for up to `seconds`: on an event loop, call it by `asyncio.to_thread`.
        """
        deadline = time.monotonic() + seconds
        self.logs.flush()
        done = self._senders.flush(seconds)
        if self.store is not None:
            done = self.store.flush(max(0.0, deadline - time.monotonic())) and done
        provider_flush = getattr(self.tracer_provider, "force_flush", None)
        if provider_flush is not None:
            # The application's own exporters.
            done = bool(provider_flush(max(0, int((deadline - time.monotonic()) * 1_000)))) and done
        return done

    def install(self, app: Starlette) -> None:
        """Watch an app: middleware outermost, monitoring endpoints, start and stop with its lifespan.

        May be called before or after routes, other middleware and other instrumentation, and more than once.
        """
        install(app, self, self.router)

    def place_pages(self, app: ASGIApp) -> None:
        """Let an app find our pages first, and say once which of its own are hidden by them."""
        self._pages.place(app)
        if self.insight is not None:
            self.insight.add_application(app)

    def excludes(self, scope: Scope) -> bool:
        """Return whether a request is not recorded, and count it."""
        return self._excluded_requests.exclude(scope)

    @property
    def dropped_headers(self) -> DroppedHeaders:
        """Trace headers of callers that were not used."""
        return self._tracing.dropped_headers

    @property
    def tracer_provider(self) -> TracerProvider | None:
        """The provider that spans come from; None before the start."""
        return self._tracing.provider

    @property
    def children(self) -> ChildSpans | None:
        """Opens spans below those of requests; None while no spans are recorded."""
        return self._tracing.children

    @property
    def metrics_port(self) -> int | None:
        """The port metrics are served on with `monitoring.access = "port"`; None otherwise, and before the start."""
        return self._port.port

    def enable_pack(self, pack: object) -> None:
        """Switch a pack on: one of `metrics.packs` by its name, or metrics of the application by the class they stand in.

        May be called at any time. Raises `DeclarationError` for an unknown pack, and for `http`, which only the setting
        switches on, and `DuplicateInstrumentError` where a name is another metric's already.
        """
        if not isinstance(pack, str):
            self.instruments.add(metrics_of(pack))
        elif pack == "http" or pack not in PACKS:
            names = ", ".join(name for name in PACKS if name != "http")
            raise DeclarationError(f"{pack!r} cannot be switched on: there are {names}, and classes with declared metrics")
        else:
            self.instruments.enable(pack)
            self.status.add_pack_alerts([pack])

    def set_level(self, level: str | None, logger: str | None = None, *, seconds: float = 300.0) -> None:
        """Change the lowest level that is written for some seconds in all workers, as `PUT /monitoring/loggers` does.

        `level`: in any usual spelling; None gives the configured one back. `logger`: a logger with all below it; None: all.
        Raises `ValueError` for an unknown level.
        """
        self._levels.change(logger, level, seconds, is_shown=False)

    def query_logs_by_correlation_id(self, correlation_id: str, limit: int = 1_000) -> list[LogEntry]:
        """Return the newest lines of a correlation, request or trace id, the oldest first.

        They come from the store, for all workers, and from the recent lines of this process: `monitoring.log_buffer_size`.
        """
        reader = None if self.store is None else self.store.reader
        return lines_or_recent(correlation_id, limit, self.logs, reader, self.internal_errors)

    def _log(self, level: str, message: str, fields: Mapping[str, Any], logger: str = OWN_LOGGER) -> None:
        if self.settings.logging.enabled:
            self.logs.emit(self.wall_clock() / 1_000_000_000, level, message, logger, fields)

    def _log_alert(self, level: str, message: str, fields: dict[str, Any]) -> None:
        self._log(level, message, fields, f"{OWN_LOGGER}.alerts")

    def _warn(self, message: str, fields: dict[str, Any]) -> None:
        self._log("warn", message, fields)

    def _warn_locally(self, message: str, fields: Mapping[str, Any]) -> None:
        if self.settings.logging.enabled:
            self.logs.warn_locally(message, fields)

    def _log_startup(self) -> None:
        parts = (self.settings, self._tracing, self.logs, self._port)
        self._log("info", "observability started", startup_fields(*parts))
        remarks = (*startup_remarks(*parts), *self._excluded_requests.remarks, *self._metric_output.remarks)
        for remark in dict.fromkeys(remarks):
            self._warn(remark, {})

    def _show_active(self, rule: str, active: bool) -> None:
        instrument = self.instruments.get("monitoring_alert_active")
        if instrument is not None:
            instrument.with_values(rule).set(active)


def _steps(method: str, *parts: object | None) -> Steps:
    """Have a method called of those of the parts that there are."""
    return [(getattr(part, method), True) for part in parts if part is not None]


def _present(recorders: Iterable[Recorder | None]) -> list[Recorder]:
    return [recorder for recorder in recorders if recorder is not None]

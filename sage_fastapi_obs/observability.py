"""`Observability`: builds every part from the settings, and starts and stops them with the app."""

import multiprocessing
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Self

from fastapi import APIRouter
from opentelemetry.trace import TracerProvider
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sage_fastapi_obs import active
from sage_fastapi_obs.alerting.service_status import ServiceStatus
from sage_fastapi_obs.catalog import PACKS, CountCollector, register
from sage_fastapi_obs.endpoints.access import Access
from sage_fastapi_obs.endpoints.metrics_page import MetricsPage
from sage_fastapi_obs.endpoints.metrics_port import MetricsPort
from sage_fastapi_obs.endpoints.route_precedence import give_precedence
from sage_fastapi_obs.endpoints.router import monitoring_router
from sage_fastapi_obs.errors import DeclarationError
from sage_fastapi_obs.health.health import Health
from sage_fastapi_obs.health.sigterm import StopSignals
from sage_fastapi_obs.internal_errors import InternalErrors, component_of
from sage_fastapi_obs.legacy.aliases import Aliases
from sage_fastapi_obs.logs import takeover
from sage_fastapi_obs.logs.held_lines import HeldLineCounts
from sage_fastapi_obs.logs.recent_lines import LogEntry, RecentLines
from sage_fastapi_obs.logs.writer import OWN_LOGGER, LogWriter
from sage_fastapi_obs.metrics.http_recorder import HttpMetrics
from sage_fastapi_obs.metrics.instruments import Instruments
from sage_fastapi_obs.metrics.registry_reader import RegistryReader
from sage_fastapi_obs.operations.own_metrics import metrics_of
from sage_fastapi_obs.packs.result.named_metrics import NamedMetrics
from sage_fastapi_obs.privacy.redaction import Redaction
from sage_fastapi_obs.request.ids import Identity, new_request_id
from sage_fastapi_obs.request.middleware import ObservabilityMiddleware
from sage_fastapi_obs.request.propagation_headers import DroppedHeaders
from sage_fastapi_obs.request.recorder import Recorder, RecorderCallbacks
from sage_fastapi_obs.request.watch import Watch
from sage_fastapi_obs.settings import Settings
from sage_fastapi_obs.threads import RETRY_SECONDS, NoThreadError, in_thread
from sage_fastapi_obs.tracing.child_spans import ChildSpans
from sage_fastapi_obs.tracing.server_span import ServerSpans

__all__ = ["Observability"]

LOG_BUFFER_SIZE = 10_000
"""Recent lines that are kept where they are shown."""


class Observability:
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
        self.settings = settings = Settings() if settings is None else settings
        self.enabled = settings.enabled
        self.clock, self.wall_clock = clock, wall_clock
        self.faults = InternalErrors()
        self.registry = CollectorRegistry(auto_describe=True) if registry is None else registry
        self.health = Health()
        self.status = ServiceStatus(
            settings,
            RegistryReader(self.registry, self.faults),
            self.health,
            self.faults,
            self._say,
            from_zero=registry is None,
            clock=status_clock,
            wall_clock=lambda: wall_clock() / 1_000_000_000,
        )
        """Windows, alerts and service levels."""
        self._scrape = MetricsPage(self.registry, self.faults, measured=settings.metrics.enabled)
        self._port = MetricsPort(self._scrape, settings.metrics)
        identity = Identity(settings.http, new_id)
        redaction = Redaction(settings.logging, query_values=settings.tracing.query_values)
        self._tracing = ServerSpans(
            *(settings.tracing, settings.service, settings.http, redaction, tracer_provider),
            tell=self._complain,
            failed=partial(self.faults.count, "ServerSpans"),
        )
        self._logs = LogWriter(settings.logging, settings.service, self.faults, wall_clock, self, redaction, _recent(settings))
        self.instruments = Instruments(settings.metrics, self.registry, self.faults, self._say_of_packs)
        self.collected = NamedMetrics(self.instruments, self.faults)
        """What the application collects by name."""
        self.status.show_active = self._show_active
        metrics = HttpMetrics(settings.metrics, self.instruments) if "http" in self.instruments.packs else None
        if settings.metrics.enabled:
            for losses in self._losses():
                self.registry.register(losses)
        if settings.metrics.enabled and settings.metrics.alias_groups:
            register(Aliases(self.registry, settings.metrics.alias_groups), self.registry)
        if settings.metrics.enabled:
            self.registry.register(self.status.metrics)
        self.router: APIRouter = monitoring_router(settings, self._scrape, self.status, self._logs)
        """The monitoring endpoints, for `app.include_router`."""
        tracing = self._tracing if settings.tracing.enabled else None
        logs = self._logs.access if settings.logging.enabled else None
        flight = self._logs.flight if settings.logging.enabled else None
        if settings.metrics.enabled and flight is not None:
            self.registry.register(HeldLineCounts(flight))
        # The order of recorders, written once: ids before the span that names them, and the log line, which leaves
        # first, before the metrics; `request_finished` runs from last to first.
        recorders: tuple[Recorder | None, ...] = (identity, tracing, metrics, logs, flight)
        self.callbacks = RecorderCallbacks([recorder for recorder in recorders if recorder is not None], self.faults)
        self.excluded_callbacks = RecorderCallbacks([identity, *([logs] if logs is not None else [])], self.faults)
        # Our own pages are never part of the app's traffic, whatever they are called.
        excluded = (*settings.http.exclude_paths, settings.metrics.path, settings.monitoring.prefix)
        self.excluded = excluded
        self._excluded_below = tuple(f"{path}/" for path in excluded)
        self._hidden_paths: set[str] = set()
        self._signals = StopSignals(self._drain)
        self.in_progress: set[Watch] = set()
        """Of the exchanges whose app has not returned."""
        self.running = False
        """Whether everything has been started, and not closed since."""
        self._starts = 0
        self._started_by_request = False
        self._waiting: list[Callable[[], Any]] = []
        """Starts that have found no thread, and are asked for again from a time of `time.monotonic` on."""
        self._ask_at = 0.0

    def _losses(self) -> Iterator[CountCollector]:
        if self.settings.logging.enabled:
            yield self._logs.losses
        if self.settings.tracing.enabled:
            yield from (self._tracing.losses, self._tracing.dropped_headers)

    @property
    def dropped_headers(self) -> DroppedHeaders:
        """Headers by which callers pass on their trace, as far as they were not used."""
        return self._tracing.dropped_headers

    @property
    def tracer_provider(self) -> TracerProvider | None:
        """The provider that spans come from; None before the start."""
        return self._tracing.provider

    @property
    def children(self) -> ChildSpans | None:
        """What opens spans below those of requests; None while there is nothing to hand them to."""
        return self._tracing.children

    @property
    def metrics_port(self) -> int | None:
        """The port metrics are served on with `monitoring.access = "port"`; None otherwise, and before the start."""
        return self._port.port

    def enable_pack(self, pack: object) -> None:
        """Switch a pack on: one of `metrics.packs` by its name, or metrics of the application by the class they stand in.

        May be called at any time. Raises `DeclarationError` for what is no pack, and for `http`, which only the setting
        switches on, and `DuplicateInstrumentError` where a name is another metric's already.
        """
        if not isinstance(pack, str):
            self.instruments.add(metrics_of(pack))
        elif pack == "http" or pack not in PACKS:
            names = ", ".join(name for name in PACKS if name != "http")
            raise DeclarationError(f"{pack!r} cannot be switched on: there are {names}, and classes with declared metrics")
        else:
            self.instruments.enable(pack)

    @property
    def logs(self) -> LogWriter:
        """What writes the lines."""
        return self._logs

    def set_level(self, level: str | None, logger: str | None = None, *, seconds: float = 300.0) -> None:
        """Change the lowest level that is written for some seconds, as `PUT /monitoring/loggers` does.

        `level`: in any usual spelling; None gives the configured one back. `logger`: a logger with all below it; None: all.
        Raises `ValueError` for what is no level.
        """
        self._logs.change_level(logger, level, seconds)

    def query_logs_by_correlation_id(self, correlation_id: str, limit: int = 1_000) -> list[LogEntry]:
        """Return the newest lines that this process has kept of a correlation, request or trace id, the oldest first.

        Nothing is kept where `monitoring.log_buffer_size` is 0.
        """
        return self._logs.recent(correlation_id, limit)

    @property
    def stopping(self) -> bool:
        """Whether the service is about to end."""
        return self.health.draining

    def install(self, app: Starlette) -> None:
        """Watch an app: middleware outermost, monitoring endpoints, start and stop with its lifespan.

        May be called before or after routes, other middleware and other instrumentation, and more than once.
        """
        if not self.enabled or getattr(app.state, "sage_fastapi_obs", None) is not None:
            return
        app.state.sage_fastapi_obs = self
        # Plain routes, also in FastAPI's: what `include_router` adds has no path, and middlewares that walk the routes
        # stumble over it.
        app.router.routes.extend(self.router.routes)
        if app.middleware_stack is not None:
            app.middleware_stack = ObservabilityMiddleware(app.middleware_stack, observability=self)
            return
        build = app.build_middleware_stack

        def build_watched() -> ASGIApp:
            return ObservabilityMiddleware(build(), observability=self)

        # Outside the layer that answers unhandled exceptions, where `add_middleware` does not reach.
        app.build_middleware_stack = build_watched  # type: ignore[method-assign]

    def start(self) -> None:
        """Start what runs beside requests: the log output, exporters, the metrics port. Each needs its own `close()`."""
        if self._started_by_request:
            # A lifespan or a `start()` that comes after the first request takes that start over, and its close.
            self._started_by_request = False
            return
        self._starts += 1
        self.running = not self._waiting
        if self._starts > 1 or not self.enabled:
            return
        self.health.draining = False
        self._guarded(self._signals.watch, True)
        self._guarded(self._logs.start, self.settings.logging.enabled)
        self._guarded(self._tracing.start, self.settings.tracing.enabled)
        active.register(self)
        self._guarded(self._port.start, self.settings.metrics.enabled and self.settings.monitoring.access == "port")
        self._guarded(self.status.start, self.settings.metrics.enabled)
        self._guarded(self.instruments.runtime.start, "runtime" in self.instruments.packs)
        self._guarded(self._announce, self.settings.logging.enabled)

    async def close(self) -> None:
        """Stop, flush what is left within the time the settings allow, and give back what is the process's."""
        if self._is_last_end():
            self._drain()
            self._leave()
            # In one piece: once begun, it is finished, also if whoever closes is cancelled.
            await in_thread(partial(self._stop, self.status.close))

    async def __aenter__(self) -> Self:
        """Start."""
        self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close."""
        await self.close()

    def ensure_started(self) -> None:
        """Start at the first request, for apps that run without a lifespan; and what has found no thread, at a later one."""
        if not self._starts:
            self.start()
            self._started_by_request = True
        elif time.monotonic() >= self._ask_at:
            waiting, self._waiting = self._waiting, []
            self.running = True
            for start in waiting:
                self._guarded(start, True)

    def place_pages(self, app: ASGIApp) -> None:
        """Let an app find our pages first, and say once which of its own are hidden by them."""
        paths = (self.settings.metrics.path, self.settings.monitoring.prefix)
        hidden = give_precedence(app, self.router, paths) - self._hidden_paths
        self._hidden_paths |= hidden
        for path in sorted(hidden):
            message = f"the app has a route {path}, too, which is not found: change metrics.path or monitoring.prefix"
            self._say("warn", message, {"path": path}, OWN_LOGGER)

    def excludes(self, scope: Scope) -> bool:
        """Tell whether a request is one of those that are not recorded; a proxy's root path does not count."""
        path: str = scope.get("path", "")
        if root_path := scope.get("root_path"):
            path = path.removeprefix(root_path)
        return path.startswith(self.excluded) and (path in self.excluded or path.startswith(self._excluded_below))

    async def lifespan(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        """Run an app's lifespan with ours around it; ours failing does not stop the app."""
        self.start()
        closed = False

        def place_pages() -> None:
            self.place_pages(scope.get("app") or app)

        async def watched(message: Message) -> None:
            nonlocal closed
            if message["type"] == "lifespan.startup.complete":
                # Not before: the app's own lifespan may add routes.
                self._guarded(place_pages, True)
                self._guarded(takeover.reattach_root, self.settings.logging.enabled)
            if message["type"] in ("lifespan.shutdown.complete", "lifespan.shutdown.failed") and not closed:
                # The server may be gone as soon as it has read this.
                closed = True
                await self._close_safely()
            await send(message)

        async def watched_receive() -> Message:
            message = await receive()
            if message["type"] == "lifespan.shutdown":
                self._drain()
            return message

        try:
            await app(scope, watched_receive, watched)
        finally:
            if not closed:
                self.abandon()

    async def _close_safely(self) -> None:
        try:
            await self.close()
        except Exception as error:
            self.faults.count("Observability", error)

    def abandon(self) -> None:
        """Close without a loop, and without waiting for notifications of alerts."""
        if self._is_last_end():
            self._leave()
            self._stop(self.status.abandon)

    def _is_last_end(self) -> bool:
        """Count an end; tell whether no start is left without one, and there is something to stop."""
        self._started_by_request = False
        self._starts = max(0, self._starts - 1)
        if self._starts:
            return False
        self.running, self._waiting = False, []
        return self.enabled

    def _leave(self) -> None:
        """Tell what is not over yet, and give back what belongs to the thread that serves."""
        for watch in [*self.in_progress]:
            watch.cut()
        active.unregister(self)
        self._guarded(self._signals.leave, True)
        self._guarded(self.instruments.runtime.stop, True)

    def _stop(self, stop_status: Callable[[], None]) -> None:
        """Stop what runs beside requests, the log output last; blocks for as long as the settings allow."""
        self._guarded(stop_status, self.settings.metrics.enabled)
        self._guarded(self._tracing.close, self.settings.tracing.enabled)
        self._guarded(self._port.close, True)
        self._guarded(self._logs.close, self.settings.logging.enabled)

    def _guarded(self, do: Callable[[], Any], wanted: bool) -> None:
        if not wanted:
            return
        try:
            do()
        except Exception as error:
            self.faults.count(component_of(getattr(do, "__self__", self)), error)
            if isinstance(error, NoThreadError):
                self._waiting.append(do)
                self._ask_at = time.monotonic() + RETRY_SECONDS
                self.running = False

    def _drain(self) -> None:
        self.health.draining = True

    def _say(self, level: str, message: str, fields: dict[str, Any], logger: str = f"{OWN_LOGGER}.alerts") -> None:
        if self.settings.logging.enabled:
            self._logs.emit(self.wall_clock() / 1_000_000_000, level, message, logger, fields)

    def _say_of_packs(self, message: str, fields: dict[str, Any]) -> None:
        self._say("info", message, fields, OWN_LOGGER)

    def _show_active(self, rule: str, active: bool) -> None:
        instrument = self.instruments.get("monitoring_alert_active")
        if instrument is not None:
            instrument.of(rule).set(active)

    def _complain(self, message: str, fields: Mapping[str, Any]) -> None:
        if self.settings.logging.enabled:
            self._logs.complain(message, fields)

    def _announce(self) -> None:
        """Say once what is in use, the answer to most first questions, and what is odd about it."""
        at = self.wall_clock() / 1_000_000_000
        self._logs.emit(at, "info", "observability started", OWN_LOGGER, self._in_use())
        for remark in dict.fromkeys(self._remarks()):
            self._logs.emit(at, "warn", remark, OWN_LOGGER, {})

    def _in_use(self) -> dict[str, Any]:
        settings = self.settings
        fields: dict[str, Any] = {} if settings.preset is None else {"preset": settings.preset}
        # Once more, as lines for people do not show it.
        fields["environment"] = settings.service.environment
        fields |= {"metrics": settings.metrics.path, "readers": Access(settings.monitoring).description}
        if settings.tracing.enabled:
            fields["spans"] = self._tracing.source
            fields["sample_rate"] = settings.tracing.sample_rate
        if self._logs.flight is not None:
            fields["held_lines"] = "lines below the level are written when their request fails or is slow"
        if self._port.port is not None:
            fields["metrics_port"] = self._port.port
        return fields

    def _remarks(self) -> Iterator[str]:
        yield from (*self.settings.remarks, *self._tracing.remarks, *self._logs.remarks)
        if self._port.failure:
            yield (
                f"nothing listens on metrics.port {self.settings.metrics.port} for this process ({self._port.failure}): "
                "workers of a service cannot share it, so run one in each container, set metrics.port to 0 for a free one "
                "each, or set monitoring.access to 'token'"
            )
        if multiprocessing.parent_process() is not None:
            yield "this is a worker process: its /metrics speaks for itself alone, so scrape each worker or run one"


def _recent(settings: Settings) -> RecentLines | None:
    """Build the store of recent lines, where any are kept."""
    monitoring = settings.monitoring
    most_lines = monitoring.log_buffer_size
    if most_lines is None:
        most_lines = LOG_BUFFER_SIZE if monitoring.expose_logs else 0
    return RecentLines(most_lines, monitoring.log_buffer_bytes) if most_lines and settings.logging.enabled else None

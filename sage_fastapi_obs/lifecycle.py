"""Start, drain and close of an `Observability`: with an app's lifespan, by hand, or at the first request."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import Self, TypeAlias

from anyio.lowlevel import checkpoint
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sage_fastapi_obs.health.readiness import Health
from sage_fastapi_obs.health.sigterm import StopSignals
from sage_fastapi_obs.internal_errors import InternalErrors, component_of
from sage_fastapi_obs.request.watch import Watch
from sage_fastapi_obs.threads import RETRY_SECONDS, NoThreadError, in_thread

Step: TypeAlias = Callable[[], object]
Steps: TypeAlias = Iterable[tuple[Step, bool]]
"""What is done in this order, each with whether it is wanted. A step that raises is counted, and the next one is done."""


class Lifecycle(ABC):
    """Counts starts and closes; `Observability` says of which steps they consist."""

    def __init__(self, *, enabled: bool) -> None:
        self.enabled = enabled
        self.internal_errors = InternalErrors()
        self.health = Health()
        self.in_progress: set[Watch] = set()
        """The exchanges whose app has not returned."""
        self.running = False
        """Whether everything has been started, and not closed since."""
        self._signals = StopSignals(self._drain)
        self._starts = 0
        self._started_by_request = False
        self._waiting: list[Step] = []
        """Starts that found no thread: tried again from `_retry_at` on, a time of `time.monotonic`."""
        self._retry_at = 0.0

    @abstractmethod
    def _start_steps(self) -> Steps:
        """List what a start does."""

    @abstractmethod
    def _before_startup(self, app: ASGIApp) -> Steps:
        """List what is done before a start with the lifespan of an app."""

    @abstractmethod
    def _after_startup(self, app: ASGIApp) -> Steps:
        """List what is done once the app's own startup is complete."""

    @abstractmethod
    def _leave_steps(self) -> Steps:
        """List what a close does first, in the serving thread."""

    @abstractmethod
    def _stop_steps(self, *, wait: bool) -> Steps:
        """List what a close does then, in any thread; `wait`: for notifications that are on their way."""

    @property
    def stopping(self) -> bool:
        """Whether the service is about to end."""
        return self.health.draining

    def start(self) -> None:
        """Start what runs beside requests: the log output, exporters, the metrics port. Each needs its own `close()`."""
        if self._started_by_request:
            # A lifespan or a `start()` after the first request takes over that start, and its close.
            self._started_by_request = False
            return
        self._starts += 1
        self.running = not self._waiting
        if self._starts > 1 or not self.enabled:
            return
        self.health.draining = False
        self._do(((self._signals.watch, True), *self._start_steps()))

    async def close(self) -> None:
        """Stop, flush what is left within the time the settings allow, and give back what is the process's."""
        if self._is_last_close():
            self._drain()
            self._leave()
            # In one piece: it is finished also if the caller is cancelled meanwhile.
            await in_thread(partial(self._do, self._stop_steps(wait=True)))

    def abandon(self) -> None:
        """Close without a loop, and without waiting for notifications of alerts."""
        if self._is_last_close():
            self._leave()
            self._do(self._stop_steps(wait=False))

    async def __aenter__(self) -> Self:
        """Start."""
        self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close."""
        await self.close()

    def ensure_started(self) -> None:
        """Start at the first request, for apps without a lifespan; try starts again that found no thread."""
        if not self._starts:
            self.start()
            self._started_by_request = True
        elif time.monotonic() >= self._retry_at:
            waiting, self._waiting = self._waiting, []
            self.running = True
            self._do((step, True) for step in waiting)

    async def lifespan(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        """Run an app's lifespan with ours around it; an internal error does not stop the app."""
        app_of_routes = scope.get("app") or app
        self._do(self._before_startup(app_of_routes))
        self.start()
        closed = False

        async def send_after_ours(message: Message) -> None:
            nonlocal closed
            kind = message.get("type")
            if kind == "lifespan.startup.complete":
                # Not before: the app's own lifespan may add routes.
                self._do(self._after_startup(app_of_routes))
                # Imports what anyio needs, for which the first scrape would stop the loop; it may not know this kind of loop.
                with suppress(Exception):
                    await checkpoint()
            if kind in ("lifespan.shutdown.complete", "lifespan.shutdown.failed") and not closed:
                # Before the server reads this: it may end the process then.
                closed = True
                await self._close_safely()
            await send(message)

        async def receive_and_drain() -> Message:
            message = await receive()
            if message.get("type") == "lifespan.shutdown":
                self._drain()
            return message

        try:
            await app(scope, receive_and_drain, send_after_ours)
        finally:
            if not closed:
                self.abandon()

    async def _close_safely(self) -> None:
        try:
            await self.close()
        except Exception as error:
            self.internal_errors.count("Observability", error)

    def _drain(self) -> None:
        self.health.draining = True

    def _is_last_close(self) -> bool:
        """Count a close; return whether every start has its close now, and there is something to stop."""
        self._started_by_request = False
        self._starts = max(0, self._starts - 1)
        if self._starts:
            return False
        self.running, self._waiting = False, []
        return self.enabled

    def _leave(self) -> None:
        """Finish the exchanges in progress, and undo what the serving thread has to undo."""
        for watch in [*self.in_progress]:
            watch.finish_early()
        self._do(((self._signals.leave, True), *self._leave_steps()))

    def _do(self, steps: Steps) -> None:
        for step, is_wanted in steps:
            if not is_wanted:
                continue
            try:
                step()
            except Exception as error:
                self.internal_errors.count(component_of(getattr(step, "__self__", self)), error)
                if isinstance(error, NoThreadError):
                    self._waiting.append(step)
                    self._retry_at = time.monotonic() + RETRY_SECONDS
                    self.running = False

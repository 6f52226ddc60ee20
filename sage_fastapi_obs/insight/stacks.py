"""The requests in flight and the threads, and at which line each of them is; without the values of any variable."""

import asyncio
import os
import sys
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import islice
from types import CodeType
from typing import Any, Literal, TypeAlias

from pydantic import BaseModel

from sage_fastapi_obs.catalog import known_method
from sage_fastapi_obs.insight.application_code import ApplicationCode
from sage_fastapi_obs.insight.await_chain import frames_of
from sage_fastapi_obs.insight.thread_frames import (
    SHOWS_THREADS,
    collector_off,
    context_of,
    exchange_in,
    exchange_of_pool,
    outward,
    running_task,
)
from sage_fastapi_obs.privacy.printable import printable
from sage_fastapi_obs.request.exchange import Exchange
from sage_fastapi_obs.request.watch import Observer, Watch, in_flight

_MOST_REQUESTS, _MOST_THREADS, _MOST_TASKS = 200, 100, 10_000
_MOST_LINES = 40
Line: TypeAlias = tuple[CodeType, int]


class RequestStack(BaseModel):
    """One request in flight."""

    worker: int | None = None
    """Its number, where there are several."""
    request_id: str
    method: str
    route: str | None = None
    """The template; None while it is not known."""
    path: str | None = None
    """Instead of it."""
    age_ms: float
    state: Literal["running", "waiting", "unknown"]
    """Whether a thread runs it now. `unknown`: its task cannot be seen."""
    at: str | None = None
    """The line of the application."""
    stacks: list[list[str]]
    """Of its tasks and threads: lines with their functions, the innermost last."""


class ThreadStack(BaseModel):
    """One thread."""

    worker: int | None = None
    name: str
    request_id: str | None = None
    """Of the request that it works for."""
    at: str | None = None
    stack: list[str]


class StacksReport(BaseModel):
    """What a process is doing, or all workers of a service."""

    service: str
    pid: int
    """Of the process that was asked."""
    requests: list[RequestStack]
    """The oldest first; those of the process that was asked before all others."""
    others: int
    """Requests that are not listed, as there are too many."""
    threads: list[ThreadStack]
    no_answer: list[int] = []
    """Workers that do not tell."""


class Stacks:
    """Reports what one process is doing; asked in any thread, also while the event loop hangs."""

    def __init__(self, service: str, observer: Observer, code: ApplicationCode, readable: Callable[[str], str]) -> None:
        """`readable` cuts and redacts a text of the caller's."""
        self._service, self._observer, self._code, self._readable = service, observer, code, readable
        self._loop: asyncio.AbstractEventLoop | None = None
        self._loop_thread = 0

    def start(self) -> None:
        """Remember the event loop that serves."""
        with suppress(RuntimeError):
            self._loop, self._loop_thread = asyncio.get_running_loop(), threading.get_ident()

    def loop_line(self) -> str:
        """Return the line of the application that the event loop is at; empty where it is at none."""
        frames = sys._current_frames() if SHOWS_THREADS else {}  # noqa: SLF001 - documented
        return self._code.line(frames.get(self._loop_thread)) or ""

    def report(self) -> StacksReport:
        """Look at everything."""
        with collector_off():
            return self._report()

    def _report(self) -> StacksReport:
        # A live page that is open is no request that hangs.
        watches = [watch for watch in in_flight(self._observer.in_progress) if not _is_open_page(watch.exchange)]
        watches.sort(key=lambda watch: watch.exchange.started_ns)
        shown = watches[:_MOST_REQUESTS]
        waiting, running = self._lines_of_tasks({id(watch.exchange) for watch in shown})
        threads = []
        for name, lines, exchange in self._threads(running):
            if exchange is not None:
                # What a thread does for a request says more than what waits for it.
                waiting[id(exchange)].append(lines)
            threads.append(self._thread(name, lines, exchange))
        # One time for all of them: the oldest is first, however long it takes to write them.
        now = self._observer.clock()
        requests = [self._request(watch, now, waiting[id(watch.exchange)], {id(running)}) for watch in shown]
        return StacksReport(
            service=self._service, pid=os.getpid(), requests=requests, others=len(watches) - len(shown), threads=threads
        )

    def _lines_of_tasks(self, wanted: set[int]) -> tuple[dict[int, list[list[Line]]], Exchange | None]:
        """Return the lines that the tasks of requests wait at, and the request that the loop runs."""
        found: dict[int, list[list[Line]]] = defaultdict(list)
        now, running = None, None
        if self._loop is not None:
            now = running_task(self._loop)
            for task in islice(_tasks(self._loop), _MOST_TASKS):
                exchange = exchange_in(context_of(task))
                if id(exchange) not in wanted:
                    continue
                if task is now:
                    running = exchange
                elif lines := [(frame.f_code, frame.f_lineno) for frame in frames_of(task)]:
                    found[id(exchange)].append(lines)
        for stacks in found.values():
            # Tasks inside of the one that serves the request are deeper in it.
            stacks.sort(key=lambda lines: not _is_outermost(lines))
        return found, running

    def _threads(self, running: Exchange | None) -> Iterator[tuple[str, list[Line], Exchange | None]]:
        names = {thread.ident: thread.name for thread in threading.enumerate()}
        frames = sys._current_frames() if SHOWS_THREADS else {}  # noqa: SLF001 - documented
        for ident, frame in islice(frames.items(), _MOST_THREADS):
            if ident == threading.get_ident():
                continue
            stack = outward(frame)
            exchange = running if ident == self._loop_thread else exchange_of_pool(stack)
            lines = [(each.f_code, each.f_lineno) for each in reversed(stack)]
            yield printable(names.get(ident, str(ident))), lines, exchange

    def _thread(self, name: str, lines: list[Line], exchange: Exchange | None) -> ThreadStack:
        request_id = None if exchange is None else exchange.request_id
        return ThreadStack(name=name, request_id=request_id, at=self._at(lines), stack=self._written(lines))

    def _request(self, watch: Watch, now: int, stacks: list[list[Line]], running: set[int]) -> RequestStack:
        exchange = watch.exchange
        route = watch.route_so_far()
        return RequestStack(
            request_id=exchange.request_id,
            method=known_method(exchange.method),
            route=route,
            path=self._readable(exchange.path) if route is None else None,
            age_ms=max(0, now - exchange.started_ns) / 1_000_000,
            state="running" if id(exchange) in running else "waiting" if stacks else "unknown",
            at=next((at for lines in reversed(stacks) if (at := self._at(lines)) is not None), None),
            stacks=[self._written(lines) for lines in stacks],
        )

    def _at(self, lines: list[Line]) -> str | None:
        places = (self._code.place(code, line) for code, line in reversed(lines))
        return next((place for place in places if place is not None), None)

    def _written(self, lines: list[Line]) -> list[str]:
        return [f"{self._code.file(code)}:{line} {code.co_qualname}" for code, line in lines[-_MOST_LINES:]]


def _tasks(loop: asyncio.AbstractEventLoop) -> "Iterable[asyncio.Task[Any]]":
    try:
        return asyncio.all_tasks(loop)
    except RuntimeError:
        # They change too fast.
        return ()


def _is_outermost(lines: list[Line]) -> bool:
    return any(code.co_filename.endswith("sage_fastapi_obs/request/middleware.py") for code, _ in lines)


def _is_open_page(exchange: Exchange) -> bool:
    return exchange.excluded and exchange.streamed

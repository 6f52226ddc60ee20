"""How requests are found: while somebody observes, the calls of apps and of our middleware go through here.

The class of an app is where all apps can be found, also those that were made before. What is replaced there is given back
when nobody observes any more.
"""

import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, Protocol

from fastapi import FastAPI
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import TracerProvider
from starlette.applications import Starlette
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sage_fastapi_obs.request.exchange import SCOPE_KEY
from sage_fastapi_obs.request.middleware import ObservabilityMiddleware
from sage_fastapi_obs.request.outcome import SWITCHING_PROTOCOLS
from sage_fastapi_obs.testing.capture import Capture
from sage_fastapi_obs.testing.log_capture import LogLine
from sage_fastapi_obs.testing.recorded_request import RecordedRequest
from sage_fastapi_obs.testing.recording import current_request

_RECORD = "sage_fastapi_obs.testing"
"""Where a scope has its record: mounted apps have the same request."""
_CLASSES: tuple[Any, ...] = (FastAPI, Starlette, ObservabilityMiddleware)


class Listener(Protocol):
    """Who observes."""

    other_lines: list[LogLine]
    other_spans: list[ReadableSpan]

    def begins(self, request: RecordedRequest) -> None:
        """Take a request that begins."""

    def meets(self, observability: Any) -> None:
        """See an `Observability` before it watches a request."""


LISTENERS: list[Listener] = []
_originals: dict[type[Any], tuple[Any, Any]] = {}
"""By class, what it had and what it was given instead."""
_in_progress: set[RecordedRequest] = set()
_captures: list[Capture] = []
"""One while somebody observes."""
_lock = threading.RLock()


def listen(listener: Listener) -> None:
    """Tell somebody of each request from now on."""
    with _lock:
        LISTENERS.append(listener)
        if len(LISTENERS) == 1:
            _captures.append(Capture(_other_line, _other_span))
            for kind in _CLASSES:
                original = kind.__call__
                _originals[kind] = original, _watched(original)
                kind.__call__ = _originals[kind][1]


def ignore(listener: Listener) -> None:
    """Tell somebody no more; the last one gives all back, but for what others have replaced since."""
    with _lock:
        LISTENERS.remove(listener)
        if not LISTENERS:
            _captures.pop().stop()
            for kind, (original, given) in _originals.items():
                if kind.__call__ is given:
                    kind.__call__ = original
            _originals.clear()


def capture_spans_of(provider: TracerProvider) -> None:
    """Capture a tracer provider that is not the global one, nor that of an `Observability`."""
    for capture in _captures:
        capture.spans.meet(provider)


def _other_line(line: LogLine) -> None:
    for listener in LISTENERS[:]:
        listener.other_lines.append(line)


def _other_span(span: ReadableSpan) -> None:
    for listener in LISTENERS[:]:
        listener.other_spans.append(span)


def _watched(original: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    # A coroutine function: by that, servers and test clients tell that an app is one of ASGI 3.
    async def call(app: Any, scope: Scope, receive: Receive, send: Send) -> None:
        if not LISTENERS or scope["type"] not in ("http", "websocket"):
            await original(app, scope, receive, send)
        else:
            await observed(partial(original, app), app, scope, receive, send)

    return call


async def observed(call: ASGIApp, app: Any, scope: Scope, receive: Receive, send: Send) -> None:
    """Call an app for a request, and record that; a part of the app within another only adds what it knows."""
    request = scope.get(_RECORD)
    if request is None or request.done.is_set():
        await _recorded(call, app, scope, receive, send)
    elif isinstance(app, ObservabilityMiddleware) and request.observability is None:
        await _watched_by_us(call, request, app.observability, scope, receive, send)
    else:
        await call(scope, receive, send)


async def _recorded(call: ASGIApp, app: Any, scope: Scope, receive: Receive, send: Send) -> None:
    request = scope[_RECORD] = RecordedRequest(scope, app)
    _begin(request)
    token = current_request.set(request)

    async def receive_outside() -> Message:
        with _outside(request):
            return await receive()

    async def send_noted(message: Message) -> None:
        if message.get("headers") is not None:
            # Any iterable is allowed, and one may be read only once.
            message = {**message, "headers": list(message["headers"])}
        with _outside(request):
            await send(message)
        # The server has not refused it.
        _note_message(request, message)

    try:
        if isinstance(app, ObservabilityMiddleware):
            await observed(call, app, scope, receive_outside, send_noted)
        else:
            await call(scope, receive_outside, send_noted)
    except BaseException as error:
        request.error = error
        raise
    finally:
        with suppress(ValueError):
            # Closed by the garbage collector, in a context that never saw this request.
            current_request.reset(token)
        # As long as its samples are read, who begins is served at the same time.
        request.complete(scope)
        with _lock:
            _in_progress.discard(request)


@contextmanager
def _outside(request: RecordedRequest) -> Iterator[None]:
    """Leave a request while its server works: tasks that start there outlive it."""
    token = current_request.set(request.parent)
    try:
        yield
    finally:
        with suppress(ValueError):
            current_request.reset(token)


def _begin(request: RecordedRequest) -> None:
    with _lock:
        for other in _in_progress:
            other.is_alone = request.is_alone = False
        _in_progress.add(request)
        listeners, captures = LISTENERS[:], _captures[:]
    for one in captures:
        one.begin(request)
    for listener in listeners:
        listener.begins(request)


def _note_message(request: RecordedRequest, message: Message) -> None:
    match message["type"]:
        case "http.response.start" | "websocket.http.response.start":
            request.note_answer(message.get("status"), message.get("headers"))
        case "websocket.accept" if request.kind == "websocket":
            request.note_answer(SWITCHING_PROTOCOLS, message.get("headers"))
        case "http.response.body" if not message.get("more_body"):
            request.note_time("sent_ms")


async def _watched_by_us(
    call: ASGIApp, request: RecordedRequest, observability: Any, scope: Scope, receive: Receive, send: Send
) -> None:
    if not observability.enabled:
        await call(scope, receive, send)
        return
    if not observability.running:
        # As the middleware is about to do: what it records can be met only once that has started.
        observability.ensure_started()
    request.observability = observability
    request.watch.meet([observability.registry])
    for capture in _captures[:]:
        capture.meet(observability)
    for listener in LISTENERS[:]:
        listener.meets(observability)
    try:
        await call(scope, receive, send)
    finally:
        request.exchange = scope.get(SCOPE_KEY)

"""Correlation ids of blocks of code, in and outside requests, and in the headers of calls to other services."""

from collections.abc import Awaitable, Generator
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from sage_fastapi_obs.active import active_observability, count_internal_error
from sage_fastapi_obs.logs import active_writers
from sage_fastapi_obs.logs.loggers import create_logger
from sage_fastapi_obs.operations.wrap_callable import Work, around_calls
from sage_fastapi_obs.request.correlation import current_correlation_id, pop_correlation_id, push_correlation_id
from sage_fastapi_obs.request.exchange import current_exchange
from sage_fastapi_obs.request.header_override import header_override
from sage_fastapi_obs.request.ids import SAFE_ID, new_request_id
from sage_fastapi_obs.request.innermost_span import innermost_context
from sage_fastapi_obs.settings import HttpSettings

if TYPE_CHECKING:
    import httpx


class CorrelationContext:
    """Gives all lines of a block one correlation id; as `with`, `async with` or a decorator.

    Blocks nest, also inside a request, whose id is back at the end. Tasks and threads started in the block keep its id where
    they get its context. As a decorator it is for functions of every kind: each call is a block; that of a generator is
    open only while its body runs, so that its caller does not get the id.
    """

    def __init__(self, correlation_id: str | None = None) -> None:
        """`correlation_id`: 1 to 128 characters of `A-Z a-z 0-9 . _ : + / = @ -`, or None for a new one in each block.

        Any other text, which may come from a client, is replaced: the same text always by the same id. Raises `ValueError` for
        a function, which is a decorator without its brackets.
        """
        if callable(correlation_id):
            said = f"a correlation id is a text, not {correlation_id!r:.80}: write @with_correlation_id()"
            raise ValueError(said)  # noqa: TRY004 - as callers expect
        self._correlation_id = None if correlation_id is None else _usable(correlation_id)

    def __enter__(self) -> str:
        """Begin a block; return its id."""
        correlation_id = self._correlation_id or new_request_id()
        push_correlation_id(self, correlation_id)
        return correlation_id

    def __exit__(self, *_: object) -> None:
        """End the block."""
        pop_correlation_id(self)

    async def __aenter__(self) -> str:
        """Begin a block; return its id."""
        return self.__enter__()

    async def __aexit__(self, *_: object) -> None:
        """End the block."""
        pop_correlation_id(self)

    def __call__(self, work: Work) -> Work:
        """Return the function, of the same kind, with each call as a block."""
        return around_calls(work, lambda: _CorrelatedCall(self._correlation_id or new_request_id()), "with_correlation_id")


class _CorrelatedCall:
    """One call of a decorated function: it has the same id in all its steps."""

    def __init__(self, correlation_id: str) -> None:
        self._correlation_id = correlation_id

    def begin(self) -> None:
        """Nothing: only the context changes."""

    def attach(self) -> None:
        push_correlation_id(self, self._correlation_id)

    def detach(self) -> None:
        pop_correlation_id(self)

    def end(self, error: BaseException | None) -> None:
        """Nothing."""


def with_correlation_id(correlation_id: str | None = None) -> CorrelationContext:
    """Decorate a function, coroutine function or generator function with a correlation id; also for `with`."""
    return CorrelationContext(correlation_id)


def get_correlation_id() -> str | None:
    """Return the correlation id of the code that calls: of its block, else of its request; None outside both."""
    return current_correlation_id()


class _HookResult:
    """The result of the hook: an async client awaits it, and a sync one ignores it."""

    def __await__(self) -> Generator[Any, None, None]:
        yield from ()


_DONE = _HookResult()
_LONGEST_SHOWN = 200
_log = create_logger("sage_fastapi_obs.correlation")
_DEFAULTS = HttpSettings()
_traceparent = TraceContextTextMapPropagator()


def correlation_hook(request: "httpx.Request") -> Awaitable[None]:
    """Add the ids and the trace context to a request to another service; headers that it has already stay.

    `httpx.AsyncClient(event_hooks={"request": [correlation_hook]})`, and the same for `httpx.Client`. The headers are those
    of the settings. Use it for services of yours: others need not know your ids.
    """
    try:
        for name, value in ids_to_send().items():
            request.headers.setdefault(name, value)
        if "traceparent" not in request.headers:
            _traceparent.inject(request.headers, innermost_context(current_exchange.get()))
    except Exception as error:
        count_internal_error("correlation_hook", error)
    return _DONE


def ids_to_send() -> dict[str, str]:
    """Return the ids that go to another service, by the names of their headers."""
    exchange = current_exchange.get()
    correlation_id = current_correlation_id()
    ids = {} if correlation_id is None else {correlation_header(): correlation_id}
    if exchange is not None and exchange.request_id:
        ids[_http_settings().request_id_header] = exchange.request_id
    return ids


def correlation_header() -> str:
    """Return the name of the header that carries correlation ids, in and out."""
    return header_override.name or _http_settings().correlation_header


def _http_settings() -> HttpSettings:
    # A script has no `Observability`, but it may have given settings to `configure_logging`.
    found = active_observability() or getattr(active_writers.attached(), "observer", None)
    return getattr(getattr(found, "settings", None), "http", _DEFAULTS)


def usable_id(correlation_id: object) -> str:
    """Return an id that may stand in headers: the text itself, or else a digest of it; a new one for an empty text."""
    text = _text(correlation_id)
    if is_safe_id(text):
        return text
    return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32] if text else new_request_id()


def _usable(correlation_id: object) -> str:
    usable = usable_id(correlation_id)
    if usable != _text(correlation_id):
        _log.debug("correlation id replaced", given=_text(correlation_id)[:_LONGEST_SHOWN], used=usable)
    return usable


def _text(correlation_id: object) -> str:
    try:
        return str(correlation_id)
    except Exception:
        return ""


def is_safe_id(correlation_id: object) -> bool:
    """Return whether a value may be an id: 1 to 128 characters of `A-Z a-z 0-9 . _ : + / = @ -`."""
    return isinstance(correlation_id, str) and SAFE_ID.fullmatch(correlation_id.encode("utf-8", "replace")) is not None

"""How long a request waits for a thread of the pool that runs `def` endpoints and dependencies, and whose requests hold it."""

from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cache
from importlib import import_module
from itertools import islice
from types import CodeType
from typing import Any

from sage_fastapi_obs.insight.request_phases import code_of
from sage_fastapi_obs.insight.thread_frames import context_of
from sage_fastapi_obs.request.exchange import Exchange, current_exchange
from sage_fastapi_obs.request.request_name import request_name

_BACKEND = "anyio._backends._asyncio"
_MOST_HOLDERS = 100
"""Of one limiter that are looked at; anyio's own has 40 threads."""


@cache
def thread_wait_codes() -> tuple[CodeType, ...]:
    """Return the functions of anyio's that wait inside each other when a task waits for a thread, the innermost first.

    Empty where this version of anyio has none of these names.
    """
    backend = import_module(_BACKEND)
    acquire = code_of(getattr(backend, "CapacityLimiter", None), "acquire_on_behalf_of")
    run = code_of(getattr(backend, "AsyncIOBackend", None), "run_sync_in_worker_thread")
    return () if acquire is None or run is None else (acquire, run)


class ThreadWaits:
    """The waits of one request, and the requests that held threads meanwhile."""

    __slots__ = ("_count", "_holders", "_since_ns", "_waited_ns")

    def __init__(self) -> None:
        self._count = self._since_ns = self._waited_ns = 0
        self._holders: Counter[Exchange] = Counter()
        """In how many looks at the pool each was seen to hold a thread."""

    def begin(self, now_ns: int) -> None:
        """Start to wait; a request may wait for several threads at once."""
        if not self._count:
            self._since_ns = now_ns
        self._count += 1

    def end(self, now_ns: int) -> int:
        """End a wait; return the nanoseconds that it took, 0 while the request waits for another thread."""
        self._count -= 1
        if self._count:
            return 0
        waited_ns = max(0, now_ns - self._since_ns)
        self._waited_ns += waited_ns
        return waited_ns

    def waited_until(self, now_ns: int) -> int:
        """Return the nanoseconds that the request has waited, in all."""
        return self._waited_ns + (max(0, now_ns - self._since_ns) if self._count else 0)

    def look_at(self, limiter: Any) -> None:
        """Note which requests hold a thread now."""
        self._holders.update(_exchanges_of(islice(limiter.statistics().borrowers, _MOST_HOLDERS)))

    def holder(self, waiting: Exchange) -> str | None:
        """Name the route that held most threads, as `GET /export`; None where no request is known to have held one."""
        by_route: Counter[str] = Counter()
        for exchange, looks in self._holders.copy().items():
            if exchange is not waiting:
                by_route[request_name(exchange)] += looks
        return by_route.most_common(1)[0][0] if by_route else None


def _exchanges_of(borrowers: Iterable[object]) -> Iterator[Exchange]:
    """Find the requests that tasks run for."""
    for borrower in borrowers:
        context = context_of(borrower)
        exchange = None if context is None else context.get(current_exchange)
        if exchange is not None:
            yield exchange

"""Who holds the connections of one pool, and who waits for one."""

from collections import deque
from collections.abc import Callable, Hashable
from contextvars import ContextVar
from time import perf_counter_ns
from typing import Self

from sage_fastapi_obs.active import count_internal_error
from sage_fastapi_obs.insight.busy_time import BusyTime
from sage_fastapi_obs.insight.facts import current_facts
from sage_fastapi_obs.request.exchange import Exchange, current_exchange
from sage_fastapi_obs.request.request_name import request_name

LEAST_WAIT_NS = 1_000_000
"""A shorter wait is not noted on the request."""
MOST_HOLDERS = 16
"""Different holders that one request has waited for; the others are told of together."""
_MOST_RECENT = 64
_MOST_LOANS = 1024
_NEW = "a new connection"
_OF_OTHERS = "a connection held by other code"

last_wait: ContextVar[tuple[int, int] | None] = ContextVar("sage_fastapi_obs.last_wait", default=None)
"""When the code of this context waited for a connection the last time, from and to, in nanoseconds."""


class Loan:
    """One connection in use."""

    __slots__ = ("exchange", "since_ns", "until_ns")

    def __init__(self, exchange: Exchange | None, since_ns: int) -> None:
        self.exchange = exchange
        """The request that has it; None for other code."""
        self.since_ns = since_ns
        self.until_ns: int | None = None
        """When it was given back; None while it is in use."""

    def held_ns(self, now_ns: int) -> int:
        """How long it was held, or has been so far."""
        return (now_ns if self.until_ns is None else self.until_ns) - self.since_ns


class PoolUse:
    """Notes who has each connection of a pool, and since when.

    Without a lock: a pool may take a connection back in the garbage collector, which runs anywhere.
    """

    def __init__(self, ceiling: Callable[[], int | None] = lambda: None) -> None:
        """`ceiling`: most connections that there may be; None for no limit, or where that is not known."""
        self._ceiling = ceiling
        self.loans: dict[Hashable, Loan] = {}
        self.recent: deque[Loan] = deque(maxlen=_MOST_RECENT)
        """Loans that ended while somebody waited."""
        self.asking: set[Asking] = set()

    @property
    def is_full(self) -> bool:
        """Whether there is no connection left."""
        ceiling = self._ceiling()
        return ceiling is not None and len(self.loans) >= ceiling

    def waited(self, wait_ns: int) -> None:
        """See each wait; for those that measure."""

    def used(self, use_ns: int) -> None:
        """See how long each connection was held."""

    def ask(self) -> "Asking":
        """Return a block around what the library does to find a connection."""
        return Asking(self)

    def give_back(self, connection: Hashable, loan: Loan | None = None) -> None:
        """Note that a connection is free; `loan`: unless somebody else has it since."""
        ended = self.loans.get(connection)
        if ended is None or (loan is not None and ended is not loan):
            return
        del self.loans[connection]
        ended.until_ns = now_ns = perf_counter_ns()
        if self.asking:
            self.recent.append(ended)
        self.used(ended.held_ns(now_ns))

    def holder(self, asking: "Asking", now_ns: int) -> str:
        """Say what was waited for, such as `a connection held by GET /report`: by whom one was held longest."""
        current = [*self.loans.copy().values()]
        ended = [loan for loan in self.recent.copy() if loan.since_ns + loan.held_ns(now_ns) > asking.asked_ns]
        longest = max((*current, *ended), key=lambda loan: loan.held_ns(now_ns), default=None)
        own = asking.exchange
        if own is None or longest is None:
            return _OF_OTHERS
        if longest.exchange is own or 2 * sum(loan.exchange is own for loan in current) >= max(1, len(current)):
            return "a connection held by itself"
        # Two apps in one process do not meet.
        holder = longest.exchange
        if holder is None or holder.observer is not own.observer:
            return _OF_OTHERS
        return f"a connection held by {request_name(holder)}"


class Asking:
    """One wait for a connection."""

    __slots__ = ("_use", "asked_ns", "exchange", "has_ended", "is_full")

    def __init__(self, use: PoolUse) -> None:
        self._use = use
        self.exchange = current_exchange.get()
        self.has_ended = False
        self.is_full = use.is_full
        """Whether all connections were in use when it began."""
        self.asked_ns = perf_counter_ns()

    def __enter__(self) -> Self:
        """Begin."""
        self._use.asking.add(self)
        return self

    def __exit__(self, *_: object) -> None:
        """End, where there was no connection."""
        if not self.has_ended:
            self._end(perf_counter_ns())

    def given(self, connection: Hashable) -> None:
        """End with a connection."""
        now_ns = perf_counter_ns()
        self._end(now_ns)
        loans = self._use.loans
        if len(loans) >= _MOST_LOANS:
            # Connections that nobody has given back.
            loans.pop(next(iter(loans)), None)
        loans[connection] = Loan(self.exchange, now_ns)

    def forget(self) -> None:
        """End without a note."""
        self.has_ended = True
        use = self._use
        use.asking.discard(self)
        if not use.asking:
            use.recent.clear()

    def _end(self, now_ns: int) -> None:
        wait_ns = now_ns - self.asked_ns
        try:
            if wait_ns >= LEAST_WAIT_NS:
                self._note(now_ns)
            self._use.waited(wait_ns)
        except Exception as error:
            count_internal_error("Insight", error)
        self.forget()

    def _note(self, now_ns: int) -> None:
        facts = current_facts()
        if facts is None:
            return
        last_wait.set((self.asked_ns, now_ns))
        waits = facts.connection_waits
        if waits is None:
            waits = facts.connection_waits = {}
        text = self._use.holder(self, now_ns) if self.is_full else _NEW
        known = text if text in waits or len(waits) < MOST_HOLDERS else _OF_OTHERS
        waits.setdefault(known, BusyTime()).add(self.asked_ns, now_ns)

"""What a request has called, how often, and how long that took."""

from threading import RLock
from typing import Literal, NamedTuple

from sage_fastapi_obs.insight.busy_time import BusyTime, together_us

MOST_CALLEES = 64
"""Statements and services of one request that are told apart."""


Kind = Literal["database", "call"]


class Callee(NamedTuple):
    """What is called. It has no value in it."""

    kind: Kind
    name: str
    """As it is shown: `SELECT orders`, `redis GET`, `api.example.com`."""
    shape: str
    """Tells it from others of this name: the text of the statement, without literals."""


class CalleeTimes:
    """How often a request called one thing, how long that took, and from where."""

    __slots__ = ("busy", "count", "line")

    def __init__(self) -> None:
        self.count = 0
        self.busy = BusyTime()
        self.line: str | None = None
        """The line of the application that called it, where it was called often."""


class CallNotes:
    """The calls of one request; its threads may add at the same time."""

    __slots__ = ("_lock", "by_callee", "has_repetitions")

    def __init__(self) -> None:
        # One that its own thread may take again: the garbage collector can run anything in between.
        self._lock = RLock()
        self.by_callee: dict[Callee, CalleeTimes] = {}
        self.has_repetitions = False
        """Whether one statement was sent often."""

    def add(self, callee: Callee, started_ns: int, ended_ns: int) -> CalleeTimes:
        """Add a call that has ended."""
        with self._lock:
            times = self.by_callee.get(callee) or self._added(callee)
            times.count += 1
            times.busy.add(started_ns, ended_ns)
        return times

    def busy_us(self, kind: Kind) -> int:
        """Return how long calls of a kind took; those at the same time count once."""
        return together_us(times.busy for callee, times in self.by_callee.copy().items() if callee.kind == kind)

    def _added(self, callee: Callee) -> CalleeTimes:
        known = callee if len(self.by_callee) < MOST_CALLEES else _OTHERS[callee.kind]
        return self.by_callee.setdefault(known, CalleeTimes())


_OTHERS = {"database": Callee("database", "other statements", ""), "call": Callee("call", "other services", "")}

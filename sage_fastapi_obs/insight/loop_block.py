"""A time in which the event loop did not turn, and who held it, judged from what the watch thread saw meanwhile."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from sage_fastapi_obs.causes import Cause
from sage_fastapi_obs.insight.loop_thread import BUSY, ClockReading, others_share
from sage_fastapi_obs.request.exchange import Exchange
from sage_fastapi_obs.request.explanation import Evidence

Who = Literal["observed", "inferred", "threads", "nobody"]
"""Who had the loop, or the interpreter: the code that was seen there; the code that must have been there, by the clocks of
processors; other threads of this process; nobody that is known, as where other processes had the processors."""
_LATE_NS = 25_000_000
"""A watch thread that wakes so late was kept from it: by code that holds the interpreter, or by a loaded machine."""

_IN_VAIN = 4
"""A watch thread that has waited so often has asked for the interpreter in vain: for Python code it rests until its time,
until it asks, and until it is answered."""

_RIVALS, _RIVALS_OF_LAST = 1, 3
"""Where more threads wait for the interpreter, another one is likely to get it first, and the loop goes on meanwhile: then who
is seen is named only if it is the request that has begun last."""


class Sample(NamedTuple):
    """What was seen at one tick while the loop did not turn."""

    start_ns: int
    end_ns: int
    """The time that it stands for."""
    own_ns: int
    """Of that, the time without what other processes took."""
    who: Who
    exchange: Exchange | None
    """The request that the loop ran code for."""
    place: str | None
    """The line of the application."""

    @property
    def ns(self) -> int:
        """How long that is."""
        return self.end_ns - self.start_ns

    @property
    def holder(self) -> "Exchange | str | None":
        """What is the same for all samples of one holder."""
        return self.place if self.exchange is None else self.exchange


def who_held(before: ClockReading, now: ClockReading, late_ns: int, *, is_same: bool, is_last: bool = False) -> Who:
    """Tell who had the loop between two readings, of which the second shows some code there.

    `late_ns`: how late the watch thread was. `is_same`: whether the first has shown the same code, in one step of its task.
    `is_last`: whether no other request has begun or ended since that of the code began.
    """
    if others_share(before, now) >= BUSY:
        return "threads"
    if late_ns < _LATE_NS:
        return "observed"
    is_likely = is_last or now.own_waited - before.own_waited <= late_ns / 2
    if is_likely and _has_held(before, now, _RIVALS_OF_LAST if is_last else _RIVALS):
        return "inferred"
    return "observed" if is_same and now.own_waited - before.own_waited > late_ns / 2 else "nobody"


def _has_held(before: ClockReading, now: ClockReading, most_rivals: int) -> bool:
    """Tell whether the loop's thread was in a call that held the interpreter, until the watch thread got it from there.

    Python code gives the interpreter up when it is asked, so who asks in vain waits for the end of a call.
    """
    rests, all_rests = now.own_rests - before.own_rests, now.process_rests - before.process_rests
    if rests < _IN_VAIN or all_rests > (1 + most_rivals) * rests:
        return False
    loop_cpu = now.loop_cpu - before.loop_cpu
    others_cpu = now.process_cpu - before.process_cpu - loop_cpu
    is_busy = loop_cpu + now.loop_waited - before.loop_waited >= BUSY * (now.at - before.at)
    # On a loaded machine those that hold the interpreter may have little of the time; but more than those that wait for it.
    return is_busy and loop_cpu > others_cpu


def without(samples: list[Sample], waited_ns: int) -> list[Sample]:
    """Take off what the loop's thread has waited for a processor, as far as samples do not know it; of the last ones first."""
    left_ns = waited_ns - sum(sample.ns - sample.own_ns for sample in samples)
    found: list[Sample] = []
    for sample in reversed(samples):
        off_ns = min(sample.own_ns, max(0, left_ns))
        left_ns -= off_ns
        found.append(sample._replace(own_ns=sample.own_ns - off_ns))
    return found[::-1]


@dataclass(slots=True)
class Holder:
    """Code of one request, or of none, that held the loop in a block."""

    exchange: Exchange | None
    places: Counter[str | None] = field(default_factory=Counter)
    """Nanoseconds at each line."""
    own_ns: int = 0
    """Without what other processes took: code that the system has kept from the processor is not to blame for that."""
    inferred_ns: int = 0

    @property
    def held_ns(self) -> int:
        """All of its time."""
        return self.places.total()

    @property
    def place(self) -> str | None:
        """The line at which it spent most of it."""
        return self.places.most_common(1)[0][0]

    @property
    def evidence(self) -> Evidence:
        """Whether most of it was seen."""
        return "inferred" if self.inferred_ns > self.held_ns / 2 else "observed"

    def add(self, sample: Sample) -> None:
        """Add what was seen at a tick."""
        self.places[sample.place] += sample.ns
        self.own_ns += sample.own_ns
        self.inferred_ns += sample.ns * (sample.who == "inferred")


@dataclass(slots=True)
class LoopBlock:
    """A time in which the loop did not turn."""

    start_ns: int
    end_ns: int
    cause: Cause | None
    """`blocked_loop`, `garbage_collection` or `busy_threads`; None where nobody was seen for long enough."""
    holders: list[Holder]
    """Those who held it, the longest first; empty where the cause is none of them."""
    backlog_until_ns: int
    """Until when requests may have begun that had waited in the socket meanwhile."""

    @property
    def us(self) -> int:
        """How long it took, in microseconds."""
        return (self.end_ns - self.start_ns) // 1_000

    @property
    def share(self) -> float:
        """The part of it in which the first holder was seen."""
        return min(1.0, self.holders[0].held_ns / max(1, self.end_ns - self.start_ns)) if self.holders else 0.0


def judge(samples: list[Sample], end_ns: int, collected_ns: int, *, least_ns: int, backlog_ns: int) -> LoopBlock:
    """Find out who held the loop. `collected_ns`: what the garbage collector took of it; `least_ns`: what is a block."""
    start_ns = samples[0].start_ns
    block = LoopBlock(start_ns, end_ns, None, [], end_ns + backlog_ns)
    if collected_ns >= (end_ns - start_ns) / 2:
        block.cause = "garbage_collection"
    elif sum(sample.ns for sample in samples if sample.who == "threads") >= (end_ns - start_ns) / 2:
        block.cause = "busy_threads"
    else:
        block.holders = _holders(samples)
        if block.holders and block.holders[0].own_ns >= least_ns:
            block.cause = "blocked_loop"
    return block


def _holders(samples: list[Sample]) -> list[Holder]:
    found: dict[Exchange | str | None, Holder] = {}
    for sample in samples:
        if sample.who in ("observed", "inferred"):
            found.setdefault(sample.holder, Holder(sample.exchange)).add(sample)
    return sorted((holder for holder in found.values() if holder.own_ns), key=lambda holder: -holder.held_ns)

"""A time in which the event loop did not turn, and who held it, judged from what the watch thread saw meanwhile."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from sage_fastapi_obs.causes import Cause
from sage_fastapi_obs.insight.loop_thread import BUSY, ClockReading, others_share
from sage_fastapi_obs.request.exchange import Exchange

Who = Literal["observed", "threads", "nobody"]
"""Who had the loop, or the interpreter: the code that was seen there; other threads of this process; nobody that is known, as
where other processes had the processors."""
_LATE_NS = 25_000_000
"""A watch thread that wakes so late was kept from it: by code that holds the interpreter, or by a loaded machine."""


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


def who_held(before: ClockReading, now: ClockReading, late_ns: int, *, is_same: bool) -> Who:
    """Tell who had the loop between two readings of the watch thread, of which the second shows some code there.

    `late_ns`: how late it was. `is_same`: whether the first has shown the same code, in one step of its task.
    """
    if others_share(before, now) >= BUSY:
        return "threads"
    if late_ns < _LATE_NS:
        return "observed"
    # What has kept it from the interpreter may be over; where it has only waited for a processor, nothing has changed.
    return "observed" if is_same and now.own_waited - before.own_waited > late_ns / 2 else "nobody"


def who_computed(before: ClockReading, now: ClockReading, start_ns: int) -> Who:
    """Tell who had the loop until its own thread has looked at itself: code that runs there, if that has computed meanwhile.

    `start_ns`: since when the loop has not turned, or was looked at last.
    """
    loop_cpu = now.loop_cpu - before.loop_cpu
    if others_share(before, now) >= BUSY:
        return "threads"
    is_busy = loop_cpu + now.loop_waited - before.loop_waited >= BUSY * (now.at - max(start_ns, before.at))
    # Otherwise it may have waited for the interpreter.
    return "observed" if is_busy and loop_cpu > now.process_cpu - before.process_cpu - loop_cpu else "nobody"


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

    @property
    def held_ns(self) -> int:
        """All of its time."""
        return self.places.total()

    @property
    def place(self) -> str | None:
        """The line at which it spent most of it."""
        return self.places.most_common(1)[0][0]

    def add(self, sample: Sample) -> None:
        """Add what was seen at a tick."""
        self.places[sample.place] += sample.ns
        self.own_ns += sample.own_ns


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
        if sample.who == "observed":
            found.setdefault(sample.holder, Holder(sample.exchange)).add(sample)
    return sorted((holder for holder in found.values() if holder.own_ns), key=lambda holder: -holder.held_ns)

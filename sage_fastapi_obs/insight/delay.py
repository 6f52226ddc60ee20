"""What a blocked event loop cost the requests that did not block it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from sage_fastapi_obs.insight.busy_threads import busy_interpreter
from sage_fastapi_obs.insight.loop_block import LoopBlock
from sage_fastapi_obs.request.exchange import Exchange
from sage_fastapi_obs.request.explanation import (
    LEAST_LOST_US,
    MOST_BLOCKS,
    Evidence,
    Explanation,
    Finding,
    readable_time,
)
from sage_fastapi_obs.request.request_name import request_name


def explain_delay(
    exchange: Exchange,
    explanation: Explanation,
    blocks: Iterable[LoopBlock],
    now_ns: int,
    median_us: Callable[[str | None], int],
) -> None:
    """Tell who delayed a request, and how long it may have waited before it began."""
    delays: dict[str, _Delay] = {}
    for block in blocks:
        _note_queue(exchange, explanation, block)
        if block.cause != "garbage_collection" and not _is_own(exchange, block):
            overlap_ns = min(block.end_ns, now_ns) - max(block.start_ns, exchange.started_ns)
            if overlap_ns > 0:
                delays.setdefault(_culprit(block), _Delay()).add(block, overlap_ns // 1_000)
    most_us = exchange.duration_us - median_us(exchange.route)
    for delay in sorted(delays.values(), key=lambda delay: -delay.us):
        _add_finding(explanation, delay, min(delay.us, most_us))


@dataclass(slots=True)
class _Delay:
    """What the blocks of one culprit took of a request."""

    blocks: list[LoopBlock] = field(default_factory=list)
    us: int = 0

    def add(self, block: LoopBlock, us: int) -> None:
        self.blocks.append(block)
        self.us += us

    @property
    def by(self) -> tuple[str, ...]:
        """The ids of the requests that blocked the loop."""
        holders = [block.holders[0].exchange for block in self.blocks[:MOST_BLOCKS] if block.holders]
        return tuple(dict.fromkeys(exchange.request_id for exchange in holders if exchange is not None))

    @property
    def times(self) -> tuple[tuple[int, int], ...]:
        return tuple((block.start_ns, block.end_ns) for block in self.blocks[:MOST_BLOCKS])


def _is_own(exchange: Exchange, block: LoopBlock) -> bool:
    return any(holder.exchange is exchange for holder in block.holders) and block.cause == "blocked_loop"


def _note_queue(exchange: Exchange, explanation: Explanation, block: LoopBlock) -> None:
    if block.start_ns < exchange.started_ns <= block.backlog_until_ns and not _is_own(exchange, block):
        queued_us = (min(exchange.started_ns, block.end_ns) - block.start_ns) // 1_000
        if queued_us >= LEAST_LOST_US:
            explanation.queued_up_to_us = max(queued_us, explanation.queued_up_to_us or 0)


def _add_finding(explanation: Explanation, delay: _Delay, us: int) -> None:
    if us < LEAST_LOST_US:
        return
    block = delay.blocks[0]
    if block.cause == "busy_threads":
        explanation.findings.append(busy_interpreter(us))
        return
    time, culprit = readable_time(us), _culprit(block)
    if block.cause is None:
        text = f"the event loop was blocked {time}, {culprit}"
    else:
        place = block.holders[0].place
        where = f" at {place}" if place and place not in culprit else ""
        text = f"delayed up to {time} by {culprit}, which blocked the event loop{where}"
    evidence: Evidence = "observed" if block.holders else "inferred"
    explanation.findings.append(Finding("delayed", text, us, evidence, block.share, delay.by, delay.times))
    if block.cause is not None and us > (explanation.delayed_up_to_us or 0):
        explanation.delayed_by, explanation.delayed_up_to_us = culprit, us


def _culprit(block: LoopBlock) -> str:
    """Name who blocked the loop: a request by its route, never by its path."""
    if block.cause is None:
        return "culprit not seen"
    if block.cause == "busy_threads":
        return "other threads"
    first = block.holders[0]
    if first.exchange is None:
        return f"other code at {first.place}" if first.place else "other code"
    return request_name(first.exchange)

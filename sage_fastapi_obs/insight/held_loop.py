"""How long a request kept the event loop from anything else."""

from collections import Counter

from sage_fastapi_obs.insight.loop_block import Holder, LoopBlock
from sage_fastapi_obs.request.explanation import MOST_BLOCKS, Explanation, Finding, readable_time


class HeldLoop:
    """How long a request kept the event loop from anything else."""

    __slots__ = ("block_ns", "blocks", "own_ns", "places")

    def __init__(self) -> None:
        self.places: Counter[str | None] = Counter()
        """Nanoseconds at each line of the application."""
        self.own_ns = self.block_ns = 0
        """Of it, without what other processes took; and all of the blocks in which it did that."""
        self.blocks: list[tuple[int, int]] = []
        """Start and end of the first ones."""

    def add(self, holder: Holder, block: LoopBlock) -> None:
        """Add its part of a block."""
        self.places.update(holder.places)
        self.own_ns += holder.own_ns
        self.block_ns += block.end_ns - block.start_ns
        if len(self.blocks) < MOST_BLOCKS:
            self.blocks.append((block.start_ns, block.end_ns))

    def explain(self, explanation: Explanation, least_ns: int) -> None:
        """Tell of it, if it is enough."""
        if self.own_ns < least_ns:
            return
        held_ns = self.places.total()
        held_us, place = held_ns // 1_000, self.places.most_common(1)[0][0]
        explanation.blocked_loop_us, explanation.blocked_loop_at = held_us, place
        text = f"blocked the event loop {readable_time(held_us)}{f' at {place}' if place else ''}"
        share = min(1.0, held_ns / max(1, self.block_ns))
        explanation.findings.append(Finding("blocked_loop", text, held_us, "observed", share, (), tuple(self.blocks)))

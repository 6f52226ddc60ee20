"""Who blocked the event loop, and whom that delayed."""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from functools import partial

from sage_fastapi_obs.insight.delay import explain_delay
from sage_fastapi_obs.insight.facts import facts_of
from sage_fastapi_obs.insight.held_loop import HeldLoop
from sage_fastapi_obs.insight.loop_block import LoopBlock, judge
from sage_fastapi_obs.insight.loop_sampler import LoopSampler
from sage_fastapi_obs.insight.observer import CauseObserver
from sage_fastapi_obs.insight.troubled_time import TroubledTime
from sage_fastapi_obs.insight.watch_thread import WatchThread
from sage_fastapi_obs.metrics.collector_pauses import CollectorPauses
from sage_fastapi_obs.request.exchange import Exchange
from sage_fastapi_obs.request.explanation import Explanation

_BACKLOG_NS = 20_000_000
"""A request that begins so soon after a block may have come while it lasted."""
_BACKLOG_TURNS = 6
"""Turns of the loop until all that has come meanwhile has begun: accept, make a transport, read, start a task, and two more."""
_REMEMBERED = 64
_current_task = asyncio.current_task


class BlockedLoop(CauseObserver):
    """Judges each block when it ends or a request does, in the thread of the loop: so who did it can say so in its line."""

    def __init__(
        self,
        watch: WatchThread,
        sampler: LoopSampler,
        troubled: TroubledTime,
        pauses: CollectorPauses,
        least_seconds: float,
        median_us: Callable[[str | None], int],
    ) -> None:
        """`least_seconds`: shorter blocks are not told of. `median_us`: what half of a route's requests take at most."""
        self._watch = watch
        self._sampler = sampler
        self._troubled = troubled
        self._pauses = pauses
        self._least_ns = int(least_seconds * 1_000_000_000)
        self._median_us = median_us
        self._blocks: deque[LoopBlock] = deque(maxlen=_REMEMBERED)
        self._until_ns = 0
        """Requests that began before then may have been delayed by the last block."""
        watch.ticked.append(sampler.tick)
        watch.answered.append(self._answered)
        watch.interrupted.append(sampler.interrupted)

    def start(self) -> None:
        """Watch the running loop, where there is one; otherwise that of the first request."""
        try:
            self._watch.wake()
        except RuntimeError:
            return

    def stop(self) -> None:
        """End the thread."""
        self._watch.stop()

    def request_started(self, exchange: Exchange) -> None:
        """Note the task, and that the loop turns."""
        try:
            exchange.task = _current_task()
        except RuntimeError:
            # Another kind of loop.
            return
        watch = self._watch
        watch.sign_ns = exchange.started_ns
        if not watch.is_awake:
            watch.wake()

    def concerns(self, exchange: Exchange) -> bool:
        """Tell whether the loop was blocked shortly before or during the request, or is just about to be judged."""
        return exchange.started_ns < self._until_ns or bool(self._sampler.samples)

    def explain(self, exchange: Exchange, explanation: Explanation) -> None:
        """Tell what it did to others, and others to it."""
        now_ns = time.perf_counter_ns()
        if self._sampler.samples:
            self._settle(now_ns, exchange)
        self._watch.sign_ns = now_ns
        held: HeldLoop | None = None if exchange.facts is None else exchange.facts.held_loop
        if held is not None:
            held.explain(explanation, self._least_ns)
        if exchange.started_ns < self._until_ns:
            explain_delay(exchange, explanation, self._blocks, now_ns, self._median_us)

    def _answered(self) -> None:
        """Judge the block that ends as the loop has come to answer; see to what had come meanwhile."""
        now_ns = time.perf_counter_ns()
        if self._sampler.samples:
            self._settle(now_ns, None)
        if self._blocks and self._blocks[-1].end_ns >= self._watch.asked_ns:
            self._follow_backlog(self._blocks[-1], _BACKLOG_TURNS)

    def _settle(self, end_ns: int, ending: Exchange | None) -> None:
        samples = self._sampler.take(end_ns, ending)
        collected_ns = self._pauses.between(samples[0].start_ns, end_ns)
        block = judge(samples, end_ns, collected_ns, least_ns=self._least_ns, backlog_ns=_BACKLOG_NS)
        for holder in block.holders:
            if holder.exchange is not None and (not holder.exchange.finished or holder.exchange is ending):
                _held_loop_of(holder.exchange).add(holder, block)
        if end_ns - block.start_ns >= self._least_ns:
            self._blocks.append(block)
            self._extend(block.backlog_until_ns)

    def _follow_backlog(self, block: LoopBlock, turns: int) -> None:
        """Find out when everything has begun that had waited in sockets while the loop was blocked."""
        if self._watch.loop_thread is not None and turns:
            self._watch.loop_thread.loop.call_soon(partial(self._follow_backlog, block, turns - 1))
        block.backlog_until_ns = max(block.backlog_until_ns, time.perf_counter_ns())
        self._extend(block.backlog_until_ns)

    def _extend(self, until_ns: int) -> None:
        self._until_ns = max(self._until_ns, until_ns)
        self._troubled.extend(until_ns)


def _held_loop_of(exchange: Exchange) -> HeldLoop:
    facts = facts_of(exchange)
    if facts.held_loop is None:
        facts.held_loop = HeldLoop()
    return facts.held_loop

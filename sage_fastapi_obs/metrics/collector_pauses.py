"""How long the garbage collector keeps the interpreter."""

import gc
import time
from collections import deque
from collections.abc import Callable

_NOTED_NS = 100_000
"""Shorter pauses are not remembered: a thousand of them are less than is worth a word."""
_LONG_NS = 20_000_000
_REMEMBERED = 2_000


class CollectorPauses:
    """Measures the pauses from `start` to `stop`. They concern the whole process, whichever thread collects."""

    def __init__(
        self,
        clock: Callable[[], int] = time.perf_counter_ns,
        paused: Callable[[int, int], None] | None = None,
        long_ended: Callable[[int], None] | None = None,
    ) -> None:
        """`clock`: monotonic nanoseconds.

        `paused` is told the generation and the nanoseconds of each pause; `long_ended` when a long one has ended.
        """
        self._clock = clock
        self._paused, self._long_ended = paused, long_ended
        self._began: int | None = None
        self._recent: deque[tuple[int, int]] = deque(maxlen=_REMEMBERED)
        """Start and end of each."""
        self.last_long_ns = 0
        """The end of the last one that was long by itself."""

    def start(self) -> None:
        """Start measuring."""
        gc.callbacks.append(self._collected)

    def stop(self) -> None:
        """Stop."""
        if self._collected in gc.callbacks:
            gc.callbacks.remove(self._collected)

    def between(self, start_ns: int, end_ns: int) -> int:
        """Return how many nanoseconds of a time were such pauses."""
        began = self._began
        # The thread that has collected may wait for the interpreter before it can say that it has ended.
        total = 0 if began is None else max(0, end_ns - max(began, start_ns))
        # A copy: the list may grow meanwhile, as what is made here may be what starts the collector.
        for began, ended in reversed(self._recent.copy()):
            if ended <= start_ns:
                break
            total += max(0, min(ended, end_ns) - max(began, start_ns))
        return total

    def _collected(self, phase: str, info: dict[str, int]) -> None:
        began, self._began = self._began, self._clock() if phase == "start" else None
        if phase == "stop" and began is not None:
            self._add(info["generation"], began, self._clock())

    def _add(self, generation: int, began: int, ended: int) -> None:
        if ended - began >= _NOTED_NS:
            self._recent.append((began, ended))
        if ended - began >= _LONG_NS:
            self.last_long_ns = ended
            if self._long_ended is not None:
                self._long_ended(ended)
        if self._paused is not None:
            self._paused(generation, ended - began)

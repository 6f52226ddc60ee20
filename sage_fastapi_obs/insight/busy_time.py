"""How long at least one of several things was under way: what overlaps counts once."""

from collections.abc import Iterable

_MOST_SPANS = 16
_NEVER = 1 << 63
# ruff: noqa: SLF001 - two of one class look into each other


class BusyTime:
    """Adds up times that may overlap, as those of queries in `asyncio.gather`.

    It keeps the last spans of time only, so that its size does not grow. One that begins before all of them may count some
    time twice, but never more than there was between the first begin and the last end.
    """

    __slots__ = ("_earlier_ns", "_first_ns", "_spans")

    def __init__(self) -> None:
        self._spans: list[tuple[int, int]] = []
        self._earlier_ns = 0
        """Of spans that are not kept any more."""
        self._first_ns = _NEVER

    def add(self, started_ns: int, ended_ns: int) -> None:
        """Add the time of something that has just ended."""
        spans = self._spans
        while spans and spans[-1][1] >= started_ns:
            first, last = spans.pop()
            started_ns, ended_ns = min(first, started_ns), max(last, ended_ns)
        spans.append((started_ns, ended_ns))
        self._first_ns = min(self._first_ns, started_ns)
        if len(spans) > _MOST_SPANS:
            first, last = spans.pop(0)
            self._earlier_ns += last - first

    @property
    def us(self) -> int:
        """All of it, in microseconds."""
        return together_us([self])


def together_us(times: Iterable[BusyTime]) -> int:
    """Return how long any of several was under way, in microseconds."""
    known = [one for one in times if one._spans]
    last_ns = first_ns = min((one._first_ns for one in known), default=0)
    busy_ns = sum(one._earlier_ns for one in known)
    for started_ns, ended_ns in sorted(span for one in known for span in one._spans):
        busy_ns += max(0, ended_ns - max(started_ns, last_ns))
        last_ns = max(last_ns, ended_ns)
    return min(busy_ns, last_ns - first_ns) // 1_000

"""How long at least one of several things was under way: what overlaps counts once."""

_MOST_SPANS = 16


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
        self._first_ns: int | None = None

    def add(self, started_ns: int, ended_ns: int) -> None:
        """Add the time of something that has just ended."""
        spans = self._spans
        while spans and spans[-1][1] >= started_ns:
            first, last = spans.pop()
            started_ns, ended_ns = min(first, started_ns), max(last, ended_ns)
        spans.append((started_ns, ended_ns))
        if self._first_ns is None or started_ns < self._first_ns:
            self._first_ns = started_ns
        if len(spans) > _MOST_SPANS:
            first, last = spans.pop(0)
            self._earlier_ns += last - first

    @property
    def us(self) -> int:
        """All of it, in microseconds."""
        if self._first_ns is None:
            return 0
        kept_ns = sum(last - first for first, last in self._spans)
        return min(self._earlier_ns + kept_ns, self._spans[-1][1] - self._first_ns) // 1_000

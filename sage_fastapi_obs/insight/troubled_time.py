"""Whether a request can have anything to tell: asked by each, so that nearly all are done with two comparisons."""


class TroubledTime:
    """Times in which something cost requests time, whichever it was; observers extend them, also from other threads."""

    __slots__ = ("is_now", "until_ns")

    def __init__(self) -> None:
        self.is_now = False
        """Whether the event loop is blocked, and nobody has judged yet by whom."""
        self.until_ns = 0
        """Requests that began before then may have lost time, by the monotonic clock."""

    def extend(self, until_ns: int) -> None:
        """Let requests that began before a time be asked about."""
        self.until_ns = max(self.until_ns, until_ns)

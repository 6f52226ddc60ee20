"""The numbers of HTTP requests of the same labels."""

import sys
from collections.abc import Sequence
from typing import TypeAlias

LabelValues: TypeAlias = tuple[str, ...]
ExemplarSource: TypeAlias = tuple[str, str, int]
"""Of a sampled request: trace id, span id, and the Unix time of its start in nanoseconds."""
Exemplified: TypeAlias = tuple[ExemplarSource, float]
NO_EXTREMES = (sys.maxsize, -1)
"""Shortest and longest duration without any request."""


class Totals:
    """The numbers of requests up to some moment.

    Never changed once others can see them, so that a page of one moment needs no copies: those of thousands of series would
    have the garbage collector walk through the whole heap during every scrape.
    """

    __slots__ = (
        "duration_us",
        "durations",
        "exemplars",
        "received",
        "received_bytes",
        "requests",
        "sent",
        "sent_bytes",
        "timed",
    )

    def __init__(self, duration_buckets: int, size_buckets: int) -> None:
        self.requests = 0
        self.timed = 0
        """Requests of which the duration is here; streams are timed elsewhere."""
        self.duration_us = 0
        self.durations = [0] * duration_buckets
        self.exemplars: list[Exemplified | None] = [None] * duration_buckets
        self.received_bytes = self.sent_bytes = 0
        self.received = [0] * size_buckets
        self.sent = [0] * size_buckets

    def copy(self) -> "Totals":
        """Return the same numbers, to be added to."""
        copied = Totals(0, 0)
        copied.requests, copied.timed, copied.duration_us = self.requests, self.timed, self.duration_us
        copied.durations, copied.exemplars = self.durations[:], self.exemplars[:]
        copied.received_bytes, copied.sent_bytes = self.received_bytes, self.sent_bytes
        copied.received, copied.sent = self.received[:], self.sent[:]
        return copied

    def numbers(self) -> list[int]:
        """Return all numbers in a row, without the exemplars; whole ones up to 2**53 stay exact as floats."""
        return [
            *(self.requests, self.timed, self.duration_us),
            *self.durations,
            *(self.received_bytes, *self.received),
            *(self.sent_bytes, *self.sent),
        ]

    @classmethod
    def of(cls, numbers: Sequence[float], duration_buckets: int, size_buckets: int) -> "Totals":
        """Return the totals whose numbers in a row these are."""
        totals = cls(duration_buckets, 0)
        whole = [*map(int, numbers)]
        totals.requests, totals.timed, totals.duration_us = whole[:3]
        received, sent = 3 + duration_buckets, 4 + duration_buckets + size_buckets
        totals.durations = whole[3:received]
        totals.received_bytes, totals.received = whole[received], whole[received + 1 : sent]
        totals.sent_bytes, totals.sent = whole[sent], whole[sent + 1 :]
        return totals

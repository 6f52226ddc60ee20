"""Why a request was slow, was refused or failed: what was found out about it, the most important first."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from sage_fastapi_obs.causes import CAUSES, Cause

Evidence = Literal["observed", "inferred"]
_STOPS_EVERYTHING: frozenset[Cause] = frozenset({"delayed", "busy_threads", "garbage_collection"})
LEAST_LOST_US = 50_000
"""Less lost time is not worth a word."""
LEAST_SHARE = 0.1
"""Of the duration: a smaller part of it is not worth a word either."""
MOST_BLOCKS = 16
"""Blocks of the event loop that one finding tells the times of."""


class Finding(NamedTuple):
    """One cause of a request."""

    cause: Cause
    text: str
    """A clause about the request: `blocked the event loop 540 ms at app/report.py:14`. It has no value of a client's."""
    lost_us: int = 0
    """Microseconds that it cost the request; 0 for why it failed or was refused."""
    evidence: Evidence = "observed"
    share: float = 1.0
    """Of the samples that say so, where it was inferred."""
    by: tuple[str, ...] = ()
    """Ids of the requests that blocked the event loop meanwhile."""
    blocks: tuple[tuple[int, int], ...] = ()
    """When it was blocked: start and end, by the clock of the request, in nanoseconds; the first ones."""


@dataclass(slots=True)
class Explanation:
    """What is known of one request; only those of which something is known have one."""

    findings: list[Finding] = field(default_factory=list)
    """Once the request has ended: those worth telling, the most important first."""
    is_slow: bool = False
    """Whether the request was slow for its route, or lost much time to something that is always a fault."""
    blocked_loop_us: int | None = None
    """How long it kept the event loop from anything else."""
    blocked_loop_at: str | None = None
    """The line of the application that did: `app/report.py:14`."""
    delayed_by: str | None = None
    """The request that blocked the event loop meanwhile: `GET /report`."""
    delayed_up_to_us: int | None = None
    queued_up_to_us: int | None = None
    """How long it may have waited before our clock began, as the event loop was blocked until then: no part of the duration."""
    validation: list[str] | None = None
    """What was wrong with it: location and kind of each error, such as `body.items.*.price: missing`."""
    validation_errors: Sequence[tuple[str, str]] = ()
    """The same as pairs, without those that are only counted there."""
    timings: dict[str, int] | None = None
    """Where its time went, in microseconds: `dependencies`, `endpoint`, `serialization` and so on."""

    @property
    def why(self) -> list[str]:
        """The findings in words."""
        return [finding.text for finding in self.findings]

    @property
    def cause(self) -> Cause:
        """The first cause."""
        return self.findings[0].cause if self.findings else "unknown"

    @property
    def is_telling(self) -> bool:
        """Whether there is anything to show."""
        figures = self.blocked_loop_us, self.delayed_up_to_us, self.queued_up_to_us
        return bool(self.findings or self.validation) or any(figure is not None for figure in figures)

    @property
    def timings_ms(self) -> dict[str, float]:
        """Where its time went, in milliseconds."""
        return {name: microseconds / 1_000 for name, microseconds in (self.timings or {}).items()}

    def rank(self, duration_us: int) -> None:
        """Leave the findings that are worth telling: reasons, then own causes by lost time, then what others did."""
        found = [
            finding for finding in _without_repetition(self.findings, duration_us) if _is_worth_telling(finding, duration_us)
        ]
        others_us = max((finding.lost_us for finding in found if CAUSES[finding.cause].is_others), default=0)
        self.findings = sorted(found, key=lambda finding: _rank(finding, others_us))
        self.is_slow = self.is_slow or any(CAUSES[finding.cause].is_problem for finding in found)


def _without_repetition(findings: list[Finding], duration_us: int) -> Iterator[Finding]:
    """Yield what is left of the findings without the time of others.

    When each of them was is not known. What stopped everything may have done so in any of those that are measured by the clock.
    Of general ones, that was in it for which there is no room outside of it; where it is more than half, they are left out.
    """
    stopped_us = sum(finding.lost_us for finding in findings if finding.cause in _STOPS_EVERYTHING)
    particular_us = sum(finding.lost_us for finding in findings if not CAUSES[finding.cause].is_general)
    for finding in findings:
        kind = CAUSES[finding.cause]
        outside_us = max(0, duration_us - finding.lost_us)
        left_us = finding.lost_us - max(0, particular_us - outside_us)
        if kind.is_elapsed:
            yield finding._replace(lost_us=max(0, finding.lost_us - stopped_us))
        elif not kind.is_general:
            yield finding
        elif 2 * left_us >= finding.lost_us:
            yield finding._replace(lost_us=left_us)


def _is_worth_telling(finding: Finding, duration_us: int) -> bool:
    if CAUSES[finding.cause].is_reason:
        return True
    return finding.lost_us >= LEAST_LOST_US and finding.lost_us >= LEAST_SHARE * duration_us


def _rank(finding: Finding, others_us: int) -> tuple[bool, bool, int]:
    """Order findings. `others_us`: what others took most; what the request waits for in general, in less time, is no news."""
    kind = CAUSES[finding.cause]
    is_minor = kind.is_others or (kind.is_general and finding.lost_us < others_us)
    return not kind.is_reason, is_minor, -finding.lost_us


def readable_time(microseconds: int) -> str:
    """Write a time for people: `540 ms`, `2.1 s`."""
    milliseconds = round(microseconds / 1_000)
    return f"{milliseconds} ms" if milliseconds < 1_000 else f"{microseconds / 1_000_000:.1f} s"

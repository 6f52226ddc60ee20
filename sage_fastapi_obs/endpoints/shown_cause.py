"""What is shown of a cause: why a request was slow, was refused or failed, how that is known, and what to do."""

from collections.abc import Iterator, Mapping
from typing import Any, Self, get_args

from pydantic import BaseModel, FiniteFloat

from sage_fastapi_obs.causes import CAUSES, Cause, docs_anchor
from sage_fastapi_obs.request.explanation import MOST_BLOCKS, Evidence


class BlockTime(BaseModel):
    """A time in which the event loop did not turn, in milliseconds; the offset is from the start of the request."""

    offset_ms: FiniteFloat
    duration_ms: FiniteFloat


class ShownCause(BaseModel):
    """Why a request was slow, was refused or failed."""

    cause: str
    text: str
    """A clause about the request: `blocked the event loop 540 ms at app/report.py:14`."""
    lost_ms: FiniteFloat
    """What it cost the request; 0 for why it failed or was refused."""
    remedy: str
    """What to do."""
    docs: str
    """Page and anchor that explain it; an address where that of the docs is known."""
    evidence: Evidence | None = None
    """Whether it was seen, or concluded from other things; null where that was not stored."""
    by: list[str] = []
    """Ids of the requests that blocked the event loop meanwhile."""
    blocks: list[BlockTime] = []
    """When it was blocked."""

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> Self:
        """Take it from the store, which may hold what another version has written."""
        cause, lost_us, evidence = str(found.get("cause")), found.get("lost_us"), found.get("evidence")
        known: Cause = cause if cause in CAUSES else "unknown"
        return cls(
            cause=cause,
            text=str(found.get("text")),
            lost_ms=lost_us / 1_000 if isinstance(lost_us, int) else 0.0,
            remedy=CAUSES[known].remedy,
            docs=docs_anchor(known),
            evidence=evidence if evidence in get_args(Evidence) else None,
            by=ids_of_blockers(found),
            blocks=[BlockTime(offset_ms=at / 1_000, duration_ms=us / 1_000) for at, us in _blocks(found)],
        )


def ids_of_blockers(found: Mapping[str, Any]) -> list[str]:
    """Return the ids of the requests that blocked the event loop, of a stored cause."""
    by = found.get("by")
    return [id_ for id_ in by[:MOST_BLOCKS] if isinstance(id_, str)] if isinstance(by, list) else []


def _blocks(found: Mapping[str, Any]) -> Iterator[tuple[int, int]]:
    """Yield start and duration of each block, in microseconds."""
    blocks = found.get("blocks")
    for block in blocks[:MOST_BLOCKS] if isinstance(blocks, list) else ():
        match block:
            case [int(at), int(us)] if abs(at) < _LONGEST_US and 0 <= us < _LONGEST_US:
                yield at, us


_LONGEST_US = 10**12

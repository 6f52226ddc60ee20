"""`/monitoring/issues`: kept failures, grouped by type, route and place in the code; and which of them are resolved."""

import hashlib
import time
from collections.abc import Iterable, Iterator
from typing import Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field

from sage_fastapi_obs.alerting.alerts import timestamp
from sage_fastapi_obs.causes import CAUSES
from sage_fastapi_obs.store.reader import StoreReader
from sage_fastapi_obs.store.records import ListedRequest, RequestQuery, StoredRequest

MOST_ISSUES = 200
MOST_FAILURES = 20_000
"""The newest kept failures are looked at: so many, or as many as there is time for."""
PATIENCE_SECONDS = 0.5
PARTS = 24
"""Parts of time that failures are counted in."""
_PAGE = 1_000
_NS = 1_000_000_000
Kind = tuple[str | None, str | None, str | None]
"""Type, route and place in the code."""
State = Literal["open", "resolved", "reopened"]


class Issue(BaseModel):
    """Failures of one kind."""

    id: str
    """Stays the same, whichever requests fail."""
    state: State
    """`reopened`: it was resolved, and has come again since."""
    error_type: str | None
    route: str | None
    method: str
    """Of the newest failure, as are `status` and `example`."""
    status: int
    why: str | None
    """With the place in the code: `raised LookupError at app/report.py:14`."""
    count: int
    first_seen: str
    """UTC, ISO 8601."""
    last_seen: str
    example: str
    """Key of a request."""
    counts: list[int] = Field(min_length=PARTS, max_length=PARTS)
    """How many in each part of the time from `since` to now."""


class IssueList(BaseModel):
    """Issues, the one that was seen last first; resolved ones at the end."""

    since: str | None
    """When the oldest failure that was looked at began."""
    issues: list[Issue] = Field(max_length=MOST_ISSUES)
    failures: int
    """How many kept failures were looked at."""
    is_complete: bool
    """False where there are older failures, or more issues."""


class IssueChange(BaseModel):
    """Body of a PUT."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    resolved: bool


def issues_of(reader: StoreReader, resolved_ns: dict[str, int], now_ns: int) -> IssueList:
    """Group the newest failures. `resolved_ns`: when issues were resolved; both are Unix time in nanoseconds."""
    failures, is_complete = _failures(reader)
    groups: dict[Kind, list[ListedRequest]] = {}
    for failure in failures:
        groups.setdefault(_kind(failure.request), []).append(failure)
    since_ns = min((failure.request.started_ns for failure in failures), default=now_ns)
    ids = {issue_id(kind): group for kind, group in groups.items()}
    found = [_issue(id_, group, resolved_ns.get(id_), since_ns, now_ns) for id_, group in ids.items()]
    found.sort(key=lambda issue: issue.last_seen, reverse=True)
    found.sort(key=lambda issue: issue.state == "resolved")
    return IssueList(
        since=timestamp(since_ns / _NS) if failures else None,
        issues=found[:MOST_ISSUES],
        failures=len(failures),
        is_complete=is_complete and len(found) <= MOST_ISSUES,
    )


def _kind(request: StoredRequest) -> Kind:
    return request.error_type, request.route, _place(request)


def issue_id(kind: Kind) -> str:
    """Name the issue of a kind of failure."""
    return hashlib.sha256(orjson.dumps(kind)).hexdigest()[:16]


def _place(request: StoredRequest) -> str | None:
    """Return the clause that names the place; one about lost time is another each time."""
    cause = CAUSES.get(request.cause)  # type: ignore[call-overload]
    return request.why if cause is not None and cause.is_reason else None


def _failures(reader: StoreReader) -> tuple[list[ListedRequest], bool]:
    """Return the newest failures, and whether those are all; in several questions, as those who write wait for each."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    found: list[ListedRequest] = []
    before = None
    while len(found) < MOST_FAILURES:
        page = reader.list(RequestQuery(failed=True, before=before, limit=_PAGE))
        found += page.requests
        if (before := page.next) is None:
            return found, True
        if time.monotonic() > deadline:
            break
    return found, False


def _issue(id_: str, group: list[ListedRequest], resolved_ns: int | None, since_ns: int, now_ns: int) -> Issue:
    """Describe failures of one kind, the newest first."""
    newest = group[0].request
    times_ns = [failure.request.started_ns for failure in group]
    return Issue(
        id=id_,
        state=_state(max(times_ns), resolved_ns),
        error_type=newest.error_type,
        route=newest.route,
        method=newest.method,
        status=newest.status,
        why=newest.why,
        count=len(group),
        first_seen=timestamp(min(times_ns) / _NS),
        last_seen=timestamp(max(times_ns) / _NS),
        example=group[0].key,
        counts=_counts(times_ns, since_ns, now_ns),
    )


def _state(last_ns: int, resolved_ns: int | None) -> State:
    if resolved_ns is None:
        return "open"
    return "reopened" if last_ns > resolved_ns else "resolved"


def _counts(times_ns: Iterable[int], since_ns: int, now_ns: int) -> list[int]:
    counts = [0] * PARTS
    for part in _parts(times_ns, since_ns, max(1, now_ns - since_ns)):
        counts[part] += 1
    return counts


def _parts(times_ns: Iterable[int], since_ns: int, span_ns: int) -> Iterator[int]:
    for at_ns in times_ns:
        # A clock may have been set back meanwhile.
        yield min(PARTS - 1, max(0, (at_ns - since_ns) * PARTS // span_ns))

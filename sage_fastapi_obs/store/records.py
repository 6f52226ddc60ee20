"""What is stored, and what questions to the store are answered with."""

import re
from dataclasses import dataclass
from typing import Any, NamedTuple

_CURSORS = {"before": "next", "after": "latest"}


class StoredRequest(NamedTuple):
    """A kept request: what is listed, and what is opened."""

    started_ns: int
    """Unix time."""
    duration_us: int
    kind: str
    """`http` or `websocket`."""
    method: str
    route: str | None
    path: str
    """Redacted and cut."""
    status: int
    failed: bool
    kept: str
    """Why: `failed`, `slow`, `refused`, `first`, `asked`, `upstream` or `ratio`."""
    request_id: str
    correlation_id: str
    trace_id: str
    """32 hex digits, or empty."""
    span_id: str
    error_type: str | None
    cause: str | None
    """Why it was slow, was refused or failed: a word of `causes.CAUSES`; None where there is nothing to say."""
    why: str | None
    """The same as a clause: `blocked the event loop 540 ms at app/report.py:14`."""
    details: bytes
    """JSON: `{"pid": n, "spans": […], "lines": […], "dropped_spans": n, "dropped_lines": n, "why": […], "timings": {…}}`.

    Each key may be missing. `why` has objects with `cause`, `text`, `lost_us` and `evidence`. They may have `by`, ids of the
    requests that blocked the event loop, and `blocks`, pairs of start and duration in microseconds from the start of the
    request. `timings` has microseconds by name.
    """


class LateFailure(NamedTuple):
    """That a request failed after it was stored: in the work after its response."""

    started_ns: int
    """As of the request, with its id: a client may send an id twice."""
    request_id: str
    error_type: str
    why: str | None


class Supplement(NamedTuple):
    """What came after a request was stored, and lines outside of requests."""

    at_ns: int
    """Unix time."""
    request_id: str
    """Empty where there is none."""
    correlation_id: str
    trace_id: str
    details: bytes
    """As those of a request."""
    failure: LateFailure | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestQuery:
    """Which requests a page lists; what is None is not asked for."""

    route: str | None = None
    status: str | None = None
    """Exact, such as `404`, or a class, such as `4xx`."""
    failed: bool | None = None
    kept: str | None = None
    cause: str | None = None
    slower_than_seconds: float | None = None
    id: str | None = None
    """Request, correlation or trace id."""
    text: str | None = None
    """Text in path, route, error type, spans or lines; ASCII letters in either case."""
    before: str | None = None
    """`next` of the page before."""
    after: str | None = None
    """`latest` of a page: what was stored since, oldest last."""
    limit: int = 50
    """Most requests of the page, 1 to 1000."""

    def __post_init__(self) -> None:
        """Raise `ValueError` for what cannot be meant."""
        if self.status is not None and not re.fullmatch(r"[1-9]xx|[0-9]{1,4}", self.status):
            raise ValueError(f"status {self.status!r}: a status such as 404, or a class of them such as 4xx")
        for name, cursor in (("before", self.before), ("after", self.after)):
            if cursor is not None and not re.fullmatch(r"[0-9a-f]{1,15}", cursor):
                raise ValueError(f"{name}: take it from `{_CURSORS[name]}` of a page")
        if not 1 <= self.limit <= 1000:
            raise ValueError("limit: 1 to 1000")
        if self.slower_than_seconds is not None and not 0 <= self.slower_than_seconds < 1e9:
            raise ValueError("slower_than_seconds: a time in seconds, not below 0")

    @property
    def status_bounds(self) -> tuple[int, int]:
        """The lowest and the highest status that is asked for; both 0 if none is."""
        status = self.status or "0"
        if status.endswith("xx"):
            return int(status[0]) * 100, int(status[0]) * 100 + 99
        return int(status), int(status)


class ListedRequest(NamedTuple):
    """A request on a page."""

    key: str
    """Addresses exactly this request; ids of clients can repeat."""
    request: StoredRequest
    """Without its details, which are empty."""


class RequestPage(NamedTuple):
    """Requests, newest first: in the order in which they were stored."""

    requests: list[ListedRequest]
    next: str | None
    """Where to go on, as `before`; None at the end."""
    is_complete: bool
    """False if the search for a text came to its time limit: there may be more, from `next` on, though the page is not full."""
    latest: str
    """What is stored later comes with `after` this."""


class Story(NamedTuple):
    """All that is stored about one request."""

    key: str
    request: StoredRequest
    """Without its details, which are empty."""
    spans: list[dict[str, Any]]
    """By start."""
    lines: list[dict[str, Any]]
    """In order of time."""
    dropped_spans: int
    dropped_lines: int
    why: list[dict[str, Any]]
    """Causes, the most important first, as in `StoredRequest.details`."""
    timings: dict[str, Any]
    """Microseconds by name."""
    pid: int | None
    """The process that served it, if it is known."""
    has_details: bool = True
    """False where they were too large to be stored, have made room, or are damaged."""

"""What is shown of kept requests: their figures, their spans as a tree, their lines."""

from collections.abc import Iterable
from typing import Any, Literal, Self

from pydantic import BaseModel, Field, FiniteFloat

from sage_fastapi_obs.alerting.alerts import timestamp
from sage_fastapi_obs.endpoints.shown_cause import ShownCause, ids_of_blockers
from sage_fastapi_obs.endpoints.shown_error import ShownError, error_of
from sage_fastapi_obs.endpoints.span_tree import SpanNode, shallow, span_tree
from sage_fastapi_obs.store.reader import StoreReader
from sage_fastapi_obs.store.records import ListedRequest, RequestPage, Story

MOST_STORIES = 20
"""An id that clients choose can repeat: these are the newest requests that have it."""
EXCLUDED_SECONDS = 3_600
MOST_OVERLAPPING = 50
"""Requests that are shown beside one."""
Relation = Literal["delayed", "blocking", "beside"]
NO_LINES = "lines are not shown: set monitoring.expose_logs"
NO_DETAILS = "spans and lines of a request are missing: they were too large to be kept, or the store's file is damaged there"


class KeptRequest(BaseModel):
    """A kept request as it is listed."""

    key: str
    """Addresses exactly this request, as an id does."""
    timestamp: str
    """Of its start: UTC, ISO 8601."""
    duration_ms: FiniteFloat
    kind: str
    method: str
    route: str | None
    path: str
    status: int
    failed: bool
    kept: str
    """Why it is kept: failed, slow, refused, first, asked, upstream or ratio."""
    error_type: str | None
    cause: str | None = None
    """Why it was slow, was refused or failed, in a word."""
    why: str | None = None
    """The same as a clause: `blocked the event loop 540 ms at app/report.py:14`."""
    request_id: str
    correlation_id: str
    trace_id: str
    span_id: str

    @classmethod
    def of(cls, listed: ListedRequest | Story) -> Self:
        """Take them from the store."""
        request = listed.request._asdict()
        return cls(
            key=listed.key,
            timestamp=timestamp(listed.request.started_ns / 1_000_000_000),
            duration_ms=listed.request.duration_us / 1_000,
            **{name: request[name] for name in cls.model_fields.keys() & request.keys()},
        )


class RequestList(BaseModel):
    """Kept requests, newest first."""

    requests: list[KeptRequest]
    next: str | None
    """Where older ones begin: the parameter `before` of the next question; null at the end."""
    is_complete: bool
    """False where the search for a text took too long: go on with `next`."""
    latest: str = "0"
    """What is kept later comes with the parameter `after` this."""

    excluded: int | None = None
    """How many requests were not recorded in the last hour, as those of our own pages, probes and scrapes."""

    @classmethod
    def of(cls, page: RequestPage, excluded: int | None = None) -> Self:
        """Take them from the store."""
        requests = [KeptRequest.of(listed) for listed in page.requests]
        return cls(requests=requests, next=page.next, is_complete=page.is_complete, latest=page.latest, excluded=excluded)


class OverlappingRequest(BaseModel):
    """A request that the same process served while the event loop was blocked."""

    request: KeptRequest
    offset_ms: FiniteFloat
    """Of its start, from the start of the request whose story this is."""
    relation: Relation
    """Whether it was delayed by that request, has blocked the event loop meanwhile, or neither is known."""

    @classmethod
    def of(cls, other: Story, story: Story) -> Self:
        """Compare two requests."""
        offset_ms = (other.request.started_ns - story.request.started_ns) / 1_000_000
        relation: Relation = "beside"
        if story.request.request_id in _blockers(other):
            relation = "delayed"
        elif other.request.request_id in _blockers(story):
            relation = "blocking"
        return cls(request=KeptRequest.of(other), offset_ms=offset_ms, relation=relation)


def _blockers(story: Story) -> set[str]:
    return {id_ for found in story.why for id_ in ids_of_blockers(found)}


def _overlap(reader: StoreReader, story: Story, why: list[ShownCause]) -> list[OverlappingRequest]:
    """Find what overlapped the blocks of a request; of many, those that it has to do with first."""
    blocks = [block for found in why for block in found.blocks]
    if not blocks:
        return []
    start_ms = min(block.offset_ms for block in blocks)
    end_ms = max(block.offset_ms + block.duration_ms for block in blocks)
    start_ns, end_ns = (story.request.started_ns + int(ms * 1_000_000) for ms in (start_ms, end_ms))
    others = [OverlappingRequest.of(other, story) for other in reader.overlapping(story, start_ns, end_ns)]
    nearest = sorted(others, key=lambda other: (other.relation == "beside", -other.request.duration_ms))
    return sorted(nearest[:MOST_OVERLAPPING], key=lambda other: other.offset_ms)


class RequestStory(BaseModel):
    """What happened in one request."""

    request: KeptRequest
    why: list[ShownCause] = []
    """Why it was slow, was refused or failed, the most important first."""
    timings_ms: dict[str, FiniteFloat] = {}
    """Where its time went, in milliseconds; empty where that is not known."""
    spans: list[SpanNode]
    """The span of the request, with those below it."""
    error: ShownError | None = None
    """The exception that it ended with, or that was logged."""
    overlap: list[OverlappingRequest] = Field(default=[], max_length=MOST_OVERLAPPING)
    """Where the event loop was blocked: what else the process served meanwhile, in order of time."""
    pid: int | None = None
    """The process that served it."""
    links: dict[str, str] = {}
    """Where else it is shown: addresses by the name of the system; see `monitoring.links`."""
    lines: list[dict[str, Any]] | None
    """Its log lines in order of time; null unless `monitoring.expose_logs`."""
    dropped_spans: int
    dropped_lines: int

    @classmethod
    def of(cls, story: Story, reader: StoreReader, *, with_lines: bool) -> "RequestStory":
        """Take it from the store."""
        why = [ShownCause.of(found) for found in story.why]
        return cls.model_construct(
            request=KeptRequest.of(story),
            why=why,
            timings_ms={name: us / 1_000 for name, us in story.timings.items() if isinstance(us, int)},
            spans=span_tree([(story.request.span_id, story.spans)], story.request.started_ns),
            error=error_of(story, with_lines=with_lines),
            overlap=_overlap(reader, story, why),
            pid=story.pid,
            lines=shallow(story.lines) if with_lines else None,
            dropped_spans=story.dropped_spans,
            dropped_lines=story.dropped_lines,
        )


class StoriesOfId(BaseModel):
    """The newest requests with an id."""

    stories: list[RequestStory] = Field(max_length=MOST_STORIES)
    note: str | None = None
    """What is not shown, and why."""

    @classmethod
    def found(cls, reader: StoreReader, some_id: str, *, with_lines: bool) -> "StoriesOfId | None":
        """Find requests by their key, or by a request, correlation or trace id; None if there are none."""
        found = reader.find(some_id, MOST_STORIES)
        stories = [RequestStory.of(story, reader, with_lines=with_lines) for story in found]
        return cls.model_construct(stories=stories, note=_note(found, with_lines=with_lines)) if stories else None


class TraceStory(BaseModel):
    """All that this service did in a trace."""

    trace_id: str
    requests: list[KeptRequest] = Field(max_length=MOST_STORIES)
    """In order of time."""
    spans: list[SpanNode]
    """Of all requests, those that call others above them; offsets are from the start of the first."""
    lines: list[dict[str, Any]] | None
    """Their log lines in order of time; null unless `monitoring.expose_logs`."""
    dropped_spans: int
    dropped_lines: int
    note: str | None = None
    """What is not shown, and why."""

    @classmethod
    def found(cls, reader: StoreReader, trace_id: str, *, with_lines: bool) -> "TraceStory | None":
        """Put the newest requests of a trace together; None if there are none."""
        found = [story for story in reader.find(trace_id, MOST_STORIES) if story.request.trace_id == trace_id]
        if not found:
            return None
        stories = sorted(found, key=lambda story: story.request.started_ns)
        lines = sorted((line for story in stories for line in story.lines), key=lambda line: str(line.get("timestamp")))
        return cls.model_construct(
            trace_id=trace_id,
            requests=[KeptRequest.of(story) for story in stories],
            spans=span_tree([(story.request.span_id, story.spans) for story in stories], stories[0].request.started_ns),
            lines=shallow(lines) if with_lines else None,
            dropped_spans=sum(story.dropped_spans for story in stories),
            dropped_lines=sum(story.dropped_lines for story in stories),
            note=_note(stories, with_lines=with_lines),
        )


def _note(stories: Iterable[Story], *, with_lines: bool) -> str | None:
    notes = [] if with_lines else [NO_LINES]
    if not all(story.has_details for story in stories):
        notes.append(NO_DETAILS)
    return "; ".join(notes) or None

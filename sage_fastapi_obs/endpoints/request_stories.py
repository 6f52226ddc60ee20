"""What is shown of kept requests: their figures, their spans as a tree, their lines."""

from collections.abc import Mapping
from typing import Any, Self

from pydantic import BaseModel, Field, FiniteFloat

from sage_fastapi_obs.alerting.alerts import timestamp
from sage_fastapi_obs.causes import CAUSES, Cause, docs_anchor
from sage_fastapi_obs.endpoints.span_tree import SpanNode, shallow, span_tree
from sage_fastapi_obs.store.reader import StoreReader
from sage_fastapi_obs.store.records import ListedRequest, RequestPage, Story

MOST_STORIES = 20
"""An id that clients choose can repeat: these are the newest requests that have it."""
NO_LINES = "lines are not shown: set monitoring.expose_logs"


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

    @classmethod
    def of(cls, page: RequestPage) -> Self:
        """Take them from the store."""
        requests = [KeptRequest.of(listed) for listed in page.requests]
        return cls(requests=requests, next=page.next, is_complete=page.is_complete)


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
    """Page and anchor that explain it."""

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> Self:
        """Take it from the store, which may hold what another version has written."""
        cause, lost_us = str(found.get("cause")), found.get("lost_us")
        known: Cause = cause if cause in CAUSES else "unknown"
        lost_ms = lost_us / 1_000 if isinstance(lost_us, int) else 0.0
        text = str(found.get("text"))
        return cls(cause=cause, text=text, lost_ms=lost_ms, remedy=CAUSES[known].remedy, docs=docs_anchor(known))


class RequestStory(BaseModel):
    """What happened in one request."""

    request: KeptRequest
    why: list[ShownCause] = []
    """Why it was slow, was refused or failed, the most important first."""
    timings_ms: dict[str, Any] = {}
    """Where its time went, in milliseconds; empty where that is not known."""
    spans: list[SpanNode]
    """The span of the request, with those below it."""
    lines: list[dict[str, Any]] | None
    """Its log lines in order of time; null unless `monitoring.expose_logs`."""
    dropped_spans: int
    dropped_lines: int

    @classmethod
    def of(cls, story: Story, *, with_lines: bool) -> "RequestStory":
        """Take it from the store."""
        return cls.model_construct(
            request=KeptRequest.of(story),
            why=[ShownCause.of(found) for found in story.why],
            timings_ms={name: us / 1_000 for name, us in story.timings.items() if isinstance(us, int)},
            spans=span_tree([(story.request.span_id, story.spans)], story.request.started_ns),
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
        stories = [RequestStory.of(story, with_lines=with_lines) for story in reader.find(some_id, MOST_STORIES)]
        return cls.model_construct(stories=stories, note=None if with_lines else NO_LINES) if stories else None


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
            note=None if with_lines else NO_LINES,
        )

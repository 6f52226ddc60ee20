"""What the store keeps of a request: its figures, and its spans and lines as JSON; nothing that these would not show."""

import os
from collections.abc import Callable
from typing import Any, NamedTuple

from sage_fastapi_obs.logs.fast_access_line import FastAccessLine, ordinary_values
from sage_fastapi_obs.logs.line_format import LineBuilder, json_format
from sage_fastapi_obs.request.exchange import Exchange, StoryDraft
from sage_fastapi_obs.request.explanation import Explanation, Finding
from sage_fastapi_obs.store.records import LateFailure, StoredRequest, Supplement


class KeptExchange(NamedTuple):
    """An exchange that has ended, and what it held."""

    exchange: Exchange
    story: StoryDraft | None
    is_whole: bool
    """False for what came after the exchange was handed over."""
    failure: LateFailure | None = None
    """What it failed of since."""


class KeptLine(NamedTuple):
    """A line outside of requests, or of one that is over."""

    at_ns: int
    """Unix time."""
    request_id: str
    correlation_id: str
    trace_id: str
    line: bytes
    """JSON."""


class ExchangeEncoder:
    """Makes what is stored, in the thread that writes it."""

    def __init__(self, build: LineBuilder, readable: Callable[[str], str]) -> None:
        """`build` builds log lines; `readable` cuts and redacts a text of the caller's."""
        self._readable = readable
        # Of its own, as another thread than that of the log output makes these lines.
        self._access_line = FastAccessLine(build, json_format, readable, None)

    def __call__(self, kept: Exchange | KeptExchange | KeptLine) -> StoredRequest | Supplement:
        """Make one record; an exchange alone held nothing when it was handed over, and is whole."""
        if isinstance(kept, Exchange):
            return self._request(kept, None)
        if isinstance(kept, KeptLine):
            at_ns, request_id, correlation_id, trace_id, line = kept
            return Supplement(at_ns, request_id, correlation_id, trace_id, b'{"lines":[%b]}' % line)
        exchange, story, is_whole, failure = kept
        if not is_whole:
            at_ns = exchange.wall_ns + exchange.duration_us * 1_000
            details = b"{%b%b}" % (_story_json(story, [], []), _failure_json(failure))
            return Supplement(at_ns, exchange.request_id, exchange.correlation_id, exchange.trace_id, details, failure)
        return self._request(exchange, story)

    def _request(self, exchange: Exchange, story: StoryDraft | None) -> StoredRequest:
        readable, explanation = self._readable, exchange.explanation
        first = None if explanation is None or not explanation.findings else explanation.findings[0]
        return StoredRequest(
            exchange.wall_ns,
            exchange.duration_us,
            exchange.kind,
            readable(exchange.method),
            exchange.route,
            readable(exchange.path),
            exchange.status,
            exchange.failed,
            exchange.kept,
            exchange.request_id,
            exchange.correlation_id,
            exchange.trace_id,
            exchange.span_id,
            exchange.error_type,
            None if first is None else first.cause,
            None if first is None else first.text,
            self._details(exchange, story),
        )

    def _details(self, exchange: Exchange, story: StoryDraft | None) -> bytes:
        # A span of somebody else may be going on.
        spans = [exchange.span] if getattr(exchange.span, "end_time", None) else []
        lines = [self._access_line(ordinary_values(exchange))[:-1]] if exchange.line_is_ordinary else []
        explained = _explanation_json(exchange.explanation, exchange.started_ns)
        return b'{"pid":%d,%b%b}' % (os.getpid(), _story_json(story, spans, lines), explained)


def _story_json(story: StoryDraft | None, spans: list[Any], lines: list[bytes]) -> bytes:
    lost = b""
    if story is not None:
        spans, lines = [*spans, *story.spans], [*story.lines, *lines]
        if story.lost_spans or story.lost_lines:
            lost = b',"dropped_spans":%d,"dropped_lines":%d' % (story.lost_spans, story.lost_lines)
    encoded = [json_format(stored_span(span))[:-1] for span in spans]
    return b'"spans":[%b],"lines":[%b]%b' % (b",".join(encoded), b",".join(lines), lost)


def _failure_json(failure: LateFailure | None) -> bytes:
    if failure is None or failure.why is None:
        return b""
    return b",%b" % json_format({"why": [_finding(Finding("exception", failure.why), 0)]})[1:-2]


def _explanation_json(explanation: Explanation | None, started_ns: int) -> bytes:
    if explanation is None:
        return b""
    found = [_finding(finding, started_ns) for finding in explanation.findings]
    return b",%b" % json_format({"why": found, "timings": explanation.timings or {}})[1:-2]


def _finding(finding: Finding, started_ns: int) -> dict[str, Any]:
    cause, text, lost_us, evidence, _, by, blocks = finding
    found: dict[str, Any] = {"cause": cause, "text": text, "lost_us": lost_us, "evidence": evidence}
    if by:
        found["by"] = by
    if blocks:
        found["blocks"] = [((start_ns - started_ns) // 1_000, (end_ns - start_ns) // 1_000) for start_ns, end_ns in blocks]
    return found


def stored_span(span: Any) -> dict[str, Any]:
    """Return a span as the store has it; a finished span of the SDK, or of ours."""
    span_id, parent_id = _span_ids(span)
    status = span.status
    started_ns, ended_ns = span.start_time or 0, span.end_time or 0
    shown: dict[str, Any] = {
        "name": span.name,
        "kind": span.kind.name,
        "span_id": span_id,
        "parent_id": parent_id,
        "started_ns": started_ns,
        "duration_us": (ended_ns - started_ns) // 1_000,
        "status": status.status_code.name,
        "attributes": _plain(span.attributes),
    }
    if status.description:
        shown["description"] = status.description
    if events := span.events:
        shown["events"] = [_event(event) for event in events]
    if links := span.links:
        shown["links"] = [_link(link) for link in links]
    if (scope := span.instrumentation_scope) is not None:
        shown["scope"] = scope.name
    return shown


def _span_ids(span: Any) -> tuple[str, str | None]:
    """Return the ids of a span and of its parent."""
    if (written := getattr(span, "written_ids", None)) is not None:
        _, span_id, _, parent_id = written
        return span_id, parent_id
    parent = span.parent
    return f"{span.context.span_id:016x}", None if parent is None else f"{parent.span_id:016x}"


def _plain(attributes: Any) -> dict[str, Any]:
    return dict(attributes or {})


def _event(event: Any) -> dict[str, Any]:
    return {"name": event.name, "at_ns": event.timestamp, "attributes": _plain(event.attributes)}


def _link(link: Any) -> dict[str, Any]:
    context = link.context
    ids = {"trace_id": f"{context.trace_id:032x}", "span_id": f"{context.span_id:016x}"}
    return {**ids, "attributes": _plain(link.attributes)}

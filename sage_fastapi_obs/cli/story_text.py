"""Kept requests for people: a list of them, and the story of one with its spans and lines."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from sage_fastapi_obs.cli.logs import text_of_line
from sage_fastapi_obs.cli.screen import Screen, Signs, plain
from sage_fastapi_obs.endpoints.request_stories import KeptRequest, RequestStory
from sage_fastapi_obs.endpoints.span_tree import SpanNode

_IDS = ("request_id", "correlation_id", "trace_id")
_IDS_OF_LINES = frozenset({*_IDS, "span_id", "trace_flags"})


def show_requests(screen: Screen, requests: Sequence[KeptRequest]) -> None:
    """Print a list of requests."""
    rows = [(_time(one), plain(one.key), one.duration_ms, one.status, plain(one.kept), _reason(one)) for one in requests]
    screen.table(("time", "key", "ms", "status", "kept", "request"), rows)


def show_story(screen: Screen, story: RequestStory) -> None:
    """Print what happened in a request."""
    request = story.request
    screen.wrapped(f"{_title(request)} {request.status} in {_ms(request.duration_ms)} ms, kept: {plain(request.kept)}")
    screen.wrapped(f"{_time(request)} {_pairs(_ids(request))}")
    for found in story.why:
        screen.wrapped(f"why: {plain(found.text)} ({plain(found.remedy)}; {found.docs})")
    if story.timings_ms:
        screen.wrapped("time: " + ", ".join(f"{plain(name)} {_ms(ms)} ms" for name, ms in story.timings_ms.items()))
    screen.row("")
    _show_spans(screen, request.duration_ms, story.spans)
    _show_missing(screen, story.dropped_spans, "spans")
    screen.row("")
    show_lines(screen, story.lines or ())
    _show_missing(screen, story.dropped_lines, "lines")


def show_lines(screen: Screen, lines: Iterable[Mapping[str, Any]]) -> None:
    """Print log lines, without the ids that they share."""
    for line in lines:
        own = {name: value for name, value in line.items() if name not in _IDS_OF_LINES}
        for row in text_of_line(own).splitlines():
            screen.wrapped(row)


def _reason(request: KeptRequest) -> str:
    return f"{_title(request)}: {plain(request.why)}" if request.why else _title(request)


def _title(request: KeptRequest) -> str:
    route = f" ({plain(request.route)})" if request.route not in {None, request.path} else ""
    error = f" {plain(request.error_type)}" if request.error_type else ""
    return f"{plain(request.method or request.kind)} {plain(request.path)}{error}{route}"


def _ids(request: KeptRequest) -> dict[str, str]:
    """Return its ids; those that are equal have the first name."""
    names = {getattr(request, name): name for name in reversed((*_IDS, "key"))}
    return {name: id_ for id_, name in reversed(names.items()) if id_}


def _show_spans(screen: Screen, duration_ms: float, spans: Sequence[SpanNode]) -> None:
    rows = list(_rows(spans, screen.signs))
    length, end = screen.width // 5, max([duration_ms, *(span.offset_ms + span.duration_ms for *_, span in rows)])
    for before, below, span in rows:
        bar = f"{_bar(span, end, length, screen.signs.bar):{length}}"
        # Of what is very deep the last branches are shown, so that there is room for a name.
        screen.row(f"{_ms(span.offset_ms):>9} {_ms(span.duration_ms):>9} ms |{bar}| {before[-length:]}{_title_of_span(span)}")
        for event in span.events:
            text = f"{plain(event.name)} {_pairs(event.attributes)}"
            screen.row(f"{_ms(event.offset_ms):>9} {'':12} |{'':{length}}| {below[-length:]}{screen.signs.event}{text}")


def _rows(
    spans: Sequence[SpanNode], signs: Signs, lead: str = "", *, at_top: bool = True
) -> Iterator[tuple[str, str, SpanNode]]:
    """Yield spans from top to bottom, with what is drawn before each one and before what is below it."""
    for span in spans:
        is_last = span is spans[-1]
        below = "" if at_top else lead + (signs.gap if is_last else signs.passing)
        yield "" if at_top else lead + (signs.last if is_last else signs.branch), below, span
        yield from _rows(span.children, signs, below, at_top=False)


def _bar(span: SpanNode, end: float, length: int, sign: str) -> str:
    """Draw when a span was: at least one sign, and never beyond the end."""
    scale = length / end if end > 0 else 0
    start = round(min(max(span.offset_ms * scale, 0), length - 1))
    taken = round(min(max(span.duration_ms * scale, 1), length - start))
    return " " * start + sign * max(taken, 1)


def _title_of_span(span: SpanNode) -> str:
    kind = "" if span.kind == "INTERNAL" else f"{plain(span.kind)} "
    failed = f" !{plain(span.description or 'failed')}" if span.status == "ERROR" else ""
    misplaced = f" ({span.misplaced})" if span.misplaced else ""
    return f"{kind}{plain(span.name)}{failed}{misplaced} {_pairs(span.attributes)}"


def _pairs(values: Mapping[str, object]) -> str:
    return " ".join(f"{plain(name)}={plain(value)}" for name, value in values.items())


def _ms(value: float) -> str:
    return f"{value:.1f}"


def _time(request: KeptRequest) -> str:
    """Write the local time, as lines have it."""
    try:
        return datetime.fromisoformat(request.timestamp).astimezone().strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
    except (ValueError, OverflowError):
        return plain(request.timestamp)


def _show_missing(screen: Screen, count: int, what: str) -> None:
    if count:
        screen.row(f"({count} more {what} were not kept)")

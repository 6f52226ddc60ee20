"""`sage-obs show`: kept requests, routes and alerts, from the store of a service, its pages, or the file of a case."""

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

from sage_fastapi_obs.alerting.alerts import AlertSummary
from sage_fastapi_obs.alerting.summary import RouteFigures
from sage_fastapi_obs.cli import request_questions
from sage_fastapi_obs.cli.case import Case, find_case, read_case
from sage_fastapi_obs.cli.request_questions import AlertReport, KeptCause, KeptRoute, RouteList, SlowReport, TrafficReport
from sage_fastapi_obs.cli.request_sources import MOST_LISTED, Source, SourceError, add_source_arguments, source_of, sources_of
from sage_fastapi_obs.cli.screen import Screen, plain
from sage_fastapi_obs.cli.story_text import show_lines, show_requests, show_story
from sage_fastapi_obs.endpoints.request_stories import RequestList
from sage_fastapi_obs.privacy.json_values import escaped

HELP = "Show requests that were kept: one by an id, the slow ones, those that failed; figures of the routes, and alerts."
FAILED = 1
Found: TypeAlias = Case | RequestList | RouteList | SlowReport | TrafficReport | AlertReport


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    what = f"ID (request, correlation or trace id, or a key), {', '.join(_LISTS)}, or FILE (written by `sage-obs case`)"
    parser.add_argument("what", metavar="WHAT", help=what)
    parser.add_argument("--limit", type=_count, default=20, metavar="N", help="most rows of a list; by default 20")
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")
    add_source_arguments(parser)


def _count(text: str) -> int:
    if not text.isdecimal() or not 0 < (count := int(text)) <= MOST_LISTED:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of rows: use 1 to {MOST_LISTED}")
    return count


def run(given: argparse.Namespace) -> int:
    """Show what is asked for; return the exit code."""
    try:
        found = _found(given)
    except SourceError as error:
        print(f"sage-obs show: {error}", file=sys.stderr)
        return FAILED
    if given.json:
        sys.stdout.buffer.write(escaped(found.model_dump_json().encode()) + b"\n")
    else:
        _show(Screen(), found)
    return 0


def _found(given: argparse.Namespace) -> Found:
    find = _LISTS.get(given.what)
    if find is None and _is_file(given.what):
        return read_case(Path(given.what))
    return find(source_of(given), given.limit) if find else find_case(sources_of(given), given.what)


def _is_file(name: str) -> bool:
    try:
        return Path(name).is_file() or name.endswith((".json", ".json.gz"))
    except OSError:
        # It is too long for one, and may be an id.
        return False


def _alerts(source: Source, limit: int) -> AlertReport:
    found = request_questions.alerts(source)
    return found.model_copy(update={"alerts": found.alerts[:limit], "rules": found.rules[:limit]})


_LISTS: dict[str, Callable[[Source, int], Found]] = {
    "slow": request_questions.slow,
    "why": request_questions.why_slow,
    "errors": request_questions.failing,
    "routes": request_questions.kept_routes,
    "traffic": request_questions.traffic,
    "alerts": _alerts,
}


def _show(screen: Screen, found: Found) -> None:
    match found:
        case Case():
            _show_case(screen, found)
        case RequestList():
            show_requests(screen, found.requests)
        case RouteList():
            _show_routes(screen, found.routes)
        case SlowReport():
            _show_causes(screen, found.causes)
        case TrafficReport():
            _show_traffic(screen, found.routes)
        case AlertReport():
            _show_alerts(screen, found.alerts)
    if not getattr(found, "is_complete", True):
        screen.row("(there are older requests, too)")


def _show_case(screen: Screen, case: Case) -> None:
    for story in case.stories:
        show_story(screen, story)
    show_lines(screen, case.lines)
    if case.note:
        screen.wrapped(f"({plain(case.note)})")


def _show_routes(screen: Screen, routes: Sequence[KeptRoute]) -> None:
    rows = [(one.kept, one.failed, one.p50_ms, one.p95_ms, one.max_ms, plain(one.route)) for one in routes]
    screen.table(("kept", "failed", "p50 ms", "p95 ms", "max ms", "route"), rows)


def _show_causes(screen: Screen, causes: Sequence[KeptCause]) -> None:
    rows = [(one.requests, one.max_ms, plain(one.example), plain(one.why or one.cause)) for one in causes]
    screen.table(("requests", "max ms", "slowest", "why that one was slow"), rows)


def _show_traffic(screen: Screen, routes: Sequence[RouteFigures]) -> None:
    screen.table(("requests", "failed", "p50 ms", "p95 ms", "p99 ms", "route"), [*map(_traffic_row, routes)])


def _traffic_row(route: RouteFigures) -> list[str | float]:
    figures = route.duration
    quantiles = (math.nan if seconds is None else seconds * 1_000 for seconds in (figures.p50, figures.p95, figures.p99))
    return [round(route.count), round(route.failed), *quantiles, plain(f"{route.method} {route.route}")]


def _show_alerts(screen: Screen, alerts: Sequence[AlertSummary]) -> None:
    rows = [(one["state"], one["severity"], plain(one["since"]), _value(one), _name(one)) for one in alerts]
    screen.table(("state", "severity", "since", "value", "alert"), rows)


def _value(alert: AlertSummary) -> str:
    value = alert["current_value"]
    return "-" if value is None else f"{value:.6g}"


def _name(alert: AlertSummary) -> str:
    labels = (f"{name}={value}" for name, value in alert["labels"].items() if name != "severity")
    return plain(" ".join([alert["name"], *labels]))

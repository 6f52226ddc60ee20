"""`sage-obs show`: requests that were kept, from the store of a service, its pages, or the file of a case."""

import argparse
import itertools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from pydantic import BaseModel

from sage_fastapi_obs.cli.case import Case, find_case, read_case
from sage_fastapi_obs.cli.request_sources import MOST_LISTED, Source, SourceError, add_source_arguments, newest, source_of
from sage_fastapi_obs.cli.screen import Screen, plain
from sage_fastapi_obs.cli.story_text import show_lines, show_requests, show_story
from sage_fastapi_obs.endpoints.request_stories import KeptRequest, RequestList
from sage_fastapi_obs.privacy.json_values import escaped

HELP = "Show requests that were kept: one by an id, the slow ones, those that failed, or figures of the routes."
FAILED = 1


class KeptRoute(BaseModel):
    """The kept requests of a route; times in milliseconds."""

    route: str
    kept: int
    failed: int
    p50_ms: float
    p95_ms: float
    max_ms: float

    @classmethod
    def of(cls, route: str, requests: list[KeptRequest]) -> "KeptRoute":
        """Compute them; there has to be a request."""
        taken = sorted(request.duration_ms for request in requests)
        p50, p95 = (taken[-(-len(taken) * percent // 100) - 1] for percent in (50, 95))
        failed = sum(request.failed for request in requests)
        return cls(route=route, kept=len(taken), failed=failed, p50_ms=p50, p95_ms=p95, max_ms=taken[-1])


class RouteList(BaseModel):
    """The routes of kept requests, those that failed most first."""

    routes: list[KeptRoute]
    is_complete: bool
    """False if there are older requests that were not looked at."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    what = "ID (request, correlation or trace id, or a key), slow, errors, routes, or FILE (written by `sage-obs case`)"
    parser.add_argument("what", metavar="WHAT", help=what)
    parser.add_argument("--limit", type=_count, default=20, metavar="N", help="most rows of a list; by default 20")
    parser.add_argument("--json", action="store_true", help="print the JSON that the pages answer with")
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


def _found(given: argparse.Namespace) -> Case | RequestList | RouteList:
    find = _LISTS.get(given.what)
    if find is None and _is_file(given.what):
        return read_case(Path(given.what))
    source = source_of(given)
    return find(source, given.limit) if find else find_case(source, given.what)


def _is_file(name: str) -> bool:
    try:
        return Path(name).is_file() or name.endswith((".json", ".json.gz"))
    except OSError:
        # It is too long for one, and may be an id.
        return False


def _slow(source: Source, limit: int) -> RequestList:
    requests, is_complete = newest(source)
    requests.sort(key=lambda request: -request.duration_ms)
    return RequestList(requests=requests[:limit], next=None, is_complete=is_complete)


def _errors(source: Source, limit: int) -> RequestList:
    requests, is_complete = newest(source, limit, failed=True)
    return RequestList(requests=requests[:limit], next=None, is_complete=is_complete)


def _routes(source: Source, limit: int) -> RouteList:
    requests, is_complete = newest(source)
    by_route: dict[str, list[KeptRequest]] = {}
    for request in requests:
        by_route.setdefault(f"{request.method or request.kind} {request.route or '(no route)'}", []).append(request)
    routes = sorted(itertools.starmap(KeptRoute.of, by_route.items()), key=lambda one: (-one.failed, -one.kept, one.route))
    return RouteList(routes=routes[:limit], is_complete=is_complete)


_LISTS: dict[str, Callable[[Source, int], RequestList | RouteList]] = {"slow": _slow, "errors": _errors, "routes": _routes}


def _show(screen: Screen, found: Case | RequestList | RouteList) -> None:
    if isinstance(found, Case):
        for story in found.stories:
            show_story(screen, story)
        show_lines(screen, found.lines)
        if found.note:
            screen.wrapped(f"({plain(found.note)})")
        return
    if isinstance(found, RouteList):
        _show_routes(screen, found.routes)
    else:
        show_requests(screen, found.requests)
    if not found.is_complete:
        screen.row("(there are older requests, too)")


def _show_routes(screen: Screen, routes: Sequence[KeptRoute]) -> None:
    rows = [(one.kept, one.failed, one.p50_ms, one.p95_ms, one.max_ms, plain(one.route)) for one in routes]
    screen.table(("kept", "failed", "p50 ms", "p95 ms", "max ms", "route"), rows)

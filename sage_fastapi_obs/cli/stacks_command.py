"""`sage-obs stacks`: what the processes of a service are doing now, also where their event loops hang."""

import argparse
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from pydantic import ValidationError

from sage_fastapi_obs.cli.screen import Screen, plain
from sage_fastapi_obs.errors import SettingsError
from sage_fastapi_obs.insight.stacks import RequestStack, StacksReport, ThreadStack
from sage_fastapi_obs.settings import Settings
from sage_fastapi_obs.store.location import private_files
from sage_fastapi_obs.workers.control_client import SUFFIX, ask_all

HELP = "Show each request that the processes of a service have in flight, and the line that it waits at; also while they hang."
FAILED = 1
_SECONDS = 2.0
_FEW_LINES = 4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.add_argument("--service", metavar="NAME", help="name of the service; by default all of this user")
    parser.add_argument("--full", action="store_true", help="show whole stacks, and all threads")


def run(given: argparse.Namespace) -> int:
    """Ask all processes, and print what they answer; return the exit code."""
    try:
        sockets = private_files(Settings.from_env().store, f"*{SUFFIX}")
    except SettingsError as error:
        print(f"sage-obs stacks: {error}", file=sys.stderr)
        return FAILED
    reports = [report for report in _reports(sockets) if given.service in (None, report.service)]
    if not reports:
        of = "" if given.service is None else f" of {plain(given.service)}"
        print(f"sage-obs stacks: no process{of} answers: is store.path set as for the service?", file=sys.stderr)
        return FAILED
    screen = Screen()
    for report in sorted(reports, key=lambda report: (report.service, report.pid)):
        _print(screen, report, is_full=given.full)
    return 0


def _reports(sockets: list[Path]) -> Iterator[StacksReport]:
    for path, answer in ask_all(sockets, "stacks", seconds=_SECONDS).items():
        if isinstance(answer, (ConnectionRefusedError, FileNotFoundError)):
            # It has ended: killed, and could not remove its socket.
            with suppress(OSError):
                path.unlink()
        elif isinstance(answer, TimeoutError):
            message = "something holds its interpreter; insight.stacks_signal shows even then where"
            _complain(f"the process at {path} does not answer: {message}")
        elif isinstance(answer, OSError):
            _complain(f"the process at {path} cannot tell it: {plain(answer)}")
        else:
            try:
                yield StacksReport.model_validate_json(answer)
            except ValidationError:
                _complain(f"the process at {path} answers nonsense: is it of another version?")


def _complain(message: str) -> None:
    print(f"sage-obs stacks: {message}", file=sys.stderr)


def _print(screen: Screen, report: StacksReport, *, is_full: bool) -> None:
    listed = f"{len(report.requests) + report.others} in flight"
    screen.wrapped(plain(f"{report.service}, process {report.pid}: {listed}"))
    for request in report.requests:
        _print_request(screen, request, is_full=is_full)
    if report.others:
        screen.row(f"  and {report.others} younger ones")
    for thread in report.threads if is_full else ():
        _print_thread(screen, thread)


def _print_request(screen: Screen, request: RequestStack, *, is_full: bool) -> None:
    what = f"{request.method} {request.route or request.path} ({request.request_id})"
    screen.wrapped(plain(f"  {request.age_ms / 1_000:.1f} s  {what} {request.state}{_at(request.at)}"))
    stacks = request.stacks if is_full else [stack[-_FEW_LINES:] for stack in request.stacks[-1:]]
    for stack in stacks:
        _print_lines(screen, stack)


def _print_thread(screen: Screen, thread: ThreadStack) -> None:
    screen.wrapped(plain(f"  thread {thread.name}{_at(thread.at)}"))
    _print_lines(screen, thread.stack)


def _print_lines(screen: Screen, stack: list[str]) -> None:
    for line in stack:
        screen.wrapped(plain(f"      {line}"))


def _at(place: str | None) -> str:
    return "" if place is None else f" at {place}"

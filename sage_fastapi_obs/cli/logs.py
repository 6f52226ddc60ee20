"""`sage-obs logs`: JSON lines, filtered and shown for people; a line at a time, however large the file."""

import argparse
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from pathlib import Path
from typing import IO, Any

import orjson

from sage_fastapi_obs.log_levels import LEVELS, usual_level
from sage_fastapi_obs.logs.line_format import console_format

__all__ = ["add_to", "follow"]

FAILED = 1
LONGEST_BYTES = 1024 * 1024
"""What is longer is no line of ours, and is read in pieces."""
POLL_SECONDS = 0.2
IDS = ("request_id", "correlation_id", "trace_id")
_AGE = re.compile(r"(\d+(?:\.\d+)?)([smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_STATUS = re.compile(r"[1-5](\d\d|xx)")
Line = dict[str, Any]
Filter = Callable[[Line], bool]


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = commands.add_parser("logs", help="show JSON log lines for people", description="Show JSON log lines for people.")
    parser.add_argument("files", nargs="*", metavar="FILE", help="what to read; - or nothing: standard input")
    parser.add_argument("-f", "--follow", action="store_true", help="go on with what is added, through rotation")
    parser.add_argument("--id", metavar="ID", help="lines whose request, correlation or trace id begins like this")
    parser.add_argument("--level", type=_level, metavar="LEVEL", help=f"lines of at least this level: {', '.join(LEVELS)}")
    parser.add_argument("--route", metavar="ROUTE", help="lines of a route's requests; * stands for anything")
    parser.add_argument("--status", type=_status, metavar="STATUS", help="lines with this status: 404, or 5xx")
    parser.add_argument("--text", metavar="TEXT", help="lines with this text in any value, in upper or lower case")
    parser.add_argument("--since", type=_since, metavar="TIME", help="lines from then on: 90s, 10m, 2h, 1d ago, or an ISO time")
    parser.add_argument("--json", action="store_true", help="pass the lines on as they are")
    parser.add_argument(
        "--alias",
        type=_alias,
        action="append",
        default=[],
        metavar="FIELD=NAME",
        help="a field has another name in these lines",
    )
    parser.set_defaults(run=run, fail=parser.error)


def run(given: argparse.Namespace) -> int:
    """Show what is asked for; return the exit code."""
    files: list[str] = given.files or ["-"]
    if given.follow and len(files) > 1:
        given.fail("--follow takes one file")
    if not given.files and (sys.stdin is None or sys.stdin.isatty()):
        given.fail("name a file, or pipe lines in")
    shown = _Shown(_filters(given), dict(given.alias), as_json=given.json)
    code = 0
    for name in files:
        try:
            _read(name, shown, following=given.follow)
        except BrokenPipeError:
            raise
        except OSError as error:
            print(f"sage-obs: cannot read {name}: {error.strerror or error}", file=sys.stderr)
            code = FAILED
    return code


def _read(name: str, shown: "_Shown", *, following: bool) -> None:
    if name == "-":
        for line in _lines(sys.stdin.buffer):
            shown.show(line)
            # What comes through a pipe is shown when it comes.
            sys.stdout.buffer.flush()
    elif following:
        for line in follow(Path(name)):
            shown.show(line)
    else:
        with Path(name).open("rb") as file:
            for line in _lines(file):
                shown.show(line)


def _lines(file: IO[bytes]) -> Iterator[bytes]:
    while line := file.readline(LONGEST_BYTES):
        yield line


def follow(path: Path, pause: Callable[[], object] | None = None) -> Iterator[bytes]:
    """Yield the lines of a file, then those that are added, without end.

    When another file takes its place, the old one is read to its end first; when it is cut short, it is read anew.
    `pause` is called when there is nothing new; by default it flushes the output and sleeps.
    """
    pause = _rest if pause is None else pause
    file: IO[bytes] = path.open("rb")
    try:
        part = b""
        while True:
            line = file.readline(LONGEST_BYTES - len(part))
            part += line
            if part.endswith(b"\n") or len(part) >= LONGEST_BYTES:
                yield part
                part = b""
            elif not line:
                file, renewed = _renewed(file, path)
                if renewed and part:
                    yield part
                    part = b""
                elif not renewed:
                    pause()
    finally:
        file.close()


def _rest() -> None:
    sys.stdout.buffer.flush()
    time.sleep(POLL_SECONDS)


def _renewed(file: IO[bytes], path: Path) -> tuple[IO[bytes], bool]:
    """Return the file that a path leads to now, and whether that is another one or one that begins anew."""
    here = os.fstat(file.fileno())
    if file.tell() > here.st_size:
        file.seek(0)
        return file, True
    try:
        there = path.stat()
        if (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino) or file.tell() < os.fstat(file.fileno()).st_size:
            return file, False
        other = path.open("rb")
    except OSError:
        # Between two files of a rotation there is none.
        return file, False
    file.close()
    return other, True


class _Shown:
    """Shows the lines that pass all filters."""

    def __init__(self, filters: list[Filter], aliases: dict[str, str], *, as_json: bool) -> None:
        self._filters = filters
        self._aliases = aliases
        self._as_json = as_json
        # NO_COLOR counts unless it is empty: no-color.org.
        self._colours = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
        self._format = console_format(self._colours)
        self._out = sys.stdout.buffer

    def show(self, encoded: bytes) -> None:
        """Show one line, if it is wanted."""
        line = self._parsed(encoded)
        if line is None:
            if not self._filters and not self._as_json:
                self._out.write(self._dimmed(encoded))
        elif all(passes(line) for passes in self._filters):
            self._out.write(_ended(encoded) if self._as_json else self._formatted(line, encoded))

    def _parsed(self, encoded: bytes) -> Line | None:
        try:
            line = orjson.loads(encoded)
        except orjson.JSONDecodeError:
            return None
        if not isinstance(line, dict):
            return None
        for field, name in self._aliases.items():
            if name in line:
                line[field] = line.pop(name)
        return line

    def _formatted(self, line: Line, encoded: bytes) -> bytes:
        shaped = _shaped(line)
        if shaped is None:
            return self._dimmed(encoded)
        try:
            return self._format(shaped)
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError):
            return self._dimmed(encoded)

    def _dimmed(self, encoded: bytes) -> bytes:
        text = _harmless(encoded.decode("utf-8", "replace").rstrip("\r\n"))
        return f"\x1b[2m{text}\x1b[0m\n".encode() if self._colours else f"{text}\n".encode()


def _harmless(text: str) -> str:
    """Escape what could forge lines or drive the terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\t" else c.encode("unicode_escape").decode("ascii") for c in text)


def _ended(encoded: bytes) -> bytes:
    return encoded if encoded.endswith(b"\n") else encoded + b"\n"


def _shaped(line: Line) -> Line | None:
    """Return a line that has the shape of ours; None for one that has not enough of it."""
    level = usual_level(line.get("level"))
    if not isinstance(level, str) or level not in LEVELS or _time_of(line) is None or not isinstance(line.get("message"), str):
        return None
    shaped = {**line, "level": "debug" if level == "trace" else level}
    match line.get("error"):
        case dict() as error:
            shaped["error"] = {name: str(error.get(name) or "") for name in ("message", "stack_trace")}
        case str() as said:
            shaped["error"] = {"message": said, "stack_trace": ""}
        case _:
            shaped.pop("error", None)
    if not isinstance(line.get("data", {}), dict):
        shaped["data"] = {"data": line["data"]}
    return shaped


def _time_of(line: Line) -> datetime | None:
    try:
        return _aware(datetime.fromisoformat(line["timestamp"]))
    except (KeyError, TypeError, ValueError, OverflowError):
        return None


def _aware(at: datetime) -> datetime:
    """Take a time without a zone as a local one."""
    return at if at.tzinfo is not None else at.astimezone()


def _filters(given: argparse.Namespace) -> list[Filter]:
    filters: list[Filter] = []
    if given.id is not None:
        filters.append(lambda line: any(str(line.get(name) or "").startswith(given.id) for name in IDS))
    if given.level is not None:
        filters.append(lambda line: _severity(line) >= LEVELS[given.level])
    if given.route is not None:
        filters.append(lambda line: isinstance(line.get("route"), str) and fnmatchcase(line["route"], given.route))
    if given.status is not None:
        filters.append(lambda line: re.fullmatch(given.status.replace("x", r"\d"), str(line.get("status"))) is not None)
    if given.text is not None:
        wanted = given.text.casefold()
        filters.append(lambda line: any(wanted in text.casefold() for text in _texts(line)))
    if given.since is not None:
        filters.append(lambda line: (at := _time_of(line)) is not None and at >= given.since)
    return filters


def _severity(line: Line) -> int:
    level = usual_level(line.get("level"))
    return LEVELS.get(level, -1) if isinstance(level, str) else -1


def _texts(line: Line) -> Iterator[str]:
    """Yield every value of a line as text; not by recursion, because lines nest as deep as their writers like."""
    waiting: list[Any] = [line]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict | list):
            inner: Iterable[Any] = value.values() if isinstance(value, dict) else value
            waiting.extend(inner)
        else:
            yield str(value)


def _level(text: str) -> str:
    level = usual_level(text)
    if level not in LEVELS:
        raise argparse.ArgumentTypeError(f"{text!r} is no level: use {', '.join(LEVELS)}")
    return str(level)


def _status(text: str) -> str:
    if not _STATUS.fullmatch(text.lower()):
        raise argparse.ArgumentTypeError(f"{text!r} is no status: use one like 404, or a class like 5xx")
    return text.lower()


def _since(text: str) -> datetime:
    try:
        if age := _AGE.fullmatch(text):
            return datetime.now(UTC) - timedelta(**{_UNITS[age[2]]: float(age[1])})
        return _aware(datetime.fromisoformat(text))
    except (ValueError, OverflowError):
        message = f"{text!r} is no time: use 90s, 10m, 2h or 1d, or a time like 2026-11-21T03:26:20Z"
        raise argparse.ArgumentTypeError(message) from None


def _alias(text: str) -> tuple[str, str]:
    field, equals, name = text.partition("=")
    if not (field and equals and name):
        raise argparse.ArgumentTypeError(f"{text!r} is no alias: use one like timestamp=@timestamp")
    return field, name

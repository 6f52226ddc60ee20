"""`sage-obs logs`: JSON lines, filtered and shown for people; a line at a time, however large the file."""

import argparse
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from pathlib import Path
from typing import IO, Any, NamedTuple

import orjson

from sage_fastapi_obs.log_levels import LEVELS, usual_level
from sage_fastapi_obs.logs.line_format import Encode, console_format, escape_controls, json_format

HELP = "Show JSON log lines for people."
FAILED = 1
_LONGEST_BYTES = 1024 * 1024
"""Longer lines cannot be ours; they are read in pieces."""
_POLL_SECONDS = 0.2
_IDS = ("request_id", "correlation_id", "trace_id")
_AGE = re.compile(r"(\d+(?:\.\d+)?)([smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_STATUS = re.compile(r"[1-5](\d\d|xx)")
Line = dict[str, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.add_argument("files", nargs="*", metavar="FILE", help="what to read; - or nothing: standard input")
    parser.add_argument("-f", "--follow", action="store_true", help="go on with what is added, through rotation")
    for name, one in _FILTERS.items():
        parser.add_argument(f"--{name}", type=one.parse, metavar=name.upper(), help=one.help)
    parser.add_argument("--json", action="store_true", help="pass the lines on as they are")
    parser.add_argument(
        "--alias",
        type=_alias,
        action="append",
        default=[],
        metavar="FIELD=NAME",
        help="a field has another name in these lines",
    )


def run(given: argparse.Namespace) -> int:
    """Show what is asked for; return the exit code."""
    files: list[str] = given.files or ["-"]
    if given.follow and len(files) > 1:
        given.fail("--follow takes one file")
    if not given.files and (sys.stdin is None or sys.stdin.isatty()):
        given.fail("name a file, or pipe lines in")
    filters = {name: value for name in _FILTERS if (value := getattr(given, name)) is not None}
    printer = _Printer(filters, dict(given.alias), as_json=given.json)
    code = 0
    for name in files:
        try:
            for line in _lines_of(name, is_followed=given.follow):
                printer.print(line)
        except BrokenPipeError:
            raise
        except OSError as error:
            print(f"sage-obs: cannot read {name}: {error.strerror or error}", file=sys.stderr)
            code = FAILED
    return code


def _lines_of(name: str, *, is_followed: bool) -> Iterator[bytes]:
    if name == "-":
        while line := sys.stdin.buffer.readline(_LONGEST_BYTES):
            yield line
            # What comes through a pipe is shown when it comes.
            sys.stdout.buffer.flush()
    elif is_followed:
        yield from follow(Path(name))
    else:
        with Path(name).open("rb") as file:
            while line := file.readline(_LONGEST_BYTES):
                yield line


def follow(path: Path, pause: Callable[[], object] | None = None) -> Iterator[bytes]:
    """Yield the lines of a file, then those that are added, without end.

    When another file takes its place, the old one is read to its end first; when it is cut short, it is read anew.
    `pause` is called when there is nothing new; by default it flushes the output and sleeps.
    """
    pause = _flush_and_sleep if pause is None else pause
    file: IO[bytes] = path.open("rb")
    try:
        part = b""
        while True:
            line = file.readline(_LONGEST_BYTES - len(part))
            part += line
            if part.endswith(b"\n") or len(part) >= _LONGEST_BYTES:
                yield part
                part = b""
            elif not line:
                file, is_new = _reopened(file, path)
                if is_new and part:
                    yield part
                    part = b""
                elif not is_new:
                    pause()
    finally:
        file.close()


def _flush_and_sleep() -> None:
    sys.stdout.buffer.flush()
    time.sleep(_POLL_SECONDS)


def _reopened(file: IO[bytes], path: Path) -> tuple[IO[bytes], bool]:
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


class _Printer:
    """Prints the lines that pass all filters."""

    def __init__(self, filters: dict[str, Any], aliases: dict[str, str], *, as_json: bool) -> None:
        self._filters = filters
        self._aliases = aliases
        self._as_json = as_json
        # NO_COLOR counts unless it is empty: no-color.org.
        self._colours = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
        self._format = console_format(self._colours)
        self._out = sys.stdout.buffer

    def print(self, encoded: bytes) -> None:
        """Print one line, if it is wanted."""
        line = self._parse(encoded)
        if line is None:
            if not self._filters and not self._as_json:
                self._out.write(self._dim(encoded))
        elif all(_FILTERS[name].passes(line, value) for name, value in self._filters.items()):
            self._out.write(encoded.removesuffix(b"\n") + b"\n" if self._as_json else self._for_people(line, encoded))

    def _parse(self, encoded: bytes) -> Line | None:
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

    def _for_people(self, line: Line, encoded: bytes) -> bytes:
        return _formatted(line, self._format) or self._dim(encoded)

    def _dim(self, encoded: bytes) -> bytes:
        text = escape_controls(encoded.decode("utf-8", "replace").rstrip("\r\n"), but="\t")
        return f"\x1b[2m{text}\x1b[0m\n".encode() if self._colours else f"{text}\n".encode()


def text_of_line(line: Line) -> str:
    """Write a line for people, without colours; one that is not of ours as the JSON that it is."""
    formatted = _formatted(line, console_format(colours=False)) or json_format(line)
    return escape_controls(formatted.decode(), but="\n\t")


def _formatted(line: Line, format_line: Encode) -> bytes:
    """Write a line for people; nothing if it is not one of ours."""
    try:
        return format_line(_completed(line))
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError):
        return b""


def _completed(line: Line) -> Line:
    """Return a line in the shape of ours; raises `ValueError` for one that has not enough of it."""
    level = usual_level(line.get("level"))
    if _severity(line) < 0 or _time_of(line) is None or not isinstance(line.get("message"), str):
        raise ValueError("no level, time or message")
    completed = {**line, "level": "debug" if level == "trace" else level}
    match line.get("error"):
        case dict() as error:
            completed["error"] = {name: str(error.get(name) or "") for name in ("message", "stack_trace")}
        case str() as message:
            completed["error"] = {"message": message, "stack_trace": ""}
        case _:
            completed.pop("error", None)
    if not isinstance(line.get("data", {}), dict):
        completed["data"] = {"data": line["data"]}
    return completed


def _time_of(line: Line) -> datetime | None:
    try:
        return _with_zone(datetime.fromisoformat(line["timestamp"]))
    except (KeyError, TypeError, ValueError, OverflowError):
        return None


def _with_zone(at: datetime) -> datetime:
    """Take a time without a zone as a local one."""
    return at if at.tzinfo is not None else at.astimezone()


def _severity(line: Line) -> int:
    level = usual_level(line.get("level"))
    return LEVELS.get(level, -1) if isinstance(level, str) else -1


def _texts(line: Line) -> Iterator[str]:
    """Yield every value of a line as text; not by recursion, because lines nest as deep as their writers like."""
    waiting: list[Any] = [line]
    while waiting:
        match waiting.pop():
            case dict() as value:
                waiting.extend(value.values())
            case list() as value:
                waiting.extend(value)
            case value:
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
        return _with_zone(datetime.fromisoformat(text))
    except (ValueError, OverflowError):
        message = f"{text!r} is no time: use 90s, 10m, 2h or 1d, or a time like 2026-11-21T03:26:20Z"
        raise argparse.ArgumentTypeError(message) from None


def _alias(text: str) -> tuple[str, str]:
    field, equals, name = text.partition("=")
    if not (field and equals and name):
        raise argparse.ArgumentTypeError(f"{text!r} is no alias: use one like timestamp=@timestamp")
    return field, name


class Filter(NamedTuple):
    """An option that lets some lines pass."""

    help: str
    parse: Callable[[str], Any]
    passes: Callable[[Line, Any], bool]


_FILTERS = {
    "id": Filter(
        "lines whose request, correlation or trace id begins like this",
        str,
        lambda line, beginning: any(str(line.get(name) or "").startswith(beginning) for name in _IDS),
    ),
    "level": Filter(
        f"lines of at least this level: {', '.join(LEVELS)}", _level, lambda line, level: _severity(line) >= LEVELS[level]
    ),
    "route": Filter(
        "lines of a route's requests; * stands for anything",
        str,
        lambda line, route: isinstance(line.get("route"), str) and fnmatchcase(line["route"], route),
    ),
    "status": Filter(
        "lines with this status: 404, or 5xx",
        _status,
        lambda line, status: re.fullmatch(status.replace("x", r"\d"), str(line.get("status"))) is not None,
    ),
    "text": Filter(
        "lines with this text in any value, in upper or lower case",
        str.casefold,
        lambda line, text: any(text in value.casefold() for value in _texts(line)),
    ),
    "since": Filter(
        "lines from then on: 90s, 10m, 2h, 1d ago, or an ISO time",
        _since,
        lambda line, since: (at := _time_of(line)) is not None and at >= since,
    ),
}
"""Conditions on lines, by the name of the option."""

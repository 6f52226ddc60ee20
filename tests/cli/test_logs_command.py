"""`sage-obs logs`: what is shown, what is passed on, and what a terminal never gets."""

import json
import os
import pty
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from hypothesis import HealthCheck, given, settings, strategies
from support import PATIENCE_SECONDS, client, times

from sage_fastapi_obs.cli import main
from sage_fastapi_obs.cli.logs import follow

# Where tests run in the background of a shell, Ctrl-C is ignored, and so it is by what they start.
COMMAND = [
    "env",
    "--default-signal=INT",
    "-u",
    "PYTHONUNBUFFERED",
    sys.executable,
    "-W",
    "error",
    "-m",
    "sage_fastapi_obs",
    "logs",
]
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e]")


def line(message: str = "hello", level: str = "info", at: str = "2026-11-21T03:26:20.507Z", **fields: Any) -> bytes:
    """Make a line as the package writes it."""
    return json.dumps({"timestamp": at, "level": level, "message": message, **fields}).encode() + b"\n"


ACCESS = line(
    "request completed",
    request_id="01a1fc24-014f",
    correlation_id="job-7",
    trace_id="37fdbc1e4166",
    method="GET",
    path="/items/7",
    route="/items/{item_id}",
    status=200,
    duration_ms=12.983,
    data={"shelf": "A3"},
)
FAILED = line(
    "request failed",
    "error",
    request_id="02b",
    correlation_id="job-8",
    route="/orders/{order}",
    status=503,
    error={"type": "LookupError", "message": "no", "stack_trace": "Traceback:\n  File x\nLookupError: no\n"},
)
DEBUG = line("looking it up", "debug", request_id="02b", tries=1)
RAW = b"INFO:     Started server process [1]\n"


def run(*arguments: str, given: bytes = b"", env: dict[str, str] | None = None) -> subprocess.CompletedProcess[bytes]:
    """Run the command in a process of its own."""
    return subprocess.run(
        [*COMMAND, *arguments],
        input=given,
        capture_output=True,
        check=False,
        timeout=PATIENCE_SECONDS,
        env={**os.environ, **(env or {})},
    )


def show(capfdbinary: Any, path: Path, given: bytes, *arguments: str) -> str:
    """Run the command in this process over a file; return what it showed."""
    path.write_bytes(given)
    assert main(["logs", str(path), *arguments]) == 0
    out, err = capfdbinary.readouterr()
    assert err == b""
    return out.decode()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "service.log"


def test_lines_are_shown_for_people() -> None:
    """From a pipe: time, level, what happened, fields, and the stack below; what is no line of ours as it is."""
    done = run(given=ACCESS + RAW + FAILED)
    rows = done.stdout.decode().splitlines()
    assert (done.returncode, done.stderr) == (0, b"")
    assert rows[0].endswith("info     GET /items/7 200 13.0 ms request_id=01a1fc24-014f shelf=A3")
    assert rows[1] == RAW.decode().rstrip()
    assert "error    request failed request_id=02b" in rows[2]
    assert rows[3:] == ["    Traceback:", "      File x", "    LookupError: no"]
    assert b"\x1b" not in done.stdout


async def test_lines_of_a_real_service_are_read(watch: Any, capfdbinary: Any) -> None:
    """What the package writes, the command reads."""
    watched = watch()
    app = FastAPI()
    watched.obs.install(app)

    @app.get("/boom")
    async def boom() -> None:
        raise RuntimeError("boom")

    async with client(app) as http:
        answer = await http.get("/boom")
    assert main(["logs", str(watched.path), "--id", answer.headers["x-request-id"][:13], "--status", "5xx"]) == 0
    shown = capfdbinary.readouterr().out.decode()
    assert "error    GET /boom 500" in shown
    assert "    RuntimeError: boom\n" in shown
    assert shown.count("request_id=") == 1


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], [ACCESS, FAILED, DEBUG]),
        (["--id", "01a1"], [ACCESS]),
        (["--id", "job-"], [ACCESS, FAILED]),
        (["--id", "37fd"], [ACCESS]),
        (["--id", "fc24"], []),
        (["--level", "info"], [ACCESS, FAILED]),
        (["--level", "WARNING"], [FAILED]),
        (["--level", "trace"], [ACCESS, FAILED, DEBUG]),
        (["--route", "/items/{item_id}"], [ACCESS]),
        (["--route", "/orders/*"], [FAILED]),
        (["--route", "/items"], []),
        (["--status", "200"], [ACCESS]),
        (["--status", "5XX"], [FAILED]),
        (["--status", "2xx"], [ACCESS]),
        (["--text", "LOOK"], [FAILED, DEBUG]),
        (["--text", "a3"], [ACCESS]),
        (["--text", "shelf"], []),
        (["--text", "look", "--level", "error"], [FAILED]),
        (["--since", "2026-11-21T03:26:20.507Z"], [ACCESS, FAILED, DEBUG]),
        (["--since", "2026-11-21T04:26:20.506+01:00"], [ACCESS, FAILED, DEBUG]),
        (["--since", "2026-11-21T03:26:20.508Z"], []),
        (["--since", "2999-01-01"], []),
    ],
    ids=str,
)
def test_filters(arguments: list[str], expected: list[bytes], path: Path, capfdbinary: Any) -> None:
    """Lines pass that pass all of them, unchanged with `--json`; a line of another kind passes none, and is no JSON."""
    given = ACCESS + RAW + FAILED + b"5\n[]\n{}\n" + DEBUG
    shown = show(capfdbinary, path, given, "--json", *arguments)
    assert shown.encode().replace(b"" if arguments else b"{}\n", b"") == b"".join(expected)
    human = show(capfdbinary, path, given, *arguments)
    assert ("Started server process" in human) == (not arguments)
    for one in (ACCESS, FAILED, DEBUG):
        assert (f"request_id={json.loads(one)['request_id']}" in human) == any(
            json.loads(one)["request_id"] == json.loads(wanted)["request_id"] for wanted in expected
        )


@pytest.mark.parametrize(("age", "count"), [("90s", 1), ("1.5m", 1), ("10m", 2), ("2h", 3), ("1d", 4)])
def test_since_an_age(age: str, count: int, path: Path, capfdbinary: Any) -> None:
    """Seconds, minutes, hours and days ago."""
    now = datetime.now(UTC)
    ages = (timedelta(seconds=30), timedelta(minutes=9), timedelta(minutes=100), timedelta(hours=23), timedelta(days=2))
    given = b"".join(line(at=(now - one).isoformat()) for one in ages)
    assert show(capfdbinary, path, given, "--since", age).count("hello") == count


def test_fields_of_other_names(path: Path, capfdbinary: Any) -> None:
    """`--alias` reads them; the lines that are passed on keep theirs."""
    given = line(request_id="r").replace(b'"timestamp"', b'"@timestamp"').replace(b'"message"', b'"msg"')
    names = ["--alias", "timestamp=@timestamp", "--alias", "message=msg", "--id", "r"]
    assert "info     hello request_id=r" in show(capfdbinary, path, given, *names)
    assert show(capfdbinary, path, given, "--json", *names).encode() == given
    assert show(capfdbinary, path, given) == given.decode()


@pytest.mark.parametrize(
    "odd",
    [
        b"{",
        b"5",
        b"[]",
        b"null",
        b"{}",
        b"\xff\xfe",
        b'{"timestamp": 5, "level": "info", "message": "x"}',
        b'{"timestamp": "yesterday", "level": "info", "message": "x"}',
        line(level="loud").rstrip(),
        line(level=["info"]).rstrip(),
        line(at="0001-01-01").rstrip(),
        line(message={"a": 1}).rstrip(),
        b"[" * 5000,
        b'{"a":' * 900 + b"1" + b"}" * 900,
    ],
)
def test_what_is_no_line_of_ours_is_shown_as_it_is(odd: bytes, path: Path, capfdbinary: Any) -> None:
    """And never ends the show; with a filter it is left out."""
    shown = show(capfdbinary, path, odd + b"\n" + ACCESS)
    assert shown.splitlines()[0] == odd.decode("utf-8", "replace")
    assert "GET /items/7" in shown.splitlines()[1]
    assert len(show(capfdbinary, path, odd + b"\n" + ACCESS, "--text", "items").splitlines()) == 1


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"level": "TRACE"}, "debug    hello"),
        ({"level": "Warning"}, "warn     hello"),
        ({"error": "boom"}, "    boom"),
        ({"error": {"message": "boom"}}, "    boom"),
        ({"error": {"message": None, "stack_trace": 5}}, "    5"),
        ({"error": {}}, "hello"),
        ({"error": None}, "hello"),
        ({"error": [1]}, "hello"),
        ({"data": [1, 2]}, "data=[1, 2]"),
        ({"data": None}, "data=None"),
        ({"method": "GET", "path": "/", "route": None, "status": 200, "duration_ms": "x"}, "hello"),
        ({"at": "2026-11-21T03:26:20"}, "hello"),
        ({"at": "0001-01-01T00:00:00Z"}, "hello"),
    ],
    ids=str,
)
def test_lines_of_others_are_shown_if_they_have_enough(
    fields: dict[str, Any], expected: str, path: Path, capfdbinary: Any
) -> None:
    """Missing and misshapen fields are no obstacle."""
    assert expected in show(capfdbinary, path, line(**fields))


def test_a_time_before_all_calendars_is_shown_as_it_is() -> None:
    """A line whose time has no local form."""
    odd = line(at="0001-01-01T00:00:00Z")
    assert run(given=odd, env={"TZ": "America/New_York"}).stdout == odd


@given(
    strategies.lists(
        strategies.binary(max_size=60)
        | strategies.text(max_size=30).map(lambda text: line(text, path=text, data={text: text}))
        | strategies.text(max_size=30).map(
            lambda text: line(error={"message": text, "stack_trace": text}, **{"x" + text: text})
        ),
        max_size=8,
    )
)
@settings(deadline=None, max_examples=times(50), suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_terminal_is_never_driven(capfdbinary: Any, path: Path, rows: list[bytes]) -> None:
    """Whatever is read, nothing that a terminal would obey is shown."""
    shown = show(capfdbinary, path, b"\n".join(rows))
    assert not CONTROL.search(shown)
    show(capfdbinary, path, b"\n".join(rows), "--text", "x", "--status", "200", "--id", "a")


def terminal(arguments: list[str], env: dict[str, str]) -> bytes:
    """Run the command with a terminal as its output."""
    ours, theirs = pty.openpty()
    done = subprocess.Popen([*COMMAND, *arguments], stdout=theirs, stdin=subprocess.DEVNULL, env={**os.environ, **env})
    os.close(theirs)
    shown = b""
    try:
        while part := os.read(ours, 65536):
            shown += part
    except OSError:
        pass  # Linux' way to say that the other side is closed
    os.close(ours)
    assert done.wait(PATIENCE_SECONDS) == 0
    return shown


@pytest.mark.parametrize(("no_color", "coloured"), [("", True), ("1", False)])
def test_colours_are_for_terminals(no_color: str, coloured: bool, path: Path) -> None:
    """And not for those who have asked for none; what is no line of ours is dimmed."""
    path.write_bytes(ACCESS + b"raw \x1b[2J text\n")
    shown = terminal([str(path)], {"NO_COLOR": no_color})
    assert (b"\x1b[32minfo" in shown) == coloured
    assert (b"\x1b[2mraw \\x1b[2J text\x1b[0m" in shown) == coloured
    assert b"\x1b[2J" not in shown


def test_a_reader_who_has_seen_enough(path: Path) -> None:
    """`| head` ends it quietly."""
    path.write_bytes(ACCESS * 50_000)
    for flags in ("", "--json", "--follow"):
        command = f"{' '.join(COMMAND)} {path} {flags} | head -n 2; echo ${{PIPESTATUS[0]}}"
        done = subprocess.run(["bash", "-c", command], capture_output=True, check=False, timeout=PATIENCE_SECONDS)
        assert done.stderr == b""
        assert len(done.stdout.splitlines()) == 3
        assert done.stdout.splitlines()[2] == b"0"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["missing.log"], 1, "cannot read missing.log: No such file or directory"),
        (["--follow", "missing.log"], 1, "cannot read missing.log: No such file or directory"),
        (["."], 1, "cannot read .: Is a directory"),
        (["a", "b", "--follow"], 2, "--follow takes one file"),
        (["--level", "loud"], 2, "'loud' is no level: use trace, debug, info, warn, error, critical"),
        (["--status", "6xx"], 2, "'6xx' is no status: use one like 404, or a class like 5xx"),
        (["--status", "x"], 2, "'x' is no status"),
        (["--since", "soon"], 2, "'soon' is no time: use 90s, 10m, 2h or 1d"),
        (["--since", "999999999999d"], 2, "is no time"),
        (["--alias", "timestamp"], 2, "'timestamp' is no alias: use one like timestamp=@timestamp"),
        (["--colour"], 2, "unrecognized arguments"),
    ],
)
def test_what_cannot_be_done_is_said(
    arguments: list[str], code: int, said: str, tmp_path: Path, capfd: Any, monkeypatch: Any
) -> None:
    """1 for what cannot be read, 2 for what is not understood; the reason is on stderr."""
    monkeypatch.chdir(tmp_path)
    try:
        ended: Any = main(["logs", *arguments])
    except SystemExit as exited:
        ended = exited.code
    out, err = capfd.readouterr()
    assert (ended, out) == (code, "")
    assert said in err


def test_one_missing_file_does_not_hide_the_others(path: Path) -> None:
    """What can be read is shown, and the code says that something could not."""
    path.write_bytes(ACCESS)
    done = run(str(path), "missing.log", str(path))
    assert done.returncode == 1
    assert done.stdout.count(b"GET /items/7") == 2


def test_without_a_command_the_help_is_near(capfd: Any) -> None:
    """An error of usage, with the commands there are."""
    with pytest.raises(SystemExit, match="2"):
        main([])
    assert "command" in capfd.readouterr().err


def test_a_terminal_as_input_is_no_input() -> None:
    """Nobody types log lines: say what is wanted instead of waiting."""
    ours, theirs = pty.openpty()
    done = subprocess.run(COMMAND, stdin=theirs, capture_output=True, check=False, timeout=PATIENCE_SECONDS)
    os.close(ours)
    os.close(theirs)
    assert done.returncode == 2
    assert b"name a file, or pipe lines in" in done.stderr


def test_a_pipe_is_shown_as_it_comes() -> None:
    """A line is seen before the next one is written; Ctrl-C ends without a word."""
    with subprocess.Popen(COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as reading:
        for number in range(3):
            reading.stdin.write(line(f"number {number}"))
            reading.stdin.flush()
            assert f"number {number}".encode() in reading.stdout.readline()
        reading.send_signal(2)
        assert reading.wait(PATIENCE_SECONDS) == 130
        assert reading.stderr.read() == b""


def test_huge_files_take_no_memory(path: Path) -> None:
    """Neither many lines nor one without an end are read whole."""
    with path.open("wb") as file:
        for _ in range(40):
            file.write(ACCESS * 5_000)
        for _ in range(100):
            file.write(b"x" * 1024 * 1024)
    code = (
        "import resource, sys; from sage_fastapi_obs.cli import main; sys.stdout = open('/dev/null', 'w');"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss;"
        f"main(['logs', {str(path)!r}, '--text', 'nowhere']);"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, timeout=PATIENCE_SECONDS)
    assert path.stat().st_size > 150 * 1024 * 1024
    assert int(done.stderr) < 40 * 1024


class Story:
    """Follows a file while it is written, cut short and replaced; each pause does the next thing."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.steps: list[Any] = []
        self.paused = 0

    def pause(self) -> None:
        self.paused += 1
        if not self.steps:
            raise EOFError
        self.steps.pop(0)()

    def append(self, text: bytes) -> None:
        with self.path.open("ab") as file:
            file.write(text)

    def read(self) -> Iterator[bytes]:
        try:
            yield from follow(self.path, self.pause)
        except EOFError:
            return


def test_following_goes_through_rotation(path: Path) -> None:
    """What is added comes whole, also to the old file after its name was taken; the new one is read from its beginning."""
    story = Story(path)
    story.append(b"one\ntw")
    old = path.open("ab", buffering=0)
    rotated = path.with_suffix(".1")

    def rotate() -> None:
        path.rename(rotated)
        old.write(b"late\n")

    story.steps = [
        lambda: story.append(b"o\nthree\n"),
        rotate,
        lambda: None,
        lambda: old.write(b"later\nhalf"),
        lambda: story.append(b"new\n"),
        lambda: story.append(b"newer\n"),
    ]
    assert list(story.read()) == [b"one\n", b"two\n", b"three\n", b"late\n", b"later\n", b"half", b"new\n", b"newer\n"]
    old.close()


class Rotating(type(Path())):
    """The path of a file that is replaced, and written to once more, just when somebody looks whether it was."""

    def stat(self, **_: Any) -> os.stat_result:
        rotated = f"{self}.1"
        if rotated not in {entry.path for entry in os.scandir(self.parent)}:
            self.rename(rotated)
            Path(rotated).write_bytes(b"one\nlast\n")
            Path(str(self)).write_bytes(b"new\n")
        return super().stat()


def test_a_rotation_at_the_worst_moment_loses_nothing(path: Path) -> None:
    """A line that is written to the old file after its end was seen is read."""
    path.write_bytes(b"one\n")
    story = Story(Rotating(path))
    story.steps = [lambda: None] * 3
    assert list(story.read()) == [b"one\n", b"last\n", b"new\n"]


def test_following_a_file_that_is_cut_short(path: Path) -> None:
    """It is read anew from its beginning."""
    story = Story(path)
    story.append(b"one\ntwo\n")
    story.steps = [lambda: path.write_bytes(b"x\n"), lambda: story.append(b"y\n")]
    assert list(story.read()) == [b"one\n", b"two\n", b"x\n", b"y\n"]


def test_following_a_line_without_end(path: Path) -> None:
    """It comes in pieces."""
    story = Story(path)
    story.append(b"x" * (5 * 512 * 1024))
    story.steps = [lambda: story.append(b"y\n")]
    assert [len(part) for part in story.read()] == [1024 * 1024, 1024 * 1024, 512 * 1024 + 2]


def test_following_in_a_process(path: Path) -> None:
    """Lines are seen soon after they are written, filters hold, and Ctrl-C ends it quietly."""
    path.write_bytes(line("old"))
    command = [*COMMAND, "--follow", str(path), "--level", "info"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as following:
        killer = threading.Timer(PATIENCE_SECONDS, following.kill)
        killer.start()
        assert b"old" in following.stdout.readline()
        with path.open("ab") as file:
            file.write(line("not shown", "debug") + line("new"))
        assert b"new" in following.stdout.readline()
        path.rename(path.with_suffix(".1"))
        time.sleep(0.3)
        path.write_bytes(line("rotated"))
        assert b"rotated" in following.stdout.readline()
        following.send_signal(2)
        assert following.wait(PATIENCE_SECONDS) == 130
        assert following.stderr.read() == b""
        killer.cancel()


def test_the_script_is_declared() -> None:
    """Installed, it is called `sage-obs`."""
    pyproject = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    assert 'sage-obs = "sage_fastapi_obs.cli:console"' in pyproject

"""Handlers and sinks of the application's own that write where our lines go: each record is read once, in our form."""

import io
import json
import logging
import logging.config
import logging.handlers
import os
import queue
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from loguru import logger

from sage_fastapi_obs import Settings, configure_logging

library = logging.getLogger("library")


class Console:
    """As rich has one."""

    def __init__(self, file: Any) -> None:
        self.file = file


class RichLike(logging.Handler):
    """A handler that writes through a console, as rich's does."""

    def __init__(self, file: Any) -> None:
        super().__init__()
        self.console = Console(file)

    def emit(self, record: logging.LogRecord) -> None:
        self.console.file.write(f"{record.getMessage()}\n")
        self.console.file.flush()


@contextmanager
def handlers_of(named: logging.Logger, *handlers: logging.Handler, level: int = logging.DEBUG) -> Iterator[None]:
    """Give a logger handlers for a while."""
    before = named.level
    named.handlers += handlers
    named.setLevel(level)
    yield
    for handler in handlers:
        named.removeHandler(handler)
        close(handler)
    named.setLevel(before)


def close(handler: Any) -> None:
    """Close a handler, what stands behind it, and what it writes to."""
    listener = getattr(handler, "listener", None)
    for behind in (getattr(handler, "target", None), *getattr(listener, "handlers", ())):
        if behind is not None:
            close(behind)
    handler.close()
    for stream in (getattr(handler, "stream", None), getattr(getattr(handler, "console", None), "file", None)):
        if stream is not None and stream is not sys.stdout:
            stream.close()


def rows_of(path: Path) -> list[str]:
    """Return what is in a file: messages of lines that are ours, and texts as they are."""
    found = []
    for row in path.read_text().splitlines():
        line = json.loads(row) if row.startswith("{") else {"message": row}
        if line.get("logger") != "sage_fastapi_obs":
            found.append(f"{line['logger']}: {line['message']}" if "logger" in line else row)
    return found


def notices_in(path: Path) -> list[dict[str, Any]]:
    lines = [json.loads(row) for row in path.read_text().splitlines() if row.startswith("{")]
    return [line["data"] for line in lines if line["message"].startswith("handlers that write to the same place")]


def memory(path: Path) -> logging.Handler:
    return logging.handlers.MemoryHandler(1, target=logging.FileHandler(path))


def queued(path: Path) -> logging.Handler:
    handler = logging.handlers.QueueHandler(queue.SimpleQueue())
    listener = logging.handlers.QueueListener(handler.queue, logging.FileHandler(path))
    # As `dictConfig` sets it, since Python 3.12.
    handler.listener = listener  # type: ignore[attr-defined,unused-ignore]
    return handler


MADE: dict[str, Callable[[Path], logging.Handler]] = {
    "file": logging.FileHandler,
    "file that is not open yet": lambda path: logging.FileHandler(path, delay=True),
    "stream": lambda path: logging.StreamHandler(path.open("a")),
    "link": lambda path: logging.FileHandler(path.with_name("link")),
    "rich": lambda path: RichLike(path.open("a")),
    "memory": memory,
}


@pytest.mark.parametrize("named", ["", "library"])
@pytest.mark.parametrize("kind", MADE)
def test_what_writes_to_the_same_place_is_silent_for_what_is_written(kind: str, named: str, tmp_path: Path) -> None:
    """A record that we write is one line, in our form; one below our level is the handler's; at the end all are again."""
    path = tmp_path / "both"
    path.touch()
    path.with_name("link").symlink_to(path)
    with handlers_of(logging.getLogger(named), MADE[kind](path), level=logging.DEBUG):
        give_back = configure_logging(Settings(logging={"output": str(path)}))
        library.info("once")
        library.debug("below")
        give_back()
        library.info("after")
    assert sorted(rows_of(path)) == ["after", "below", "library: once"]
    (notice,) = notices_in(path)
    assert len(notice["silenced"]) == 1
    assert "logging.takeover" in notice["change"]


def test_a_queue_in_front(tmp_path: Path) -> None:
    """The handlers behind a queue are found where the queue's handler names them."""
    path = tmp_path / "both"
    handler: Any = queued(path)
    with handlers_of(logging.getLogger(), handler):
        handler.listener.start()
        give_back = configure_logging(Settings(logging={"output": str(path)}))
        library.info("once")
        handler.listener.stop()
        give_back()
    assert rows_of(path) == ["library: once"]


def test_what_goes_elsewhere_or_never_comes_to_us_goes_on(tmp_path: Path) -> None:
    """Another file, a logger that does not hand on, and everything with `takeover` off."""
    path, other = tmp_path / "both", tmp_path / "other"
    library.propagate = False
    try:
        with (
            handlers_of(library, logging.FileHandler(path)),
            handlers_of(logging.getLogger(), logging.FileHandler(other), logging.FileHandler(path)),
        ):
            give_back = configure_logging(Settings(logging={"output": str(path)}))
            library.info("its own")
            logging.getLogger("another").info("once")
            give_back()
            assert rows_of(path) == ["its own", "another: once"]
            assert other.read_text() == "once\n"
            give_back = configure_logging(Settings(logging={"output": str(path), "takeover": False}))
            logging.getLogger("another").info("twice")
            give_back()
    finally:
        library.propagate = True
    assert sorted(rows_of(path)[2:]) == ["another: twice", "twice"]
    assert len(notices_in(path)) == 1


@pytest.mark.parametrize("level", ["info", "debug"])
@pytest.mark.parametrize("kind", ["stream", "file", "handler"])
def test_sinks_of_loguru(kind: str, level: str, tmp_path: Path) -> None:
    """The same for the application's sinks in loguru, for its own lines and those of `logging`."""
    path = tmp_path / "both"
    sinks = {"stream": lambda: path.open("a"), "file": lambda: str(path), "handler": lambda: logging.FileHandler(path)}
    to = sinks[kind]()
    sink = logger.add(to, format="{message}", level="DEBUG")
    give_back = configure_logging(Settings(logging={"output": str(path), "level": level}))
    logger.info("once")
    library.warning("standard")
    logger.debug("below")
    give_back()
    logger.info("after")
    logger.remove(sink)
    if kind == "stream":
        to.close()
    below = "below" if level == "info" else f"{__name__}: below"
    assert sorted(rows_of(path)) == sorted([f"{__name__}: once", "library: standard", below, "after"])
    assert len(notices_in(path)) == 1


def test_an_output_of_two_observabilities(tmp_path: Path) -> None:
    """Of two that are attached only lines of the one that writes there silence the handler."""
    path, other = tmp_path / "both", tmp_path / "other"
    with handlers_of(logging.getLogger(), logging.FileHandler(path)):
        first = configure_logging(Settings(logging={"output": str(other)}))
        library.info("elsewhere")
        give_back = configure_logging(Settings(logging={"output": str(path)}))
        library.info("once")
        give_back()
        first()
    assert rows_of(path) == ["elsewhere", "library: once"]


def test_replaced_standard_streams(capsys: pytest.CaptureFixture[str]) -> None:
    """Streams without a descriptor, as tests have them, are the same when they are the same object."""
    with handlers_of(logging.getLogger(), logging.StreamHandler(sys.stdout), logging.StreamHandler(io.StringIO())):
        give_back = configure_logging(Settings())
        library.info("once")
        give_back()
    rows = capsys.readouterr().out.splitlines()
    assert [json.loads(row)["message"] for row in rows][1:] == ["once"]
    assert "StreamHandler" in json.loads(rows[0])["data"]["silenced"][0]


ONE_TERMINAL = """
import logging
from sage_fastapi_obs import configure_logging
logging.basicConfig()
configure_logging()
logging.getLogger("library").warning("once")
"""


def test_standard_output_and_error_of_one_terminal() -> None:
    """Both are one place when both are one terminal."""
    main, other = os.openpty()
    subprocess.run([sys.executable, "-c", ONE_TERMINAL], stdout=other, stderr=other, check=True)
    os.close(other)
    rows = os.read(main, 65536).decode().splitlines()
    os.close(main)
    assert [json.loads(row)["message"] for row in rows][1:] == ["once"]

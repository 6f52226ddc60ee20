"""Asks processes at their control sockets, several at once: a line goes to each, with a verb and a JSON argument."""

import json
import os
import selectors
import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeAlias

SUFFIX = ".control"
DONE, REFUSED = b"+", b"-"
"""Last byte of an answer: without it, the answer is not whole."""
MOST_ANSWER_BYTES = 32 * 1024 * 1024
_LONGEST_PATH = 103
"""Bytes that every system takes as the path of a socket."""
_OPEN_FILES = Path("/proc/self/fd")
Answer: TypeAlias = bytes | OSError


def ask(path: Path, verb: str, argument: Any = None, *, seconds: float) -> bytes:
    """Return what one process answers; raises `OSError`, and of it `ConnectionRefusedError` for one that has ended."""
    answer = ask_all([path], verb, argument, seconds=seconds)[path]
    if isinstance(answer, OSError):
        raise answer
    return answer


def ask_all(paths: Iterable[Path], verb: str, argument: Any = None, *, seconds: float) -> dict[Path, Answer]:
    """Ask processes all at once, and wait for all of them together; of each its answer, or why there is none.

    Who has not answered after some seconds has a `TimeoutError`, and does all the same what was asked as soon as it can.
    """
    line = f"{verb} {json.dumps(argument)}\n".encode()
    deadline = time.monotonic() + seconds
    answers: dict[Path, Answer] = {}
    with new_selector() as waiting, ExitStack() as connections:
        for path in paths:
            try:
                connection = connections.enter_context(_sent(path, line))
            except OSError as error:
                answers[path] = error
                continue
            answers[path] = TimeoutError(f"no answer within {seconds:g} s")
            waiting.register(connection, selectors.EVENT_READ, _AnswerReader(path, connection))
        while waiting.get_map() and (left := deadline - time.monotonic()) > 0:
            for key, _ in waiting.select(left):
                if (answer := key.data.read()) is not None:
                    answers[key.data.path] = answer
                    waiting.unregister(key.fileobj)
    return answers


def new_selector() -> selectors.BaseSelector:
    """Return what waits for several sockets; one that is no file itself, which a forked child would share with its parent."""
    return getattr(selectors, "PollSelector", selectors.SelectSelector)()


class _AnswerReader:
    """What has come of an answer."""

    def __init__(self, path: Path, connection: socket.socket) -> None:
        self.path = path
        self._connection = connection
        self._pieces = bytearray()

    def read(self) -> Answer | None:
        """Take what is there; returns the answer once it has ended."""
        try:
            piece = self._connection.recv(262_144)
        except BlockingIOError:
            return None
        except OSError as error:
            return error
        self._pieces += piece
        if len(self._pieces) > MOST_ANSWER_BYTES:
            return OSError(f"the answer has more than {MOST_ANSWER_BYTES} bytes")
        return None if piece else self._whole()

    def _whole(self) -> Answer:
        answer, end = bytes(self._pieces[:-1]), self._pieces[-1:]
        if end == DONE:
            return answer
        return OSError(answer.decode(errors="replace") if end == REFUSED else "the answer ends too early")


def _sent(path: Path, line: bytes) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # One whose queue is full refuses at once.
        connection.setblocking(False)
        with address(path) as found:
            connection.connect(found)
        connection.sendall(line)
    except BaseException:
        connection.close()
        raise
    return connection


@contextmanager
def address(path: Path) -> Iterator[str]:
    """Give the address of a socket: its path or, where that is too long, another name of its folder; raises `OSError`."""
    if len(os.fsencode(path)) <= _LONGEST_PATH:
        yield str(path)
        return
    if not _OPEN_FILES.exists():
        raise OSError(f"{path} is longer than {_LONGEST_PATH} bytes: set store.path")
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        yield f"{_OPEN_FILES}/{folder}/{path.name}"
    finally:
        os.close(folder)


def sockets_of(prefix: Path) -> list[Path]:
    """Return the sockets of the processes of a service, some of which may have ended; `prefix`: by `socket_prefix`."""
    return [*prefix.parent.glob(f"{prefix.name}-*{SUFFIX}")]


def remove_stale(prefix: Path) -> None:
    """Remove the sockets of processes that have ended without closing theirs."""
    for path in sockets_of(prefix):
        if _is_stale(path):
            with suppress(OSError):
                path.unlink()


def _is_stale(path: Path) -> bool:
    try:
        _sent(path, b"").close()
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
    return False

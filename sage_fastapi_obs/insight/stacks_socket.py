"""A private socket at which a process tells what it is doing, in a thread of its own: a loop that hangs cannot answer."""

import os
import select
import socket
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from secrets import token_hex
from typing import Any

from sage_fastapi_obs.processes import at_fork
from sage_fastapi_obs.threads import NoThreadError, start_thread

SUFFIX = ".stacks"
_NEW = ".new"
_LONGEST_PATH = 103
"""Bytes that every system takes as the path of a socket."""
_OPEN_FILES = Path("/proc/self/fd")
_ANSWER_SECONDS = 1.0
"""Longest time to send an answer: the next one waits."""
_PAUSE_MS = 1_000
"""Until connections are taken again, where none can be."""
_JOIN_SECONDS = 2.0


class _Listener:
    """The open socket of one process."""

    def __init__(self, path: Path) -> None:
        """Listen; raises `OSError`."""
        self._pid = os.getpid()
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._closing, self._closed = socket.socketpair()
        self._is_closing = False
        # Others find it when it is private, and answers.
        new = path.with_suffix(_NEW)
        try:
            with _address(new) as address:
                self._socket.bind(address)
            new.chmod(0o600)
            self._socket.listen(4)
            self._socket.setblocking(False)
            new.rename(path)
        except OSError:
            self.close_files()
            with suppress(OSError):
                new.unlink()
            raise

    def serve(self, answer: Callable[[], bytes | None]) -> None:
        """Answer everyone who connects, until it is closed; waits without waking up."""
        waiting = select.poll()
        waiting.register(self._socket, select.POLLIN)
        waiting.register(self._closed, select.POLLIN)
        while not self._is_closing:
            waiting.poll()
            if not self._is_closing:
                self._answer_one(answer)
        self.close_files()

    def close(self) -> None:
        """Remove the socket, and let the thread end; does nothing in a child of the process."""
        if os.getpid() != self._pid or self._is_closing:
            return
        self._is_closing = True
        with suppress(OSError):
            self._path.unlink()
        with suppress(OSError):
            self._closing.send(b"x")

    def close_files(self) -> None:
        """Close what is open in this process."""
        for one in (self._socket, self._closing, self._closed):
            one.close()

    def _answer_one(self, answer: Callable[[], bytes | None]) -> None:
        try:
            connection, _ = self._socket.accept()
        except BlockingIOError:
            return
        except OSError:
            # No more files may be opened.
            time.sleep(_PAUSE_MS / 1_000)
            return
        with connection, suppress(OSError):
            connection.settimeout(_ANSWER_SECONDS)
            connection.sendall(answer() or b"")


class StacksSocket:
    """The socket while the service runs; nothing, where the system has no such sockets."""

    component = "Stacks"

    def __init__(
        self,
        find_prefix: Callable[[], Path],
        answer: Callable[[], bytes],
        log: Callable[[str, Mapping[str, Any]], None],
        failed: Callable[[Exception], None],
    ) -> None:
        """`find_prefix`: returns folder and beginning of the name, or raises `OSError`. `log` is told where that fails."""
        self._find_prefix, self._answer, self._log, self._failed = find_prefix, answer, log, failed
        self._listener: _Listener | None = None
        self._thread: threading.Thread | None = None
        at_fork(in_child=self._forget)

    def start(self) -> None:
        """Listen from now on; raises `NoThreadError`."""
        if self._listener is not None or not hasattr(socket, "AF_UNIX"):
            return
        try:
            prefix = self._find_prefix()
            remove_stale(prefix)
            listener = _Listener(prefix.with_name(f"{prefix.name}-{token_hex(4)}{SUFFIX}"))
        except OSError as error:
            self._log("`sage-obs stacks` cannot ask this process", {"reason": str(error)})
            return
        try:
            # The thread is no reason to live for a service that nobody closes.
            self._thread = start_thread("sage-obs-stacks", partial(listener.serve, partial(_answer_of, weakref.ref(self))))
        except NoThreadError:
            listener.close()
            listener.close_files()
            raise
        self._listener = listener
        self._finalizer = weakref.finalize(self, listener.close)

    def close(self) -> None:
        """Stop listening, and remove the socket."""
        listener, thread, self._listener, self._thread = self._listener, self._thread, None, None
        if listener is not None:
            self._finalizer.detach()
            listener.close()
        if thread is not None:
            thread.join(_JOIN_SECONDS)

    def answer(self) -> bytes | None:
        """Return what a client gets; nothing where that fails, which is counted."""
        try:
            return self._answer()
        except Exception as error:
            self._failed(error)
            return None

    def _forget(self) -> None:
        """Let go of the parent's socket, in a forked child."""
        listener, self._listener, self._thread = self._listener, None, None
        if listener is not None:
            self._finalizer.detach()
            listener.close_files()


def _answer_of(owner: "weakref.ref[StacksSocket]") -> bytes | None:
    living = owner()
    return None if living is None else living.answer()


@contextmanager
def _address(path: Path) -> Iterator[str]:
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


def ask(path: Path, seconds: float) -> bytes:
    """Return what a process answers; raises `OSError`, and of it `ConnectionRefusedError` for one that has ended."""
    deadline = time.monotonic() + seconds
    pieces: list[bytes] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(seconds)
        with _address(path) as address:
            connection.connect(address)
        while True:
            connection.settimeout(max(0.001, deadline - time.monotonic()))
            piece = connection.recv(65_536)
            if not piece:
                return b"".join(pieces)
            pieces.append(piece)


def remove_stale(prefix: Path) -> None:
    """Remove the sockets of processes that have ended without closing theirs."""
    for path in prefix.parent.glob(f"{prefix.name}-*{SUFFIX}"):
        if _is_stale(path):
            with suppress(OSError):
                path.unlink()


def _is_stale(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        # One whose queue is full lives.
        connection.setblocking(False)
        try:
            with _address(path) as address:
                connection.connect(address)
        except ConnectionRefusedError:
            return True
        except OSError:
            return False
    return False

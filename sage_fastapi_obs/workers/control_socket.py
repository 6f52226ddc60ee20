"""A private socket at which other processes of this user ask this one, in a thread of its own: a loop that hangs cannot answer.

The thread does more than that: it calls a function each second, and others when a descriptor can be read, such as that of a
process that ends. So a worker needs one thread for all that goes on beside requests.
"""

import json
import os
import socket
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from secrets import token_hex
from selectors import EVENT_READ, EVENT_WRITE
from typing import Any

from sage_fastapi_obs.processes import at_fork
from sage_fastapi_obs.threads import NoThreadError, start_thread
from sage_fastapi_obs.workers.control_client import DONE, REFUSED, SUFFIX, address, new_selector, remove_stale
from sage_fastapi_obs.workers.file_lock import above_standard_streams

TICK_SECONDS = 1.0
LONGEST_LINE = 8_192
MOST_CLIENTS = 64
_NEW = ".new"
_CLIENT_SECONDS = 1.0
"""Longest time from a connection to the end of its answer."""
_PAUSE_SECONDS = 0.2
"""Until connections are taken again, where no file can be opened."""
_JOIN_SECONDS = 2.0


class _Client:
    """One who asks: a line comes, and its answer leaves. Nothing here waits."""

    def __init__(self, connection: socket.socket, answer: Callable[[bytes], bytes]) -> None:
        self.connection = connection
        self.deadline = time.monotonic() + _CLIENT_SECONDS
        self._answer = answer
        self._line = b""
        self._left: memoryview | None = None
        connection.setblocking(False)

    @property
    def waits_for(self) -> int:
        """Whether it has to read or to write next."""
        return EVENT_READ if self._left is None else EVENT_WRITE

    def goes_on(self) -> bool:
        """Read or write what can be now; tell whether there is more to come."""
        try:
            return self._read() if self._left is None else self._write(self._left)
        except BlockingIOError:
            return True
        except OSError:
            return False

    def _read(self) -> bool:
        piece = self.connection.recv(LONGEST_LINE + 1)
        self._line += piece
        line, end, _ = self._line.partition(b"\n")
        if end:
            return self._write(memoryview(self._answer(line)))
        if len(line) > LONGEST_LINE:
            return self._write(memoryview(b"the line is longer than %d bytes" % LONGEST_LINE + REFUSED))
        return bool(piece)

    def _write(self, left: memoryview) -> bool:
        self._left = left
        self._left = left[self.connection.send(left) :]
        return len(self._left) > 0


class _ControlLoop:
    """What the thread waits for. It does not keep its owner alive."""

    def __init__(self, path: Path | None) -> None:
        """Listen at a path, if there is one; raises `OSError`."""
        self._pid, self.path = os.getpid(), path
        self._selector = new_selector()
        self._clients: dict[socket.socket, _Client] = {}
        self._closing, closed = map(_moved, socket.socketpair())
        self._files = [self._closing, closed]
        self._is_closing = False
        self._selector.register(closed, EVENT_READ, lambda _: None)
        if path is not None:
            self._listen(path)

    def _listen(self, path: Path) -> None:
        listening = _moved(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        self._files.append(listening)
        # Others find it when it is private, and answers.
        new = path.with_suffix(_NEW)
        try:
            with address(new) as found:
                listening.bind(found)
            new.chmod(0o600)
            listening.listen(MOST_CLIENTS)
            listening.setblocking(False)
            new.rename(path)
        except OSError:
            self.close_files()
            with suppress(OSError):
                new.unlink()
            raise
        self._selector.register(listening, EVENT_READ, partial(self._accept, listening))

    def serve(self, find_owner: "Callable[[], ControlSocket | None]") -> None:
        """Answer everyone until it is closed, or the owner has gone."""
        tick_at = time.monotonic() + TICK_SECONDS
        while not self._is_closing and (owner := find_owner()) is not None:
            has_tick = owner.has_tick
            if has_tick and time.monotonic() >= tick_at:
                owner.tick()
                tick_at = time.monotonic() + TICK_SECONDS
            del owner
            for key, _ in self._selector.select(self._seconds(tick_at if has_tick else None)):
                if not self._is_closing:
                    key.data(find_owner)
            self._give_up()
        self.close_files()

    def _seconds(self, tick_at: float | None) -> float | None:
        """Return how long nothing has to be done by itself; None: for ever."""
        times = [client.deadline for client in self._clients.values()]
        next_at = min(times if tick_at is None else [*times, tick_at], default=None)
        return None if next_at is None else max(0.0, next_at - time.monotonic())

    def _accept(self, listening: socket.socket, find_owner: "Callable[[], ControlSocket | None]") -> None:
        try:
            connection, _ = listening.accept()
        except BlockingIOError:
            return
        except OSError:
            # No more files may be opened.
            time.sleep(_PAUSE_SECONDS)
            return
        if len(self._clients) >= MOST_CLIENTS:
            self._leave(next(iter(self._clients.values())))
        client = self._clients[connection] = _Client(connection, partial(_answer_of, find_owner))
        self._selector.register(connection, client.waits_for, lambda _: self._go_on(client))
        # Mostly its line is there already.
        self._go_on(client)

    def _go_on(self, client: _Client) -> None:
        if client.connection not in self._clients:
            return
        if client.goes_on():
            self._selector.modify(client.connection, client.waits_for, lambda _: self._go_on(client))
        else:
            self._leave(client)

    def _give_up(self) -> None:
        now = time.monotonic()
        for client in [client for client in self._clients.values() if client.deadline <= now]:
            self._leave(client)

    def _leave(self, client: _Client) -> None:
        del self._clients[client.connection]
        self._selector.unregister(client.connection)
        client.connection.close()

    def watch(self, descriptor: int) -> None:
        """Tell the owner once when something can be read."""
        self._selector.register(descriptor, EVENT_READ, partial(self._tell, descriptor))

    def forget(self, descriptor: int) -> None:
        """Wait for a descriptor no longer."""
        with suppress(KeyError):
            self._selector.unregister(descriptor)

    def _tell(self, descriptor: int, find_owner: "Callable[[], ControlSocket | None]") -> None:
        self.forget(descriptor)
        if (owner := find_owner()) is not None:
            owner.descriptor_is_ready(descriptor)

    def close(self) -> None:
        """Remove the socket, and let the thread end; does nothing in a child of the process."""
        if os.getpid() != self._pid or self._is_closing:
            return
        self._is_closing = True
        if self.path is not None:
            with suppress(OSError):
                self.path.unlink()
        with suppress(OSError):
            self._closing.send(b"x")

    def close_files(self) -> None:
        """Close what is open in this process."""
        for one in (*self._clients, *self._files):
            one.close()


class ControlSocket:
    """The socket and its thread while the service runs; the thread alone, where there can be no socket."""

    component = "ControlSocket"

    def __init__(
        self,
        find_prefix: Callable[[], Path],
        verbs: Mapping[str, Callable[[Any], bytes]],
        log: Callable[[str, Mapping[str, Any]], None],
        failed: Callable[[Exception], None],
        tick: Callable[[], object] | None = None,
    ) -> None:
        """Do nothing yet.

        `find_prefix`: returns folder and beginning of the name, or raises `OSError`, of which `log` is told. `verbs`: what can
        be asked for, by name; each gets the argument, as it was in the JSON, and returns the answer. `tick`: is called at
        the start, and then each second. All of them run in one thread, one at a time: they are short, and ask no process
        that may be asking this one.
        """
        self._find_prefix, self._log, self._failed = find_prefix, log, failed
        self._verbs = {**verbs}
        self._ticks = [] if tick is None else [tick]
        self._server: _ControlLoop | None = None
        self._thread: threading.Thread | None = None
        self._watched: dict[int, Callable[[], object]] = {}
        at_fork(in_child=self._forget_parent)

    @property
    def path(self) -> Path | None:
        """Where the socket is; None where there is none."""
        return None if self._server is None else self._server.path

    @property
    def has_tick(self) -> bool:
        """Whether there is something to do each second."""
        return bool(self._ticks)

    def add(self, verb: str, answer: Callable[[Any], bytes], tick: Callable[[], object]) -> None:
        """Answer another verb, and do more each second; before the start."""
        self._verbs[verb] = answer
        self._ticks.append(tick)

    def start(self) -> None:
        """Answer from now on; raises `NoThreadError`."""
        if self._server is not None:
            return
        server = self._listening()
        if server is None:
            return
        self._server = server
        self._finalizer = weakref.finalize(self, server.close)
        # Before anything else starts: others learn by it where this process can be asked.
        self.tick()
        try:
            # The thread is no reason to live for a service that nobody closes.
            self._thread = start_thread("sage-obs-control", partial(server.serve, weakref.ref(self)))
        except NoThreadError:
            self.close()
            server.close_files()
            raise

    def _listening(self) -> _ControlLoop | None:
        try:
            prefix = self._find_prefix()
            remove_stale(prefix)
            return _ControlLoop(prefix.with_name(f"{prefix.name}-{token_hex(4)}{SUFFIX}"))
        except OSError as error:
            self._log("other workers and `sage-obs stacks` cannot ask this process", {"reason": str(error)})
            return _ControlLoop(None) if self.has_tick else None

    def close(self) -> None:
        """Stop answering, and remove the socket."""
        server, thread, self._server, self._thread = self._server, self._thread, None, None
        self._watched.clear()
        if server is not None:
            self._finalizer.detach()
            server.close()
        if thread is not None:
            thread.join(_JOIN_SECONDS)

    def watch(self, descriptor: int, ready: Callable[[], object]) -> None:
        """Call a function once, when there is something to read. Only in the thread: in `tick`, a verb or another `ready`."""
        if self._server is not None:
            self._server.watch(descriptor)
            self._watched[descriptor] = ready

    def forget(self, descriptor: int) -> None:
        """Wait for a descriptor no longer, before it is closed. Only in the thread."""
        if self._watched.pop(descriptor, None) is not None and self._server is not None:
            self._server.forget(descriptor)

    def descriptor_is_ready(self, descriptor: int) -> None:
        """Call the function that waits for it."""
        self._do(self._watched.pop(descriptor, None))

    def tick(self) -> None:
        """Do what is to be done each second."""
        for tick in self._ticks:
            self._do(tick)

    def _do(self, what: Callable[[], object] | None) -> None:
        try:
            if what is not None:
                what()
        except Exception as error:
            self._failed(error)

    def answer(self, line: bytes) -> bytes:
        """Answer a line; a verb that fails is counted, and its answer is the name of the error."""
        name, _, argument = line.decode(errors="replace").partition(" ")
        verb = self._verbs.get(name)
        if verb is None:
            return f"there is no verb {name[:40]!r}: there are {', '.join(self._verbs)}".encode() + REFUSED
        try:
            return verb(json.loads(argument or "null")) + DONE
        except Exception as error:
            self._failed(error)
            return type(error).__name__.encode() + REFUSED

    def _forget_parent(self) -> None:
        """Let go of the parent's socket, in a forked child."""
        server, self._server, self._thread = self._server, None, None
        self._watched.clear()
        if server is not None:
            self._finalizer.detach()
            server.close_files()


def _moved(one: socket.socket) -> socket.socket:
    """Return a socket whose number no standard stream has."""
    return socket.socket(fileno=above_standard_streams(one.detach()))


def _answer_of(find_owner: Callable[[], ControlSocket | None], line: bytes) -> bytes:
    owner = find_owner()
    return b"it ends" + REFUSED if owner is None else owner.answer(line)

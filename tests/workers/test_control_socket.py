"""The control socket of a process: who may ask, what slow and hostile clients do to it, and what else its thread does."""

import gc
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies
from support import PATIENCE_SECONDS, until

from sage_fastapi_obs.workers import control_client, control_socket
from sage_fastapi_obs.workers.control_client import REFUSED, SUFFIX, ask, ask_all, sockets_of
from sage_fastapi_obs.workers.control_socket import LONGEST_LINE, MOST_CLIENTS, ControlSocket


@pytest.fixture
def folder() -> Iterator[Path]:
    """Make a folder with a path that a socket may have."""
    with tempfile.TemporaryDirectory(prefix="so-") as made:
        yield Path(made)


@contextmanager
def serving(folder: Path, tick: Any = None, **verbs: Callable[[Any], bytes]) -> Iterator[tuple[ControlSocket, list[Any]]]:
    """Serve verbs, by default one that answers with its argument; gives what is logged or fails, too."""
    told: list[Any] = []
    verbs = {"echo": lambda argument: json.dumps(argument).encode(), **verbs}
    served = ControlSocket(lambda: folder / "digest", verbs, lambda *said: told.append(said), told.append, tick)
    served.start()
    try:
        yield served, told
    finally:
        served.close()


def asked(served: ControlSocket, verb: str, argument: Any = None) -> bytes:
    assert served.path is not None
    return ask(served.path, verb, argument, seconds=PATIENCE_SECONDS)


def connected(path: Path, sent: bytes = b"") -> socket.socket:
    """Connect as any program can."""
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(PATIENCE_SECONDS)
    client.connect(str(path))
    client.sendall(sent)
    return client


def all_of(client: socket.socket) -> bytes:
    """Read to the end, which is a reset where not all was read that was sent."""
    found = b""
    with client, suppress(ConnectionResetError):
        while piece := client.recv(65_536):
            found += piece
    return found


def control_threads() -> set[threading.Thread]:
    """Return the threads of all sockets; other tests may have left some that end soon."""
    return {thread for thread in threading.enumerate() if thread.name == "sage-obs-control"}


def test_it_is_private_and_nothing_is_left_of_it(folder: Path) -> None:
    """Its user alone may ask; at the end neither a file nor a thread is there."""
    before = control_threads()
    with serving(folder) as (served, told):
        assert stat.S_IMODE(served.path.stat().st_mode) == 0o600
        assert asked(served, "echo", {"a": [1, None]}) == b'{"a": [1, null]}'
    assert ([*folder.iterdir()], control_threads(), told) == ([], before, [])
    assert served.path is None


def test_what_cannot_be_answered_is_said(folder: Path) -> None:
    """An unknown verb names those there are; one that fails is counted, and the next question is answered."""

    def fail(_: Any) -> bytes:
        raise KeyError("a secret")

    with serving(folder, fail=fail) as (served, told):
        with pytest.raises(OSError, match=r"there is no verb 'ech': there are echo, fail"):
            asked(served, "ech")
        with pytest.raises(OSError, match=r"^KeyError$"):
            asked(served, "fail")
        assert asked(served, "echo", 1) == b"1"
    assert [type(error) for error in told] == [KeyError]


@given(strategies.binary(max_size=LONGEST_LINE + 500))
def test_whatever_is_sent_the_next_one_is_answered(sent: bytes) -> None:
    """Any bytes get an answer that says it is whole or refused, or none where they are no line; and the socket goes on."""
    with tempfile.TemporaryDirectory(prefix="so-") as made, serving(Path(made)) as (served, _):
        client = connected(served.path, sent)
        client.shutdown(socket.SHUT_WR)
        answer = all_of(client)
        assert answer[-1:] in (b"+", b"-") if b"\n" in sent or len(sent) > LONGEST_LINE else answer == b""
        assert asked(served, "echo", "fine") == b'"fine"'


@pytest.mark.parametrize("line", [b"x" * 100_000, b"echo " + b"[" * 8_000, b"echo {", b"echo \xff", b"\x00" * LONGEST_LINE])
def test_hostile_lines_are_refused(line: bytes, folder: Path) -> None:
    """A line without an end, one that nests too deep, and what is no JSON get a word, not a hung process."""
    with serving(folder) as (served, _):
        client = socket.socket(socket.AF_UNIX)
        client.connect(str(served.path))
        with suppress(BrokenPipeError, ConnectionResetError):
            client.sendall(line + b"\n")
        assert all_of(client).endswith(REFUSED)
        assert asked(served, "echo", 1) == b"1"


def test_slow_clients_keep_nobody_waiting(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many who send nothing, or half a line, or read nothing, do not delay an answer; later they are given up."""
    monkeypatch.setattr(control_socket, "_CLIENT_SECONDS", PATIENCE_SECONDS)
    with serving(folder, big=lambda _: b"x" * 8_000_000) as (served, told), ExitStack() as clients:
        for sent in (b"", b"echo", b"big null\n") * 20:
            clients.enter_context(closing(connected(served.path, sent)))
        connected(served.path).close()
        assert len(asked(served, "big")) == 8_000_000
        monkeypatch.setattr(control_socket, "_CLIENT_SECONDS", 0.01)
        assert all_of(connected(served.path, b"echo")) == b""
        assert told == []


def test_too_many_clients_take_the_place_of_the_oldest(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many connect and wait, the next one is answered, and only so many files are open."""
    monkeypatch.setattr(control_socket, "_CLIENT_SECONDS", PATIENCE_SECONDS)
    with serving(folder) as (served, _), ExitStack() as clients:
        for _ in range(3 * MOST_CLIENTS):
            clients.enter_context(closing(connected(served.path)))
            assert asked(served, "echo", 1) == b"1"
        assert len(served._server._clients) <= MOST_CLIENTS


def test_a_line_may_come_in_pieces_and_its_sender_may_have_left(folder: Path) -> None:
    """What was asked is done, also for one who does not wait for the answer."""
    done: list[Any] = []
    with serving(folder, note=lambda argument: done.append(argument) or b"") as (served, told):
        client = connected(served.path, b"no")
        time.sleep(0.01)
        client.sendall(b"te 1\nmore")
        assert all_of(client) == b"+"
        connected(served.path, b"note 2\n").close()
        until(lambda: done == [1, 2], "second note")
        assert told == []


def test_all_are_asked_at_once_and_the_silent_cost_one_wait(folder: Path) -> None:
    """Each path has its answer or its error, be it ended, missing, cut short or silent; only the silent are waited for."""
    with serving(folder) as (one, _), serving(folder) as (two, _), ExitStack() as others:
        stale, missing, silent, dies = (folder / name for name in ("stale", "missing", "silent", "dies"))
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(str(stale))
        for path in (silent, dies):
            listening = others.enter_context(socket.socket(socket.AF_UNIX))
            listening.bind(str(path))
            listening.listen(1)

        def die() -> None:
            connection, _ = listening.accept()
            connection.recv(100)
            connection.sendall(b"half an answer")
            connection.close()

        dying = threading.Thread(target=die)
        dying.start()
        answers = ask_all([one.path, two.path, stale, missing, dies], "echo", 7, seconds=PATIENCE_SECONDS)
        # Of one that says nothing, the limit is the point.
        answers |= ask_all([silent], "echo", 7, seconds=0.05)
        dying.join()
    found = {path.name: answer for path, answer in answers.items()}
    assert [found.pop(path.name) for path in answers if path.suffix == SUFFIX] == [b"7", b"7"]
    kinds = {name: type(answer) for name, answer in found.items()}
    assert kinds == {"stale": ConnectionRefusedError, "missing": FileNotFoundError, "silent": TimeoutError, "dies": OSError}
    assert str(found["dies"]) == "the answer ends too early"


def test_nobody_asked_is_no_wait() -> None:
    """Without anybody to ask there is nothing to wait for."""
    assert ask_all([], "echo", seconds=PATIENCE_SECONDS) == {}


def test_an_answer_is_bounded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What never ends is given up."""
    monkeypatch.setattr(control_client, "MOST_ANSWER_BYTES", 1_000_000)
    with serving(folder, big=lambda _: b"x" * 2_000_000) as (served, _), pytest.raises(OSError, match="more than 1000000"):
        asked(served, "big")


def test_a_stopped_process_does_later_what_it_was_asked(folder: Path) -> None:
    """One that is stopped is given up after the time limit, and does what it was asked once it goes on."""
    source = f"""
import pathlib, time
from sage_fastapi_obs.workers.control_socket import ControlSocket
folder = pathlib.Path({str(folder)!r})
served = ControlSocket(lambda: folder / "digest", {{"note": lambda name: (folder / name).touch() or b""}}, print, print)
served.start()
time.sleep(3600)
"""
    process = subprocess.Popen([sys.executable, "-c", source])
    try:
        path = until(lambda: sockets_of(folder / "digest"), "socket")[0]
        assert ask(path, "note", "first", seconds=PATIENCE_SECONDS) == b""
        process.send_signal(signal.SIGSTOP)
        # Until every thread of it has stopped, it may answer still.
        os.waitid(os.P_PID, process.pid, os.WSTOPPED)
        with pytest.raises(TimeoutError):
            ask(path, "note", "second", seconds=0.05)
        process.send_signal(signal.SIGCONT)
        until((folder / "second").exists, "second note")
    finally:
        process.kill()
        process.wait()
    with pytest.raises(ConnectionRefusedError):
        ask(path, "note", "third", seconds=PATIENCE_SECONDS)


def test_sockets_of_the_dead_are_removed_and_those_of_the_living_stay(folder: Path) -> None:
    """Two processes of a service have one each; what a killed one has left is removed by the next."""
    dead, other = folder / f"digest-dead{SUFFIX}", folder / f"others-dead{SUFFIX}"
    with serving(folder) as (first, _):
        left = socket.socket(socket.AF_UNIX)
        left.bind(str(dead))
        left.close()
        other.touch()
        with serving(folder) as (second, _):
            assert {*folder.iterdir()} == {first.path, second.path, other}
    assert [*folder.iterdir()] == [other]


def test_a_folder_that_cannot_be_used_is_told_of(folder: Path) -> None:
    """A folder that is not there is said, and the service goes on; what is to be done each second is done all the same."""
    with serving(folder / "missing") as (served, told):
        ((message, fields),) = told
        assert "sage-obs stacks" in message
        assert "No such file" in fields["reason"]
        assert served.path is None
    ticked = threading.Event()
    with serving(folder / "missing", ticked.set):
        assert ticked.wait(PATIENCE_SECONDS)


def test_a_path_may_be_longer_than_that_of_a_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long path has another name on Linux; elsewhere it is said, and nothing is left."""
    long = tmp_path / ("x" * 100)
    long.mkdir()
    with serving(long) as (served, told):
        assert asked(served, "echo", 1) == b"1"
    assert told == []
    monkeypatch.setattr("sage_fastapi_obs.workers.control_client._OPEN_FILES", tmp_path / "none")
    with serving(long) as (_, told):
        assert "longer than" in told[0][1]["reason"]
    assert [*long.iterdir()] == []


def test_nobody_has_to_close_it(folder: Path) -> None:
    """A service that is dropped leaves neither a thread nor a socket, also with something to do each second."""

    class Owner:
        def __init__(self) -> None:
            self.control = ControlSocket(lambda: folder / "digest", {"echo": self.echo}, print, print, self.tick)
            self.control.start()

        def echo(self, _: Any) -> bytes:
            return b""

        def tick(self) -> None: ...

    before = control_threads()
    owner = Owner()
    (thread,) = control_threads() - before
    del owner
    until(lambda: gc.collect() is not None and not thread.is_alive(), "end of the thread")
    assert [*folder.iterdir()] == []


def test_a_child_does_not_take_the_socket_away(folder: Path) -> None:
    """A forked child closes only its copies; the parent goes on answering, and ticking."""
    source = f"""
import os, pathlib, threading
from sage_fastapi_obs.workers.control_client import ask
from sage_fastapi_obs.workers.control_socket import ControlSocket
folder = pathlib.Path({str(folder)!r})
again = threading.Event()
served = ControlSocket(lambda: folder / "digest", {{"who": lambda _: b"parent"}}, print, print, lambda: again.set())
served.start()
child = os.fork()
if not child:
    assert served.path is None
    served.close()
    del served
    raise SystemExit
assert os.waitpid(child, 0)[1] == 0
assert ask(served.path, "who", seconds=60) == b"parent"
again.clear()
assert again.wait(60)
path = served.path
served.close()
assert not path.exists()
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", source], check=True, timeout=PATIENCE_SECONDS)


def test_an_idle_socket_does_not_wake_up(folder: Path) -> None:
    """Without anything to do each second, its thread uses no processor time while nobody asks."""
    before = control_threads()
    with serving(folder) as (served, _):
        (thread,) = control_threads() - before

        def switches() -> str:
            status = Path(f"/proc/self/task/{thread.native_id}/status").read_text()
            return status.partition("voluntary_ctxt_switches")[2]

        asked(served, "echo")
        time.sleep(0.2)
        first = switches()
        time.sleep(0.5)
        assert switches() == first


def test_it_ticks_at_once_and_again_and_a_tick_that_fails_is_counted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failing tick costs nothing but itself: ticks and answers go on."""
    monkeypatch.setattr(control_socket, "TICK_SECONDS", 0.01)
    ticks: list[None] = []

    def tick() -> None:
        ticks.append(None)
        raise LookupError

    with serving(folder, tick) as (served, told):
        until(lambda: len(ticks) > 3, "ticks")
        assert asked(served, "echo", 1) == b"1"
    assert {type(error) for error in told} == {LookupError}


def test_ticks_go_on_while_many_ask(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Questions without a pause do not put off what is to be done each second."""
    monkeypatch.setattr(control_socket, "TICK_SECONDS", 0.01)
    ticks: list[None] = []
    with serving(folder, lambda: ticks.append(None)) as (served, _):

        def has_ticked() -> bool:
            assert asked(served, "echo", 1) == b"1"
            return len(ticks) > 3

        until(has_ticked, "ticks")


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="Linux tells of the end of a process by a descriptor")
def test_the_end_of_a_process_is_noticed_at_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A descriptor is watched in the same thread; its function is called once, at the end, and may watch another."""
    monkeypatch.setattr(control_socket, "TICK_SECONDS", PATIENCE_SECONDS)
    first, second = (subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) for _ in range(2))
    # The second process may have ended and be gone before it is watched.
    of_first, of_second = (os.pidfd_open(process.pid) for process in (first, second))
    ended: list[str] = []
    has_ended = threading.Event()

    def watch(descriptor: int, name: str, then: Callable[[], object]) -> bytes:
        def ready() -> None:
            ended.append(name)
            os.close(descriptor)
            then()

        served.watch(descriptor, ready)
        return b""

    watch_second = lambda: watch(of_second, "second", has_ended.set)  # noqa: E731
    with serving(folder, watch=lambda _: watch(of_first, "first", watch_second)) as (served, told):
        asked(served, "watch")
        assert ended == []
        for process in (first, second):
            process.kill()
            process.wait()
            process.stdin.close()
        assert has_ended.wait(PATIENCE_SECONDS)
        assert (ended, told) == (["first", "second"], [])


def test_a_descriptor_can_be_forgotten(folder: Path) -> None:
    """What is no longer watched calls nobody, and one that was never watched may be forgotten, too."""
    called: list[None] = []
    reading, writing = socket.socketpair()

    def watch(_: Any) -> bytes:
        served.watch(reading.fileno(), lambda: called.append(None))
        served.forget(reading.fileno())
        served.forget(999)
        return b""

    with reading, writing, serving(folder, watch=watch) as (served, told):
        asked(served, "watch")
        writing.send(b"x")
        assert asked(served, "echo", 1) == b"1"
        assert (called, told) == ([], [])

"""Which processes are workers of one service: those that one server has started."""

import hashlib
import multiprocessing
import os
import sys
from pathlib import Path
from typing import NamedTuple

from sage_fastapi_obs.store.location import StoreKey

_PROC = Path("/proc")
FORMAT = "2"
"""Of the files of a group, one letter: workers of two versions that differ in it do not meet."""
_START_TIME = 19
"""Place of the start time among the fields of `/proc/*/stat` that follow the name."""


class Parent(NamedTuple):
    """The process that starts the workers."""

    pid: int
    started: int
    """In ticks since the system started; 0 where the system does not tell, and for one that has ended."""

    @classmethod
    def of(cls, pid: int) -> "Parent":
        """Name the process that has this number now."""
        return cls(pid, start_time(pid))

    def is_alive(self) -> bool:
        """Tell whether it still runs; also False where another process has its number now."""
        return self == NOBODY or (is_running(self.pid) and start_time(self.pid) == self.started)


NOBODY = Parent(0, 0)
"""In place of the parent of a group that lives until it is removed."""


class GroupKey(NamedTuple):
    """Whose group of workers it is, besides that of the user."""

    store: StoreKey
    """Service and working directory."""
    joint: str
    """What is the same for all workers, and for nobody else: their parent, or the name of the group."""
    joint_before: str | None = None
    """The same of the server that is to be replaced by this one, while both run; None without."""

    @property
    def service_digest(self) -> str:
        """The same for all groups of a service."""
        return _digest(FORMAT, *self.store)

    @property
    def number(self) -> int:
        """What the slots of its workers are known by."""
        return _number(self.joint)

    def is_of(self, number: int) -> bool:
        """Tell whether a slot with this number is of the same workers, or of those that they are to replace."""
        return number == self.number or (self.joint_before is not None and number == _number(self.joint_before))

    @property
    def name(self) -> str:
        """A name for its folder; it begins alike for all groups of a service."""
        return f"{self.service_digest}.{_digest(self.joint)}"


def group_key(store: StoreKey, group: str | None, place: int) -> tuple[GroupKey, Parent]:
    """Return the group of this process, and the process whose end is the end of the group: itself where it is alone.

    `group`: the name of one that processes of any parent join. `place`: of the `Observability` among those of its service in
    this process, which do not meet.
    """
    if group is not None:
        # Jobs may run in another directory.
        return GroupKey(StoreKey(store.service, ""), f"group {group} {place}"), NOBODY
    if (parent := parent_of_workers()) is None:
        parent = Parent.of(os.getpid())
        return GroupKey(store, _joint("process", parent, place)), parent
    before = _server_before()
    return GroupKey(store, _joint("workers", parent, place), before and _joint("workers", before, place)), parent


def _joint(kind: str, parent: Parent, place: int) -> str:
    return f"{kind} {_process_namespace()} {parent.pid} {parent.started} {place}"


def parent_of_workers() -> Parent | None:
    """Return the process that has started this one as a worker; None for a process that somebody else has started.

    The children of a shell, of systemd or of a container's first process have one parent, too, and are no workers.
    """
    starter = multiprocessing.parent_process()
    if starter is not None and starter.pid is not None:
        return Parent.of(starter.pid)
    # A worker of gunicorn is forked from its arbiter: it has its modules and runs the same interpreter.
    if "gunicorn.arbiter" in sys.modules and _executable(os.getppid()) == _executable(os.getpid()) is not None:
        return Parent.of(os.getppid())
    return None


def _server_before() -> Parent | None:
    """Return the arbiter of gunicorn that has started the own one to be replaced by it, at a USR2, while it is there."""
    pid = os.environ.get("GUNICORN_PID", "")
    return Parent.of(int(pid)) if pid.isdecimal() and multiprocessing.parent_process() is None else None


def is_running(pid: int) -> bool:
    """Tell whether there is a process of this number, and it has not ended."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        # It is another user's.
        return True
    fields = _fields(pid)
    return not fields or fields[0] not in ("Z", "X")


def start_time(pid: int) -> int:
    """Return when a process was started, in ticks since the system was; 0 if that is not known."""
    fields = _fields(pid)
    return int(fields[_START_TIME]) if len(fields) > _START_TIME else 0


def _fields(pid: int) -> list[str]:
    try:
        # The name, which stands in parentheses, may hold anything.
        return (_PROC / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return []


def _executable(pid: int) -> str | None:
    try:
        return str((_PROC / str(pid) / "exe").readlink())
    except OSError:
        return None


def _process_namespace() -> int:
    """Return the number of the space in which process numbers are counted; 0 if there is only one."""
    try:
        return (_PROC / "self" / "ns" / "pid").stat().st_ino
    except OSError:
        return 0


def _number(text: str) -> int:
    return int(_digest(text), 16)


def _digest(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode(errors="surrogatepass")).hexdigest()[:16]

"""The folder of a group of workers, and its slots: found in the memory of the machine, else where there is room."""

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

from sage_fastapi_obs.request.in_flight import RequestRecords
from sage_fastapi_obs.store.location import UnusableFolderError, private_folder
from sage_fastapi_obs.workers.file_lock import HAS_LOCKS, OPEN_FLAGS, is_locked, lock
from sage_fastapi_obs.workers.siblings import GroupKey, Parent
from sage_fastapi_obs.workers.slot import SUFFIX, Slot

_PREFIX = "workers-"
_LOCK = "lock"
_MOST_SLOTS = 512
_LOCK_SECONDS = 5.0
_MOST_TRIES = 1_000
_FORGOTTEN_SECONDS = 86_400.0
"""After this time, whoever starts removes the folder of any service whose workers have gone."""


class Group:
    """The slots of one group, as one process sees them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._slots: dict[int, Slot] = {}
        self.own: Slot | None = None
        """The slot of this process."""

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other workers from taking slots; raises `OSError` where one holds it for seconds.

        Raises `FileNotFoundError` where the folder is not there, or somebody has just removed it.
        """
        path = self.folder / _LOCK
        descriptor = os.open(path, OPEN_FLAGS, 0o600)
        try:
            _lock_within(descriptor, _LOCK_SECONDS)
            if os.fstat(descriptor).st_ino != path.stat().st_ino:
                raise FileNotFoundError(f"{self.folder} has been made anew")
            yield
        finally:
            os.close(descriptor)

    def take_slot(self, parent: Parent, joint: int, tidy_up: Callable[[Slot], object]) -> RequestRecords:
        """Own the first slot that is free, or a new one; raises `OSError`.

        `parent`, `joint`: are written there. `tidy_up`: is called with the slot of a worker that has died, before its numbers
        go on.
        """
        with self._made_and_locked():
            for number in range(_MOST_SLOTS):
                slot = Slot(self.folder / f"{number}{SUFFIX}", writable=True)
                if slot.take():
                    if slot.has_died():
                        tidy_up(slot)
                    self.own = slot
                    return slot.own(parent, joint)
                slot.close()
        raise OSError(f"there are {_MOST_SLOTS} workers in {self.folder}")

    @contextmanager
    def _made_and_locked(self) -> Iterator[None]:
        """Lock the folder, which is made: whoever looks for groups that are over may remove one that has no worker yet."""
        with ExitStack() as locked:
            for _ in range(_MOST_TRIES):
                _make(self.folder)
                with suppress(FileNotFoundError):
                    locked.enter_context(self.lock())
                    break
            else:
                raise OSError(f"{self.folder} is removed again and again")
            yield

    def slots(self) -> list[Slot]:
        """List all slots, those of the dead, too; the own one is the very object."""
        found = {number: path for path in self.folder.glob(f"*{SUFFIX}") if (number := _number(path)) is not None}
        for number in self._slots.keys() - found.keys():
            self._slots.pop(number).close()
        for number, path in found.items():
            if number not in self._slots and not (self.own is not None and number == self.own.number):
                # One that is being made is seen the next time.
                with suppress(OSError):
                    self._slots[number] = Slot(path)
        everyone = [*self._slots.values(), *(() if self.own is None else (self.own,))]
        return sorted(everyone, key=lambda slot: slot.number)

    def has_own(self) -> bool:
        """Tell whether the file of the own slot is still where others look for it."""
        own = self.own
        try:
            return own is not None and own.file.path.lstat().st_ino == own.inode
        except OSError:
            return False

    def siblings(self) -> list[Slot]:
        """List the slots of other workers that are there."""
        return [slot for slot in self.slots() if slot is not self.own and slot.is_alive()]

    def tidy_up(self, tidy_up: Callable[[Slot], object]) -> None:
        """Call a function with the slots of workers that have died, each locked, and writable."""
        for seen in self.slots():
            if seen is self.own or not seen.has_died():
                continue
            slot = Slot(seen.file.path, writable=True)
            try:
                if slot.take() and slot.has_died():
                    tidy_up(slot)
            finally:
                slot.close()

    def close(self) -> None:
        """Give the slot up."""
        for slot in (*self._slots.values(), *(() if self.own is None else (self.own,))):
            slot.close()
        self._slots, self.own = {}, None

    def end(self, tidy_up: Callable[[Slot], object]) -> None:
        """Call a function with the slots of workers that have died, and remove it; unless somebody does, or has joined."""
        with suppress(FileNotFoundError), self.lock():
            if self.is_over():
                self.tidy_up(tidy_up)
                self.remove()

    def remove(self) -> None:
        """Delete everything."""
        self.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def is_over(self) -> bool:
        """Tell whether its workers have gone, and the process that would start others."""
        slots = self.slots()
        if any(slot.is_alive() or slot.parent.is_alive() for slot in slots):
            return False
        # Slots of another version of this package cannot be read, but workers of any version lock theirs.
        return not any(map(is_locked, self.folder.glob(f"*{SUFFIX}")))


def folders() -> Iterator[Path]:
    """Yield the private folders that groups may be in, the best first; makes them. Raises `UnusableFolderError` without any."""
    if not HAS_LOCKS:
        raise UnusableFolderError("this system has no locks on files")
    reasons, found = [], 0
    for base in _bases():
        try:
            folder = private_folder(base)
        except OSError as reason:
            reasons.append(str(reason))
            continue
        found += 1
        yield folder
    if not found:
        raise UnusableFolderError("; ".join(reasons) or "this system has no private folders")


def group_folder(folder: Path, key: GroupKey) -> Path:
    """Return the folder of a group, which is made; that of the workers of a server which this one is to replace."""
    path = folder / f"{_PREFIX}{key.name}"
    if not path.is_dir():
        for other in folder.glob(f"{_PREFIX}{key.service_digest}.*"):
            with closing(Group(other)) as group:
                if any(key.is_of(slot.joint) for slot in group.slots()):
                    return other
    _make(path)
    return path


def _make(folder: Path) -> None:
    # `exist_ok` raises where it is removed meanwhile.
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)


def groups_of_before(own: Path, key: GroupKey) -> Iterator[Group]:
    """Yield the other groups of a service that are over; those of any service that have been for a day are removed."""
    for path in own.parent.glob(f"{_PREFIX}*"):
        if path == own or path.is_symlink():
            continue
        group = Group(path)
        try:
            if path.name.startswith(f"{_PREFIX}{key.service_digest}."):
                if group.is_over():
                    yield group
            elif _age(path) > _FORGOTTEN_SECONDS and group.is_over():
                group.end(lambda _: None)
        finally:
            group.close()


def _bases() -> Iterator[Path]:
    if (runtime := os.environ.get("XDG_RUNTIME_DIR", "")).startswith("/"):
        yield Path(runtime)
    memory = Path("/dev/shm")  # noqa: S108 - the folder in it is private
    if memory.is_dir():
        yield memory
    yield Path(tempfile.gettempdir())


def _age(path: Path) -> float:
    try:
        return time.time() - max((one.stat().st_mtime for one in path.iterdir()), default=path.stat().st_mtime)
    except OSError:
        return 0.0


def _number(path: Path) -> int | None:
    digits = path.name.removesuffix(SUFFIX)
    return int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 5 else None


def _lock_within(descriptor: int, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not lock(descriptor):
        if time.monotonic() > deadline:
            raise TimeoutError("another worker holds the lock of the group")
        time.sleep(0.002)

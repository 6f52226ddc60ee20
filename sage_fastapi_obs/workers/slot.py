"""The file of one worker: who owns it, how it does, its requests in flight, and what it has counted.

    head: words of eight bytes | texts | records of requests | blocks of numbers

Whoever has the lock on the file owns it. When the owner has gone, the next one goes on with its numbers.
"""

import os
import time
from pathlib import Path

from sage_fastapi_obs.request.in_flight import DONE, REGION_BYTES, Record, RequestRecords, read_records
from sage_fastapi_obs.workers.blocks import Blocks
from sage_fastapi_obs.workers.file_lock import lock, open_file, unlock
from sage_fastapi_obs.workers.mapped_file import PAGE_BYTES, MappedFile
from sage_fastapi_obs.workers.siblings import FORMAT, Parent, is_running, start_time

SUFFIX = ".slot"
_MAGIC = int.from_bytes(f"SAGEOBS{FORMAT}".encode())
(_PID, _STARTED_TICKS, _STARTED_NS, _STATE, _HEARTBEAT_NS, _TURNED_NS, _BLOCKS_END, _BEYOND) = range(1, 9)
(_OWNERS, _MEMORY, _OOM_KILLS, _LAST_NUMBER, _DEATHS, _DEATH_NS, _DEATH_REASON) = range(9, 16)
_PARENT_PID, _PARENT_TICKS, _JOINT = 16, 17, 18
NEVER, RUNNING, STOPPING, ENDED = range(4)
"""States of an owner. One that has gone and is not ENDED has died."""
_SOCKET, _BLOCKED, _TEXT_BYTES = 1_024, 2_048, 1_024
_RECORDS = 4_096
_BLOCKS = _RECORDS + REGION_BYTES
_BYTES = _BLOCKS + PAGE_BYTES


class Slot:
    """One slot, as its owner or as another process sees it."""

    def __init__(self, path: Path, *, writable: bool = False) -> None:
        """Open it; `writable`: create it if it is not there. Raises `OSError`, also for a file that is no slot."""
        self.number = int(path.name.removesuffix(SUFFIX))
        self.file = MappedFile(path, writable=writable, size=_BYTES)
        # The map holds on to its file, also in a forked child: a lock on that would outlive this process.
        self._lock = open_file(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        self.inode = os.fstat(self._lock).st_ino
        self._words = self.file.numbers
        if self.file.size < _BYTES or self._words[0] not in ((0, _MAGIC) if writable else (_MAGIC,)):
            self.close()
            raise OSError(f"{path} is no slot of a worker")
        self.blocks = Blocks(self.file, _BLOCKS, _BLOCKS_END)

    @property
    def pid(self) -> int:
        """Of its owner, or its last one."""
        return self._words[_PID]

    @property
    def started_at(self) -> float:
        """When its owner took it, as Unix time."""
        return self._words[_STARTED_NS] / 1_000_000_000

    @property
    def started_ticks(self) -> int:
        """When the process of its owner started."""
        return self._words[_STARTED_TICKS]

    @property
    def state(self) -> int:
        """What its owner has said last."""
        return self._words[_STATE]

    @state.setter
    def state(self, state: int) -> None:
        self._words[_STATE] = state

    @property
    def heartbeat(self) -> float:
        """When its owner's thread last ran, as a time of `time.monotonic`, which all processes of a machine share."""
        return self._words[_HEARTBEAT_NS] / 1_000_000_000

    @property
    def turned(self) -> float:
        """When its owner's event loop last turned, as far as the thread knows, in the same way; 0: it has none."""
        return self._words[_TURNED_NS] / 1_000_000_000

    @turned.setter
    def turned(self, at: float) -> None:
        self._words[_TURNED_NS] = int(at * 1_000_000_000)

    def beat(self, memory_bytes: int, oom_kills: int, last_number: int) -> None:
        """Say that the owner's thread runs.

        `oom_kills`: of its control group so far. `last_number`: of the newest request that is done.
        """
        self.note_last_number(last_number)
        self._words[_MEMORY], self._words[_OOM_KILLS] = memory_bytes, oom_kills
        self._words[_HEARTBEAT_NS] = time.monotonic_ns()

    @property
    def memory_bytes(self) -> int:
        """What its owner uses."""
        return self._words[_MEMORY]

    @property
    def oom_kills(self) -> int:
        """How often the control group had killed for memory at the last heartbeat."""
        return self._words[_OOM_KILLS]

    @property
    def owners(self) -> int:
        """How many have had it so far: numbers that begin anew with an owner are of this one."""
        return self._words[_OWNERS]

    @property
    def requests_beyond(self) -> int:
        """How many requests in flight have no record."""
        return self._words[_BEYOND]

    @property
    def deaths(self) -> int:
        """How many owners have died."""
        return self._words[_DEATHS]

    @property
    def last_death(self) -> tuple[float, int]:
        """When the last one died, as Unix time, and the place of the reason among all reasons."""
        return self._words[_DEATH_NS] / 1_000_000_000, self._words[_DEATH_REASON]

    @property
    def socket(self) -> str:
        """Path of the owner's control socket."""
        return self._text(_SOCKET)

    @socket.setter
    def socket(self, path: str) -> None:
        self._write_text(_SOCKET, path)

    @property
    def blocked_at(self) -> str:
        """At which line the owner's event loop hangs; empty while it turns."""
        return self._text(_BLOCKED)

    @blocked_at.setter
    def blocked_at(self, place: str) -> None:
        self._write_text(_BLOCKED, place)

    @property
    def parent(self) -> Parent:
        """The process that starts the workers of the group."""
        return Parent(self._words[_PARENT_PID], self._words[_PARENT_TICKS])

    @property
    def joint(self) -> int:
        """The number of the group that its owner has looked for: workers of a server and of its replacement are in one."""
        return self._words[_JOINT]

    def is_alive(self) -> bool:
        """Tell whether its owner is there."""
        return self.state in (RUNNING, STOPPING) and is_running(self.pid) and start_time(self.pid) == self.started_ticks

    def has_died(self) -> bool:
        """Tell whether its owner has gone without a word."""
        return self.state in (RUNNING, STOPPING) and not self.is_alive()

    def take(self) -> bool:
        """Lock it, to own it or to tidy up after its owner; False where somebody has it."""
        return lock(self._lock)

    def give_back(self) -> None:
        """Undo `take`."""
        unlock(self._lock)

    def own(self, parent: Parent, joint: int) -> RequestRecords:
        """Write down that this process owns it from now on."""
        words = self._words
        words[_STATE] = NEVER
        words[_PID], words[_STARTED_TICKS], words[_STARTED_NS] = os.getpid(), start_time(os.getpid()), time.time_ns()
        words[_PARENT_PID], words[_PARENT_TICKS] = parent
        words[_JOINT] = joint
        words[_BEYOND] = words[_TURNED_NS] = 0
        self.socket = self.blocked_at = ""
        words[_OWNERS] += 1
        words[_HEARTBEAT_NS] = time.monotonic_ns()
        words[0] = _MAGIC
        words[_STATE] = RUNNING
        return RequestRecords(self.file.numbers, self.file.bytes, _RECORDS, _BEYOND, words[_LAST_NUMBER])

    def records(self) -> list[Record]:
        """List the requests that are in flight, or done and not counted in the blocks."""
        return [*read_records(self.file.numbers, self.file.bytes, _RECORDS)]

    def in_flight(self) -> int:
        """Count the requests that its owner is serving."""
        return sum(record.state != DONE for record in self.records()) + self.requests_beyond

    def bury(self, reason: int | None) -> None:
        """Write down that the last owner has gone; `reason`: of its death, None for one that has ended well."""
        words = self._words
        if reason is not None:
            words[_DEATHS] += 1
            words[_DEATH_NS], words[_DEATH_REASON] = time.time_ns(), reason
        words[_BEYOND] = 0
        words[_STATE] = ENDED

    @property
    def last_number(self) -> int:
        """Of the newest request that was done at the last heartbeat: so many were, by all owners."""
        return self._words[_LAST_NUMBER]

    def note_last_number(self, number: int) -> None:
        """Let the numbers of requests that are done go on after this one."""
        self._words[_LAST_NUMBER] = max(self._words[_LAST_NUMBER], number)

    def close(self) -> None:
        """Give it up; a forked child does so, too, and its parent keeps the lock."""
        self.file.close()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _text(self, start: int) -> str:
        length = int.from_bytes(self.file.bytes[start : start + 2], "little")
        return bytes(self.file.bytes[start + 2 : start + 2 + length]).decode("utf-8", "replace")

    def _write_text(self, start: int, text: str) -> None:
        encoded = text.encode("utf-8", "surrogateescape")[: _TEXT_BYTES - 2]
        self.file.bytes[start + 2 : start + 2 + len(encoded)] = encoded
        self.file.bytes[start : start + 2] = len(encoded).to_bytes(2, "little")

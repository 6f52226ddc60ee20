"""What a worker leaves that was killed: why, what it was serving, and which requests are still to be counted."""

import re
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Literal, TypeAlias, get_args

from sage_fastapi_obs.request.in_flight import ANSWERING, DONE, FREE, IN_FLIGHT, STREAMING, Record
from sage_fastapi_obs.workers.slot import STOPPING, Slot

Reason: TypeAlias = Literal["oom", "blocked", "crash", "killed", "unknown"]
REASONS: tuple[Reason, ...] = get_args(Reason)
_BLOCKED_SECONDS = 2.0
"""How long the event loop had not turned when the thread beside it last looked."""
_BEAT_SECONDS = 1.0
_CRASHES = frozenset({signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT})
_KILLS = frozenset({signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGQUIT})
_EXIT_STATUS = 49
"""Place of the exit status among the fields of `/proc/*/stat` that follow the name."""
_CGROUP = Path("/sys/fs/cgroup")
_LONGEST_TRACE = 65_536
_LINE = re.compile(r'^  File "([^"\n]+)", line ([0-9]+)', re.MULTILINE)
_LIBRARIES = ("/site-packages/", "/dist-packages/", "/lib/python", "<frozen ")


@dataclass(frozen=True, slots=True)
class Death:
    """One worker that has gone without a word."""

    number: int
    """Of its slot."""
    pid: int
    reason: Reason
    evidence: str
    """What the reason was seen by; empty for an unknown one."""
    at: str
    """The line where it hung or crashed, if that is known."""
    lost: list[Record]
    """Requests that were in flight."""
    answering: list[Record]
    """Requests of which the response was being sent: whether it arrived cannot be known."""
    lost_beyond: int
    """Requests in flight without a record."""
    seconds_ago: float = 0.0
    """How long ago it died, as far as its last heartbeat tells: each is a second after the one before."""


def settle(slot: Slot, count: Callable[[Slot, Record], object], exit_status: int | None, trace: str = "") -> Death:
    """Count what the owner of a slot had done, and return what it left; the slot is locked, and free of requests then.

    `count`: adds a request to the blocks of the slot; once more for the same does nothing. `exit_status`: of the process, as
    `waitpid` gives it, if it is known. `trace`: what its fault handler wrote.
    """
    records = slot.records()
    # Each series knows the newest number that is in it: older ones have to come first.
    for record in sorted(records, key=attrgetter("number")):
        if record.state == DONE:
            count(slot, record)
    reason, evidence, at = _reason(slot, exit_status, trace)
    return Death(
        *(slot.number, slot.pid, reason, evidence, at),
        lost=[record for record in records if record.state in (IN_FLIGHT, STREAMING)],
        answering=[record for record in records if record.state == ANSWERING],
        lost_beyond=slot.requests_beyond,
        seconds_ago=max(0.0, time.monotonic() - slot.heartbeat - _BEAT_SECONDS),
    )


def bury(slot: Slot, death: Death) -> None:
    """Free the slot of a death that has been reported."""
    records = slot.records()
    slot.note_last_number(max((record.number for record in records), default=0))
    for record in records:
        slot.file.numbers[record.word] = FREE
    slot.bury(REASONS.index(death.reason))


def _reason(slot: Slot, exit_status: int | None, trace: str) -> tuple[Reason, str, str]:
    killed_by = None if exit_status is None else exit_status & 0x7F
    at = _place(trace) or slot.blocked_at
    if oom_kills() > slot.oom_kills and killed_by in (None, signal.SIGKILL):
        return "oom", "the kernel has killed for memory in its control group since its last heartbeat", slot.blocked_at
    if slot.turned and slot.heartbeat - slot.turned > _BLOCKED_SECONDS:
        return "blocked", f"its event loop had not turned for {slot.heartbeat - slot.turned:.1f} s", at
    if trace or killed_by in _CRASHES:
        return "crash", trace.partition("\n")[0] or _named(killed_by), at
    if killed_by in _KILLS:
        return "killed", _named(killed_by), at
    if slot.state == STOPPING:
        return "killed", "it was about to stop, and did not end in time", at
    if exit_status:
        return "unknown", f"it ended with status {exit_status >> 8}", at
    return "unknown", "", at


def _named(number: int | None) -> str:
    return "" if number is None else f"by {signal.Signals(number).name}"


def exit_status(pid: int) -> int | None:
    """Return the status of a process that has ended and whose parent has not asked yet; None where it is not known."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return int(fields[_EXIT_STATUS]) if fields[0] == "Z" and len(fields) > _EXIT_STATUS else None


def oom_kills() -> int:
    """Return how often the kernel has killed for memory in the control group of this process; 0 where it does not tell."""
    for path in _oom_files():
        try:
            text = path.read_text()
        except OSError:
            continue
        for line in text.splitlines():
            name, _, count = line.partition(" ")
            if name == "oom_kill" and count.isdigit():
                return int(count)
    return 0


def _oom_files() -> list[Path]:
    try:
        groups = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    found = []
    for line in groups:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            found += [_CGROUP / path.lstrip("/") / "memory.events", _CGROUP / "memory.events"]
        elif "memory" in controllers.split(","):
            found += [_CGROUP / "memory" / path.lstrip("/") / "memory.oom_control", _CGROUP / "memory" / "memory.oom_control"]
    return found


def _place(trace: str) -> str:
    """Return the innermost line in a fault handler's text that is not of a library, else the innermost: `app/report.py:14`."""
    places = _LINE.findall(trace[:_LONGEST_TRACE])
    own = [place for place in places if not any(part in place[0] for part in _LIBRARIES)]
    for file, line in (own or places)[:1]:
        return f"{file.removeprefix(f'{Path.cwd()}/')}:{line}"
    return ""

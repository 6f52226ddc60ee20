"""The workers of a service as one of them sees them, and how it asks the others."""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from sage_fastapi_obs.workers.control_client import Answer, ask_all

QUIET_SECONDS = 5.0
"""After so long without a sign of life, a worker is stopped, or its event loop hangs."""
State: TypeAlias = Literal["running", "hanging", "stopped", "dead"]


@dataclass(frozen=True, slots=True)
class DeathSeen:
    """How a worker died that had this number."""

    at: float
    """When that was noticed: Unix time in seconds."""
    reason: str
    """`oom`, `blocked`, `crash`, `killed` or `unknown`."""


@dataclass(frozen=True, slots=True)
class Sibling:
    """A worker as it was at one moment: one of several, this process too, or the only one."""

    number: int
    pid: int
    is_alive: bool
    started: float
    """Unix time in seconds."""
    heartbeat: float
    """When its thread was last running: seconds of `time.monotonic`, which all processes of a machine share."""
    turned: float
    """When its event loop last turned, in the same way."""
    in_flight: int
    requests: int | None = None
    """How many have ended, by all workers that had this number; None: not known."""
    memory_bytes: int | None = None
    is_leader: bool = False
    """Whether it judges the rules."""
    socket: Path | None = None
    """Where it can be asked; None: nowhere."""
    last_death: DeathSeen | None = None

    def state(self, now: float) -> State:
        """Tell whether it works, at a time of `time.monotonic`."""
        if not self.is_alive:
            return "dead"
        if now - self.heartbeat > QUIET_SECONDS:
            return "stopped"
        return "hanging" if now - self.turned > QUIET_SECONDS else "running"


class Workers:
    """All workers of the service. Questions block: ask in a thread, and never in that of the control socket."""

    def __init__(self, find: Callable[[], Sequence[Sibling]], clock: Callable[[], float] = time.monotonic) -> None:
        """`find`: returns all workers by their numbers, with this process and the dead."""
        self.find, self.clock = find, clock

    @property
    def own_number(self) -> int | None:
        """The number of this process; None where it is alone."""
        workers = self.find()
        own = next((worker.number for worker in workers if worker.pid == os.getpid()), None)
        return own if len(workers) > 1 else None

    def others(self) -> list[Sibling]:
        """Return the other workers that live."""
        return [worker for worker in self.find() if worker.is_alive and worker.pid != os.getpid()]

    def ask(self, verb: str, argument: Any = None, *, seconds: float) -> dict[int, Answer]:
        """Ask all others, and wait some seconds at most; by number each answer, or why there is none.

        Those that are stopped are told, too, and are not waited for.
        """
        others, now = self.others(), self.clock()
        quiet = [worker.socket for worker in others if worker.socket and worker.state(now) == "stopped"]
        asked = [worker.socket for worker in others if worker.socket and worker.socket not in quiet]
        answers = ask_all(quiet, verb, argument, seconds=0) | ask_all(asked, verb, argument, seconds=seconds)
        nowhere = OSError("it has no socket")
        return {worker.number: answers[worker.socket] if worker.socket else nowhere for worker in others}

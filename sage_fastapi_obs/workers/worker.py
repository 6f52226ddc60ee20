"""This process as a worker: it takes a slot, keeps it up to date, and looks after what others leave that have died."""

import asyncio
import faulthandler
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from sage_fastapi_obs.internal_errors import InternalErrors
from sage_fastapi_obs.metrics.memory import resident_bytes
from sage_fastapi_obs.processes import at_fork
from sage_fastapi_obs.request.in_flight import InFlight, Record, RequestRecords
from sage_fastapi_obs.store.location import StoreKey, UnusableFolderError
from sage_fastapi_obs.workers.control_socket import ControlSocket
from sage_fastapi_obs.workers.death import REASONS, bury, exit_status, oom_kills, settle
from sage_fastapi_obs.workers.death_report import DeathReport
from sage_fastapi_obs.workers.end_watch import EndWatch
from sage_fastapi_obs.workers.file_lock import OPEN_FLAGS, open_file
from sage_fastapi_obs.workers.group import Group, folders, group_folder, groups_of_before
from sage_fastapi_obs.workers.leader import Leadership
from sage_fastapi_obs.workers.other_workers import DeathSeen, Sibling
from sage_fastapi_obs.workers.siblings import NOBODY, GroupKey, group_key
from sage_fastapi_obs.workers.slot import STOPPING, Slot

_HANGS_SECONDS = 1.5
"""From then on, the line is noted where the event loop hangs; while it turns, it does so after each tick."""
_NEWCOMER_SECONDS = 1.5
_CRASH_SUFFIX = ".crash"
_places: dict[StoreKey, int] = {}
"""How many workers of each service this process has built."""


class Numbers(Protocol):
    """What a process counts, where siblings go on with it."""

    def share(self, group: Group, records: RequestRecords) -> None:
        """Count in the slot of this process from now on, beginning with what is there."""

    def save(self) -> None:
        """Write everything into the slot."""

    def count_done(self, slot: Slot, record: Record) -> None:
        """Add a request to the numbers of a slot whose owner had not; does nothing the second time."""

    def abandon(self) -> None:
        """Write nothing more, in a forked child."""

    def leave(self) -> None:
        """Write everything into the slot for the last time."""


class Rules(Protocol):
    """The rules of the service, which one worker of a group judges."""

    def join(self, judge: Leadership) -> None:
        """Judge them only while this worker leads."""

    def leave(self) -> None:
        """Judge them alone again."""

    def hurry(self) -> None:
        """Judge them now: this worker has begun to lead."""

    def follow(self) -> None:
        """Show what the worker that leads has found."""


class Worker:
    """The slot of one `Observability`, from its start to its close."""

    component = "Worker"

    def __init__(
        self,
        store: StoreKey,
        group: str | None,
        *,
        numbers: Numbers | None,
        report: DeathReport,
        where: Callable[[], str],
        warn: Callable[[str, Mapping[str, Any]], object],
        errors: InternalErrors,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`numbers`: what this process counts. `report`: tells of a death.

        `where`: returns the line of the application that the event loop is at. `clock`: monotonic seconds.
        """
        self._store, self._group_name, self._numbers, self._report = store, group, numbers, report
        self.in_flight = InFlight()
        """Writes requests into the slot."""
        self._place = _places[store] = _places.get(store, -1) + 1
        self._where, self._warn, self._errors = where, warn, errors
        self._clock = clock
        self.group: Group | None = None
        """The group while it has a slot in one."""
        self._key: GroupKey | None = None
        self._parent = NOBODY
        self._crash_file: Any = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._turned = 0.0
        self._control: ControlSocket | None = None
        self._ends: EndWatch | None = None
        self._leadership: Leadership | None = None
        self._lead_from = 0.0
        """Time of `time.monotonic`, from which on it tries to."""
        self.rules: Rules | None = None
        """The rules that one worker judges; None where there are none."""
        at_fork(in_child=self._leave_to_parent)

    @property
    def is_shared(self) -> bool:
        """Whether other processes may be workers of the same group."""
        return self.group is not None and self._parent.pid != os.getpid()

    def start(self) -> None:
        """Take a slot; where that cannot be done, say so once and go on without."""
        if self.group is not None:
            return
        self._key, self._parent = group_key(self._store, self._group_name, self._place)
        with suppress(RuntimeError):
            self._loop = asyncio.get_running_loop()
        try:
            self.group, self.in_flight.records = self._take_slot(self._key)
        except OSError as error:
            self._warn(
                "each worker of this service answers for itself alone, and nobody tells what a killed one was serving",
                {"reason": str(error)},
            )
            return
        self._turned = self._clock()
        self._catch_crashes()
        if self.is_shared and self._numbers is not None:
            self._numbers.share(self.group, self.in_flight.records)
        self._join_rules()
        self._sweep()
        self.tick()

    def tick(self) -> None:
        """Say that this process lives, and look after those that do not; called each second, in a thread."""
        group = self.group
        if group is None or group.own is None:
            return
        if not group.has_own():
            self._begin_again(group)
            return
        self._beat(group.own)
        self._try_to_lead()
        if self._control is not None and not group.own.socket:
            group.own.socket = str(self._control.path or "")
        if self.is_shared:
            if self._numbers is not None:
                self._numbers.save()
            group.tidy_up(self._settle)
            if self._ends is not None:
                self._ends.update(slot.pid for slot in group.siblings())

    def _begin_again(self, group: Group) -> None:
        """Take another slot: somebody has removed the files of all workers, which count from 0 then."""
        self._warn("the files of the workers were removed: what they have counted begins anew", {"folder": str(group.folder)})
        self._leave_rules()
        self._ignore_crashes()
        self.group = None
        group.close()
        self.start()

    def _join_rules(self) -> None:
        group, rules = self.group, self.rules
        if rules is not None and self.is_shared and group is not None and group.own is not None:
            self._leadership = Leadership(group.folder, group.own.number)
            # Where rules have been judged before, those who have watched for longer go first.
            self._lead_from = 0.0 if self._leadership.published() is None else time.monotonic() + _NEWCOMER_SECONDS
            self._try_to_lead()
            rules.join(self._leadership)

    def _try_to_lead(self) -> None:
        leadership, rules = self._leadership, self.rules
        if leadership is None or rules is None:
            return
        had_led = leadership.is_leader
        if time.monotonic() < self._lead_from or not leadership.try_to_lead():
            rules.follow()
        elif not had_led:
            rules.hurry()

    def _leave_rules(self) -> None:
        leadership, self._leadership = self._leadership, None
        if leadership is not None and self.rules is not None:
            leadership.close()
            self.rules.leave()

    def listen_at(self, control: ControlSocket) -> None:
        """Let siblings find the control socket, and notice in its thread, which calls `tick`, when one of them ends."""
        self._control, self._ends = control, EndWatch(control, self.tick)

    def add_application(self, app: Any) -> None:
        """Know the routes of an app, by which requests are named."""
        self._report.add_application(app)

    def everyone(self) -> list[Sibling]:
        """List all workers, this one and the dead, too."""
        group, leadership = self.group, self._leadership
        if group is None:
            return []
        leader = None if leadership is None else leadership.leading_slot
        workers = [_as_seen(slot, is_own=slot is group.own, leader=leader) for slot in group.slots()]
        # A process that is alone judges by itself, and numbers no requests.
        return workers if self.is_shared else [replace(worker, requests=None, is_leader=True) for worker in workers]

    def note_stop(self) -> None:
        """Write down that this process is about to end."""
        if self.group is not None and self.group.own is not None:
            self.group.own.state = STOPPING

    def close(self) -> None:
        """Give the slot up: this process ends well."""
        group = self.group
        if group is None or group.own is None:
            return
        self._ignore_crashes()
        self._leave_rules()
        if self._ends is not None:
            self._ends.close()
        if self.is_shared and self._numbers is not None:
            self._numbers.leave()
        group.own.bury(None)
        self.group = self.in_flight.records = None
        if self._parent.pid == os.getpid():
            group.remove()
        else:
            group.close()

    def _take_slot(self, key: GroupKey) -> tuple[Group, RequestRecords]:
        reason: OSError = UnusableFolderError("there is no folder")
        for folder in folders():
            group = Group(group_folder(folder, key))
            try:
                return group, group.take_slot(self._parent, key.number, self._settle)
            except OSError as error:
                reason = error
                is_used = bool(group.siblings())
                group.close()
                if is_used:
                    # In another folder it would be alone.
                    break
        raise reason

    def _beat(self, own: Slot) -> None:
        loop = self._loop
        if loop is not None and not loop.is_closed():
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(self._note_turn)
        hangs = self._clock() - self._turned > _HANGS_SECONDS
        if hangs or own.blocked_at:
            own.blocked_at = self._where() if hangs else ""
        own.beat(resident_bytes(), oom_kills(), self._last_number())

    def _last_number(self) -> int:
        records = self.in_flight.records
        return 0 if records is None else records.last_number

    def _note_turn(self) -> None:
        self._turned = self._clock()
        if self.group is not None and self.group.own is not None:
            self.group.own.turned = self._turned

    def _settle(self, slot: Slot) -> None:
        """Count and tell what a dead worker leaves, and free its slot; who dies in between has it told twice."""
        crash = slot.file.path.with_suffix(_CRASH_SUFFIX)
        death = settle(slot, self._count_done, exit_status(slot.pid), _text(crash))
        self._report.write(death)
        bury(slot, death)
        with suppress(OSError):
            crash.write_bytes(b"")

    def _count_done(self, slot: Slot, record: Record) -> None:
        if self._numbers is not None:
            self._numbers.count_done(slot, record)

    def _sweep(self) -> None:
        """Tell of the workers that died with their server, and remove what they left."""
        if self.group is None or self._key is None:
            return
        for before in groups_of_before(self.group.folder, self._key):
            try:
                before.end(self._settle)
            except OSError as error:
                self._errors.count(self.component, error)

    def _catch_crashes(self) -> None:
        """Have the interpreter write where it crashes, unless the application has."""
        own = None if self.group is None else self.group.own
        if own is None or faulthandler.is_enabled():
            return
        with suppress(OSError):
            path = own.file.path.with_suffix(_CRASH_SUFFIX)
            self._crash_file = open_file(path, OPEN_FLAGS | os.O_TRUNC)
            faulthandler.enable(self._crash_file, all_threads=False)

    def _ignore_crashes(self) -> None:
        descriptor, self._crash_file = self._crash_file, None
        if descriptor is not None:
            faulthandler.disable()
            os.close(descriptor)

    def _leave_to_parent(self) -> None:
        """In a forked child: the slot is the parent's."""
        group, self.group, self.in_flight.records = self.group, None, None
        if self._numbers is not None:
            self._numbers.abandon()
        if group is not None:
            self._ignore_crashes()
            group.close()
        if self._ends is not None:
            self._ends.close()


def _as_seen(slot: Slot, *, is_own: bool, leader: int | None) -> Sibling:
    is_alive = is_own or slot.is_alive()
    died_at, reason = slot.last_death
    return Sibling(
        *(slot.number, slot.pid, is_alive, slot.started_at, slot.heartbeat, slot.turned or slot.heartbeat),
        in_flight=slot.in_flight(),
        requests=slot.last_number,
        memory_bytes=slot.memory_bytes or None,
        is_leader=is_alive and slot.number == leader,
        socket=Path(slot.socket) if is_alive and slot.socket else None,
        last_death=DeathSeen(died_at, REASONS[reason]) if slot.deaths else None,
    )


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""

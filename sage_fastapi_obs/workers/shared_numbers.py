"""What the workers of a group count, as one: each saves its own, has the others do so, and adds up what is in all slots."""

import time
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric

from sage_fastapi_obs.internal_errors import InternalErrors
from sage_fastapi_obs.metrics.http_recorder import HttpMetrics
from sage_fastapi_obs.metrics.http_totals import Totals
from sage_fastapi_obs.metrics.registry_reader import Reading, RegistryReader
from sage_fastapi_obs.request.in_flight import Record, RequestRecords
from sage_fastapi_obs.workers.control_client import ask_all
from sage_fastapi_obs.workers.definitions import Definition, read_description
from sage_fastapi_obs.workers.group import Group
from sage_fastapi_obs.workers.merged_registry import MergedRegistry
from sage_fastapi_obs.workers.other_workers import QUIET_SECONDS
from sage_fastapi_obs.workers.recent_extremes import WIDTH
from sage_fastapi_obs.workers.saved_numbers import SavedNumbers
from sage_fastapi_obs.workers.slot import Slot

SAVE = "save"
"""The verb that has a worker save its numbers."""
_ASK_SECONDS = 0.1
_Pause = Callable[[], object]


class SharedNumbers:
    """The numbers of one worker and of its group."""

    component = "SharedNumbers"

    def __init__(
        self,
        registry: CollectorRegistry,
        unexported: CollectorRegistry,
        http: HttpMetrics | None,
        errors: InternalErrors,
        *,
        interval_seconds: float,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """`registry`: of this process. `unexported`: of metrics that only the windows show. `http`: counts the requests.

        `interval_seconds`: between two samples of the windows. `wall_clock`: Unix time in seconds.
        """
        self._own, self._unexported, self._http, self._errors = registry, unexported, http, errors
        self._interval_seconds, self._wall_clock = interval_seconds, wall_clock
        self._group: Group | None = None
        self._saved: SavedNumbers | None = None
        self._merged: MergedRegistry | None = None
        self._has_shared = False
        """Whether this process, or the one that it was forked from, has had a slot: what it counted then is in there."""
        self._read_own = RegistryReader(registry, errors, unexported)
        self._read_merged: RegistryReader | None = None

    def share(self, group: Group, records: RequestRecords) -> None:
        """Count in the slot of this process from now on, beginning with what is there."""
        if group.own is None:
            return
        seconds, clock = self._interval_seconds, self._wall_clock
        self._saved = SavedNumbers(
            *(self._own, group.own.blocks, self._errors),
            interval_seconds=seconds,
            unexported=self._unexported,
            is_counted=self._has_shared,
            wall_clock=clock,
        )
        self._merged = MergedRegistry(group.slots, self._errors, interval_seconds=seconds, wall_clock=clock)
        self._merged.show_as(self._own)
        self._read_merged = RegistryReader(self._merged.registry, self._errors, self._merged.unexported)
        self._group = group
        if self._http is not None:
            self._http.share(records)
        self._saved.save()
        # Before it serves: what siblings have counted so far may be so much that the garbage collector stops the event loop.
        self._merged.refresh(lambda: None)
        self._has_shared = True

    def leave(self) -> None:
        """Write everything into the slot for the last time, and count for this process alone."""
        if self._http is not None:
            self._http.share(None)
        self.save(for_page=True)
        if self._saved is not None:
            self._saved.close()
        self.abandon()

    def abandon(self) -> None:
        """Count for this process alone, and write nothing more: the slot is that of the process it was forked from."""
        if self._http is not None:
            self._http.share(None)
        if self._saved is not None:
            self._saved.abandon()
        self._group = self._saved = self._merged = self._read_merged = None

    def answer(self, for_page: Any) -> bytes:
        """Save for a sibling that asks."""
        self.save(for_page=for_page is True)
        return b""

    def save(self, *, for_page: bool = False) -> None:
        """Write what has changed into the slot."""
        if self._saved is not None:
            self._saved.save(for_page=for_page)

    def for_page(self, pause: _Pause) -> CollectorRegistry:
        """Return the registry of all workers, or of this process while it is alone, with the newest numbers.

        `pause` is called after each small portion of work.
        """
        merged = self._merged
        if merged is None:
            return self._own
        self._refresh(merged, pause, for_page=True)
        return merged.registry

    def _refresh(self, merged: MergedRegistry, pause: _Pause | None, *, for_page: bool) -> None:
        """Have all workers save, and read what they have saved; one that does not answer soon has saved a second ago."""
        group, saved = self._group, self._saved
        if group is None or saved is None:
            return
        # One that is stopped would have every page wait.
        oldest = time.monotonic() - QUIET_SECONDS
        sockets = [Path(path) for slot in group.siblings() if slot.heartbeat > oldest and (path := slot.socket)]
        if sockets:
            ask_all(sockets, SAVE, for_page, seconds=_ASK_SECONDS)
        saved.save(for_page=for_page, pause=pause)
        merged.refresh(pause)

    def readings(self) -> Iterator[Reading]:
        """Yield the metrics of all workers, for the windows."""
        merged, read = self._merged, self._read_merged
        if merged is None or read is None:
            return self._read_own()
        self._refresh(merged, None, for_page=False)
        return read()

    def families(self) -> Iterator[Metric]:
        """Yield the metrics of all workers without samples."""
        return (self._read_merged or self._read_own).families()

    def count_done(self, slot: Slot, record: Record) -> None:
        """Add a request to the numbers of a slot whose owner had not; does nothing the second time."""
        if self._http is None or not record.series:
            return
        block = slot.blocks.at(record.series)
        description = read_description(block.description)
        if description is None or isinstance(description, Definition):
            return
        values = block.read()
        _, words, _ = description
        start, end = 1 + words, len(values) - WIDTH - 1
        if record.number <= values[-1]:
            return
        shown = self._http.requests.families
        totals = Totals.of(values[start:end], len(shown.duration.buckets) + 1, len(shown.received.buckets) + 1)
        request = record.duration_us, record.received, record.sent, None, None
        after = self._http.requests.with_request(totals, request).numbers()
        block.write(array("d", [self._wall_clock(), *values[1:start], *after, *values[end:-1], record.number]))

"""The level of lines, and how it is changed for a while in a running process."""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from sage_fastapi_obs.log_levels import LEVELS
from sage_fastapi_obs.processes import at_fork
from sage_fastapi_obs.threads import start_thread

MOST_CHANGES = 100
MOST_NAMES = 1_000
"""Logger names whose level is remembered; names are the application's, and may be made up at run time."""


class TooManyChangesError(ValueError):
    """More loggers have a level of their own than anybody can oversee."""


@dataclass(frozen=True, slots=True)
class Change:
    """The level of a logger and those below it, or of all (None), until a time of the monotonic clock."""

    logger: str | None
    level: str
    ends_at: float


class Levels:
    """The configured level, and changes that end by themselves.

    `changed` is called after every change, as are all `followers`; `ended` with each change whose time is over.
    """

    def __init__(
        self,
        configured: str,
        changed: Callable[[], None],
        ended: Callable[[Change], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.configured = configured
        self.lowest = self.general = LEVELS[configured]
        """The lowest level of any logger, and the level of loggers without one of their own."""
        self.named: Mapping[str, int] = {}
        """Levels of loggers with one of their own, which loggers below them share."""
        self.followers = [changed]
        self._ended = ended
        self.clock = clock
        self._changes: dict[str | None, Change] = {}
        self.known_loggers: dict[str, int] = {}
        self._thread: threading.Thread | None = None
        self._seconds: float | None = None
        """From the last change until the first end; None without changes."""
        self._changed_ends = threading.Event()
        self.lock = threading.RLock()
        at_fork(in_child=self.restart)

    def severity_of(self, logger: str | None) -> int:
        """Return the lowest severity that is written of a logger."""
        if not self.named or logger is None:
            return self.general
        known = self.known_loggers
        severity = known.get(logger)
        if severity is None:
            if len(known) >= MOST_NAMES:
                known.clear()
            severity = known[logger] = self._resolve(logger)
        return severity

    def level_of(self, logger: str | None) -> str:
        """Name the lowest level that is written of a logger."""
        return next(name for name, severity in LEVELS.items() if severity == self.severity_of(logger))

    @property
    def changes(self) -> list[tuple[Change, float]]:
        """What differs from the configured level, with the seconds left, the general change first."""
        now = self.clock()
        changes = sorted(self._changes.copy().values(), key=lambda change: change.logger or "")
        return [(change, max(0.0, change.ends_at - now)) for change in changes]

    def change(self, logger: str | None, level: str | None, seconds: float) -> None:
        """Change a level for some seconds; None gives the configured one back.

        Raises `TooManyChangesError`, and `NoThreadError` where nothing could end the change.
        """
        with self.lock:
            if level is None:
                self._changes.pop(logger, None)
            elif logger not in self._changes and len(self._changes) >= MOST_CHANGES:
                raise TooManyChangesError(f"{MOST_CHANGES} loggers have a level of their own already: give some back first")
            else:
                if self._thread is None or not self._thread.is_alive():
                    self._thread = start_thread("sage-obs-levels", self._keep_time)
                self._changes[logger] = Change(logger, level, self.clock() + seconds)
            self._apply()

    def expire(self) -> None:
        """End the changes whose time is over."""
        with self.lock:
            now = self.clock()
            over = [change for change in self._changes.values() if change.ends_at <= now]
            for change in over:
                del self._changes[change.logger]
            self._apply()
        for change in over:
            self._ended(change)

    def close(self) -> None:
        """Give all levels back, and wait for nothing any more."""
        with self.lock:
            self._changes.clear()
            self._apply()

    def _resolve(self, logger: str) -> int:
        name, named = logger, self.named
        while name:
            if name in named:
                return named[name]
            name = name.rpartition(".")[0]
        return self.general

    def _apply(self) -> None:
        severities = {name: LEVELS[change.level] for name, change in self._changes.items()}
        self.general = severities.pop(None, LEVELS[self.configured])
        self.named = {name: severity for name, severity in severities.items() if name is not None}
        self.lowest = min((self.general, *self.named.values()))
        # A new one: a thread that is just resolving a name by the old levels remembers it in the old one.
        self.known_loggers = {}
        ends = [change.ends_at for change in self._changes.values()]
        self._seconds = max(0.0, min(ends) - self.clock()) if ends else None
        self._changed_ends.set()
        for follow in self.followers:
            follow()

    def _keep_time(self) -> None:
        """End each change when its time is over; the thread of this ends with the last one."""
        while (seconds := self._next_wait()) is not None:
            if not self._changed_ends.wait(seconds):
                self.expire()

    def _next_wait(self) -> float | None:
        with self.lock:
            self._changed_ends.clear()
            if self._seconds is None:
                self._thread = None
            return self._seconds

    def restart(self) -> None:
        """Give all levels back in a forked child, where nothing would ever end a change."""
        self.lock, self._changed_ends, self._thread = threading.RLock(), threading.Event(), None
        if self._changes:
            self.close()

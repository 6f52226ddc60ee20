"""Notices at once when sibling processes end, where the system has descriptors for processes; the tick does a second later."""

import os
from collections.abc import Callable, Iterable
from contextlib import suppress

from sage_fastapi_obs.workers.control_socket import ControlSocket


class EndWatch:
    """The descriptors of siblings, in the thread of the control socket; all methods are called in that thread."""

    def __init__(self, control: ControlSocket, ended: Callable[[], object]) -> None:
        """Watch nobody yet; `ended` is called when a sibling has ended."""
        self._control, self._ended = control, ended
        self._descriptors: dict[int, int] = {}

    def update(self, pids: Iterable[int]) -> None:
        """Watch these processes, and no others."""
        wanted = {*pids}
        for pid in [*self._descriptors.keys() - wanted]:
            self._forget(pid)
        if not hasattr(os, "pidfd_open"):
            return
        for pid in wanted - self._descriptors.keys():
            # It has ended already, or the system does not allow it.
            with suppress(OSError):
                self._descriptors[pid] = os.pidfd_open(pid)
                self._control.watch(self._descriptors[pid], self._ended)

    def close(self) -> None:
        """Watch nobody any more."""
        for descriptor in self._descriptors.values():
            os.close(descriptor)
        self._descriptors.clear()

    def _forget(self, pid: int) -> None:
        descriptor = self._descriptors.pop(pid)
        self._control.forget(descriptor)
        os.close(descriptor)

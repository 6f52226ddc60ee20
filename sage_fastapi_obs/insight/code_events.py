"""Tells when chosen functions of other libraries start, return or wait, by `sys.monitoring` of Python 3.12 and later.

Nothing is patched: the interpreter marks the code of these functions alone, and all other code runs as fast as before.
"""

import sys
from collections.abc import Callable, Iterable
from threading import Lock
from types import CodeType
from typing import Any, Literal, NamedTuple

_MONITORING: Any = getattr(sys, "monitoring", None)
IS_EXACT = _MONITORING is not None
"""Whether this interpreter tells of functions at all."""
_FREE_FOR_ALL = (4, 3, 5)
"""Ids of tools that are not reserved for debuggers, coverage and profilers."""
_TOOL = "sage_fastapi_obs"


class CodeEvent(NamedTuple):
    """A function to call, and where."""

    name: Literal["PY_START", "PY_RETURN", "PY_YIELD"]
    callback: Callable[..., None]
    codes: Iterable[CodeType]


class CodeEvents:
    """One registration for all of a process: there are few ids. It lasts as long as somebody uses it."""

    def __init__(self, events: Callable[[], Iterable[CodeEvent]]) -> None:
        """`events`: asked for at each start and end, as it may import what nobody may need."""
        self._events = events
        self._users: set[int] = set()
        self._lock = Lock()
        self._tool: int | None = None

    def start(self, user: object) -> None:
        """Call the functions from now on; do nothing where other tools have taken all ids."""
        with self._lock:
            self._users.add(id(user))
            if self._tool is None and _MONITORING is not None:
                self._tool = next(filter(_is_taken_now, _FREE_FOR_ALL), None)
                self._set(is_on=True)

    def stop(self, user: object) -> None:
        """Call them no more, once the last user has stopped, and give the id back."""
        with self._lock:
            self._users.discard(id(user))
            if not self._users and self._tool is not None:
                self._set(is_on=False)
                _MONITORING.free_tool_id(self._tool)
                self._tool = None

    def _set(self, *, is_on: bool) -> None:
        if self._tool is None:
            return
        wanted: dict[CodeType, int] = {}
        for name, callback, codes in self._events():
            event = getattr(_MONITORING.events, name)
            _MONITORING.register_callback(self._tool, event, callback if is_on else None)
            wanted |= {code: wanted.get(code, 0) | event for code in codes}
        for code, events in wanted.items():
            _MONITORING.set_local_events(self._tool, code, events if is_on else 0)


def _is_taken_now(tool: int) -> bool:
    """Take an id for us, unless another tool has it."""
    try:
        _MONITORING.use_tool_id(tool, _TOOL)
    except ValueError:
        return False
    return True

"""Several streams and files that get the same lines."""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Protocol

from sage_fastapi_obs.logs.line_format import Line
from sage_fastapi_obs.logs.outputs.stream import Stream

__all__ = ["Several", "open_each"]


class Several:
    """Writes to each what it is given; where one has lost lines, the others have them all the same."""

    def __init__(self, each: Sequence[Stream], failed: Callable[[Exception], None]) -> None:
        """`failed`: is told which cannot be opened."""
        self._each = each
        self._failed = failed
        self.at_once_bytes = min(one.at_once_bytes for one in each)
        """How much may be written together."""

    @property
    def is_terminal(self) -> bool:
        """Whether a person is watching each, who has not asked for no colours."""
        return all(one.is_terminal for one in self._each)

    def leads_to(self, target: object) -> bool:
        """Tell whether what is written to a stream, or to the file of a path, ends up where these lines do."""
        return any(one.leads_to(target) for one in self._each)

    def open(self) -> None:
        """Open all; raises only when none can be opened."""
        open_each(self._each, self._failed)

    def write(self, laid: Line, encoded: bytes, lines: int = 1) -> None:
        """Write one or more lines; raises when one of them has lost them."""
        failed: Exception | None = None
        for one in self._each:
            try:
                one.write(laid, encoded, lines)
            except Exception as error:
                failed = error
        if failed is not None:
            raise failed

    def flush(self) -> None:
        """Do nothing: no line is kept back on purpose."""

    def settle(self, seconds: float) -> None:
        """Write what waits, for no longer than some seconds in all."""
        deadline = time.monotonic() + seconds
        for one in self._each:
            one.settle(max(0.0, deadline - time.monotonic()))

    def close(self, seconds: float) -> None:
        """Write what waits, for no longer than some seconds in all, and close what was opened here."""
        deadline = time.monotonic() + seconds
        with ExitStack() as last:
            # Each is closed, whatever another one raises.
            for one in reversed(self._each):
                last.callback(_close_by, deadline, one)


class _Opens(Protocol):
    def open(self) -> None: ...


def open_each(places: Sequence[_Opens], failed: Callable[[Exception], None]) -> None:
    """Open all, and tell which cannot be opened; raises when that is all of them."""
    errors = []
    for place in places:
        try:
            place.open()
        except Exception as error:
            errors.append(error)
    if errors and len(errors) == len(places):
        raise errors[0]
    for one in errors:
        failed(one)


def _close_by(deadline: float, one: Stream) -> None:
    one.close(max(0.0, deadline - time.monotonic()))

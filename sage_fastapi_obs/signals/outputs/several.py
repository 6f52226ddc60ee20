"""Several streams and files that get the same lines."""

import time
from collections.abc import Sequence
from contextlib import ExitStack

from sage_fastapi_obs.signals.lines import Line
from sage_fastapi_obs.signals.outputs.stream import Stream

__all__ = ["Several"]


class Several:
    """Writes to each what it is given; where one has lost lines, the others have them all the same."""

    def __init__(self, each: Sequence[Stream]) -> None:
        self._each = each
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
        """Open all; raises what the first says that cannot be opened."""
        for one in self._each:
            one.open()

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


def _close_by(deadline: float, one: Stream) -> None:
    one.close(max(0.0, deadline - time.monotonic()))

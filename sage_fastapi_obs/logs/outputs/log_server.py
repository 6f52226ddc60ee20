"""Lines for a server: queued, and sent in the background."""

import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from sage_fastapi_obs.delivery.losses import Losses
from sage_fastapi_obs.delivery.queued_sender import Destination, Sender
from sage_fastapi_obs.delivery.senders import Senders
from sage_fastapi_obs.log_levels import LEVELS
from sage_fastapi_obs.logs.line_format import Encode, Line
from sage_fastapi_obs.logs.outputs.output import Output


class LineDestination(Destination, Protocol):
    """Where lines are sent."""

    encode: Encode
    """How it wants a line as JSON."""


class Server(Output):
    """Sends lines from a level on."""

    is_remote = True

    def __init__(
        self,
        destination: LineDestination,
        level: str,
        losses: Losses,
        log: Callable[[str, Mapping[str, Any]], None],
        failed: Callable[[Exception], None],
        senders: Senders,
        shutdown_seconds: float,
    ) -> None:
        """`log` writes a line that is not sent itself. `failed` is called when no thread can be started."""
        self.encode = destination.encode
        self.remarks = destination.remarks
        self.sender = Sender(destination, losses, log, failed)
        senders.add(self.sender, shutdown_seconds)
        self._threshold = LEVELS[level]

    def open(self) -> None:
        """Take lines from now on."""
        self.sender.open()

    def write(self, line: Line, encoded: bytes, lines: int = 1) -> None:  # noqa: ARG002 - they come one by one
        """Queue one line, or count it as lost when the queue is full."""
        if LEVELS[line["level"]] >= self._threshold:
            # A copy: what orjson returns holds on to a buffer of at least 4 KiB.
            self.sender.put(b"%b" % encoded, len(encoded))

    def stop(self, deadline: float) -> None:
        """Begin to send what waits until a time of `time.monotonic`; does not wait."""
        self.sender.stop(deadline)

    def drain(self, seconds: float) -> None:
        """Send what waits, for no longer than some seconds, and go on."""
        self.close(seconds)
        self.sender.reopen()

    def close(self, seconds: float) -> None:
        """Send what waits, for no longer than some seconds, and count the rest as lost."""
        self.sender.stop(time.monotonic() + seconds)
        self.sender.close()

"""What an output is: a stream, a file, a server, or several of these."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from typing import Any, TypeAlias

from sage_fastapi_obs.delivery.queued_sender import is_sending
from sage_fastapi_obs.logs.line_format import Encode, Line

AT_ONCE_BYTES = 4096
"""What a pipe with room takes whole and without waiting: PIPE_BUF."""
DeferredLine: TypeAlias = tuple[Callable[[Any], bytes], Any]
"""A line that is still to be made: by what, and of what."""


class Output(ABC):
    """Somewhere that lines go. The defaults are those of an output that keeps nothing back."""

    encode: Encode | None = None
    """How it wants lines; None: as they come."""
    at_once_bytes = AT_ONCE_BYTES
    """How much may be written together."""
    is_remote = False
    """Whether lines are sent to a server, so that lines about sending must not go there."""
    remarks: tuple[str, ...] = ()
    """Warnings about its configuration, logged at the start."""
    write_later: Callable[[DeferredLine], None] | None = None
    """Takes one line that is still to be made; None: it takes none."""

    @property
    def is_terminal(self) -> bool:
        """Whether lines go to a terminal that may show colours."""
        return False

    def leads_to(self, target: object) -> bool:  # noqa: ARG002 - for others to override
        """Tell whether a stream, or the file of a path, leads to the same place as these lines."""
        return False

    @abstractmethod
    def open(self) -> None:
        """Take lines from now on."""

    @abstractmethod
    def write(self, line: Line, encoded: bytes, lines: int = 1) -> None:
        """Write one line, or several that are encoded together; raises when they are lost."""

    def write_local(self, line: Line, encoded: bytes) -> None:
        """Write a line without sending it."""
        self.write(line, encoded)

    def flush(self) -> None:  # noqa: B027 - most have no batch
        """Write the batch."""

    def stop(self, deadline: float) -> None:  # noqa: B027 - streams and files have nothing to begin
        """Begin to send what waits until a time of `time.monotonic`; does not wait."""

    @abstractmethod
    def drain(self, seconds: float) -> None:
        """Write and send what waits, for no longer than some seconds, and go on."""

    @abstractmethod
    def close(self, seconds: float) -> None:
        """Write and send what waits, for no longer than some seconds, and count the rest as lost."""


class Outputs(Output):
    """Several outputs that get the same lines; where one has lost lines, the others have them all the same."""

    def __init__(self, each: Sequence[Output], failed: Callable[[Exception], None], encode: Encode | None = None) -> None:
        """Put them together, local ones first.

        `failed` is called for each stream or file that cannot be opened. `encode`: how the lines that come are encoded.
        """
        self.each = each
        self._local = [output for output in each if not output.is_remote]
        self._failed = failed
        self._encode = encode
        self._sends = len(self._local) < len(each)
        self.remarks = tuple(remark for output in each for remark in output.remarks)
        self.at_once_bytes = min(output.at_once_bytes for output in self._local)

    @property
    def is_terminal(self) -> bool:
        """Whether each output that takes lines as they come is a terminal that may show colours."""
        return all(output.is_terminal for output in self._local if output.encode is None)

    def leads_to(self, target: object) -> bool:
        """Tell whether a stream, or the file of a path, leads to the same place as these lines."""
        return any(output.leads_to(target) for output in self._local)

    def open(self) -> None:
        """Open all; raises when no local one can be opened."""
        errors = []
        for output in self.each:
            try:
                output.open()
            except Exception as error:
                errors.append(error)
        if len(errors) == len(self._local):
            raise errors[0]
        for each in errors:
            self._failed(each)

    def write(self, line: Line, encoded: bytes, lines: int = 1) -> None:
        """Write one or more lines; raises when one of the outputs has lost them."""
        if not (self._sends and is_sending()):
            self._write(self.each, line, encoded, lines)

    def write_local(self, line: Line, encoded: bytes) -> None:
        """Write a line to streams and files alone."""
        self._write(self._local, line, encoded, 1)

    def _write(self, outputs: Sequence[Output], line: Line, encoded: bytes, lines: int) -> None:
        failed: Exception | None = None
        for output in outputs:
            encode = output.encode
            try:
                output.write(line, encoded if encode is None or encode is self._encode else encode(line), lines)
            except Exception as error:
                failed = error
        if failed is not None:
            raise failed

    def flush(self) -> None:
        """Write the batch."""
        for output in self._local:
            output.flush()

    def stop(self, deadline: float) -> None:
        """Begin to send what waits until a time of `time.monotonic`; does not wait."""
        for output in self.each:
            output.stop(deadline)

    def drain(self, seconds: float) -> None:
        """Write and send what waits, for no longer than some seconds in all, and go on."""
        self._end([output.drain for output in self.each], seconds)

    def close(self, seconds: float) -> None:
        """Write and send what waits, for no longer than some seconds in all, and count the rest as lost."""
        self._end([output.close for output in self.each], seconds)

    def _end(self, ends: Iterable[Callable[[float], None]], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        self.stop(deadline)
        with ExitStack() as last:
            # Each is ended, whatever another one raises; the local ones last, as the others may log lines meanwhile.
            for end in ends:
                last.callback(lambda end: end(max(0.0, deadline - time.monotonic())), end)

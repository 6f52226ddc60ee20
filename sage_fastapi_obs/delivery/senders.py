"""All senders of one `Observability`: they are flushed together, and stop together, within one time limit."""

import time

from sage_fastapi_obs.delivery.queued_sender import Sender


class Senders:
    """Knows the senders of lines, spans and metrics."""

    def __init__(self) -> None:
        self._limits: list[tuple[Sender, float]] = []
        self._stopped_at: float | None = None

    def add(self, sender: Sender, seconds: float) -> None:
        """Take one, with how long its last batches may take at the end."""
        self._limits.append((sender, seconds))

    def start(self) -> None:
        """Begin anew."""
        self._stopped_at = None

    def flush(self, seconds: float) -> bool:
        """Send all that is queued, and wait for that no longer than some seconds in all; tell whether it was done."""
        deadline = time.monotonic() + seconds
        for sender, _ in self._limits:
            sender.hurry()
        waited = [sender.wait(deadline) for sender, _ in self._limits]
        return all(waited)

    def stop(self) -> None:
        """Let all begin to send the rest, once: however many wait for a collector that hangs, they wait at the same time."""
        if self._stopped_at is not None:
            return
        self._stopped_at = time.monotonic()
        for sender, seconds in self._limits:
            sender.stop(self._stopped_at + seconds)

    def seconds_left(self, seconds: float) -> float:
        """Stop, and return what is left of a time limit that began with the first stop."""
        self.stop()
        assert self._stopped_at is not None
        return max(0.0, self._stopped_at + seconds - time.monotonic())

"""Where log lines go, and what happens when they cannot."""

import stat
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from sage_fastapi_obs.settings import LoggingSettings, ServiceSettings
from sage_fastapi_obs.signals.lines import Line, json_format
from sage_fastapi_obs.signals.outputs.elasticsearch import Elasticsearch
from sage_fastapi_obs.signals.outputs.file import File
from sage_fastapi_obs.signals.outputs.gather import Gather
from sage_fastapi_obs.signals.outputs.losses import Losses
from sage_fastapi_obs.signals.outputs.otlp import Otlp
from sage_fastapi_obs.signals.outputs.sender import Destination, Sender, is_sending
from sage_fastapi_obs.signals.outputs.stream import Stream

__all__ = ["Losses", "Outputs", "outputs"]

Notice = Callable[[str, Mapping[str, Any]], tuple[Line, bytes]]


def outputs(
    settings: LoggingSettings,
    service: ServiceSettings,
    losses: Losses,
    notice: Notice,
    wall_clock: Callable[[], int],
    failed: Callable[[Exception], None],
    form: Callable[[Line], bytes] = json_format,
) -> "Stream | Gather | Outputs":
    """Build where lines go: a stream or file by itself, or with servers beside it.

    `notice` makes a line of ours, laid out and encoded, from a message and fields. `failed` is told why lines were lost that
    were written later, and of threads that cannot be started. `form` makes JSON of a line.
    """

    def missing(lines: int) -> bytes:
        return notice("log lines were lost here", {"lost": lines})[1]

    def tell(message: str, fields: Mapping[str, Any]) -> None:
        try:
            near.write(*notice(message, fields))
        except Exception as error:
            # What is said about one output does not stop it because another fails.
            failed(error)

    is_stream = settings.output in ("stdout", "stderr") or _is_device(settings.output)
    near: Stream | Gather
    if is_stream:
        near = Stream(settings.output, losses, missing, failed)
    else:
        near = File(settings, losses, missing, wall_clock, failed)
    if settings.format == "json" and settings.gather_seconds:
        near = Gather(near, settings.gather_seconds, failed)
    far = [Sender(place, level, losses, tell, failed) for place, level in _far(settings, service, form)]
    return Outputs(near, far, form if settings.format == "json" else None) if far else near


class Outputs:
    """A stream or file, and servers beside it."""

    def __init__(self, near: "Stream | Gather", far: Sequence[Sender], form: Callable[[Line], bytes] | None) -> None:
        """`form`: how the lines are encoded that are given here, where that is JSON."""
        self._near = near
        self._far = far
        self._form = form

    @property
    def is_terminal(self) -> bool:
        """Whether a person is watching, who has not asked for no colours."""
        return self._near.is_terminal

    def open(self) -> None:
        """Open everything; raises `SettingsError` when a file cannot be opened."""
        self._near.open()
        for sender in self._far:
            sender.open()

    def write(self, laid: Line, encoded: bytes) -> None:
        """Write a line, given as it was laid out and as it was encoded; raises when the stream or file has lost it."""
        if is_sending():
            return
        try:
            self._near.write(laid, encoded)
        finally:
            for sender in self._far:
                sender.write(laid, encoded if sender.form is self._form else sender.form(laid))

    def flush(self) -> None:
        """Write what has gathered to the stream or file."""
        self._near.flush()

    def settle(self, seconds: float) -> None:
        """Write and send what waits, for no longer than some seconds in all, and go on."""
        deadline = time.monotonic() + seconds
        for sender in self._far:
            sender.stop(deadline)
        for sender in self._far:
            sender.close()
            sender.reopen()
        self._near.settle(max(0.0, deadline - time.monotonic()))

    def close(self, seconds: float) -> None:
        """Write and send what waits, for no longer than some seconds in all, and count the rest as lost."""
        deadline = time.monotonic() + seconds
        with ExitStack() as last:
            # Each is closed, whatever another one raises; the nearest last, as the others may have something to say.
            last.callback(lambda: self._near.close(max(0.0, deadline - time.monotonic())))
            for sender in self._far:
                last.callback(sender.close)
                sender.stop(deadline)


def _far(settings: LoggingSettings, service: ServiceSettings, form: Callable[[Line], bytes]) -> list[tuple[Destination, str]]:
    places: list[tuple[Destination, str]] = []
    if settings.elasticsearch_url is not None:
        places.append((Elasticsearch(settings, form), settings.elasticsearch_level))
    if settings.otlp_endpoint is not None:
        places.append((Otlp(settings, service), "trace"))
    return places


def _is_device(path: str) -> bool:
    """Tell whether a path is something that cannot be rotated: a device, or a named pipe."""
    try:
        mode = Path(path).stat().st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))

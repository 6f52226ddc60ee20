"""Where log lines go, and what happens when they cannot."""

import stat
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeAlias

from sage_fastapi_obs.delivery.losses import Losses
from sage_fastapi_obs.delivery.queued_sender import LineDestination, LineSender, is_sending
from sage_fastapi_obs.logs.line_format import Line, json_format
from sage_fastapi_obs.logs.outputs.batching import BatchingOutput
from sage_fastapi_obs.logs.outputs.elasticsearch import Elasticsearch
from sage_fastapi_obs.logs.outputs.file import File
from sage_fastapi_obs.logs.outputs.multiple import Several, open_each
from sage_fastapi_obs.logs.outputs.otlp import Otlp
from sage_fastapi_obs.logs.outputs.stream import Stream
from sage_fastapi_obs.settings import LoggingSettings, ServiceSettings

__all__ = ["Losses", "Outputs", "outputs"]

Notice = Callable[[str, Mapping[str, Any]], tuple[Line, bytes]]
Form: TypeAlias = Callable[[Line], bytes]
Near: TypeAlias = Stream | Several | BatchingOutput


def outputs(
    settings: LoggingSettings,
    service: ServiceSettings,
    losses: Losses,
    notice: Notice,
    wall_clock: Callable[[], int],
    failed: Callable[[Exception], None],
    form: Form = json_format,
) -> "Near | Outputs":
    """Build where lines go: a stream or file by itself, or several, and servers beside them.

    `notice` makes a line of ours, laid out and encoded, from a message and fields. `failed` is told why lines were lost that
    were written later, and of threads that cannot be started. `form` makes JSON of a line.
    """

    def missing(lines: int) -> bytes:
        return notice("log lines were lost here", {"lost": lines})[1]

    def tell(message: str, fields: Mapping[str, Any]) -> None:
        laid, encoded = notice(message, fields)
        for place, its_form in near:
            try:
                place.write(laid, encoded if its_form is None else its_form(laid))
            except Exception as error:
                # What is said about one output does not stop it because another fails.
                failed(error)

    def built(target: str) -> Stream:
        if _is_stream(target):
            return Stream(target, losses, missing, failed)
        return File(settings.model_copy(update={"output": target, "outputs": ()}), losses, missing, wall_clock, failed)

    near = _near(settings, built, form, failed)
    far = [LineSender(place, level, losses, tell, failed) for place, level in _far(settings, service, form)]
    if far or len(near) > 1:
        return Outputs(near, far, form if settings.format == "json" else None, failed)
    return near[0][0]


def _near(
    settings: LoggingSettings, built: Callable[[str], Stream], form: Form, failed: Callable[[Exception], None]
) -> list[tuple[Near, Form | None]]:
    """Build the streams and files, each with how it encodes lines, where not as given."""

    def together(targets: Sequence[str], *, gathers: bool) -> Near:
        each = [built(target) for target in targets]
        near = each[0] if len(each) == 1 else Several(each, failed)
        return BatchingOutput(near, settings.gather_seconds, failed) if gathers and settings.gather_seconds else near

    targets = settings.targets
    if settings.format == "json":
        return [(together(targets, gathers=True), None)]
    watched = [target for target in targets if _is_stream(target)] or targets
    # People watch the streams; what is in a file beside them is for machines.
    files = [target for target in targets if target not in watched]
    near: list[tuple[Near, Form | None]] = [(together(watched, gathers=False), None)]
    return [*near, (together(files, gathers=True), form)] if files else near


class Outputs:
    """Streams and files, and servers beside them."""

    def __init__(
        self,
        near: Sequence[tuple[Near, Form | None]],
        far: Sequence[LineSender],
        form: Form | None,
        failed: Callable[[Exception], None],
    ) -> None:
        """Put them together.

        `near`: with how each encodes lines, where not as given. `form`: how the lines are encoded that are given here, where
        that is JSON. `failed`: is told which of several streams and files cannot be opened.
        """
        self._near = near
        self._far = far
        self.remarks = tuple(remark for sender in far for remark in sender.remarks)
        """What is odd about the servers, told at the start."""
        self._form = form
        self._failed = failed

    @property
    def is_terminal(self) -> bool:
        """Whether a person is watching, who has not asked for no colours."""
        return self._near[0][0].is_terminal

    def leads_to(self, target: object) -> bool:
        """Tell whether what is written to a stream, or to the file of a path, ends up where these lines do."""
        return any(place.leads_to(target) for place, _ in self._near)

    def open(self) -> None:
        """Open everything; raises `SettingsError` when no stream or file can be opened."""
        open_each([place for place, _ in self._near], self._failed)
        for sender in self._far:
            sender.open()

    def write(self, laid: Line, encoded: bytes) -> None:
        """Write a line, given as it was laid out and as it was encoded; raises when a stream or file has lost it."""
        if is_sending():
            return
        try:
            self.write_near(laid, encoded)
        finally:
            for sender in self._far:
                sender.write(laid, encoded if sender.form is self._form else sender.form(laid))

    def write_near(self, laid: Line, encoded: bytes) -> None:
        """Write a line to streams and files alone; raises when one has lost it."""
        failed: Exception | None = None
        for place, form in self._near:
            try:
                place.write(laid, encoded if form is None else form(laid))
            except Exception as error:
                failed = error
        if failed is not None:
            raise failed

    def flush(self) -> None:
        """Write what has gathered to streams and files."""
        for place, _ in self._near:
            place.flush()

    def settle(self, seconds: float) -> None:
        """Write and send what waits, for no longer than some seconds in all, and go on."""
        deadline = time.monotonic() + seconds
        for sender in self._far:
            sender.stop(deadline)
        for sender in self._far:
            sender.close()
            sender.reopen()
        for place, _ in self._near:
            place.settle(max(0.0, deadline - time.monotonic()))

    def close(self, seconds: float) -> None:
        """Write and send what waits, for no longer than some seconds in all, and count the rest as lost."""
        deadline = time.monotonic() + seconds
        with ExitStack() as last:
            # Each is closed, whatever another one raises; the near ones last, as the others may have something to say.
            for place, _ in self._near:
                last.callback(_close_by, deadline, place)
            for sender in self._far:
                last.callback(sender.close)
                sender.stop(deadline)


def _close_by(deadline: float, place: Near) -> None:
    place.close(max(0.0, deadline - time.monotonic()))


def _is_stream(target: str) -> bool:
    return target in ("stdout", "stderr") or _is_device(target)


def _far(settings: LoggingSettings, service: ServiceSettings, form: Form) -> list[tuple[LineDestination, str]]:
    places: list[tuple[LineDestination, str]] = []
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

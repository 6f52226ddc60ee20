"""Where log lines go. Each kind of output is a file here, and a function in `OUTPUTS` that builds it from the settings."""

import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sage_fastapi_obs.delivery.losses import Losses
from sage_fastapi_obs.delivery.senders import Senders
from sage_fastapi_obs.logs.line_format import Encode
from sage_fastapi_obs.logs.outputs.batching import BatchingOutput
from sage_fastapi_obs.logs.outputs.elasticsearch import Elasticsearch
from sage_fastapi_obs.logs.outputs.file import File
from sage_fastapi_obs.logs.outputs.log_server import LineDestination, Server
from sage_fastapi_obs.logs.outputs.otlp import Otlp
from sage_fastapi_obs.logs.outputs.output import Output, Outputs
from sage_fastapi_obs.logs.outputs.stream import Stream
from sage_fastapi_obs.settings import LoggingSettings, ServiceSettings

__all__ = ["OUTPUTS", "OutputParts", "build_output"]


class OutputParts(NamedTuple):
    """What outputs are built from."""

    settings: LoggingSettings
    service: ServiceSettings
    encode: Encode
    """Makes JSON of a line."""
    losses: Losses
    wall_clock: Callable[[], int]
    log: Callable[[str, Mapping[str, Any]], None]
    """Writes a line about sending, which is not sent itself."""
    gap_line: Callable[[int], bytes]
    """Makes the line that says how many lines are missing at its place."""
    failed: Callable[[Exception], None]
    """Called when lines are lost after they were queued, and when a thread or an output cannot be started."""
    senders: Senders


def build_output(parts: OutputParts) -> Output:
    """Build where lines go: one output by itself, or several together."""
    built = [output for build in OUTPUTS for output in build(parts)]
    return built[0] if len(built) == 1 else Outputs(built, parts.failed, None if _is_for_people(parts) else parts.encode)


def _streams_and_files(parts: OutputParts) -> Iterator[Output]:
    targets = parts.settings.targets
    if not _is_for_people(parts):
        yield _gathered(parts, targets)
        return
    # People watch the streams; what is in a file beside them is for machines.
    watched = [target for target in targets if _is_stream(target)] or targets
    yield from (_stream_or_file(parts, target) for target in watched)
    if files := [target for target in targets if target not in watched]:
        output = _gathered(parts, files)
        output.encode = parts.encode
        yield output


def _elasticsearch(parts: OutputParts) -> Iterator[Output]:
    if parts.settings.elasticsearch_url is not None:
        yield _server(parts, Elasticsearch(parts.settings, parts.encode), parts.settings.elasticsearch_level)


def _otlp(parts: OutputParts) -> Iterator[Output]:
    if parts.settings.otlp_endpoint is not None:
        yield _server(parts, Otlp(parts.settings, parts.service), "trace")


OUTPUTS: tuple[Callable[[OutputParts], Iterator[Output]], ...] = (_streams_and_files, _elasticsearch, _otlp)
"""What builds the outputs that the settings name, local ones first."""


def _gathered(parts: OutputParts, targets: Sequence[str]) -> Output:
    """Build streams and files whose lines are gathered, where the settings want that."""
    each = [_stream_or_file(parts, target) for target in targets]
    output = each[0] if len(each) == 1 else Outputs(each, parts.failed)
    seconds = parts.settings.gather_seconds
    return BatchingOutput(output, seconds, parts.failed) if seconds else output


def _stream_or_file(parts: OutputParts, target: str) -> Output:
    if _is_stream(target):
        return Stream(target, parts.losses, parts.gap_line, parts.failed)
    settings = parts.settings.model_copy(update={"output": target, "outputs": ()})
    return File(settings, parts.losses, parts.gap_line, parts.wall_clock, parts.failed)


def _server(parts: OutputParts, destination: LineDestination, level: str) -> Output:
    seconds = parts.settings.shutdown_seconds
    return Server(destination, level, parts.losses, parts.log, parts.failed, parts.senders, seconds)


def _is_for_people(parts: OutputParts) -> bool:
    return parts.settings.format == "console"


def _is_stream(target: str) -> bool:
    """Tell whether something cannot be rotated: a standard stream, a device, or a named pipe."""
    if target in ("stdout", "stderr"):
        return True
    try:
        mode = Path(target).stat().st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))

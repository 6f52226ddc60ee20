"""`sage-obs case`: what happened under an id, as one JSON file that others can open with `sage-obs show`."""

import argparse
import gzip
import os
import sys
import zlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from sage_fastapi_obs.cli.request_sources import (
    MOST_BYTES,
    NotKeptError,
    Source,
    SourceError,
    add_source_arguments,
    bounded,
    parsed,
    sources_of,
)
from sage_fastapi_obs.endpoints.request_stories import StoriesOfId

HELP = "Write what happened under an id into one file, for others to open with `sage-obs show FILE`."
FAILED = 1
_GZIP = b"\x1f\x8b"
_PIECE_BYTES = 64 * 1024


class Case(StoriesOfId):
    """What happened under an id."""

    format: Literal["sage-obs-case/1"] = "sage-obs-case/1"
    id: str
    lines: list[dict[str, Any]] = Field(default_factory=list)
    """Lines with the id, where no request is kept that has it."""

    def encoded(self) -> bytes:
        """Write it as JSON, without the oldest requests if they are too many to be read again."""
        content = self.model_dump_json().encode()
        if len(content) <= MOST_BYTES:
            return content
        if len(self.stories) < 2:
            raise SourceError(f"the case is larger than {MOST_BYTES // 1024 // 1024} MiB")
        note = "older requests are left out, as the case would be too large"
        return self.model_copy(update={"stories": self.stories[:-1], "note": note}).encoded()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.add_argument("id", metavar="ID", help="request, correlation or trace id, or the key of one request")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="file to write; packed if it ends in .gz")
    add_source_arguments(parser)


def run(given: argparse.Namespace) -> int:
    """Write the file, and say so; return the exit code."""
    try:
        content = find_case(sources_of(given), given.id).encoded()
        _write(given.out, gzip.compress(content) if given.out.suffix == ".gz" else content)
    except (SourceError, OSError) as error:
        print(f"sage-obs case: {error}", file=sys.stderr)
        return FAILED
    print(given.out)
    return 0


def find_case(sources: Sequence[Source], some_id: str) -> Case:
    """Ask one source after another for requests with an id, or else for lines; raises `SourceError` if there is neither."""
    first, *others = sources
    try:
        return _find_case(first, some_id)
    except SourceError:
        for other in others:
            with suppress(SourceError):
                return _find_case(other, some_id)
        raise


def _find_case(source: Source, some_id: str) -> Case:
    try:
        return Case(id=some_id, **dict(source.stories(some_id)))
    except NotKeptError:
        if lines := source.lines(some_id):
            return Case(id=some_id, stories=[], lines=lines)
        raise


def read_case(path: Path) -> Case:
    """Read a file that may come from anybody; raises `SourceError` for what is no case."""
    try:
        with path.open("rb") as file:
            is_packed = file.read(2) == _GZIP
            file.seek(0)
            content = file if not is_packed else gzip.GzipFile(fileobj=file)
            return parsed(Case, bounded(iter(lambda: content.read(_PIECE_BYTES), b""), path), path)
    except (OSError, EOFError, zlib.error) as error:
        raise SourceError(f"cannot read {path}: {error}") from None


def _write(path: Path, content: bytes) -> None:
    """Write a file for nobody else's eyes."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(content)

"""The exception of a request: its stack in pieces that can be folded, as most of its frames are of libraries."""

import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel

from sage_fastapi_obs.store.reader import dicts_of
from sage_fastapi_obs.store.records import Story

_FRAME = re.compile(r'[ |+-]*File "([^"\n]*)", line ([0-9]{1,9})(?:, in (.*))?')
_INNER = re.compile(r"[ |]*(?: {4}|\t)")
"""How the rows of a frame below its first begin: source, and signs below it."""
_LIBRARY = re.compile(r"[/\\](?:site|dist)-packages[/\\]|[/\\]lib(?:64)?[/\\]python[0-9.]+[/\\]|^<")
_OWN = str(Path(__file__).parents[1])
_MOST_PIECES = 1_000


class StackPiece(BaseModel):
    """Some rows of a stack, as they were written."""

    kind: Literal["application", "library", "text"]
    text: str
    frames: int = 0
    """How many frames they are."""
    place: str | None = None
    """Of one frame of the application: `app/report.py:14`, as its file is written in the stack."""


class ShownError(BaseModel):
    """The exception of a request."""

    type: str
    message: str
    place: str | None
    """The innermost line of the application: `app/report.py:14`."""
    stack: list[StackPiece]

    @classmethod
    def of(cls, found: Mapping[str, Any], places: Iterable[str]) -> Self | None:
        """Read a span's event or a line's `error`; None where there is no stack."""
        type_, message, stack = (_first_text(found, names) for names in _ERROR_NAMES)
        if not stack:
            return None
        pieces = stack_pieces(stack, places)
        return cls(type=type_, message=message, place=innermost(pieces), stack=pieces)


_ERROR_NAMES = (("exception.type", "type"), ("exception.message", "message"), ("exception.stacktrace", "stack_trace"))


def _first_text(found: Mapping[str, Any], names: Iterable[str]) -> str:
    return next((value for name in names if isinstance(value := found.get(name), str)), "")


def error_of(story: Story, *, with_lines: bool) -> ShownError | None:
    """Find the exception: of the request's own span, of the spans below it, of its lines."""
    spans = sorted(story.spans, key=lambda span: span.get("span_id") != story.request.span_id)
    events = (event for span in spans for event in reversed(dicts_of(span, "events")) if event.get("name") == "exception")
    noted = [*(event.get("attributes") for event in events), *(line.get("error") for line in story.lines if with_lines)]
    words = " ".join(str(found.get("text")) for found in story.why).split()
    places = [word for word in words if word.rpartition(":")[2].isdecimal()]
    shown = (ShownError.of(found, places) for found in noted if isinstance(found, dict))
    return next((error for error in shown if error is not None), None)


def stack_pieces(stack: str, places: Iterable[str] = ()) -> list[StackPiece]:
    """Divide a stack. Frames of libraries that follow each other are one piece.

    `places`: lines that are known to be the application's, also where its package is installed as libraries are.
    """
    known = tuple(places)
    pieces: list[StackPiece] = []
    for kind, group in groupby(_rows(stack, known), key=lambda piece: piece.kind):
        several = [*group]
        pieces += several if kind == "application" else [_joined(several)]
    return pieces[:_MOST_PIECES]


def innermost(pieces: Iterable[StackPiece]) -> str | None:
    """Return the last line of the application in a stack: Python writes the innermost frame last."""
    return next((piece.place for piece in reversed([*pieces]) if piece.place), None)


def _joined(pieces: list[StackPiece]) -> StackPiece:
    text = "\n".join(piece.text for piece in pieces)
    return StackPiece(kind=pieces[0].kind, text=text, frames=sum(piece.frames for piece in pieces))


def _rows(stack: str, places: tuple[str, ...]) -> Iterator[StackPiece]:
    """Yield each frame with its rows, and each other row."""
    frame: StackPiece | None = None
    for row in stack.rstrip("\n").split("\n"):
        if (found := _FRAME.fullmatch(row)) is not None:
            if frame is not None:
                yield frame
            frame = _frame(row, found[1], int(found[2]), places)
        elif frame is not None and _INNER.match(row):
            frame.text += f"\n{row}"
        else:
            if frame is not None:
                yield frame
            frame = None
            yield StackPiece(kind="text", text=row)
    if frame is not None:
        yield frame


def _frame(row: str, file: str, line: int, places: tuple[str, ...]) -> StackPiece:
    place = f"{file}:{line}"
    is_library = (_LIBRARY.search(file) or file.startswith(_OWN)) and not any(_ends_with(place, known) for known in places)
    if is_library:
        return StackPiece(kind="library", text=row, frames=1)
    return StackPiece(kind="application", text=row, frames=1, place=place)


def _ends_with(place: str, known: str) -> bool:
    return place == known or place.endswith((f"/{known}", f"\\{known}"))

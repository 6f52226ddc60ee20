"""What a terminal can show: rows of a bounded width, in characters that it has, without anything that it would obey."""

import os
import shutil
import sys
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

from sage_fastapi_obs.logs.line_format import escape_controls

_LEAST_WIDTH = 40
_USUAL_WIDTH = 100
"""Where the output is no terminal."""
_LONGEST_TEXT = 2_000
"""Characters of one value that are looked at: more is in the JSON."""
_INDENT = "    "


class Signs(NamedTuple):
    """What trees, bars and cuts are drawn with."""

    branch: str
    last: str
    passing: str
    gap: str
    event: str
    bar: str
    more: str


_UNICODE = Signs("├─ ", "└─ ", "│  ", "   ", "• ", "█", "…")
_ASCII = Signs("|- ", "`- ", "|  ", "   ", "* ", "#", "~")


class Screen:
    """Standard output, or what stands in for it."""

    def __init__(self) -> None:
        self._encoding = sys.stdout.encoding or "utf-8"
        self.width = max(_LEAST_WIDTH, shutil.get_terminal_size((_USUAL_WIDTH, 24)).columns)
        self._has_end = sys.stdout.isatty() or bool(os.environ.get("COLUMNS"))
        self.signs = _UNICODE if self._can_show("".join(_UNICODE)) else _ASCII

    def _can_show(self, text: str) -> bool:
        try:
            text.encode(self._encoding)
        except (UnicodeEncodeError, LookupError):
            return False
        return True

    def row(self, text: str) -> None:
        """Print a row, cut where the screen ends; whole for another program, which may search it."""
        row = self._encodable(text.rstrip())
        print(self.cut(row, self.width) if self._has_end else row)

    def wrapped(self, text: str) -> None:
        """Print a text that is longer than a row on several, the later ones indented; between words, where there are any."""
        text = self._encodable(text.rstrip())
        while text != (row := _beginning(text, self.width)):
            end = row.rfind(" ", len(_INDENT) + 1) + 1 or len(row)
            print(text[:end].rstrip())
            text = _INDENT + text[end:]
        print(text)

    def table(self, titles: Sequence[str], rows: Sequence[Sequence[str | float]]) -> None:
        """Print rows in columns that are as wide as they have to be, numbers to the right; the last one has the rest."""
        texts = [titles, *([_text_of(value) for value in row] for row in rows)]
        widths = [max(map(cells_of, column)) for column in zip(*texts, strict=True)][:-1]
        is_number = [not isinstance(value, str) for value in (rows or [titles])[0]]
        for *row, last in texts:
            spaces = [" " * (width - cells_of(text)) for text, width in zip(row, widths, strict=True)]
            padded = [
                space + text if right else text + space for text, space, right in zip(row, spaces, is_number, strict=False)
            ]
            self.row("  ".join([*padded, last]))

    def cut(self, text: str, width: int) -> str:
        """Cut a text to so many columns, with a sign that there is more."""
        beginning = _beginning(text, width)
        return text if beginning == text else _beginning(text, width - 1) + self.signs.more

    def _encodable(self, text: str) -> str:
        return text.encode(self._encoding, "backslashreplace").decode(self._encoding)


def plain(value: object) -> str:
    """Write a value of a request on one row, harmless for any terminal; what is very long is left out."""
    return escape_controls((value if isinstance(value, str) else str(value))[:_LONGEST_TEXT])


def _text_of(value: str | float) -> str:
    return f"{value:.1f}" if isinstance(value, float) else str(value)


def cells_of(text: str) -> int:
    """Count the columns that a text takes."""
    return len(text) if text.isascii() else sum(map(_cells_of_sign, text))


def _beginning(text: str, width: int) -> str:
    """Return as much of a text as so many columns have room for."""
    if len(text) <= width and text.isascii():
        return text
    used = 0
    for place, sign in enumerate(text):
        used += _cells_of_sign(sign)
        if used > width:
            return text[:place]
    return text


def _cells_of_sign(sign: str) -> int:
    if unicodedata.combining(sign):
        return 0
    return 2 if unicodedata.east_asian_width(sign) in "WF" else 1

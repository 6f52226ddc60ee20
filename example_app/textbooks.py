"""Textbooks: pages with pictures, a tutor that finds the page that answers a question."""

import re
import uuid
from collections import Counter, OrderedDict
from dataclasses import dataclass
from html import escape

__all__ = ["Library", "Textbook", "illustrate", "tokens"]

MOST_TEXTBOOKS = 200
_WORD = re.compile(r"\w+")
_NOT_IN_XML = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f]")


@dataclass(frozen=True, slots=True)
class Textbook:
    id: str
    grade_level: str
    subject: str
    pages: tuple[str, ...]

    def answer(self, question: str) -> str:
        """Find the page that has most in common with a question."""
        wanted = Counter(tokens(question))
        return max(self.pages, key=lambda page: (Counter(tokens(page)) & wanted).total())


class Library:
    """The textbooks there are, the oldest of which make room for new ones."""

    def __init__(self) -> None:
        self._textbooks: OrderedDict[str, Textbook] = OrderedDict()
        self._learning: Counter[str] = Counter()

    def add(self, grade_level: str, subject: str, pages: tuple[str, ...]) -> Textbook:
        textbook = Textbook(uuid.uuid4().hex[:12], grade_level, subject, pages)
        self._textbooks[textbook.id] = textbook
        while len(self._textbooks) > MOST_TEXTBOOKS:
            self._textbooks.popitem(last=False)
        return textbook

    def find(self, textbook_id: str) -> Textbook | None:
        return self._textbooks.get(textbook_id)

    def start(self, textbook_id: str) -> None:
        """Begin to learn."""
        self._learning[textbook_id] += 1

    def end(self, textbook_id: str) -> bool:
        """Stop learning; False if nobody was."""
        if not self._learning[textbook_id]:
            del self._learning[textbook_id]
            return False
        self._learning[textbook_id] -= 1
        return True


def illustrate(page: str) -> str:
    """Draw a page's title as SVG; `ValueError` if it holds what no drawing can."""
    title = page.partition("\n")[0]
    if _NOT_IN_XML.search(title):
        raise ValueError("a character that cannot be drawn")
    return f'<svg xmlns="http://www.w3.org/2000/svg" width="400" height="60"><text y="40">{escape(title)}</text></svg>'


def tokens(text: str) -> list[str]:
    """Cut a text into its words."""
    return _WORD.findall(text.lower())

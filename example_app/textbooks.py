"""Textbooks: pages with pictures, a tutor that finds the page that answers a question."""

import re
import time
import uuid
from collections import Counter, OrderedDict
from dataclasses import dataclass
from html import escape
from typing import Annotated

from fastapi import APIRouter, Depends, HTTPException, Request
from pydantic import BaseModel, Field

from sage_fastapi_obs import RequestLogger, operation
from sage_fastapi_obs.packs.textbook import ai_tokens_used, learning_session, textbook_created

__all__ = ["Library", "Textbook", "api", "illustrate", "tokens"]

api = APIRouter(tags=["textbooks"])
MODEL = "lookup-1"
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
            oldest, _ = self._textbooks.popitem(last=False)
            for _ in range(self._learning.pop(oldest, 0)):
                learning_session(oldest).end()
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


def _library(request: Request) -> Library:
    library: Library = request.app.state.library
    return library


TheLibrary = Annotated[Library, Depends(_library)]


def _known(textbook_id: str, library: TheLibrary) -> str:
    if library.find(textbook_id) is None:
        raise HTTPException(404, "no such textbook")
    return textbook_id


KnownTextbook = Annotated[str, Depends(_known)]


class NewTextbook(BaseModel):
    user_id: int = 1
    grade_level: str = Field(pattern=r"^[a-z0-9-]{1,20}$")
    subject: str = Field(pattern=r"^[a-z-]{1,20}$")
    pages: list[str] = Field(min_length=1, max_length=50)


@api.post("/textbooks", status_code=201)
def create_textbook(new: NewTextbook, library: TheLibrary, log: RequestLogger) -> dict[str, str | int]:
    """Make a textbook; a page whose picture cannot be drawn goes without."""
    started = time.perf_counter()
    textbook = library.add(new.grade_level, new.subject, tuple(new.pages))
    pictures = sum(_draw(number, page, log) for number, page in enumerate(textbook.pages, 1))
    textbook_created(new.grade_level, new.subject)
    took = (time.perf_counter() - started) * 1_000
    log.info(
        "Textbook created",
        textbook_id=textbook.id,
        user_id=new.user_id,
        page_count=len(textbook.pages),
        processing_time_ms=round(took, 3),
    )
    return {"textbook_id": textbook.id, "pictures": pictures}


def _draw(number: int, page: str, log: RequestLogger) -> bool:
    try:
        with operation("illustrate", page_id=number):
            illustrate(page)
    except ValueError as error:
        log.error("Failed to generate image", exc=error, page_id=number, attempt=1)  # noqa: TRY400 - no logger of the standard library
        return False
    return True


@api.post("/textbooks/{textbook_id}/sessions/start", status_code=204)
async def start_learning(textbook_id: KnownTextbook, library: TheLibrary) -> None:
    """Begin to learn."""
    library.start(textbook_id)
    learning_session(textbook_id).start()


@api.post("/textbooks/{textbook_id}/sessions/end", status_code=204)
async def end_learning(textbook_id: KnownTextbook, library: TheLibrary) -> None:
    """Stop learning."""
    if not library.end(textbook_id):
        raise HTTPException(409, "nobody is learning from this")
    learning_session(textbook_id).end()


class Question(BaseModel):
    textbook_id: str
    question: str = Field(min_length=1, max_length=1_000)


@api.post("/ai/ask")
async def ask(asked: Question, library: TheLibrary) -> dict[str, str | int]:
    """Ask the tutor, a model that answers with the page that fits best."""
    textbook = library.find(asked.textbook_id)
    if textbook is None:
        raise HTTPException(404, "no such textbook")
    with operation("tutor.answer", model=MODEL):
        answer = textbook.answer(asked.question)
    used = len(tokens(asked.question)) + len(tokens(answer))
    ai_tokens_used("tutor", MODEL, used)
    return {"answer": answer, "tokens": used}

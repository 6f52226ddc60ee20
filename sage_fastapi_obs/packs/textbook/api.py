"""The metrics of the pack `textbook`: textbooks, learning sessions, and the tokens that they cost."""

from types import TracebackType
from typing import Self

from sage_fastapi_obs.operations.count import add_to_gauge, count, set_gauge, take_from_gauge

__all__ = ["LearningSession", "ai_tokens_used", "learning_session", "set_active_users", "textbook_created"]


def textbook_created(grade_level: str, subject: str) -> None:
    """Count a textbook."""
    count("textbooks_created_total", grade_level, subject)


class LearningSession:
    """A learning session: `with learning_session(…)`, or `start()` and `end()` where it ends elsewhere."""

    __slots__ = ("_textbook_id",)

    def __init__(self, textbook_id: str) -> None:
        self._textbook_id = textbook_id

    def start(self) -> Self:
        """Count it in."""
        add_to_gauge("active_learning_sessions", self._textbook_id)
        return self

    def end(self) -> None:
        """Count it out; a textbook without sessions is no longer shown."""
        take_from_gauge("active_learning_sessions", self._textbook_id, forget=True)

    def __enter__(self) -> Self:
        """Count it in."""
        return self.start()

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        """Count it out."""
        self.end()


def learning_session(textbook_id: str) -> LearningSession:
    """Count a learning session as active while it lasts."""
    return LearningSession(textbook_id)


def ai_tokens_used(component: str | None = None, model: str = "", n: int = 0, *, service: str = "") -> None:
    """Count tokens that a component, such as `tutor`, has used of a model; `service` is an older word for the component."""
    count("ai_tokens_used_total", service if component is None else component, model, by=n)


def set_active_users(n: int) -> None:
    """Tell how many users are active now."""
    set_gauge("active_users", n)

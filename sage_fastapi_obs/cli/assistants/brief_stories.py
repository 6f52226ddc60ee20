"""Stories for an assistant: the stack of an exception stands in them once, without the frames of libraries."""

from typing import Any

from pydantic import BaseModel

from sage_fastapi_obs.cli.case import Case
from sage_fastapi_obs.endpoints.request_stories import RequestStory
from sage_fastapi_obs.endpoints.shown_error import StackPiece

_IN_ERROR = "(the stack in `error`)"


def brief_stories(case: Case) -> dict[str, Any]:
    """Return what a case holds, without repetitions."""
    return {**plain_data(case), "stories": [*map(_brief, case.stories)]}


def plain_data(model: BaseModel) -> dict[str, Any]:
    """Return what a model says beyond its defaults, for JSON."""
    return model.model_dump(mode="json", exclude_none=True, exclude_defaults=True)


def _brief(story: RequestStory) -> dict[str, Any]:
    found = plain_data(story)
    if story.error is None:
        return found
    whole = "\n".join(piece.text for piece in story.error.stack)
    brief: dict[str, Any] = _without(found, whole)
    brief["error"]["stack"] = "\n".join(map(_rows, story.error.stack))
    return brief


def _without(value: Any, stack: str) -> Any:
    """Copy a value with a reference in place of a stack."""
    if isinstance(value, dict):
        return {name: _without(inner, stack) for name, inner in value.items()}
    if isinstance(value, list):
        return [_without(inner, stack) for inner in value]
    return _IN_ERROR if stack and isinstance(value, str) and value.rstrip("\n") == stack else value


def _rows(piece: StackPiece) -> str:
    return f"  ({piece.frames} frames of libraries)" if piece.kind == "library" else piece.text

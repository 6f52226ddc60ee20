"""Label matchers, as in PromQL: which series of a metric a rule or a page looks at."""

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import TypeAlias

from sage_fastapi_obs.errors import SettingsError

__all__ = ["Where", "matcher", "operator_of"]

Where: TypeAlias = Mapping[str, str]
"""Matchers by label: `{"route": "/items", "status": "=~5..", "method": "!=HEAD"}`. Operators are `=`, which may be left out,
`!=`, `=~` and `!~`. Regular expressions match whole values; a label that a series does not have is empty."""


@lru_cache(maxsize=1024)
def matcher(wanted: str) -> Callable[[str], bool]:
    """Compile one matcher of a `Where`; raises `SettingsError` for an invalid regular expression."""
    operator, text = operator_of(wanted)
    if operator in ("=", "!="):
        return lambda value: (value == text) == (operator == "=")
    try:
        expression = re.compile(text)
    except re.error as error:
        raise SettingsError(f"{wanted!r} is no regular expression: {error}") from None
    return lambda value: (expression.fullmatch(value) is not None) == (operator == "=~")


def operator_of(wanted: str) -> tuple[str, str]:
    """Split a matcher into operator and text."""
    operator = next((operator for operator in ("=~", "!~", "!=", "=") if wanted.startswith(operator)), "")
    return operator or "=", wanted[len(operator) :]

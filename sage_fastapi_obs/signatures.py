"""The parameters of functions, whatever their annotations name."""

import inspect
import sys
from collections.abc import Callable
from typing import Any

_AS_TEXTS: dict[str, Any] = {}
if sys.version_info >= (3, 14):
    from annotationlib import Format

    _AS_TEXTS["annotation_format"] = Format.STRING


def signature_of(function: Callable[..., Any]) -> inspect.Signature:
    """Return the signature of a function; raises `TypeError` or `ValueError` where it has none.

    Python 3.14 evaluates annotations only when they are asked for: they may name what is defined later, or for type checkers.
    """
    return inspect.signature(function, **_AS_TEXTS)

"""What an exception is called in spans, lines, metrics and rows: the same everywhere, short and printable."""

from typing import Any

from sage_fastapi_obs.privacy.printable import printable

_qualname_of: Any = type.__dict__["__qualname__"].__get__
"""Reads the name of a class from the class itself: a metaclass may answer otherwise, or raise."""


def exception_name(error: BaseException) -> str:
    """Name an exception as OpenTelemetry's `error.type` does: qualified, builtins bare."""
    kind = type(error)
    try:
        module = kind.__module__
        return printable(kind.__qualname__ if module == "builtins" else f"{module}.{kind.__qualname__}")
    except Exception:
        return class_name(error)


def class_name(error: object) -> str:
    """Name the class of an exception, or of what stands for one, without its module."""
    return printable(str.__str__(_qualname_of(type(error))))

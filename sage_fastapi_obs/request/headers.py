"""Our headers among those of a response."""

from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet
from itertools import chain
from typing import Any

from starlette.types import Message

from sage_fastapi_obs.request.recorder import Headers

__all__ = ["content_length", "with_headers"]


def with_headers(message: Message, ours: Headers) -> tuple[Message, bool]:
    """Return the start of a response with our headers in place of any by the same names, and whether it tells its length."""
    headers = message.get("headers", ())
    if type(headers) is not list:
        return _with_others(message, headers, ours)
    try:
        names: AbstractSet[bytes] = dict(headers).keys()
        if not b"".join(names).islower():
            names = _names(headers)
    except Exception:
        # Headers that are no pairs of bytes only the server can judge.
        names = _names(headers)
    if not names.isdisjoint(dict(ours)):
        headers = _without(headers, ours)
    return ({**message, "headers": [*headers, *ours]} if ours else message), b"content-length" in names


def content_length(headers: Any) -> int | None:
    """Return the length of a body by the headers of its response; None where they do not tell it, or can be read only once."""
    if not isinstance(headers, list | tuple):
        return None
    try:
        return next((max(0, int(header[1])) for header in headers if _name(header) == b"content-length"), None)
    except (IndexError, TypeError, ValueError):
        return None


def _with_others(message: Message, headers: Any, ours: Headers) -> tuple[Message, bool]:
    """Do the same with headers in something else than a list."""
    if isinstance(headers, Iterator):
        # The server reads it, as without us: should it fail, it has to fail there.
        return {**message, "headers": chain(_without(headers, ours), ours)}, False
    if not hasattr(headers, "__iter__"):
        return message, True
    return {**message, "headers": [*_without(headers, ours), *ours]}, b"content-length" in _names(headers)


def _names(headers: Iterable[Any]) -> set[bytes]:
    return set(map(_name, headers))


def _without(headers: Iterable[Any], ours: Headers) -> Iterator[Any]:
    taken = dict(ours)
    return (header for header in headers if _name(header) not in taken)


def _name(header: Any) -> bytes:
    """Read a header's name, lower-case; empty for something only the server can judge."""
    try:
        name = header[0]
        return (name.encode("latin-1") if isinstance(name, str) else bytes(name)).lower()
    except Exception:
        return b""

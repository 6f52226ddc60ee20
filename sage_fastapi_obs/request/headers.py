"""Adds our headers to a response."""

from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet
from itertools import chain
from typing import Any

from starlette.types import Message

from sage_fastapi_obs.request.recorder import Headers

SERVER_TIMING = b"server-timing"
"""A header of which each line adds to those of others."""


def with_headers(message: Message, ours: Headers) -> tuple[Message, bool]:
    """Return the start of a response with our headers in place of others of these names, and whether it has a length.

    A `Server-Timing` of ours stands beside those of the app.
    """
    headers = message.get("headers", ())
    if type(headers) is not list:
        return _with_others(message, headers, ours)
    try:
        names: AbstractSet[bytes] = dict(headers).keys()
        if not b"".join(names).islower():
            names = _names(headers)
    except Exception:
        # Headers that are no pairs of bytes are for the server to accept or refuse.
        names = _names(headers)
    if not names.isdisjoint(dict(ours)):
        headers = _without(headers, ours)
    return ({**message, "headers": [*headers, *ours]} if ours else message), b"content-length" in names


def content_length(headers: Any) -> int | None:
    """Return the content-length of a response; None if it has none, or its headers can be read only once."""
    if not isinstance(headers, list | tuple):
        return None
    try:
        return next((max(0, int(header[1])) for header in headers if _name(header) == b"content-length"), None)
    except (IndexError, TypeError, ValueError):
        return None


def _with_others(message: Message, headers: Any, ours: Headers) -> tuple[Message, bool]:
    """Do the same for headers that are no list."""
    if isinstance(headers, Iterator):
        # It can be read only once, by the server; if that fails, it has to fail there.
        return {**message, "headers": chain(_without(headers, ours), ours)}, False
    if not hasattr(headers, "__iter__"):
        return message, True
    return {**message, "headers": [*_without(headers, ours), *ours]}, b"content-length" in _names(headers)


def _names(headers: Iterable[Any]) -> set[bytes]:
    return set(map(_name, headers))


def _without(headers: Iterable[Any], ours: Headers) -> Iterator[Any]:
    taken = dict(ours).keys() - {SERVER_TIMING}
    return (header for header in headers if _name(header) not in taken)


def _name(header: Any) -> bytes:
    """Return the name of a header in lower case; empty if it is no valid header."""
    try:
        name = header[0]
        return (name.encode("latin-1") if isinstance(name, str) else bytes(name)).lower()
    except Exception:
        return b""

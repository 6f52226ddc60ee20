"""The requests that are made: one with few headers, and one as a browser's arrives behind a gateway that traces."""

import uuid
from collections.abc import Callable
from random import Random
from typing import NamedTuple, TypeAlias

__all__ = ["REQUESTS", "Header", "MakeRequest", "Request", "browser", "browser_untraced", "plain"]

Header: TypeAlias = tuple[bytes, bytes]
PLAIN = ((b"host", b"localhost:8000"), (b"user-agent", b"bench/1.0"), (b"accept", b"*/*"))
BROWSER = (
    (b"host", b"shop.example.com"),
    (b"connection", b"keep-alive"),
    (b"sec-ch-ua", b'"Chromium";v="130", "Google Chrome";v="130", "Not?A_Brand";v="99"'),
    (b"sec-ch-ua-mobile", b"?0"),
    (b"sec-ch-ua-platform", b'"Linux"'),
    (b"user-agent", b"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0.0.0 Safari/537.36"),
    (b"accept", b"application/json, text/plain, */*"),
    (b"sec-fetch-site", b"same-origin"),
    (b"referer", b"https://shop.example.com/catalogue/shoes"),
    (b"accept-encoding", b"gzip, deflate, br, zstd"),
    (b"accept-language", b"en-GB,en;q=0.9,de;q=0.8"),
    (b"cookie", b"session=eb2f0c5e4f7a4b0c9d1e; theme=dark; consent=1"),
)
QUERY = b"q=red+shoes&page=2&sort=price&size=42"
_random = Random(15)  # noqa: S311 - so that each run makes the same requests


class Request(NamedTuple):
    """What a client sends."""

    path: str
    headers: tuple[Header, ...]
    query: bytes = b""


MakeRequest: TypeAlias = Callable[[str], Request]
"""Makes a request for a path."""


def plain(path: str) -> Request:
    """Make a request with few headers."""
    return Request(path, PLAIN)


def browser(path: str) -> Request:
    """Make one of a browser behind a gateway: with ids of its own, and in a trace that is recorded."""
    request = browser_untraced(path)
    traceparent = f"00-{_random.getrandbits(128) or 1:032x}-{_random.getrandbits(64) or 1:016x}-01"
    return request._replace(headers=(*request.headers, (b"traceparent", traceparent.encode())))


def browser_untraced(path: str) -> Request:
    """Make one of a browser behind a gateway that gives it an id, but no trace."""
    request_id = uuid.UUID(int=_random.getrandbits(128), version=4)
    return Request(path, (*BROWSER, (b"x-request-id", str(request_id).encode())), QUERY)


REQUESTS: dict[str, MakeRequest] = {"plain": plain, "browser": browser, "browser_untraced": browser_untraced}

"""The files of the live page: a fixed list from the package, read and compressed once."""

import gzip
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Self

from starlette.requests import Request
from starlette.responses import Response

SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    # Not `no-referrer`: browsers would send the login form with `Origin: null`.
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
"""Of every answer of the page and its files."""
_CONTENT_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
    "png": "image/png",
}
"""By the end of the name; other files are not served."""


@dataclass(frozen=True, slots=True)
class StaticFile:
    """One file, as it is and compressed."""

    body: bytes
    compressed: bytes
    content_type: str
    etag: str

    @classmethod
    def read(cls, path: Traversable) -> Self:
        """Read it from the package."""
        body = path.read_bytes()
        digest = hashlib.sha256(body).hexdigest()[:32]
        return cls(body, gzip.compress(body, 9, mtime=0), _CONTENT_TYPES[_ending(path)], f'"{digest}"')

    def response(self, request: Request, status: int = 200, cache: str = "no-store") -> Response:
        """Answer with it, compressed where the client accepts that; `cache`: how long it may be kept."""
        zipped = "gzip" in request.headers.get("accept-encoding", "").lower()
        headers = {**SECURITY_HEADERS, "Cache-Control": cache, "Content-Type": self.content_type, "Vary": "Accept-Encoding"}
        if zipped:
            headers["Content-Encoding"] = "gzip"
        return Response(self.compressed if zipped else self.body, status, headers)

    def revalidated(self, request: Request) -> Response:
        """Answer with it, or with 304 where the client has it: it asks each time, as an update of the package may change it."""
        if self.etag in request.headers.get("if-none-match", ""):
            return Response(None, 304, {**SECURITY_HEADERS, "Cache-Control": "no-cache", "ETag": self.etag})
        response = self.response(request, cache="no-cache")
        response.headers["ETag"] = self.etag
        return response


@cache
def static_files() -> dict[str, StaticFile]:
    """Return all files by their paths below `static/`, such as `views/overview.js`."""
    return {
        name: StaticFile.read(path) for name, path in _found(files(__package__) / "static") if _ending(path) in _CONTENT_TYPES
    }


def _found(folder: Traversable, above: str = "") -> Iterator[tuple[str, Traversable]]:
    for path in folder.iterdir():
        name = f"{above}{path.name}"
        if path.is_dir():
            yield from _found(path, f"{name}/")
        else:
            yield name, path


def _ending(path: Traversable) -> str:
    return path.name.rpartition(".")[2]

"""Clients for a single exchange, which share what is expensive to make."""

import os
import ssl
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import httpx


def http_client(timeout_seconds: float) -> "httpx.AsyncClient":
    """Return a client that follows no redirects, for any event loop.

    Raises `OSError` or `ValueError` where a variable of the environment names a certificate or a proxy that cannot be used.
    """
    import httpx  # noqa: PLC0415 - takes long, and few services need it

    context = _tls_context(os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR"))
    return httpx.AsyncClient(timeout=timeout_seconds, follow_redirects=False, verify=context)


@lru_cache(maxsize=2)
def _tls_context(*_: str | None) -> ssl.SSLContext:
    """Make it once for these variables: that takes tens of milliseconds of the processor; forked children may use it, too."""
    import httpx  # noqa: PLC0415

    return httpx.create_ssl_context()

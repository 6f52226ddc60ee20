"""Posting to a receiver over HTTP: opened late, over within a time limit, and reading no more of an answer than is of use."""

import math
import os
import ssl
import time
import zlib
from collections.abc import Callable, Container, Iterable, Mapping
from typing import Any

import httpcore
import httpx

from sage_fastapi_obs.delivery.answers import Refused, TooLarge, Unavailable

REQUEST_SECONDS = 10.0
_LEAST_SECONDS = 0.001
"""Shortest time limit of a request."""
_LONGEST_ANSWER_BYTES = 16 * 1024
_PIECE_BYTES = 64 * 1024
_CLIENT_VARIABLES = ("ALL_PROXY", "HTTP_PROXY", "HTTPS_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR")
_REQUEST_HEADERS = {"accept-encoding": "identity"}
_AGAIN = frozenset({408, 429, *range(500, 600)})
"""Statuses that pass, as servers usually mean them."""


class Poster:
    """Posts to one address, over connections of its own."""

    def __init__(
        self,
        url: str,
        client: Callable[..., httpx.Client] = httpx.Client,
        seconds: float | None = None,
        again: Container[int] = _AGAIN,
    ) -> None:
        """Open nothing yet.

        `client`: makes the HTTP client, with the options that it is called with; it may raise anything, each time.
        `seconds`: from the first byte to the last one of the answer; by default `REQUEST_SECONDS`. `again`: statuses after
        which the same is tried again.
        """
        self._url = url
        self._make = client
        self._seconds = seconds
        self._again = again
        self._client: httpx.Client | None = None
        self._network = _Network()

    def post(
        self, content: bytes, headers: Mapping[str, str], seconds: float = math.inf, most_bytes: int | None = None
    ) -> bytes:
        """Post a batch, and return what came of the answer's body, cut where it is too long or too late.

        Raises `Unavailable`, `Refused` or `TooLarge` by what the status means for trying again. `seconds`: for all of it, where
        that is less than usual. `most_bytes`: of the answer; by default `_LONGEST_ANSWER_BYTES`.
        """
        client = self._opened()
        limit = max(_LEAST_SECONDS, min(self._seconds or REQUEST_SECONDS, seconds))
        self._network.until = time.monotonic() + limit
        sent = {**_REQUEST_HEADERS, **headers}
        try:
            with client.stream("POST", self._url, content=content, headers=sent, timeout=limit) as response:
                # Of any other answer only the status is of use, and leaving the rest unread closes the connection.
                body = _beginning(response, most_bytes or _LONGEST_ANSWER_BYTES) if response.is_success else b""
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise Unavailable(type(error).__name__) from None
        _judge(response, self._again)
        return body

    def close(self) -> None:
        """Let go of connections."""
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def _opened(self) -> httpx.Client:
        if self._client is None:
            try:
                client = self._make(follow_redirects=False)
            except Exception as error:
                raise Unavailable(f"cannot set up a client: {type(error).__name__}: {error}{_suspects()}") from None
            self._network.connect_for(client)
            self._client = client
        return self._client


def _suspects() -> str:
    """Name the variables that name a proxy or a certificate, as one of them cannot be used."""
    given = [name for name in _CLIENT_VARIABLES if os.environ.get(name) or os.environ.get(name.lower())]
    return f"; look at {', '.join(given)}" if given else ""


def _judge(response: httpx.Response, again: Container[int]) -> None:
    status = response.status_code
    if response.is_success:
        return
    if status in again:
        raise Unavailable(f"HTTP {status}", _seconds(response.headers.get("retry-after", "")))
    if status == 413:
        raise TooLarge
    raise Refused(f"HTTP {status}")


def _beginning(response: httpx.Response, most_bytes: int) -> bytes:
    """Read the beginning of a body, as it is sent and as it is when it is unpacked."""
    read = bytearray()
    try:
        for chunk in response.iter_raw():
            read += chunk
            if len(read) > most_bytes:
                break
    except httpx.HTTPError:
        # By its status the server has taken everything.
        pass
    packed = response.headers.get("content-encoding", "identity").lower()
    if packed == "identity":
        return bytes(read[:most_bytes])
    try:
        return zlib.decompressobj(zlib.MAX_WBITS | 32).decompress(read, most_bytes)
    except zlib.error:
        return b""


def _seconds(retry_after: str) -> float:
    """Read the form in seconds; a server that names a date is asked again when it suits us."""
    return float(retry_after) if retry_after.isdecimal() else 0.0


class _Network(httpcore.NetworkBackend):
    """Connects as httpcore does, and holds all that is written and read to one point in time.

    The client's own limits are for each piece that comes, so that a server may take for ever, a byte at a time.
    """

    def __init__(self) -> None:
        self.until = math.inf
        self._inner = httpcore.SyncBackend()

    def connect_for(self, client: httpx.Client) -> None:
        """Make a client connect through this, if its version allows that."""
        for transport in (client._transport, *client._mounts.values()):  # noqa: SLF001 - there is no public way
            pool: Any = getattr(transport, "_pool", None)
            if hasattr(pool, "_network_backend"):
                pool._network_backend = self  # noqa: SLF001 - as above

    def left(self, timeout: float | None) -> float:
        """Return how long the next step may take; raises when the time is over."""
        seconds = self.until - time.monotonic()
        if seconds <= 0:
            raise httpcore.ReadTimeout("the whole took too long")
        return seconds if timeout is None else min(seconds, timeout)

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        """Connect."""
        return _BoundedStream(self._inner.connect_tcp(host, port, self.left(timeout), local_address, socket_options), self)


class _BoundedStream(httpcore.NetworkStream):
    """One connection of a `_Network`."""

    def __init__(self, inner: httpcore.NetworkStream, network: _Network) -> None:
        self._inner = inner
        self._network = network
        self.close = inner.close  # type: ignore[method-assign]
        self.get_extra_info = inner.get_extra_info  # type: ignore[method-assign]

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Read what there is."""
        return self._inner.read(max_bytes, self._network.left(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Write all, in pieces small enough for the time to be looked at."""
        for begin in range(0, len(buffer), _PIECE_BYTES):
            self._inner.write(buffer[begin : begin + _PIECE_BYTES], self._network.left(timeout))

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        """Go on encrypted."""
        try:
            seconds = self._network.left(timeout)
        except httpcore.ReadTimeout:
            # The caller closes only what is connected whole, and this is not yet.
            self.close()
            raise
        return _BoundedStream(self._inner.start_tls(ssl_context, server_hostname, seconds), self._network)

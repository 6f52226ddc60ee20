"""The two ids of a request: its own on this hop, and the one shared by all hops."""

import os
import random
import re
import time
from collections.abc import Callable

from sage_fastapi_obs.request.exchange import Exchange
from sage_fastapi_obs.request.recorder import Headers, Recorder
from sage_fastapi_obs.settings import HttpSettings

__all__ = ["Identity", "new_request_id"]

SAFE_ID = re.compile(rb"[A-Za-z0-9._:+/=@-]{1,128}")
"""What proxies and tracers send as ids; anything else could forge lines or headers."""
_random = random.Random()  # noqa: S311 - these ids name things and keep no secret
"""A generator of our own: the application may seed the shared one, and expects its numbers from it."""
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_random.seed)


def new_request_id() -> str:
    """Mint a UUIDv7: sortable by time, and without a system call for randomness."""
    digits = f"{time.time_ns() // 1_000_000:012x}{0x7000 | _random.getrandbits(12):04x}{1 << 63 | _random.getrandbits(62):016x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


class Identity(Recorder):
    """Adopts or mints the ids, and sends them back on every response."""

    def __init__(self, settings: HttpSettings, new_id: Callable[[], str] = new_request_id) -> None:
        self._new_id = new_id if new_id is new_request_id else _checked(new_id)
        self._adopts = settings.incoming_ids != "replace"
        self._refuses = settings.incoming_ids == "reject"
        self._request_header = settings.request_id_header.lower().encode()
        self._correlation_header = settings.correlation_header.lower().encode()

    def request_started(self, exchange: Exchange) -> None:
        """Give the exchange its ids."""
        correlation_id = self._incoming(exchange, self._correlation_header)
        try:
            exchange.request_id = self._incoming(exchange, self._request_header) or self._new_id()
        except Exception:
            # The factory's failure is counted by whoever called; the request still gets its id.
            exchange.request_id = new_request_id()
            raise
        finally:
            exchange.correlation_id = correlation_id or exchange.request_id

    def response_started(self, exchange: Exchange, headers: Headers) -> None:
        """Send the ids back."""
        headers.append((self._request_header, exchange.request_id.encode("latin-1")))
        headers.append((self._correlation_header, exchange.correlation_id.encode("latin-1")))

    def _incoming(self, exchange: Exchange, header: bytes) -> str | None:
        value = exchange.headers.get(header)
        if value is None or not self._adopts:
            return None
        if SAFE_ID.fullmatch(value):
            return value.decode("ascii")
        if self._refuses:
            exchange.refusal = f"{header.decode()} must be 1 to 128 characters of A-Z a-z 0-9 . _ : + / = @ -"
        return None


def _checked(new_id: Callable[[], str]) -> Callable[[], str]:
    """Hold the ids of an application's factory to what is asked of everybody's."""

    def checked() -> str:
        made = new_id()
        if not SAFE_ID.fullmatch(made.encode("utf-8", "replace")):
            raise ValueError("new_id must return 1 to 128 characters of A-Z a-z 0-9 . _ : + / = @ -")
        return made

    return checked

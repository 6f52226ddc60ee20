"""The two ids of a request: its own on this hop, and the one shared by all hops."""

import re
import time
from collections.abc import Callable

from sage_fastapi_obs.privacy.redaction import Redaction
from sage_fastapi_obs.request.exchange import Exchange
from sage_fastapi_obs.request.header_override import header_override
from sage_fastapi_obs.request.random_ids import RandomPool
from sage_fastapi_obs.request.recorder import Headers, Recorder
from sage_fastapi_obs.settings import HttpSettings

SAFE_ID = re.compile(rb"[A-Za-z0-9._:+/=@-]{1,128}")
"""What proxies and tracers send as ids; anything else could forge lines or headers."""
_VALID_ID = "1 to 128 characters of A-Z a-z 0-9 . _ : + / = @ -, and no secret"
_variants = dict(zip("0123456789abcdef", "89ab" * 4, strict=True))
_tails = RandomPool(19, lambda digits: f"{digits[:3]}-{_variants[digits[18]]}{digits[3:6]}-{digits[6:18]}")
"""Random parts of ids."""
_head = (0, "")
"""A millisecond, and how the ids made in it begin; one value, because threads read and replace it."""


def new_request_id() -> str:
    """Mint a UUIDv7: sortable by time, and without a system call for randomness."""
    global _head  # noqa: PLW0603 - a cache of one
    now_ms = time.time_ns() // 1_000_000
    made_ms, head = _head
    if made_ms != now_ms:
        head = f"{now_ms >> 16:08x}-{now_ms & 0xFFFF:04x}-7"
        _head = (now_ms, head)
    try:
        return head + _tails.pop()
    except IndexError:
        return head + _tails.refill_and_take()


class Identity(Recorder):
    """Adopts or mints the ids, and sends them back on every response."""

    def __init__(self, settings: HttpSettings, redaction: Redaction, new_id: Callable[[], str] = new_request_id) -> None:
        """`redaction`: that of the lines. An id that they would hide could join nothing, and is not used."""
        self._redacted = redaction.text
        self._new_id = new_id if new_id is new_request_id else self._checked(new_id)
        self._adopts = settings.incoming_ids != "replace"
        self._rejects = settings.incoming_ids == "reject"
        self._request_header = settings.request_id_header.lower().encode()
        self._configured_header = settings.correlation_header
        header_override.subscribe(self)

    def correlation_header_changed(self, override: str | None) -> None:
        """Use a header that was set for the whole process; None means the header of the settings."""
        self._correlation_header = (override or self._configured_header).lower().encode()
        self._read_headers = frozenset((self._request_header, self._correlation_header))

    def request_started(self, exchange: Exchange) -> None:
        """Give the exchange its ids."""
        if not self._read_headers.isdisjoint(exchange.headers):
            exchange.correlation_id = self._incoming(exchange, self._correlation_header)
            exchange.request_id = self._incoming(exchange, self._request_header)
        if not exchange.request_id:
            new_id = self._new_id
            try:
                exchange.request_id = new_id()
            except Exception:
                # The caller counts the failure of the factory; the request still gets its ids.
                exchange.request_id = new_request_id()
                exchange.correlation_id = exchange.correlation_id or exchange.request_id
                raise
        if not exchange.correlation_id:
            exchange.correlation_id = exchange.request_id

    def response_started(self, exchange: Exchange, headers: Headers) -> None:
        """Send the ids back."""
        request_id, correlation_id = exchange.request_id, exchange.correlation_id
        encoded = request_id.encode()
        headers += (
            (self._request_header, encoded),
            (self._correlation_header, encoded if correlation_id is request_id else correlation_id.encode()),
        )

    def _incoming(self, exchange: Exchange, header: bytes) -> str:
        """Return the id in a header; empty if there is none, or none that can be used."""
        value = exchange.headers.get(header)
        if value is None or not self._adopts:
            return ""
        text = self._usable(value)
        if not text and self._rejects:
            exchange.rejection = f"{header.decode()} must be {_VALID_ID}"
        return text

    def _usable(self, value: bytes) -> str:
        """Return an id as a text; empty if it could forge something, or lines would hide it."""
        if SAFE_ID.fullmatch(value) and self._redacted(text := value.decode("ascii")) == text:
            return text
        return ""

    def _checked(self, new_id: Callable[[], str]) -> Callable[[], str]:
        """Make an application's factory raise for an id that would not be adopted from a caller."""

        def checked() -> str:
            made = new_id()
            if not self._usable(made.encode("utf-8", "replace")):
                raise ValueError(f"new_id must return {_VALID_ID}")
            return made

        return checked

"""How long a request was on its way from a proxy, by a header like `X-Request-Start`, however the proxy writes it.

nginx writes `t=1790000000.123` (seconds), Heroku milliseconds, HAProxy and Apache microseconds, Apache with ` D=…` behind it.
"""

import re

from sage_fastapi_obs.insight.observer import CauseObserver
from sage_fastapi_obs.request.exchange import Exchange

_TIME = re.compile(rb"(?:t=)?([0-9]{9,19})(?:\.([0-9]{1,18}))?(?![^\s,;])")
_LONGEST = 64
_UNITS = ((10**17, 1), (10**14, 10**3), (10**11, 10**6), (0, 10**9))
"""From which number on a time is written in a unit of so many nanoseconds: each of the limits is a day of 1973."""
_MOST_SKEW_NS = 100 * 10**6
"""A proxy whose clock is ahead by no more has sent the request just now, as others read it; by more, nothing can be known."""
_LONGEST_NS = 600 * 10**9


class QueueTime(CauseObserver):
    """Reads the header of each request."""

    def __init__(self, header: str) -> None:
        self._header = header.lower().encode()

    def request_started(self, exchange: Exchange) -> None:
        """Note how long the request was on its way."""
        value = exchange.headers.get(self._header)
        if value is not None:
            exchange.queue_us = queue_us(value, exchange.wall_ns)


def queue_us(value: bytes, now_ns: int) -> int | None:
    """Return the microseconds from the time in a header's value to now; None for a time that cannot be meant."""
    found = _TIME.match(value[:_LONGEST].strip())
    if found is None:
        return None
    number = int(found[1])
    unit_ns = next(unit_ns for least, unit_ns in _UNITS if number >= least)
    fraction_ns = int((found[2] or b"0").ljust(9, b"0")[:9]) * unit_ns // 10**9
    waited_ns = now_ns - number * unit_ns - fraction_ns
    return max(0, waited_ns) // 1_000 if -_MOST_SKEW_NS <= waited_ns <= _LONGEST_NS else None

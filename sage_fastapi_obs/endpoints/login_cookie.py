"""The cookie of a browser that has logged in with the token, and how often somebody may try.

The cookie holds the time of its end and a code that only those who have the token can make: it is not the token, and every
worker can tell whether it is right, also after a restart. It ends early only with another token.
"""

import hmac
import re
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from hashlib import sha256

from starlette.requests import Request
from starlette.responses import Response

LIFE_SECONDS = 12 * 3600
MOST_FAILURES = 30
FAILURE_SECONDS = 60.0
"""So many wrong tokens in this time may come from one address."""
_MOST_ADDRESSES = 1024
_VALUE = re.compile(r"([0-9]{1,12})\.([0-9a-f]{64})")


class LoginCookie:
    """Makes and checks the cookie of one token."""

    def __init__(self, token: bytes, wall_clock: Callable[[], float] = time.time) -> None:
        """`wall_clock`: Unix time."""
        self._token = token
        self._wall_clock = wall_clock
        self._name = f"sage_obs_{self._code('name')[:8]}"
        """Services at other ports of a host have the same cookies: those with other tokens do not overwrite this one."""

    def set(self, request: Request, response: Response) -> None:
        """Give it to the browser.

        Without a path, which makes it one for the page and what is below it, whatever a proxy calls that.
        """
        until = str(int(self._wall_clock()) + LIFE_SECONDS)
        self._write(request, response, f"{until}.{self._code(until)}", LIFE_SECONDS)

    def remove(self, request: Request, response: Response) -> None:
        """Take it back from the browser."""
        self._write(request, response, "", 0)

    def is_in(self, request: Request) -> bool:
        """Tell whether a request has one that is right."""
        found = _VALUE.fullmatch(request.cookies.get(self._name, ""))
        if found is None or not 0 < int(found[1]) - self._wall_clock() <= LIFE_SECONDS:
            return False
        return hmac.compare_digest(self._code(found[1]), found[2])

    def _write(self, request: Request, response: Response, value: str, seconds: int) -> None:
        secure = _is_encrypted(request)
        response.set_cookie(self._name, value, seconds, path=None, secure=secure, httponly=True, samesite="strict")

    def _code(self, text: str) -> str:
        return hmac.new(self._token, f"sage_fastapi_obs login {text}".encode(), sha256).hexdigest()


def _is_encrypted(request: Request) -> bool:
    """Tell whether the browser's connection is; a proxy may end it, so that what the browser says counts, too."""
    schemes = (request.url.scheme, request.headers.get("x-forwarded-proto", ""), request.headers.get("origin", ""))
    return any(scheme.startswith("https") for scheme in schemes)


class Failures:
    """Counts wrong tokens by the addresses that they come from, of which it remembers the newest."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock`: monotonic seconds."""
        self._clock = clock
        self._times: OrderedDict[str, deque[float]] = OrderedDict()

    def add(self, request: Request) -> None:
        """Note a wrong token."""
        address = _address(request)
        times = self._times.setdefault(address, deque(maxlen=MOST_FAILURES))
        times.append(self._clock())
        self._times.move_to_end(address)
        if len(self._times) > _MOST_ADDRESSES:
            self._times.popitem(last=False)

    def are_too_many(self, request: Request) -> bool:
        """Tell whether so many came from its address that even a right one is not looked at."""
        times = self._times.get(_address(request), deque())
        return len(times) == MOST_FAILURES and self._clock() - times[0] < FAILURE_SECONDS


def _address(request: Request) -> str:
    return "" if request.client is None else request.client.host

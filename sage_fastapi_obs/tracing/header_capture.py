"""Headers that the environment asks for, as attributes of the server span: none unless one is asked for.

The variables are those of OpenTelemetry's instrumentations, whose own functions decide:
`OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_SERVER_REQUEST`, `…_SERVER_RESPONSE` and `…_SANITIZE_FIELDS` are lists of names, in
which each may be a regular expression.
"""

import os
import re
from collections.abc import Callable
from functools import lru_cache
from itertools import islice
from typing import Any, NamedTuple, TypeAlias

from opentelemetry.util import http

from sage_fastapi_obs.privacy.redaction import REDACTED, Redaction
from sage_fastapi_obs.request.exchange import Exchange
from sage_fastapi_obs.settings.standard_variables import patterns

Headers: TypeAlias = dict[str, tuple[str, ...]]
"""Attributes, each with the values of one header."""
_REQUEST = http.OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_SERVER_REQUEST
_RESPONSE = http.OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_SERVER_RESPONSE
_SANITIZED = http.OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_SANITIZE_FIELDS
_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_LONGEST_NAME = 128
"""Longer ones are not captured: a pattern may take time that grows faster than what it is matched with."""
_MOST_ROWS = 256
_MOST_VALUES = 64
"""Of one message: beyond them nothing is captured."""


class _Captured(NamedTuple):
    """A header that is captured."""

    attribute: str
    hidden: str | None
    """What stands for its values; None where they are shown."""


class HeaderCapture:
    """Picks headers out of requests and responses."""

    def __init__(self, redaction: Redaction) -> None:
        """Read the environment; `remarks` say what in it is wrong."""
        self._redaction = redaction
        remarks: list[str] = []
        env, remark = os.environ, remarks.append
        self._sanitizer = http.SanitizeValue(patterns(env, _SANITIZED, remark))
        requests, responses = patterns(env, _REQUEST, remark), patterns(env, _RESPONSE, remark)
        self.of_requests, self.of_responses = bool(requests), bool(responses)
        """Whether any header is asked for."""
        self._of_request = self._judge(requests, http.normalise_request_header_name)
        self._of_response = self._judge(responses, http.normalise_response_header_name)
        self.remarks = tuple(remarks)

    def request_headers(self, exchange: Exchange) -> Headers:
        """Return the attributes for the headers of a request."""
        return self._attributes(exchange.scope.get("headers"), self._of_request)

    def response_headers(self, headers: Any) -> Headers:
        """Return the attributes for the headers that the app has sent; none for those that can be read only once."""
        return self._attributes(headers, self._of_response)

    def _attributes(self, rows: Any, judge: Callable[[bytes], _Captured | None]) -> Headers:
        found: Headers = {}
        if not isinstance(rows, list | tuple):
            return found
        pairs = (row for row in islice(rows, _MOST_ROWS) if _is_header(row))
        picked = ((captured, value) for name, value in pairs if (captured := judge(name)) is not None)
        for captured, value in islice(picked, _MOST_VALUES):
            shown = self._redaction.readable(value.decode("latin-1")) if captured.hidden is None else captured.hidden
            found[captured.attribute] = (*found.get(captured.attribute, ()), shown)
        return found

    def _judge(self, patterns: list[str], normalise: Callable[[str], str]) -> Callable[[bytes], _Captured | None]:
        """Return what tells how a header is captured; None for not at all."""

        @lru_cache(maxsize=512)
        def judge(raw_name: bytes) -> _Captured | None:
            if _NAME.fullmatch(raw_name) is None:
                return None
            name = raw_name.decode()
            attribute = next(iter(self._sanitizer.sanitize_header_values({name: ""}, patterns, normalise)), None)
            if attribute is None or self._redaction.text(name) != name:
                return None
            if self._redaction.hides(name):
                return _Captured(attribute, REDACTED)
            sanitized = self._sanitizer.sanitize_header_value(name, "")
            return _Captured(attribute, sanitized or None)

        return judge


def _is_header(row: Any) -> bool:
    """Tell whether this is a pair of bytes with a name of usual length; what else an app sends is for the server to refuse."""
    is_pair = isinstance(row, list | tuple) and len(row) == 2 and all(isinstance(part, bytes) for part in row)
    return is_pair and len(row[0]) <= _LONGEST_NAME

"""Checks the trace headers of a caller before OpenTelemetry's propagators read them.

The propagators log a line for each invalid member, and anybody may send a header with hundreds of them. So they get only
what is valid, and the rest is counted.
"""

import re
from collections.abc import Callable
from functools import lru_cache
from typing import TypeAlias

from opentelemetry.propagators.textmap import Getter

from sage_fastapi_obs.catalog import SPAN_METRICS, CountCollector
from sage_fastapi_obs.request.exchange import Exchange

_LONGEST_TRACEPARENT = 512
_LONGEST_TRACESTATE = _LONGEST_BAGGAGE = 8192
_LONGEST_IN_BAGGAGE = 4096
_MOST_IN_TRACESTATE = 32
_MOST_IN_BAGGAGE = 180
"""The limits of the propagators, which are the narrowest that W3C allows."""
_NAME = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"
_VALUE = r"[\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]*+"
_PAIR = rf"[ \t]*+{_NAME}[ \t]*+=[ \t]*+{_VALUE}[ \t]*+"
_BAGGAGE_MEMBER = re.compile(rf"{_PAIR}(?:;(?:{_PAIR}|[ \t]*+{_NAME}[ \t]*+))*+")
_VENDOR = r"[a-z][_0-9a-z\-*/]{0,255}|[a-z0-9][_0-9a-z\-*/]{0,240}@[a-z][_0-9a-z\-*/]{0,13}"
_STATE = rf"(?:{_VENDOR})=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{{0,255}}[\x21-\x2b\x2d-\x3c\x3e-\x7e]"
_TRACESTATE_MEMBER = re.compile(_STATE)
_USUAL_TRACESTATE = re.compile(rf"{_STATE}(?:,{_STATE}){{0,{_MOST_IN_TRACESTATE - 1}}}")
_USUAL_BAGGAGE = re.compile(rf"{_NAME}={_VALUE}(?:,{_NAME}={_VALUE}){{0,{_MOST_IN_BAGGAGE - 1}}}+")
"""What nearly everybody sends: one match is enough."""
_Checked: TypeAlias = tuple[list[str] | None, bool]
"""The valid part, and whether it is the whole."""
_NOTHING: _Checked = (None, False)
_NO_SPACE = str.maketrans("", "", " \t")


class DroppedHeaders(CountCollector):
    """How many of these headers were dropped, whole or in part."""

    metric = SPAN_METRICS[1]

    def __init__(self) -> None:
        self.counts = dict.fromkeys(self.metric.labels["header"], 0)

    def count(self, header: str) -> None:
        """Count one."""
        self.counts[header] += 1

    def counted(self) -> list[tuple[tuple[str, ...], int]]:
        """Return all counts."""
        return [((header,), count) for header, count in self.counts.items()]


class PropagatedHeaders(Getter[Exchange]):
    """Reads headers of a request as latin-1, which any byte is."""

    def __init__(self, dropped: DroppedHeaders) -> None:
        self._dropped = dropped

    def get(self, carrier: Exchange, key: str) -> list[str] | None:
        """Return the values of a header; None if it is missing or unreadable."""
        name = _header_name(key)
        if name not in carrier.headers:
            # Nearly always; cheaper than a loop over the headers.
            return None
        values = [value.decode("latin-1") for header, value in carrier.scope["headers"] if header == name]
        check = _CHECKS.get(key)
        if check is None:
            return values
        kept, whole = check(values)
        if not whole:
            self._dropped.count(key)
        return kept

    def keys(self, carrier: Exchange) -> list[str]:
        """Return the names of all headers."""
        return [name.decode("latin-1") for name, _ in carrier.scope["headers"]]


@lru_cache(maxsize=64)
def _header_name(key: str) -> bytes:
    return key.lower().encode()


def _traceparent(values: list[str]) -> _Checked:
    """Pass a short one, valid or not: no propagator logs it, and the caller counts one that gave no span."""
    return values if len(values[0]) <= _LONGEST_TRACEPARENT else None, True


def _tracestate(values: list[str]) -> _Checked:
    """Take all or nothing, as W3C demands."""
    if len(values) == 1 and is_usual_tracestate(values[0]):
        return values, True
    joined = ",".join(values)
    members = [member for part in joined.split(",") if (member := part.strip(" \t"))]
    fits = len(joined) <= _LONGEST_TRACESTATE and len(members) <= _MOST_IN_TRACESTATE
    return ([joined], True) if fits and all(map(_TRACESTATE_MEMBER.fullmatch, members)) else _NOTHING


def is_usual_tracestate(header: str) -> bool:
    """Tell whether a `tracestate` is valid as it is, without spaces or empty members."""
    return len(header) <= _LONGEST_TRACESTATE and _USUAL_TRACESTATE.fullmatch(header) is not None


def _baggage(values: list[str]) -> _Checked:
    """Take the well-formed members of all headers; the propagator would read only the first header."""
    joined = ",".join(values)
    if len(joined) <= _LONGEST_IN_BAGGAGE and _USUAL_BAGGAGE.fullmatch(joined):
        return [joined], True
    if len(joined) > _LONGEST_BAGGAGE:
        return _NOTHING
    members = [part for part in joined.split(",") if part]
    kept = [member.translate(_NO_SPACE) for member in members[:_MOST_IN_BAGGAGE] if _is_baggage(member)]
    return [",".join(kept)] if kept else None, len(kept) == len(members)


def _is_baggage(member: str) -> bool:
    return len(member) <= _LONGEST_IN_BAGGAGE and _BAGGAGE_MEMBER.fullmatch(member) is not None


_CHECKS: dict[str, Callable[[list[str]], _Checked]] = {
    "traceparent": _traceparent,
    "tracestate": _tracestate,
    "baggage": _baggage,
}

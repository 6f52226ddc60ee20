"""The canonical lines of ordinary requests: laid out once for each kind of request, and filled in many at a time.

A request only leaves its values here, which costs a fraction of writing its line. The lines are those that would have been
written at once: what they have alike is taken from such a line, so that names, order and escapes are the same.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from sage_fastapi_obs.logs.line_format import Line, Timestamps, json_text
from sage_fastapi_obs.logs.recent_lines import RecentLines

__all__ = ["FastAccessLine", "Values"]

MOST_SHAPES = 4096
"""As many combinations of method, route and status as are remembered."""
_TEXTS = ("timestamp", "request_id", "correlation_id", "trace_id", "span_id")
_NUMBERS = ("path", "duration_ms", "request_bytes", "response_bytes")
"""Written as they are: numbers, and a text that brings its quotes."""
_BLANKS = {name: f"blank{number}blank" for number, name in enumerate((*_TEXTS, *_NUMBERS))}
"""What stands for the values in a shape."""

Values: TypeAlias = tuple[int, int, str, str, str, str, bool, str, str, str | None, int, int, int]
"""Of one request: start, duration, request, correlation, trace and span id, whether it is sampled, method, path, route, status,
bytes received and sent. The exchange itself would keep far more in memory until the line is written."""


class FastAccessLine:
    """Writes the lines of ordinary requests."""

    def __init__(
        self,
        lay_out: Callable[[Mapping[str, Any]], dict[str, Any]],
        form: Callable[[Line], bytes],
        readable: Callable[[str], str],
        recent: RecentLines | None,
    ) -> None:
        """`lay_out` makes a line of its fields, and `form` JSON of a line; `readable` tells what is shown of a path."""
        self._lay_out = lay_out
        self._form = form
        self._readable = readable
        self._recent = recent
        self._timestamp = Timestamps()
        self._shapes: dict[tuple[str, str | None, int, bool, bool], str] = {}

    def __call__(self, values: Values) -> bytes:
        """Write one line."""
        wall_ns, duration_us, request_id, correlation_id, trace_id, span_id, sampled, method, path, route, status = values[:11]
        key = (method, route, status, sampled, trace_id == "")
        shape = self._shapes.get(key) or self._shape(*key)
        at = (wall_ns // 1_000 + duration_us) / 1_000_000
        ids = (request_id, correlation_id, trace_id, span_id) if trace_id else (request_id, correlation_id)
        shown = json_text(self._readable(path))
        encoded = (shape % (self._timestamp(at), *ids, shown, duration_us / 1_000, *values[11:])).encode()
        if self._recent is not None:
            self._recent.keep((correlation_id, request_id, trace_id or None, encoded[:-1]))
        return encoded

    def _shape(self, method: str, route: str | None, status: int, sampled: bool, untraced: bool) -> str:
        """Lay out a line with blanks, once for all requests of a kind."""
        fields: dict[str, Any] = {**_BLANKS, "method": method, "route": route, "status": status}
        fields["trace_flags"] = "01" if sampled else "00"
        if untraced:
            for name in ("trace_id", "span_id", "trace_flags"):
                del fields[name]
        del fields["timestamp"]
        laid = {**self._lay_out(fields), "timestamp": _BLANKS["timestamp"]}
        shape = self._form(laid).decode().replace("%", "%%")
        for name in _TEXTS:
            shape = shape.replace(_BLANKS[name], "%s")
        for name in _NUMBERS:
            shape = shape.replace(f'"{_BLANKS[name]}"', "%s")
        if len(self._shapes) < MOST_SHAPES:
            self._shapes[method, route, status, sampled, untraced] = shape
        return shape

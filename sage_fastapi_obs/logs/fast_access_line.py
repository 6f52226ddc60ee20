"""The bytes of ordinary access lines, many at a time: `PlainAccessLine` says what they are, `FastAccessLine` is quicker.

A request leaves only its values, which costs a fraction of writing its line and takes less memory than the exchange.
Both classes give the same bytes, so that `PlainAccessLine` alone says what a line is.
"""

from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter, itemgetter
from typing import Any, NamedTuple, TypeAlias

from sage_fastapi_obs.logs.access_line import (
    ACCESS_FIELDS,
    ACCESS_LOGGER,
    TEXT,
    AccessField,
    access_level,
    access_message,
    field_reader,
)
from sage_fastapi_obs.logs.line_format import Encode, LineBuilder, Timestamps, json_text
from sage_fastapi_obs.logs.recent_lines import RecentLines
from sage_fastapi_obs.request.exchange import Exchange

ORDINARY = (
    *("method", "route", "status", "sampled", "kept"),
    *("trace_id", "request_id", "correlation_id", "span_id", "path", "duration_us", "received_bytes", "sent_bytes", "wall_ns"),
    "queue_us",
)
"""What an ordinary request leaves of its exchange. The first few are alike in all requests of a kind."""
OrdinaryValues: TypeAlias = tuple[Any, ...]
ordinary_values: Callable[[Exchange], OrdinaryValues] = attrgetter(*ORDINARY)
"""Reads them from an exchange."""
_KIND_VALUES = 5
_TRACE_ID, _DURATION_US, _WALL_NS, _QUEUE_US = map(ORDINARY.index, ("trace_id", "duration_us", "wall_ns", "queue_us"))
_DIFFERENT = frozenset(ORDINARY[_KIND_VALUES:])
_TIME = "blanktimeblank"
_MOST_TEMPLATES = 4096
"""As many combinations of method, route and status as are remembered."""


class PlainAccessLine:
    """Makes each line from an exchange, as lines of all other requests are made."""

    def __init__(
        self,
        build: LineBuilder,
        encode: Encode,
        readable: Callable[[str], str],
        recent: RecentLines | None,
        fields: Iterable[AccessField] = ACCESS_FIELDS,
    ) -> None:
        """Make lines with `build`, and bytes of them with `encode`; `readable` cuts and redacts a text of the caller's."""
        self._build, self._encode, self._readable, self._recent = build, encode, readable, recent
        self._fields = [field for field in fields if field.is_on_access_line]
        self._add_fields = field_reader(self._fields, readable)

    def __call__(self, values: OrdinaryValues) -> bytes:
        """Make one line."""
        exchange = _exchange(values)
        fields = self._add_fields({}, exchange)
        line = self._build(written_at(exchange), access_level(exchange), access_message(exchange), ACCESS_LOGGER, fields, None)
        encoded = self._encode(line)
        if self._recent is not None:
            self._recent.keep((exchange.correlation_id, exchange.request_id, exchange.trace_id or None, encoded[:-1]))
        return encoded


class _Template(NamedTuple):
    """What all lines of one kind of request have alike."""

    text: str
    """Of a line, with `%s` for what differs, the time first."""
    pick: Callable[[Sequence[Any]], Any]
    """Takes what differs out of the values of a request and its time, in the order of the line."""
    conversions: Sequence[tuple[int, Callable[[Any], Any]]]
    """By the position among the values."""


class FastAccessLine(PlainAccessLine):
    """Makes a template of a plain line once for each kind of request, and fills it in."""

    def __init__(self, *args: Any, **options: Any) -> None:
        """Take what `PlainAccessLine` takes."""
        super().__init__(*args, **options)
        self._timestamp = Timestamps()
        readable = self._readable
        self._json_of: Callable[[str], str] = lambda text: json_text(readable(text))
        self._traced: dict[Any, _Template] = {}
        self._untraced: dict[Any, _Template] = {}
        self._queued: dict[bool, dict[Any, _Template]] = {True: {}, False: {}}
        """For those with the time that they took from the proxy, with and without a trace."""

    def __call__(self, values: OrdinaryValues) -> bytes:
        """Make one line."""
        if values[_QUEUE_US] is None:
            templates = self._traced if values[_TRACE_ID] else self._untraced
        else:
            templates = self._queued[values[_TRACE_ID] != ""]
        text, pick, conversions = templates.get(values[:_KIND_VALUES]) or self._template(templates, values)
        known = [*values, self._timestamp((values[_WALL_NS] // 1_000 + values[_DURATION_US]) / 1_000_000)]
        for position, convert in conversions:
            known[position] = convert(known[position])
        encoded: bytes = (text % pick(known)).encode()
        if self._recent is not None:
            trace_id, request_id, correlation_id = values[_TRACE_ID : _TRACE_ID + 3]
            self._recent.keep((correlation_id, request_id, trace_id or None, encoded[:-1]))
        return encoded

    def _template(self, templates: dict[Any, _Template], values: OrdinaryValues) -> _Template:
        template = self._build_template(_exchange(values))
        if len(templates) < _MOST_TEMPLATES:
            templates[values[:_KIND_VALUES]] = template
        return template

    def _build_template(self, exchange: Exchange) -> _Template:
        fields = self._add_fields({}, exchange)
        different = [field for field in self._fields if field.name in fields and field.attribute in _DIFFERENT]
        blanks = {field: f"blank{number}blank" for number, field in enumerate(different)}
        fields.update((field.name, blank) for field, blank in blanks.items())
        line = self._build(0.0, access_level(exchange), access_message(exchange), ACCESS_LOGGER, fields, None)
        text = self._encode({**line, "timestamp": _TIME}).decode().replace("%", "%%").replace(_TIME, "%s")
        in_order = sorted(different, key=lambda field: text.index(blanks[field]))
        for field in in_order:
            # Numbers have no quotes, and a text that is encoded for each line brings its own.
            blank = blanks[field] if field.kind is TEXT else f'"{blanks[field]}"'
            text = text.replace(blank, "%s")
        positions = [ORDINARY.index(field.attribute) for field in in_order]
        converts = [self._json_of if field.kind.is_foreign else field.kind.convert for field in in_order]
        conversions = [
            (position, convert) for position, convert in zip(positions, converts, strict=True) if convert is not None
        ]
        return _Template(text, itemgetter(len(ORDINARY), *positions), conversions)


def _exchange(values: OrdinaryValues) -> Exchange:
    exchange = Exchange({"type": "http"}, 0, 0)
    for name, value in zip(ORDINARY, values, strict=True):
        setattr(exchange, name, value)
    return exchange


def written_at(exchange: Exchange) -> float:
    """Return the Unix time of a request's line: its end."""
    return (exchange.wall_ns // 1_000 + exchange.duration_us) / 1_000_000

"""Encodes spans as OTLP protobuf: the SDK's encoder for any span, and a faster one that writes the bytes of usual spans.

Both write the same bytes. The messages are those of opentelemetry/proto/trace/v1/trace.proto, whose field numbers are in the
tags below.
"""

import struct
import time
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, TypeAlias

from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.trace import SpanKind, StatusCode, TraceState

from sage_fastapi_obs.otel_internals import NO_STATE

EncodeWithSdk: TypeAlias = Callable[[Sequence[ReadableSpan]], Any]
"""The SDK's `encode_spans`: returns an `ExportTraceServiceRequest`."""
_SLICE_NS = 250_000
"""Time to encode before other threads get the interpreter: the loop has to wait for no more than this and one span."""
_FLAGS = tuple(b"\x85\x01" + struct.pack("<I", flags) for flags in (0x100, 0x300))
"""Of a span whose parent is local, and remote."""
_LONGEST_CACHED = 256
"""Characters of a name whose encoding is kept for the next span: some libraries put whole statements into names."""
_KINDS = {id(kind): bytes((kind.value + 1,)) for kind in SpanKind}
"""By identity, as an enumeration's own hash is slow; its members live as long as the process."""
_fixed64, _double = struct.Struct("<Q").pack, struct.Struct("<d").pack


def _varint(number: int) -> bytes:
    """Encode a number, seven bits at a time; a negative one as its 64 bits."""
    rest, encoded = number & 0xFFFF_FFFF_FFFF_FFFF, bytearray()
    while rest > 0x7F:
        encoded.append(rest & 0x7F | 0x80)
        rest >>= 7
    encoded.append(rest)
    return bytes(encoded)


_SMALL = tuple(_varint(number) for number in range(1024))


def _size_of(length: int) -> bytes:
    return _SMALL[length] if length < len(_SMALL) else _varint(length)


def _size(content: bytes) -> bytes:
    return _size_of(len(content))


def _message(tag: bytes, content: bytes) -> bytes:
    return tag + _size(content) + content


def _text(tag: bytes, text: str) -> bytes:
    return _message(tag, text.encode()) if text else b""


def _count(tag: bytes, count: int) -> bytes:
    return tag + _varint(count) if count else b""


def _time(tag: bytes, nanoseconds: int | None) -> bytes:
    return tag + _fixed64(nanoseconds) if nanoseconds else b""


class UnusualSpanError(Exception):
    """A span has something that only the SDK's encoder knows."""


def _string(value: str) -> bytes:
    return _message(b"\x0a", value.encode())


def _int(value: int) -> bytes:
    if 0 <= value < len(_SMALL):
        return b"\x18" + _SMALL[value]
    if not -(2**63) <= value < 2**63:
        raise UnusualSpanError
    return b"\x18" + _varint(value)


def _array(values: Sequence[Any]) -> bytes:
    return _message(b"\x2a", b"".join([_message(b"\x0a", _VALUES[type(value)](value)) for value in values]))


_VALUES: dict[type, Callable[[Any], bytes]] = {
    str: _string,
    bool: lambda value: b"\x10\x01" if value else b"\x10\x00",
    int: _int,
    float: lambda value: b"\x21" + _double(value),
    tuple: _array,
    list: _array,
}
"""Encode an `AnyValue`, by the exact type of the value."""


@lru_cache(maxsize=1024)
def _key(key: str) -> bytes:
    return _text(b"\x0a", key) + b"\x12"


@lru_cache(maxsize=4096)
def _before_text(tag: bytes, key: str, length: int) -> bytes:
    """Encode all of an attribute that stands before the bytes of its text: for a name and a length always the same."""
    value = b"\x0a" + _size_of(length)
    before = _key(key) + _size_of(len(value) + length) + value
    return tag + _size_of(len(before) + length) + before


def _key_value(tag: bytes, key: str, value: Any) -> bytes:
    content = _VALUES[type(value)](value)
    return _message(tag, _key(key) + _size(content) + content)


_int_attribute = lru_cache(maxsize=4096)(_key_value)
"""Only for whole numbers: `0`, `0.0`, `-0.0` and `False` are the same key of a cache."""


def _attributes(tag: bytes, attributes: Mapping[str, Any]) -> bytes:
    parts: list[bytes] = []
    add = parts.append
    for key, value in attributes.items():
        kind = type(value)
        if kind is str:
            text = value.encode()
            add(_before_text(tag, key, len(text)))
            add(text)
        elif kind is int:
            add(_int_attribute(tag, key, value))
        else:
            add(_key_value(tag, key, value))
    return b"".join(parts)


def _event(event: Event) -> bytes:
    attributes = event.attributes
    return b"".join(
        (
            _time(b"\x09", event.timestamp),
            _text(b"\x12", event.name),
            _attributes(b"\x1a", attributes) if attributes else b"",
            _count(b"\x20", event.dropped_attributes),
        )
    )


@lru_cache(maxsize=256)
def _status(code: int, description: str | None) -> bytes:
    return _message(b"\x7a", _text(b"\x12", description or "") + _count(b"\x18", code))


_UNSET = _status(0, None)


@lru_cache(maxsize=1024)
def _name(name: str) -> bytes:
    return _text(b"\x2a", name)


class SpanEncoder:
    """Encodes batches of spans."""

    def __init__(
        self,
        encode_with_sdk: EncodeWithSdk,
        clock: Callable[[], int] = time.perf_counter_ns,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        """`clock` is in nanoseconds; `pause` gives the interpreter up."""
        self._encode_with_sdk = encode_with_sdk
        self._clock = clock
        self._pause = pause

    def encode(self, spans: Sequence[ReadableSpan]) -> tuple[bytes, int]:
        """Return the bytes of an `ExportTraceServiceRequest`, and of how many spans it consists: some cannot be encoded."""
        scopes: dict[tuple[int, int], _SpansOfScope] = {}
        clock = self._clock
        pause_at = clock() + _SLICE_NS
        for span in spans:
            if clock() > pause_at:
                self._pause(0)
                pause_at = clock() + _SLICE_NS
            try:
                encoded = self._encoded(span)
                scope_id = id(span.resource), id(span.instrumentation_scope)
                if scope_id not in scopes:
                    scopes[scope_id] = _SpansOfScope(self._encode_with_sdk([span]))
            except Exception:  # noqa: S112 - the caller counts it
                continue
            scopes[scope_id].spans.append(encoded)
        resources: dict[int, list[_SpansOfScope]] = {}
        for (resource_id, _), scope in scopes.items():
            resources.setdefault(resource_id, []).append(scope)
        return b"".join(map(_resource_spans, resources.values())), sum(len(scope.spans) for scope in scopes.values())

    def _encoded(self, span: ReadableSpan) -> bytes:
        try:
            return encode_span(span)
        except (UnusualSpanError, KeyError, UnicodeEncodeError):
            request = self._encode_with_sdk([span])
            encoded: bytes = request.resource_spans[0].scope_spans[0].spans[0].SerializeToString()
            return _message(b"\x12", encoded)


class _SpansOfScope:
    """The encoded spans of one instrumentation scope, and what surrounds them in the request."""

    def __init__(self, request: Any) -> None:
        """`request`: with one of the spans."""
        resource_spans = request.resource_spans[0]
        scope_spans = resource_spans.scope_spans[0]
        self.resource = _message(b"\x0a", resource_spans.resource.SerializeToString())
        self.resource_schema = _text(b"\x1a", resource_spans.schema_url)
        self.scope = _message(b"\x0a", scope_spans.scope.SerializeToString())
        self.scope_schema = _text(b"\x1a", scope_spans.schema_url)
        self.spans: list[bytes] = []


def _resource_spans(scopes: Sequence[_SpansOfScope]) -> bytes:
    parts = [_message(b"\x12", b"".join((scope.scope, *scope.spans, scope.scope_schema))) for scope in scopes]
    return _message(b"\x0a", b"".join((scopes[0].resource, *parts, scopes[0].resource_schema)))


def encode_span(span: ReadableSpan) -> bytes:
    """Return the bytes of a span as a field of `ScopeSpans`; raises for one that only the SDK can encode."""
    name, attributes, status = span.name, span.attributes, span.status
    trace_id, span_id, state, parent_id, is_below_remote = _ids(span)
    content = b"".join(
        (
            b"\x0a\x10",
            trace_id,
            b"\x12\x08",
            span_id,
            b"" if state is NO_STATE else _text(b"\x1a", state.to_header()),
            b"" if parent_id is None else b"\x22\x08" + parent_id,
            _name(name) if len(name) <= _LONGEST_CACHED else _text(b"\x2a", name),
            b"\x30",
            _KINDS[id(span.kind)],
            _time(b"\x39", span.start_time),
            _time(b"\x41", span.end_time),
            _attributes(b"\x4a", attributes) if attributes else b"",
            b"" if getattr(span, "has_only_attributes", False) else _events_and_losses(span),
            _UNSET if status.status_code is StatusCode.UNSET else _status(status.status_code.value, status.description),
            _FLAGS[is_below_remote],
        )
    )
    return b"".join((b"\x12", _size(content), content))


def _ids(span: ReadableSpan) -> tuple[bytes, bytes, TraceState, bytes | None, bool]:
    """Return the ids of trace and span, the state, the id of its parent, and whether that is remote."""
    if (written := getattr(span, "written_ids", None)) is not None:
        trace_digits, span_digits, state, parent_digits = written
        parent_id = None if parent_digits is None else bytes.fromhex(parent_digits)
        return bytes.fromhex(trace_digits), bytes.fromhex(span_digits), state, parent_id, parent_id is not None
    context, parent = span.context, span.parent
    if context is None:
        raise UnusualSpanError
    ids = context.trace_id.to_bytes(16), context.span_id.to_bytes(8), context.trace_state
    return (*ids, None, False) if parent is None else (*ids, parent.span_id.to_bytes(8), parent.is_remote)


def _events_and_losses(span: ReadableSpan) -> bytes:
    """Encode what few spans have."""
    if span.links:
        raise UnusualSpanError
    return b"".join(
        (
            _count(b"\x50", span.dropped_attributes),
            *(_message(b"\x5a", _event(event)) for event in span.events),
            _count(b"\x60", span.dropped_events),
            _count(b"\x70", span.dropped_links),
        )
    )

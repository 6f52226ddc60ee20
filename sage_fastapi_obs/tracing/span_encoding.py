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

EncodeWithSdk: TypeAlias = Callable[[Sequence[ReadableSpan]], Any]
"""The SDK's `encode_spans`: returns an `ExportTraceServiceRequest`."""
_SPANS_AT_A_TIME = 64
"""Spans that are encoded before other threads get the interpreter: well under a millisecond's work."""
_LONGEST_CACHED = 32
"""Characters of a text whose encoding is kept for the next span: those of ids and longer ones are seldom the same."""
_FLAGS = tuple(b"\x85\x01" + struct.pack("<I", flags) for flags in (0x100, 0x300))
"""Of a span whose parent is local, and remote."""
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


def _size(content: bytes) -> bytes:
    length = len(content)
    return _SMALL[length] if length < len(_SMALL) else _varint(length)


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


def _key_value(tag: bytes, key: str, value: Any) -> bytes:
    content = _VALUES[type(value)](value)
    length = len(content)
    return _message(tag, b"".join((_key(key), _SMALL[length] if length < len(_SMALL) else _varint(length), content)))


_repeated_key_value = lru_cache(maxsize=4096)(_key_value)
"""Only for texts and whole numbers: `0`, `0.0`, `-0.0` and `False` are the same key of a cache."""


def _attributes(tag: bytes, attributes: Mapping[str, Any]) -> bytes:
    return b"".join(
        [
            _repeated_key_value(tag, key, value)
            if (len(value) < _LONGEST_CACHED if type(value) is str else type(value) is int)
            else _key_value(tag, key, value)
            for key, value in attributes.items()
        ]
    )


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


class SpanEncoder:
    """Encodes batches of spans."""

    def __init__(self, encode_with_sdk: EncodeWithSdk) -> None:
        self._encode_with_sdk = encode_with_sdk

    def encode(self, spans: Sequence[ReadableSpan]) -> tuple[bytes, int]:
        """Return the bytes of an `ExportTraceServiceRequest`, and of how many spans it consists: some cannot be encoded."""
        resources: dict[int, dict[int, _SpansOfScope]] = {}
        encoded_count = 0
        for number, span in enumerate(spans):
            if number % _SPANS_AT_A_TIME == 0:
                time.sleep(0)
            try:
                scopes = resources.setdefault(id(span.resource), {})
                scope_id = id(span.instrumentation_scope)
                encoded = self._span(span)
                if scope_id not in scopes:
                    scopes[scope_id] = _SpansOfScope(self._encode_with_sdk([span]))
            except Exception:  # noqa: S112 - the caller counts it
                continue
            scopes[scope_id].spans.append(encoded)
            encoded_count += 1
        return b"".join(_resource_spans([*scopes.values()]) for scopes in resources.values() if scopes), encoded_count

    def _span(self, span: ReadableSpan) -> bytes:
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
    context, parent, status = span.context, span.parent, span.status
    if context is None or span.links:
        raise UnusualSpanError
    events, attributes = span.events, span.attributes
    content = b"".join(
        (
            b"\x0a\x10",
            context.trace_id.to_bytes(16),
            b"\x12\x08",
            context.span_id.to_bytes(8),
            _text(b"\x1a", context.trace_state.to_header()) if context.trace_state else b"",
            b"" if parent is None else b"\x22\x08" + parent.span_id.to_bytes(8),
            _text(b"\x2a", span.name),
            b"\x30",
            _SMALL[span.kind.value + 1],
            _time(b"\x39", span.start_time),
            _time(b"\x41", span.end_time),
            _attributes(b"\x4a", attributes) if attributes else b"",
            _count(b"\x50", span.dropped_attributes),
            b"".join([_message(b"\x5a", _event(event)) for event in events]) if events else b"",
            _count(b"\x60", span.dropped_events),
            _count(b"\x70", span.dropped_links),
            _status(status.status_code.value, status.description),
            _FLAGS[parent is not None and parent.is_remote],
        )
    )
    return _message(b"\x12", content)

"""The attributes of the server span, by OpenTelemetry's stable conventions for HTTP: add one here."""

import os
import re
from collections.abc import Callable, Container, Iterator, Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple, TypeAlias

from opentelemetry.util.http import OTEL_PYTHON_INSTRUMENTATION_HTTP_CAPTURE_ALL_METHODS, get_custom_headers

from sage_fastapi_obs.catalog import KNOWN_METHODS, OTHER_METHOD
from sage_fastapi_obs.privacy.printable import printable
from sage_fastapi_obs.privacy.redaction import Redaction, readable
from sage_fastapi_obs.request.exchange import Exchange
from sage_fastapi_obs.request.explanation import Explanation
from sage_fastapi_obs.tracing.header_capture import HeaderCapture

Describe: TypeAlias = Callable[[Exchange], dict[str, Any]]
WHY, CAUSE = EXPLAINED = ("sage.why", "sage.cause")
"""Attributes of a request that was slow, was refused or failed."""
_DEFAULT_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}
_HIGHEST_PORT = 65535
_METHOD = re.compile(r"[A-Za-z][A-Za-z_-]{0,31}")
_HOST = re.compile(r"(?:\[(?P<ipv6>[^\[\]]+)\]|(?P<name>[^:]+))(?::(?P<port>[0-9]{0,5}))?", re.DOTALL)
"""A `Host` header: brackets belong to the notation of an IPv6 address, not to the address; the port may be left out."""


def id_attributes(exchange: Exchange) -> dict[str, Any]:
    """Return the ids of a request; also for the span of another library."""
    return {"sage.request_id": exchange.request_id, "sage.correlation_id": exchange.correlation_id}


class ServerAttributes(NamedTuple):
    """What makes the attributes and names of server spans, as the environment said when it was built."""

    at_start: Describe
    at_end: Describe
    names: Callable[[str, str | None], tuple[str, str]]
    """Returns, for a method and a route, the name at the start, when the route is not known, and at the end."""
    remarks: tuple[str, ...]
    """What is wrong with the environment variables."""


def server_attributes(redaction: Redaction) -> ServerAttributes:
    """Read the environment: which headers and which methods spans have; what is not asked for costs nothing."""
    known, capture = known_methods(), HeaderCapture(redaction)
    connection = lru_cache(maxsize=256)(partial(_connection_attributes, known))
    at_start = partial(_request_attributes, redaction, connection, known)

    def with_request_headers(exchange: Exchange) -> dict[str, Any]:
        return {**at_start(exchange), **capture.request_headers(exchange)}

    def with_response_headers(exchange: Exchange) -> dict[str, Any]:
        return {**_response_attributes(exchange), **capture.response_headers(exchange.response_headers)}

    return ServerAttributes(
        with_request_headers if capture.of_requests else at_start,
        with_response_headers if capture.of_responses else _response_attributes,
        lru_cache(maxsize=1024)(partial(_span_names, known)),
        capture.remarks,
    )


def known_methods() -> Container[str]:
    """Return the methods that spans name: those of the conventions, those that the environment lists instead, or any."""
    if os.environ.get(OTEL_PYTHON_INSTRUMENTATION_HTTP_CAPTURE_ALL_METHODS):
        return _AnyMethod()
    listed = get_custom_headers("OTEL_INSTRUMENTATION_HTTP_KNOWN_METHODS")
    return frozenset(method for method in listed if method in _AnyMethod()) or KNOWN_METHODS


class _AnyMethod:
    """All words that can be a method; anybody may send one of any length."""

    def __contains__(self, method: object) -> bool:
        return isinstance(method, str) and _METHOD.fullmatch(method) is not None


def _request_attributes(
    redaction: Redaction, connection: Callable[..., dict[str, Any]], known: Container[str], exchange: Exchange
) -> dict[str, Any]:
    """Return what is known at the start, for samplers too."""
    scope, headers = exchange.scope, exchange.headers
    server = scope.get("server")
    kept = (exchange.method, headers.get(b"host"), scope.get("scheme"), scope.get("http_version"), exchange.kind)
    attributes: dict[str, Any] = {
        **connection(*kept, server if server is None or type(server) is tuple else tuple(server)),
        "url.path": redaction.readable(exchange.path),
        "sage.request_id": exchange.request_id,
        "sage.correlation_id": exchange.correlation_id,
    }
    if exchange.method not in known:
        attributes["http.request.method_original"] = redaction.readable(exchange.method)
    if query := scope.get("query_string"):
        attributes["url.query"] = redaction.query(query)
    if client := scope.get("client"):
        attributes["client.address"] = attributes["network.peer.address"] = client[0]
        if len(client) > 1 and client[1] is not None:
            attributes["network.peer.port"] = client[1]
    if agent := headers.get(b"user-agent"):
        attributes["user_agent.original"] = redaction.readable(agent.decode("latin-1"))
    return attributes


def _response_attributes(exchange: Exchange) -> dict[str, Any]:
    """Return what is known at the end."""
    attributes: dict[str, Any] = {"http.response.status_code": exchange.status}
    if exchange.route is not None:
        attributes["http.route"] = exchange.route
    if exchange.error_type is not None:
        attributes["error.type"] = printable(exchange.error_type)
    if exchange.kept:
        attributes["sage.kept"] = exchange.kept
    if exchange.explanation is not None:
        attributes.update(_reasons(exchange.explanation))
    return attributes


def _reasons(explanation: Explanation) -> Iterator[tuple[str, Any]]:
    """Yield why a request was slow, was refused or failed, and where its time went."""
    if explanation.findings:
        yield WHY, tuple(map(printable, explanation.why))
        yield CAUSE, explanation.cause
    for name, milliseconds in explanation.timings_ms.items():
        yield f"sage.timings.{name}_ms", milliseconds


def _span_names(known: Container[str], method: str, route: str | None) -> tuple[str, str]:
    name = method if method in known else "HTTP"
    return name, name if route is None else printable(f"{name} {route}")


def _connection_attributes(
    known: Container[str],
    method: str,
    host: bytes | None,
    scheme: str | None,
    version: str | None,
    kind: str,
    server: tuple[Any, ...] | None,
) -> dict[str, Any]:
    """Return what the requests of one client to this server have in common."""
    scheme = scheme or ("ws" if kind == "websocket" else "http")
    attributes: dict[str, Any] = {
        "http.request.method": method if method in known else OTHER_METHOD,
        "url.scheme": scheme,
        **((host and _server_by_name(host, scheme)) or _server_by_address(server)),
    }
    if version:
        attributes["network.protocol.version"] = version
    if kind == "websocket":
        attributes["network.protocol.name"] = "websocket"
    return attributes


def _server_by_name(host: bytes, scheme: str) -> dict[str, Any]:
    """Read the name that the client used for this server; empty for a header that is no name."""
    given = _HOST.fullmatch(host.decode("latin-1"))
    port = int(given["port"] or _DEFAULT_PORTS.get(scheme, 80)) if given else 0
    if not given or port > _HIGHEST_PORT:
        return {}
    return {"server.address": readable(given["ipv6"] or given["name"]), "server.port": port}


def _server_by_address(server: Sequence[Any] | None) -> dict[str, Any]:
    """Read the address that the server listens at; that of a Unix socket has no port."""
    if not server:
        return {}
    return {"server.address": server[0], **({"server.port": server[1]} if len(server) > 1 and server[1] is not None else {})}

"""The attributes of the server span, by OpenTelemetry's stable conventions for HTTP: add one here."""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from sage_fastapi_obs.catalog import KNOWN_METHODS, OTHER_METHOD
from sage_fastapi_obs.privacy.printable import printable
from sage_fastapi_obs.privacy.redaction import Redaction, readable
from sage_fastapi_obs.request.exchange import Exchange

_DEFAULT_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}
_HIGHEST_PORT = 65535
_HOST = re.compile(r"(?:\[(?P<ipv6>[^\[\]]+)\]|(?P<name>[^:]+))(?::(?P<port>[0-9]{0,5}))?", re.DOTALL)
"""A `Host` header: brackets belong to the notation of an IPv6 address, not to the address; the port may be left out."""


def id_attributes(exchange: Exchange) -> dict[str, Any]:
    """Return the ids of a request; also for the span of another library."""
    return {"sage.request_id": exchange.request_id, "sage.correlation_id": exchange.correlation_id}


def request_attributes(redaction: Redaction, exchange: Exchange) -> dict[str, Any]:
    """Return what is known at the start, for samplers too."""
    scope, headers = exchange.scope, exchange.headers
    server = scope.get("server")
    kept = (exchange.method, headers.get(b"host"), scope.get("scheme"), scope.get("http_version"), exchange.kind)
    attributes: dict[str, Any] = {
        **_connection_attributes(*kept, server if server is None or type(server) is tuple else tuple(server)),
        "url.path": redaction.readable(exchange.path),
        "sage.request_id": exchange.request_id,
        "sage.correlation_id": exchange.correlation_id,
    }
    if exchange.method not in KNOWN_METHODS:
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


def response_attributes(exchange: Exchange) -> dict[str, Any]:
    """Return what is known at the end."""
    attributes: dict[str, Any] = {"http.response.status_code": exchange.status}
    if exchange.route is not None:
        attributes["http.route"] = exchange.route
    if exchange.error_type is not None:
        attributes["error.type"] = printable(exchange.error_type)
    if exchange.kept:
        attributes["sage.kept"] = exchange.kept
    return attributes


@lru_cache(maxsize=1024)
def span_names(method: str, route: str | None) -> tuple[str, str]:
    """Return the name of a server span at its start, when its route is not known, and at its end."""
    name = method if method in KNOWN_METHODS else "HTTP"
    return name, name if route is None else printable(f"{name} {route}")


@lru_cache(maxsize=256)
def _connection_attributes(
    method: str, host: bytes | None, scheme: str | None, version: str | None, kind: str, server: tuple[Any, ...] | None
) -> dict[str, Any]:
    """Return what the requests of one client to this server have in common."""
    scheme = scheme or ("ws" if kind == "websocket" else "http")
    attributes: dict[str, Any] = {
        "http.request.method": method if method in KNOWN_METHODS else OTHER_METHOD,
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

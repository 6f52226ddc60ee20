"""Requests to other services through httpx, with the trace context and the ids in their headers."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import httpx

from sage_fastapi_obs.catalog import KNOWN_METHODS, OTHER_METHOD
from sage_fastapi_obs.clients.client_call import CALLS, OTEL_SCOPE_PREFIX, Call, ClientSystem, is_instrumented_by_otel
from sage_fastapi_obs.clients.httpx_connections import AsyncConnectionTrace, ConnectionTrace
from sage_fastapi_obs.clients.patching import Instrumented, count_errors_of, instrument_once, wrapped, wrong_client
from sage_fastapi_obs.clients.propagation import TRACE_HEADER, outgoing_headers
from sage_fastapi_obs.insight.call_notes import Callee
from sage_fastapi_obs.insight.pool_use import PoolUse
from sage_fastapi_obs.request.innermost_span import innermost_span

Client = TypeVar("Client", httpx.Client, httpx.AsyncClient)
_DEFAULT_PORTS = {"http": 80, "https": 443}
_LOWEST_FAILURE = 400
"""For a client, 4xx is a failure, too."""
_HTTPX = ClientSystem(OTEL_SCOPE_PREFIX + "httpx", CALLS)


def instrument_httpx(client: Client) -> Instrumented[Client]:
    """Watch an `httpx.Client` or `httpx.AsyncClient`.

    Each request, each of those that a redirect leads to, is a span until the head of its response, and counts in
    `dependency_calls_total` and `dependency_call_duration_seconds` as an operation of the system `http`, such as
    `GET api.example.com`. Headers carry trace context, correlation id and request id, as those of `correlation_hook`: watch
    clients that call services of yours.
    """
    if not isinstance(client, httpx.Client | httpx.AsyncClient):
        raise wrong_client("instrument_httpx", "an httpx.Client or httpx.AsyncClient", client)
    return instrument_once(client, _watch)


def _watch(instrumented: Instrumented[Any]) -> None:
    client = instrumented.client
    # All ways out; there is no public name for them, and no other place where each request of a redirect is seen.
    for transport in [client._transport, *client._mounts.values()]:  # noqa: SLF001
        if transport is not None:
            instrumented.on_undo(instrument_once(transport, _watch_transport).undo)


def _watch_transport(instrumented: Instrumented[Any]) -> None:
    use = PoolUse()
    if isinstance(instrumented.client, httpx.AsyncBaseTransport):
        instrumented.replace("handle_async_request", partial(_watched, instrumented, use, AsyncConnectionTrace))
    if isinstance(instrumented.client, httpx.BaseTransport):
        instrumented.replace("handle_request", partial(_watched, instrumented, use, ConnectionTrace))


def _watched(instrumented: Instrumented[Any], use: PoolUse, trace: type[ConnectionTrace], original: Any) -> Any:
    otel_traced = is_instrumented_by_otel(original)

    @contextmanager
    def sending(request: httpx.Request) -> Iterator[Call | None]:
        with instrumented.call(_describe, request, otel_traced) as call:
            if call is None:
                yield call
                return
            count_errors_of(lambda: _add_ids(call, request, traced=not otel_traced))
            with trace(use, request):
                yield call

    return wrapped(original, sending, _add_response)


def _describe(request: httpx.Request, otel_traced: bool) -> Call:
    url = request.url
    method = request.method if request.method in KNOWN_METHODS else OTHER_METHOD
    port = url.port or _DEFAULT_PORTS.get(url.scheme)
    attributes = {
        "http.request.method": method,
        "server.address": url.host,
        "server.port": port,
        "url.full": str(url),
    }
    if method == OTHER_METHOD:
        attributes["http.request.method_original"] = request.method
    server = url.host if url.port is None else f"{url.host}:{url.port}"
    labels = {"system": "http", "operation": f"{method} {server}"}
    name = "HTTP" if method == OTHER_METHOD else method
    return Call(_HTTPX, name, labels, attributes, Callee("call", server, ""), otel_traced=otel_traced)


def _add_ids(call: Call, request: httpx.Request, *, traced: bool) -> None:
    """Add the ids; a trace context that the request has already stays, but for one of this very trace."""
    headers = request.headers
    span = call.own_span
    here = (innermost_span() if span is None else span).get_span_context()
    given = headers.get(TRACE_HEADER)
    of_this_trace = given is None or f"-{here.trace_id:032x}-" in given
    for name, value in outgoing_headers(span, traced=traced and of_this_trace).items():
        if name == TRACE_HEADER or name not in headers:
            headers[name] = value


def _add_response(call: Call | None, response: httpx.Response) -> None:
    if call is None:
        return
    attributes: dict[str, Any] = {"http.response.status_code": response.status_code}
    version = response.extensions.get("http_version")
    if isinstance(version, bytes):
        attributes["network.protocol.version"] = version.decode("latin-1").removeprefix("HTTP/")
    call.set_attributes(attributes)
    if response.status_code >= _LOWEST_FAILURE:
        call.fail(str(response.status_code))

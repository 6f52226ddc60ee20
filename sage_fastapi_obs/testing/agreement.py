"""Whether all that was recorded of a request says the same: where the signals of `RecordedRequest.assert_consistent` differ."""

import math
from collections.abc import Iterator
from typing import Any

from sage_fastapi_obs.catalog import OVERFLOW
from sage_fastapi_obs.catalog.http import REQUEST_LABELS, REQUEST_METRICS
from sage_fastapi_obs.log_levels import LEVELS
from sage_fastapi_obs.logs.access_line import ACCESS_LOGGER, access_level
from sage_fastapi_obs.request.exchange import Exchange
from sage_fastapi_obs.testing.log_capture import LogLine
from sage_fastapi_obs.testing.recording import Recording
from sage_fastapi_obs.testing.span_capture import attribute, is_ours

_STATUS_LABELS = ("status", "status_code", "code", "http_status", "http_status_code", "http_response_status_code")
_CLIENTS = ("client", "httpx", "aiohttp")
"""Parts of the names of metrics of calls that an app makes."""
_TOTAL, _DURATION = (metric.name for metric in REQUEST_METRICS[:2])


def disagreements(request: Recording) -> list[str]:
    """Say where the signals of a request differ; nothing where they agree."""
    found = [*_of_spans(request), *_of_lines(request), *_of_metrics(request)]
    exchange = request.exchange
    if exchange is not None and not exchange.excluded:
        found += [*_of_headers(request, exchange), *_of_our_span(request, exchange), *_of_our_line(request, exchange)]
        found += _of_our_metrics(request, exchange)
    elif not (request.server_spans or request.lines or request.metrics):
        found.append("there is nothing to compare: no span, no line and no metric")
    return found


def _of_spans(request: Recording) -> Iterator[str]:
    spans = request.server_spans
    if len(spans) > 1:
        yield f"{len(spans)} server spans: {', '.join(span.name for span in spans)}"
    for span in spans:
        status = attribute(span, "http.response.status_code", "http.status_code")
        yield from _differ(f"status of span {span.name}", status, _status(request))
        route = attribute(span, "http.route")
        yield from _differ(f"route of span {span.name}", route, request.route)


def _of_lines(request: Recording) -> Iterator[str]:
    traces = {f"{span.context.trace_id:032x}" for span in request.spans if span.context is not None}
    for line in request.lines:
        where, fields = f"line {line.message!r}", line.fields
        if traces and (trace_id := fields.get("trace_id")) and trace_id not in traces:
            yield f"{where}: trace_id {trace_id} is that of no span"
        yield from _differ(f"{where}: request_id", fields.get("request_id"), _request_id(request))
        # Of our access line more is compared; another line of an app with one may be about a call, or about something else.
        status = fields.get("status", fields.get("status_code"))
        if not request.is_logged_by_us and {"method", "path"} <= fields.keys() and str(status).isdecimal():
            yield from _differ(f"{where}: status", status, _status(request))


def _of_metrics(request: Recording) -> Iterator[str]:
    """Compare the labels of counters of requests, whoever has made them."""
    status = _status(request)
    if status is None or not request.is_alone:
        return
    for (name, labels), change in request.metrics.items():
        label = next((value for key, value in labels if key in _STATUS_LABELS), None)
        is_of_calls = any(client in name for client in _CLIENTS)
        is_of_requests = "http" in name and not is_of_calls and name.endswith(("_total", "_count")) and change > 0
        if is_of_requests and label is not None and label.lower() not in (str(status), f"{status // 100}xx", OVERFLOW):
            yield f"metric {name}: status {label}, not {status}"


def _of_headers(request: Recording, exchange: Exchange) -> Iterator[str]:
    if request.status is None or exchange.rejection is not None:
        return
    http = request.observability.settings.http
    answered, headers = request.kind == "http", request.headers
    if (found := headers.get(http.request_id_header)) != exchange.request_id and (answered or found):
        yield f"header {http.request_id_header}: {found}, not {exchange.request_id}"
    yield from _differ(f"header {http.correlation_header}", headers.get(http.correlation_header), exchange.correlation_id)
    if (traced := headers.get("traceresponse")) and exchange.trace_id not in traced:
        yield f"header traceresponse: {traced}, not of trace {exchange.trace_id}"
    if answered and not exchange.client_gone:
        yield from _differ("status of the response", request.status, exchange.status)


def _of_our_span(request: Recording, exchange: Exchange) -> Iterator[str]:
    spans = request.server_spans
    if not request.observability.settings.tracing.enabled:
        return
    if not exchange.sampled:
        # Its spans are not exported, as the settings say.
        if any(is_ours(span) for span in spans):
            yield "a span of a request that is not sampled"
        return
    if not spans:
        yield "no server span, and it is sampled; of a provider that is not the global one, give it to telemetry.observe"
    for span in spans:
        context = span.context
        yield from _differ("trace id of the span", context and f"{context.trace_id:032x}", exchange.trace_id)
        if is_ours(span):
            yield from _differ("span id", context and f"{context.span_id:016x}", exchange.span_id)
            lasted = ((span.end_time or 0) - (span.start_time or 0)) / 1_000_000
            wanted_us = exchange.duration_us if exchange.socket is None else exchange.socket.handshake_us
            if wanted_us is not None:
                yield from _differ("duration of the span, ms", lasted, wanted_us / 1_000)


def _of_our_line(request: Recording, exchange: Exchange) -> Iterator[str]:
    if not request.is_logged_by_us:
        return
    lowest = request.observability.logs.levels.severity_of(ACCESS_LOGGER)
    lines = request.access_lines
    if not lines and LEVELS[access_level(exchange)] < lowest:
        # The settings want no such line.
        return
    if len(lines) != 1:
        yield f"{len(lines)} access lines, not 1"
    for line in lines:
        yield from _of_access_line(line, exchange)


def _of_access_line(line: LogLine, exchange: Exchange) -> Iterator[str]:
    wanted = {
        "request_id": exchange.request_id,
        "correlation_id": exchange.correlation_id,
        "trace_id": exchange.trace_id or None,
        "span_id": exchange.span_id or None,
        "route": exchange.route,
        "status": exchange.status,
        "duration_ms": exchange.duration_ms,
        "error_type": exchange.error_type,
    }
    for name, value in wanted.items():
        if line.fields.get(name) != value:
            yield f"access line: {name} {line.fields.get(name)!r}, not {value!r}"


def _of_our_metrics(request: Recording, exchange: Exchange) -> Iterator[str]:
    settings = request.observability.settings.metrics
    if not settings.enabled or "http" not in request.observability.instruments.packs:
        return
    name = _TOTAL if exchange.socket is None else "websocket_connections_total"
    number = request.metric(name)
    if number < 1 or (request.is_alone and number != 1):
        yield f"metric {name}: {number:g} requests, not 1"
    if exchange.socket is not None or not request.is_alone or number != 1:
        return
    labels = next(dict(found) for (sample, found), change in request.metrics.items() if sample == name and change)
    for label in REQUEST_LABELS:
        # A label with too many values has one value for all others.
        if labels[label.name] != OVERFLOW:
            yield from _differ(f"label {label.name} of {name}", labels[label.name], label.value_of(exchange))
    seconds = request.metric(f"{_DURATION}_sum")
    if not exchange.streamed and not math.isclose(seconds, exchange.duration_seconds, rel_tol=1e-6, abs_tol=1e-7):
        yield f"metric {_DURATION}: {seconds:g} s, not {exchange.duration_seconds:g} s"


def _status(request: Recording) -> int | None:
    """Return the status that signals have to show; None where that is not the one of the response."""
    if request.exchange is not None:
        return request.exchange.status or None
    return 500 if request.status is None and request.error is not None else request.status


def _request_id(request: Recording) -> str | None:
    return request.headers.get("x-request-id") if request.exchange is None else request.exchange.request_id


def _differ(what: str, found: Any, wanted: Any) -> Iterator[str]:
    """Say that two differ, where both are known."""
    if found is not None and wanted is not None and found != wanted:
        yield f"{what}: {found}, not {wanted}"

"""A collector of OpenTelemetry's, over OTLP by HTTP or gRPC, as its standard variables say."""

import gzip
import os
import ssl
import zlib
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from sage_fastapi_obs.delivery.grpc_sender import Caller
from sage_fastapi_obs.settings.standard_variables import OtlpVariables, Signal

if TYPE_CHECKING:
    import httpx

_FASTEST = 1
_PACKED: dict[str, Callable[[bytes], bytes]] = {
    "gzip": partial(gzip.compress, compresslevel=_FASTEST),
    "deflate": partial(zlib.compress, level=_FASTEST),
}
_SERVICES = {"traces": "trace.v1.TraceService", "logs": "logs.v1.LogsService", "metrics": "metrics.v1.MetricsService"}
_AGAIN = frozenset({429, 502, 503, 504})
"""Statuses after which OTLP says to try again."""


class _Transport(Protocol):
    def post(self, content: bytes, seconds: float) -> bytes: ...
    def close(self) -> None: ...


class Collector:
    """Takes one signal."""

    def __init__(self, url: str, signal: Signal, answer: Any) -> None:
        """Read the variables; nothing is opened yet.

        `url`: of HTTP as it is, or `grpc://host:port`, `grpcs://host:port`. `answer`: the message in which the collector says
        what it has taken. Raises `SettingsError` where an extra is missing.
        """
        variables = OtlpVariables.from_environment(signal, os.environ)
        self.remarks = variables.remarks
        """What is wrong with the variables."""
        self._answer = answer
        self._transport: _Transport
        if url.startswith("http"):
            self._transport = _Http(url, variables)
        else:
            method = f"/opentelemetry.proto.collector.{_SERVICES[signal]}/Export"
            self._transport = caller = Caller(url, method, variables)
            self.remarks += caller.remarks

    def send(self, content: bytes, seconds: float) -> int:
        """Send an encoded message, and return how many parts of it the collector refused, which OTLP says not to send again.

        `seconds`: how long that may take, where it is less than usual.
        """
        body = self._transport.post(content, seconds)
        try:
            # Rejected spans, records or points: whatever they are, their number comes first.
            refused = self._answer.FromString(body).partial_success.ListFields()
        except Exception:
            # Taken all the same, says the protocol: the status decides.
            return 0
        return next((max(0, value) for described, value in refused if described.number == 1), 0)

    def close(self) -> None:
        """Let go of connections."""
        self._transport.close()


class _Http:
    """Posts messages."""

    def __init__(self, url: str, variables: OtlpVariables) -> None:
        # Late, as below: httpx takes long to import, and only who sends needs it.
        from sage_fastapi_obs.delivery.http_sender import Poster  # noqa: PLC0415

        self._variables = variables
        self._headers = {**variables.headers, "content-type": "application/x-protobuf"}
        self._pack = _PACKED.get(variables.compression)
        if self._pack is not None:
            self._headers["content-encoding"] = variables.compression
        self._poster = Poster(url, self._client, variables.timeout_seconds, _AGAIN)
        self.close = self._poster.close

    def post(self, content: bytes, seconds: float) -> bytes:
        """Post a message, and return the answer."""
        return self._poster.post(content if self._pack is None else self._pack(content), self._headers, seconds)

    def _client(self, **options: Any) -> "httpx.Client":
        import httpx  # noqa: PLC0415

        variables = self._variables
        if variables.certificate is None and variables.client_certificate is None:
            return httpx.Client(**options)
        trusted = _readable(variables.certificate)
        context = httpx.create_ssl_context() if trusted is None else ssl.create_default_context(cafile=trusted)
        if variables.client_certificate is not None:
            context.load_cert_chain(_readable(variables.client_certificate) or "", _readable(variables.client_key))
        return httpx.Client(verify=context, **options)


def _readable(path: str | None) -> str | None:
    """Open a file once, as `ssl` does not say which one is missing."""
    if path is not None:
        with open(path, "rb"):  # noqa: PTH123 - the path is handed on as it was given
            pass
    return path

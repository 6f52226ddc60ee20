"""Calling a receiver over gRPC: opened late, over within a time limit, and without an encoder of its own."""

import math
import os
import re
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

from sage_fastapi_obs.delivery.answers import Refused, TooLarge, Unavailable
from sage_fastapi_obs.errors import SettingsError
from sage_fastapi_obs.settings.standard_variables import OtlpVariables

_LEAST_SECONDS = 0.001
"""Shortest time limit of a call."""
DEFAULT_PORTS = {"grpc": 4317, "grpcs": 443}
_AGAIN = {"CANCELLED", "DEADLINE_EXCEEDED", "ABORTED", "OUT_OF_RANGE", "UNAVAILABLE", "DATA_LOSS"}
"""Codes after which OTLP says to try again."""
_TOO_LARGE = re.compile(r"larger than max|exceeds max|length too large")
"""How servers in C and Go, Java, and Rust say that a message is too large, for which gRPC has no code."""
_LONG_ANSWER = "CLIENT: Received message larger than max"
_METADATA_NAME = re.compile(r"(?!grpc-)[0-9a-z_.-]+(?<!-bin)")
_METADATA_VALUE = re.compile(r"[\x20-\x7e]*")
_CHANNEL_OPTIONS = (
    # Each channel has connections of its own, and none waits for another channel's back-off.
    ("grpc.use_local_subchannel_pool", 1),
    # We try again ourselves, and count.
    ("grpc.enable_retries", 0),
)
_of_parents: list[Any] = []
"""Channels of the process from which this one was forked: taking them down could wait for threads that are not here."""


class Caller:
    """Calls one method of one server, over a channel of its own."""

    def __init__(self, url: str, method: str, variables: OtlpVariables) -> None:
        """Open nothing yet. `url`: `grpc://host:port`, or `grpcs://` for TLS. Raises `SettingsError` without the extra."""
        try:
            import grpc  # noqa: PLC0415 - an extra
            from google.rpc import error_details_pb2, status_pb2  # noqa: PLC0415
        except ImportError:
            raise SettingsError(
                f"sending to {urlsplit(url).scheme}:// needs: pip install 'sage_fastapi_obs[otlp-grpc]'"
            ) from None
        self._grpc, self._status, self._retry_info = grpc, status_pb2.Status, error_details_pb2.RetryInfo
        self._url, self._method, self._variables = url, method, variables
        given = variables.headers.items()
        self._metadata = tuple(pair for pair in given if _is_metadata(*pair))
        self.remarks = tuple(f"header {name!r} cannot be sent over gRPC, and is left out" for name, _ in _others(given))
        """Headers that gRPC does not take."""
        compressions = grpc.Compression
        self._compression = {"gzip": compressions.Gzip, "deflate": compressions.Deflate}.get(variables.compression)
        self._channel: Any = None
        self._call: Any = None
        self._process_id = 0

    def post(self, content: bytes, seconds: float = math.inf) -> bytes:
        """Send a message, and return the answer. Raises `Unavailable`, `Refused` or `TooLarge` by what the code means."""
        limit = max(_LEAST_SECONDS, min(self._variables.timeout_seconds, seconds))
        call = self._opened()
        try:
            answer: bytes = call(content, timeout=limit, metadata=self._metadata)
        except self._grpc.RpcError as error:
            # The next try connects anew, at once: the channel itself would wait for a time of its own.
            self.close()
            if _LONG_ANSWER in (error.details() or ""):
                # By answering it has taken everything.
                return b""
            raise self._judged(error) from None
        return answer

    def close(self) -> None:
        """Let go of the connection."""
        channel, self._channel = self._channel, None
        if channel is None:
            return
        if self._process_id == os.getpid():
            channel.close()
        else:
            _of_parents.append((channel, self._call))
        self._call = None

    def _opened(self) -> Any:
        if self._channel is None:
            try:
                self._channel = self._connected()
            except Exception as error:
                raise Unavailable(f"cannot set up a channel: {type(error).__name__}: {error}") from None
            self._process_id = os.getpid()
            self._call = self._channel.unary_unary(self._method)
        return self._call

    def _connected(self) -> Any:
        parts, variables, grpc = urlsplit(self._url), self._variables, self._grpc
        host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
        target = f"{host}:{parts.port or DEFAULT_PORTS[parts.scheme]}"
        if parts.scheme == "grpc":
            return grpc.insecure_channel(target, _CHANNEL_OPTIONS, self._compression)
        trusted, key, own = map(_content, (variables.certificate, variables.client_key, variables.client_certificate))
        credentials = grpc.ssl_channel_credentials(trusted, key or own, own)
        return grpc.secure_channel(target, credentials, _CHANNEL_OPTIONS, self._compression)

    def _judged(self, error: Any) -> Exception:
        code = error.code().name
        if code in ("RESOURCE_EXHAUSTED", "OUT_OF_RANGE") and _TOO_LARGE.search(error.details() or ""):
            return TooLarge()
        pause = self._pause_of(error)
        if code in _AGAIN or (code == "RESOURCE_EXHAUSTED" and pause is not None):
            return Unavailable(f"gRPC {code}", pause or 0.0)
        return Refused(f"gRPC {code}")

    def _pause_of(self, error: Any) -> float | None:
        """Read how many seconds the server asks to wait; None if it does not say that waiting helps."""
        try:
            details = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin", b"")
            for detail in self._status.FromString(details).details:
                info = self._retry_info()
                if detail.Unpack(info):
                    return max(0.0, float(info.retry_delay.seconds + info.retry_delay.nanos / 1e9))
        except Exception:  # noqa: S110 - what cannot be read says nothing
            pass
        return None


def _is_metadata(name: str, value: str) -> bool:
    return bool(_METADATA_NAME.fullmatch(name) and _METADATA_VALUE.fullmatch(value))


def _others(headers: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    return [pair for pair in headers if not _is_metadata(*pair)]


def _content(path: str | None) -> bytes | None:
    if path is None:
        return None
    with open(path, "rb") as file:  # noqa: PTH123 - the path is opened as it was given
        return file.read()

"""SAGE: spans of the steps of its protocol, and the metrics of the pack `sage`.

`trace_…` gives a span and no metrics, `observe_…` gives metrics and no span; both are operations, for `with`, `async with` and
as decorators. `record_…` tells what happened in a moment. Label values that a metric does not know are counted as `other`.
"""

from collections.abc import Iterable
from typing import Any, Literal, cast

from opentelemetry.trace import Span

from sage_fastapi_obs.metrics.instruments import Instruments
from sage_fastapi_obs.operations.count import add_span_event, add_to_gauge, count, observe, take_from_gauge
from sage_fastapi_obs.operations.operation import UNMEASURED, Operation
from sage_fastapi_obs.operations.operation_run import OperationRun, RunMetrics

__all__ = [
    "add_span_event",
    "observe_crypto",
    "observe_did_resolution",
    "observe_handshake",
    "observe_message",
    "observe_session_operation",
    "record_blockchain_transaction",
    "record_did_registration",
    "record_nonce",
    "record_replay_attack",
    "session_closed",
    "sessions_expired",
    "span_encryption",
    "span_handshake",
    "span_signature",
    "trace_decryption",
    "trace_did_resolution",
    "trace_encryption",
    "trace_handshake",
    "trace_handshake_verification",
    "trace_key_derivation",
    "trace_key_generation",
    "trace_request",
    "trace_session_create",
    "trace_signature",
    "trace_signature_verification",
]

Status = Literal["success", "failure"]
_DIRECTIONS = {"encrypt": "outbound", "decrypt": "inbound"}
_NETWORK = frozenset({"NetworkError", "TransportError", "ClientConnectionError", "ConnectError"})
"""Exceptions of HTTP clients that are no `OSError`, by name: none of them is needed here."""


class Traced(Operation):
    """A step that is a span: `with trace_…(…) as span`."""

    __slots__ = ()

    def __init__(self, name: str, operation: str, fields: dict[str, Any], more: dict[str, Any] | None = None) -> None:
        """`operation` and `fields` are on lines; the fields, by the prefix `sage.`, and more are attributes of the span."""
        attributes = {f"sage.{field}": value for field, value in {**fields, **(more or {})}.items()}
        super().__init__(
            name, measures=UNMEASURED, attributes=attributes, fields={**_without_none(fields), "operation": operation}
        )

    def __enter__(self) -> Span:  # type: ignore[override]
        """Begin; return the span."""
        return super().__enter__().span

    async def __aenter__(self) -> Span:  # type: ignore[override]
        """Begin; return the span."""
        return super().__enter__().span


def trace_request(name: str) -> Traced:
    """Trace the handling of an endpoint: span `sage.request`."""
    return Traced("sage.request", name, {}, {"endpoint": name})


def trace_handshake(client_did: str, server_did: str, *, version: str = "1.0") -> Traced:
    """Trace a handshake from its first to its last message: span `sage.handshake`."""
    return Traced("sage.handshake", "handshake", {"client_did": client_did, "server_did": server_did}, {"version": version})


def trace_handshake_verification(client_did: str) -> Traced:
    """Trace the check of a client's part of the handshake: span `sage.handshake.verify`."""
    return Traced("sage.handshake.verify", "handshake", {"client_did": client_did})


def trace_session_create(session_id: str) -> Traced:
    """Trace the creation of a session: span `sage.session.create`."""
    return Traced("sage.session.create", "create", {"session_id": session_id})


def trace_encryption(session_id: str, payload_size: int | None = None) -> Traced:
    """Trace the encryption of a message of some bytes: span `sage.session.encrypt`."""
    return Traced("sage.session.encrypt", "encrypt", {"session_id": session_id}, {"payload_size": payload_size})


def trace_decryption(session_id: str, payload_size: int | None = None, *, key_id: str | None = None) -> Traced:
    """Trace the decryption of a message of some bytes: span `sage.session.decrypt`."""
    more = {"payload_size": payload_size, "key_id": key_id}
    return Traced("sage.session.decrypt", "decrypt", {"session_id": session_id}, more)


def trace_signature(key_type: str, algorithm: str | None = None) -> Traced:
    """Trace the creation of a signature: span `sage.signature.create`."""
    return Traced("sage.signature.create", "sign", {"key_type": key_type}, {"algorithm": algorithm})


def trace_signature_verification(key_type: str) -> Traced:
    """Trace the check of a signature: span `sage.signature.verify`."""
    return Traced("sage.signature.verify", "verify", {"key_type": key_type})


def trace_key_generation(key_type: str) -> Traced:
    """Trace the making of a key: span `sage.key.generate`."""
    return Traced("sage.key.generate", "generate_key", {"key_type": key_type})


def trace_key_derivation(algorithm: str) -> Traced:
    """Trace the derivation of a key: span `sage.hpke.derive`."""
    return Traced("sage.hpke.derive", "derive_key", {}, {"algorithm": algorithm})


def trace_did_resolution(chain: str) -> Traced:
    """Trace the resolution of an identity: span `sage.did.resolve`."""
    return Traced("sage.did.resolve", "resolve", {}, {"chain": chain})


span_handshake = trace_handshake
span_encryption = trace_encryption
span_signature = trace_signature


def _without_none(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _handshake_error(error: BaseException) -> str:
    """Tell why a handshake failed: `timeout`, `network`, or because what was received is `invalid`."""
    names = {kind.__name__ for kind in type(error).__mro__}
    if isinstance(error, TimeoutError) or any("Timeout" in name for name in names):
        return "timeout"
    return "network" if isinstance(error, OSError) or names & _NETWORK else "invalid"


_HANDSHAKE = RunMetrics(
    started="sage_handshakes_initiated_total",
    duration="sage_handshake_duration_seconds",
    total="sage_handshakes_completed_total",
    errors="sage_handshakes_failed_total",
    error_type=_handshake_error,
)
_STAGE = RunMetrics(duration="sage_handshake_stage_duration_seconds")
_CRYPTO = RunMetrics(
    duration="sage_crypto_operation_duration_seconds", total="sage_crypto_operations_total", errors="sage_crypto_errors_total"
)
_RESOLUTION = RunMetrics(
    duration="sage_did_resolution_duration_seconds",
    total="sage_did_resolutions_total",
    errors="sage_did_resolution_errors_total",
)
_SESSION = RunMetrics(duration="sage_session_duration_seconds")
_CREATION = RunMetrics(duration="sage_session_duration_seconds", total="sage_sessions_created_total")
_MESSAGE = RunMetrics(duration="sage_message_processing_duration_seconds", total="sage_messages_processed_total")


class HandshakeRun(OperationRun):
    """A handshake under way."""

    __slots__ = ()

    @property
    def key_type(self) -> str:
        """The type of the key that was agreed on: `ed25519`, `secp256k1` or `unknown`; set it as soon as it is known."""
        return self.labels["key_type"]

    @key_type.setter
    def key_type(self, key_type: str) -> None:
        self.labels["key_type"] = key_type

    def stage(self, stage: str) -> Operation:
        """Time a stage of it: `init`, `process` or `finalize`."""
        return Operation(None, measures=_STAGE, labels={"stage": stage})


class Handshake(Operation):
    """`with observe_handshake(…) as handshake`."""

    __slots__ = ()
    run_type = HandshakeRun

    def __enter__(self) -> HandshakeRun:
        """Begin."""
        return cast("HandshakeRun", super().__enter__())

    async def __aenter__(self) -> HandshakeRun:
        """Begin."""
        return self.__enter__()


def observe_handshake(role: str, key_type: str = "unknown") -> Handshake:
    """Count and time a handshake as `client` or `server`: initiated, completed, failed, whole duration and that of stages."""
    return Handshake(None, measures=_HANDSHAKE, labels={"role": role, "key_type": key_type})


class SizedRun(OperationRun):
    """Work on a message under way."""

    __slots__ = ("size",)
    size: int | None
    """Bytes of the message; may be set until the end."""

    def measure(self, instruments: Instruments) -> None:
        """Tell the size, however the work ended; of a session that was created, that there is one more."""
        super().measure(instruments)
        if self.size is not None:
            direction = self.labels.get("direction")
            sizes = instruments.get_or_warn(
                "sage_message_size_bytes" if direction is None else "sage_session_message_size_bytes"
            )
            if sizes is not None:
                sizes.with_values(*([] if direction is None else [direction])).observe(
                    self.size, instruments.exemplar(self._span)
                )
        if self.labels.get("operation") == "create" and self.outcome == "success":
            add_to_gauge("sage_sessions_active")


class Sized(Operation):
    """`with observe_session_operation(…) as run` and `with observe_message(…) as run`."""

    __slots__ = ("_size",)
    run_type = SizedRun

    def __init__(self, measures: RunMetrics, labels: dict[str, str], size: int | None) -> None:
        super().__init__(None, measures=measures, labels=labels)
        self._size = size

    def __enter__(self) -> SizedRun:
        """Begin."""
        return cast("SizedRun", super().__enter__())

    async def __aenter__(self) -> SizedRun:
        """Begin."""
        return self.__enter__()

    def _run(self) -> OperationRun:
        run = cast("SizedRun", super()._run())
        run.size = self._size
        return run


def observe_session_operation(operation: str, size: int | None = None, direction: str | None = None) -> Sized:
    """Time `create`, `encrypt` or `decrypt` on a session; a session that was created is counted, and active.

    `size`: of the message as plain text, in bytes. `direction`: `outbound`, as of what is encrypted, or `inbound`.
    """
    measures = _CREATION if operation == "create" else _SESSION
    return Sized(measures, {"operation": operation, "direction": direction or _DIRECTIONS.get(operation, "")}, size)


def session_closed(lifetime: float | None = None) -> None:
    """Count a session that one of its sides has closed; `lifetime` in seconds."""
    count("sage_sessions_closed_total")
    take_from_gauge("sage_sessions_active")
    if lifetime is not None:
        observe("sage_session_lifetime_seconds", lifetime)


def sessions_expired(number: int, lifetimes: Iterable[float] = ()) -> None:
    """Count sessions that ran out of time; `lifetimes` in seconds."""
    if number > 0:
        count("sage_sessions_expired_total", by=number)
        take_from_gauge("sage_sessions_active", by=number)
    for lifetime in lifetimes:
        observe("sage_session_lifetime_seconds", lifetime)


def observe_crypto(operation: str, algorithm: str) -> Operation:
    """Count and time `sign`, `verify`, `encrypt`, `decrypt` or `derive_key`.

    `algorithm`: `ed25519`, `secp256k1`, `chacha20` or `hpke`.
    """
    return Operation(None, measures=_CRYPTO, labels={"operation": operation, "algorithm": algorithm})


def observe_did_resolution(chain: str) -> Operation:
    """Count and time the resolution of an identity on `ethereum` or `solana`."""
    return Operation(None, measures=_RESOLUTION, labels={"chain": chain})


def record_did_registration(chain: str, status: Status) -> None:
    """Count the registration of an identity."""
    count("sage_did_registrations_total", chain, status)


def record_blockchain_transaction(chain: str, operation: str, status: Status) -> None:
    """Count a transaction: `register`, `update` or `revoke`."""
    count("sage_blockchain_transactions_total", chain, operation, status)


def observe_message(type: str, size: int | None = None) -> Sized:  # noqa: A002 - it is the label's name
    """Count and time the processing of a message, `text` or `binary`, of some bytes."""
    return Sized(_MESSAGE, {"type": type}, size)


def record_nonce(status: Literal["valid", "invalid", "expired"], nonce: str | None = None) -> None:
    """Count the check of a nonce; one that is valid is an event of the current span."""
    count("sage_nonce_validations_total", status)
    if status == "valid":
        add_span_event("nonce_validated", nonce=nonce)


def record_replay_attack() -> None:
    """Count a message that had been seen before."""
    count("sage_replay_attacks_detected_total")

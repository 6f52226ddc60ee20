"""The steps of SAGE's protocol: a step is a span, metrics and fields of lines at once.

`trace_…` is the span of a step with its fields, and `observe_…` its metrics, for code that has the other half already. All of
them are operations, for `with`, `async with` and as decorators. Label values that a metric does not know count as `other`.
"""

from typing import Any, Self, cast

from opentelemetry.trace import Span

from sage_fastapi_obs.active import count_internal_error
from sage_fastapi_obs.metrics.instruments import Instruments
from sage_fastapi_obs.operations.count import add_to_gauge
from sage_fastapi_obs.operations.operation import UNMEASURED, Operation
from sage_fastapi_obs.operations.operation_run import OperationRun, RunMetrics
from sage_fastapi_obs.request.innermost_span import RUNNING, running

__all__ = [
    "decryption",
    "did_resolution",
    "encryption",
    "handshake",
    "key_derivation",
    "observe_crypto",
    "observe_did_resolution",
    "observe_handshake",
    "observe_message",
    "observe_session_operation",
    "session_creation",
    "signature",
    "signature_verification",
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

_DIRECTIONS = {"encrypt": "outbound", "decrypt": "inbound"}
_CIPHER = "chacha20"
"""What sessions are encrypted with."""
_NETWORK = frozenset({"NetworkError", "TransportError", "ClientConnectionError", "ConnectError"})
"""Exceptions of HTTP clients that are no `OSError`, by name: none of them is needed here."""


def _error_type(error: BaseException) -> str:
    """Tell why a step failed: `timeout`, `network`, or because what was received is `invalid`."""
    names = {kind.__name__ for kind in type(error).__mro__}
    if isinstance(error, TimeoutError) or any("Timeout" in name for name in names):
        return "timeout"
    return "network" if isinstance(error, OSError) or names & _NETWORK else "invalid"


_HANDSHAKE = RunMetrics(
    started="sage_handshakes_initiated_total",
    duration="sage_handshake_duration_seconds",
    total="sage_handshakes_completed_total",
    errors="sage_handshakes_failed_total",
    error_type=_error_type,
)
_STAGE = RunMetrics(duration="sage_handshake_stage_duration_seconds")
_CRYPTO = RunMetrics(
    duration="sage_crypto_operation_duration_seconds",
    total="sage_crypto_operations_total",
    errors="sage_crypto_errors_total",
    error_type=_error_type,
)
_RESOLUTION = RunMetrics(
    duration="sage_did_resolution_duration_seconds",
    total="sage_did_resolutions_total",
    errors="sage_did_resolution_errors_total",
    error_type=_error_type,
)
_SESSION = RunMetrics(duration="sage_session_duration_seconds", error_type=_error_type)
_CREATION = RunMetrics(total="sage_sessions_created_total")
_MESSAGE = RunMetrics(
    duration="sage_message_processing_duration_seconds", total="sage_messages_processed_total", error_type=_error_type
)


class TracedRun(OperationRun):
    """The span of a step under way."""

    __slots__ = ()


class StepRun(OperationRun):
    """A step under way."""

    __slots__ = ()

    def fail(self, error: BaseException | str) -> Self:
        """Mark it as failed although no exception leaves it; where `trace_…` has opened its span, that has failed too."""
        super().fail(error)
        try:
            if self._name is None and (traced := self._traced()) is not None:
                traced.fail(error)
        except Exception as fault:
            count_internal_error("operation", fault)
        return self

    def _traced(self) -> TracedRun | None:
        step, run = self.fields.get("operation"), running()
        while run is not None and not (type(run) is TracedRun and run.fields.get("operation") == step):
            run = run.outer_context.get(RUNNING)
        return run


class Step(Operation):
    """`with signature(…) as step`."""

    __slots__ = ()
    run_type = StepRun


class HandshakeRun(StepRun):
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
    """`with handshake(…) as step`."""

    __slots__ = ()
    run_type = HandshakeRun

    def __enter__(self) -> HandshakeRun:
        """Begin."""
        return cast("HandshakeRun", super().__enter__())

    async def __aenter__(self) -> HandshakeRun:
        """Begin."""
        return self.__enter__()


class MessageRun(StepRun):
    """Work on a session or a message under way."""

    __slots__ = ("size",)
    size: int | None
    """Bytes of the message as plain text; may be set until the end."""

    def measure(self, instruments: Instruments) -> None:
        """Tell its size too, however it ended; count a session that was created, and a cipher that was used."""
        super().measure(instruments)
        if self.labels.get("operation") == "create":
            self._measure_creation(instruments)
        if "algorithm" in self.labels:
            self.measure_as(_CRYPTO, instruments)
        if self.size is not None:
            self._measure_size(self.size, instruments)

    def _measure_creation(self, instruments: Instruments) -> None:
        self.measure_as(_CREATION, instruments)
        if self.outcome == "success":
            add_to_gauge("sage_sessions_active")

    def _measure_size(self, size: float, instruments: Instruments) -> None:
        is_of_session = "operation" in self.labels
        sizes = instruments.get_or_warn("sage_session_message_size_bytes" if is_of_session else "sage_message_size_bytes")
        if sizes is not None:
            direction = self.labels.get("direction") or _DIRECTIONS.get(self.labels.get("operation", ""), "")
            instruments.observe(sizes, sizes.with_labels({"direction": direction}), size, self._span)


class MessageWork(Operation):
    """`with encryption(…) as step`."""

    __slots__ = ("_size",)
    run_type = MessageRun

    def __init__(self, measures: RunMetrics, labels: dict[str, str], size: int | None, span: dict[str, Any]) -> None:
        super().__init__(**span, measures=measures, labels=labels)
        self._size = size

    def __enter__(self) -> MessageRun:
        """Begin."""
        return cast("MessageRun", super().__enter__())

    async def __aenter__(self) -> MessageRun:
        """Begin."""
        return self.__enter__()

    def _run(self) -> OperationRun:
        run = cast("MessageRun", super()._run())
        run.size = self._size
        return run


class Traced(Operation):
    """`with trace_…(…) as span`: a step without its metrics."""

    __slots__ = ()
    run_type = TracedRun

    def __init__(self, step: Operation) -> None:
        name, kind, _, _, attributes, fields = step._described  # noqa: SLF001 - a step is what it is, without its metrics
        super().__init__(name, kind=kind, measures=UNMEASURED, attributes=attributes, fields=fields)

    def __enter__(self) -> Span:  # type: ignore[override]
        """Begin; return the span."""
        return super().__enter__().span

    async def __aenter__(self) -> Span:  # type: ignore[override]
        """Begin; return the span."""
        return super().__enter__().span


def handshake(role: str, client_did: str, server_did: str, *, key_type: str = "unknown", version: str = "1.0") -> Handshake:
    """Do a handshake as `client` or `server`: span `sage.handshake`, and the metrics of `observe_handshake`."""
    span = _span("sage.handshake", "handshake", {"client_did": client_did, "server_did": server_did}, version=version)
    return Handshake(**span, measures=_HANDSHAKE, labels={"role": role, "key_type": key_type})


def session_creation(session_id: str) -> MessageWork:
    """Create a session: span `sage.session.create`, its duration, sessions created, and active if it worked."""
    return MessageWork(_SESSION, {"operation": "create"}, None, _session_span("create", session_id))


def encryption(session_id: str, size: int | None = None, *, algorithm: str = _CIPHER) -> MessageWork:
    """Encrypt a message of some bytes in a session: span `sage.session.encrypt`, duration, size, and use of the cipher."""
    labels = {"operation": "encrypt", "algorithm": algorithm}
    return MessageWork(_SESSION, labels, size, _session_span("encrypt", session_id, size))


def decryption(
    session_id: str, payload_size: int | None = None, *, key_id: str | None = None, algorithm: str = _CIPHER
) -> MessageWork:
    """Decrypt what came in a session: span `sage.session.decrypt`, duration, and use of the cipher.

    `payload_size`: bytes as they came, on the span. Set `step.size` to those of the plain text, for the metric of sizes.
    """
    labels = {"operation": "decrypt", "algorithm": algorithm}
    return MessageWork(_SESSION, labels, None, _session_span("decrypt", session_id, payload_size, key_id))


def signature(key_type: str, algorithm: str | None = None) -> Operation:
    """Sign: span `sage.signature.create`, and the metrics of `observe_crypto("sign", key_type)`."""
    return _crypto("sign", key_type, _span("sage.signature.create", "sign", {"key_type": key_type}, algorithm=algorithm))


def signature_verification(key_type: str) -> Operation:
    """Check a signature: span `sage.signature.verify`, and the metrics of `observe_crypto("verify", key_type)`."""
    return _crypto("verify", key_type, _span("sage.signature.verify", "verify", {"key_type": key_type}))


def key_derivation(algorithm: str) -> Operation:
    """Derive a key: span `sage.hpke.derive`, and the metrics of `observe_crypto("derive_key", algorithm)`."""
    return _crypto("derive_key", algorithm, _span("sage.hpke.derive", "derive_key", {}, algorithm=algorithm))


def did_resolution(chain: str) -> Operation:
    """Resolve an identity: span `sage.did.resolve`, and the metrics of `observe_did_resolution`."""
    return Step(**_span("sage.did.resolve", "resolve", {}, chain=chain), measures=_RESOLUTION, labels={"chain": chain})


def trace_request(name: str) -> Traced:
    """Trace the handling of an endpoint: span `sage.request`."""
    return Traced(Operation(**_span("sage.request", name, {}, endpoint=name)))


def trace_handshake(client_did: str, server_did: str, *, version: str = "1.0") -> Traced:
    """Trace a handshake from its first to its last message: span `sage.handshake`."""
    return Traced(handshake("", client_did, server_did, version=version))


def trace_handshake_verification(client_did: str) -> Traced:
    """Trace the check of a client's part of the handshake: span `sage.handshake.verify`."""
    return Traced(Operation(**_span("sage.handshake.verify", "handshake", {"client_did": client_did})))


def trace_session_create(session_id: str) -> Traced:
    """Trace the creation of a session: span `sage.session.create`."""
    return Traced(session_creation(session_id))


def trace_encryption(session_id: str, payload_size: int | None = None) -> Traced:
    """Trace the encryption of a message of some bytes: span `sage.session.encrypt`."""
    return Traced(encryption(session_id, payload_size))


def trace_decryption(session_id: str, payload_size: int | None = None, *, key_id: str | None = None) -> Traced:
    """Trace the decryption of a message of some bytes: span `sage.session.decrypt`."""
    return Traced(decryption(session_id, payload_size, key_id=key_id))


def trace_signature(key_type: str, algorithm: str | None = None) -> Traced:
    """Trace the creation of a signature: span `sage.signature.create`."""
    return Traced(signature(key_type, algorithm))


def trace_signature_verification(key_type: str) -> Traced:
    """Trace the check of a signature: span `sage.signature.verify`."""
    return Traced(signature_verification(key_type))


def trace_key_generation(key_type: str) -> Traced:
    """Trace the making of a key: span `sage.key.generate`."""
    return Traced(Operation(**_span("sage.key.generate", "generate_key", {"key_type": key_type})))


def trace_key_derivation(algorithm: str) -> Traced:
    """Trace the derivation of a key: span `sage.hpke.derive`."""
    return Traced(key_derivation(algorithm))


def trace_did_resolution(chain: str) -> Traced:
    """Trace the resolution of an identity: span `sage.did.resolve`."""
    return Traced(did_resolution(chain))


span_handshake = trace_handshake
span_encryption = trace_encryption
span_signature = trace_signature


def observe_handshake(role: str, key_type: str = "unknown") -> Handshake:
    """Count and time a handshake as `client` or `server`: initiated, completed, failed, whole duration and that of stages."""
    return Handshake(**_no_span("handshake"), measures=_HANDSHAKE, labels={"role": role, "key_type": key_type})


def observe_session_operation(operation: str, size: int | None = None, direction: str | None = None) -> MessageWork:
    """Time `create`, `encrypt` or `decrypt` on a session; a session that was created is counted, and active.

    `size`: of the message as plain text, in bytes. `direction`: `outbound`, as of what is encrypted, or `inbound`.
    """
    labels = {"operation": operation, "direction": "" if direction is None else direction}
    return MessageWork(_SESSION, labels, size, _no_span(operation))


def observe_crypto(operation: str, algorithm: str) -> Operation:
    """Count and time `sign`, `verify`, `encrypt`, `decrypt` or `derive_key`.

    `algorithm`: `ed25519`, `secp256k1`, `chacha20` or `hpke`.
    """
    return _crypto(operation, algorithm, _no_span(operation))


def observe_did_resolution(chain: str) -> Operation:
    """Count and time the resolution of an identity on `ethereum` or `solana`."""
    return Step(**_no_span("resolve"), measures=_RESOLUTION, labels={"chain": chain})


def observe_message(type: str, size: int | None = None) -> MessageWork:  # noqa: A002 - it is the label's name
    """Count and time the processing of a message, `text` or `binary`, of some bytes."""
    return MessageWork(_MESSAGE, {"type": type}, size, _no_span("message"))


def _crypto(operation: str, algorithm: str, span: dict[str, Any]) -> Operation:
    return Step(**span, measures=_CRYPTO, labels={"operation": operation, "algorithm": algorithm})


def _no_span(operation: str) -> dict[str, Any]:
    """Describe a step whose span `trace_…` may have opened: it is found by the operation."""
    return {"name": None, "fields": {"operation": operation}}


def _session_span(
    operation: str, session_id: str | None, payload_size: int | None = None, key_id: str | None = None
) -> dict[str, Any]:
    if key_id is None and isinstance(session_id, str) and str.startswith(session_id, "did:"):
        # The id of a key, which the design has in the place of the session's when it decrypts.
        session_id, key_id = None, session_id
    more = {"payload_size": payload_size, "key_id": key_id}
    return _span(f"sage.session.{operation}", operation, {"session_id": session_id}, **more)


def _span(name: str, operation: str, fields: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Describe a span: the fields are on its lines too, beside `operation`; by the prefix `sage.`, all are its attributes."""
    known = {field: value for field, value in fields.items() if value is not None}
    attributes = {f"sage.{field}": value for field, value in {**known, **more}.items()}
    return {"name": name, "attributes": attributes, "fields": {**known, "operation": operation}}

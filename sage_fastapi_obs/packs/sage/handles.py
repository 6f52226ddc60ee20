"""The metrics of the pack `sage` themselves, for code that counts by hand: `SESSIONS_CREATED.inc(status="success")`."""

from dataclasses import replace

from sage_fastapi_obs.operations.own_metrics import DeclaredCounter, DeclaredGauge, DeclaredHistogram
from sage_fastapi_obs.packs.sage.metrics import METRICS

__all__ = [
    "BLOCKCHAIN_TRANSACTIONS",
    "CRYPTO_ERRORS",
    "CRYPTO_OPERATIONS",
    "CRYPTO_OPERATION_DURATION",
    "DID_REGISTRATIONS",
    "DID_RESOLUTIONS",
    "DID_RESOLUTION_DURATION",
    "DID_RESOLUTION_ERRORS",
    "HANDSHAKES_COMPLETED",
    "HANDSHAKES_FAILED",
    "HANDSHAKES_INITIATED",
    "HANDSHAKE_DURATION",
    "HANDSHAKE_STAGE_DURATION",
    "MESSAGES_PROCESSED",
    "MESSAGE_PROCESSING_DURATION",
    "MESSAGE_SIZE",
    "NONCE_VALIDATIONS",
    "REPLAY_ATTACKS_DETECTED",
    "SESSIONS_ACTIVE",
    "SESSIONS_CLOSED",
    "SESSIONS_CREATED",
    "SESSIONS_EXPIRED",
    "SESSION_DURATION",
    "SESSION_LIFETIME",
    "SESSION_MESSAGE_SIZE",
]

_METRICS = {metric.name: replace(metric, pack="sage") for metric in METRICS}


def _counter(name: str) -> DeclaredCounter:
    return DeclaredCounter(_METRICS[name])


def _histogram(name: str) -> DeclaredHistogram:
    return DeclaredHistogram(_METRICS[name])


SESSIONS_CREATED = _counter("sage_sessions_created_total")
SESSIONS_EXPIRED = _counter("sage_sessions_expired_total")
SESSIONS_CLOSED = _counter("sage_sessions_closed_total")
SESSIONS_ACTIVE = DeclaredGauge(_METRICS["sage_sessions_active"])
SESSION_DURATION = _histogram("sage_session_duration_seconds")
SESSION_MESSAGE_SIZE = _histogram("sage_session_message_size_bytes")
SESSION_LIFETIME = _histogram("sage_session_lifetime_seconds")
HANDSHAKES_INITIATED = _counter("sage_handshakes_initiated_total")
HANDSHAKES_COMPLETED = _counter("sage_handshakes_completed_total")
HANDSHAKES_FAILED = _counter("sage_handshakes_failed_total")
HANDSHAKE_DURATION = _histogram("sage_handshake_duration_seconds")
HANDSHAKE_STAGE_DURATION = _histogram("sage_handshake_stage_duration_seconds")
CRYPTO_OPERATIONS = _counter("sage_crypto_operations_total")
CRYPTO_ERRORS = _counter("sage_crypto_errors_total")
CRYPTO_OPERATION_DURATION = _histogram("sage_crypto_operation_duration_seconds")
DID_RESOLUTIONS = _counter("sage_did_resolutions_total")
DID_REGISTRATIONS = _counter("sage_did_registrations_total")
DID_RESOLUTION_ERRORS = _counter("sage_did_resolution_errors_total")
DID_RESOLUTION_DURATION = _histogram("sage_did_resolution_duration_seconds")
BLOCKCHAIN_TRANSACTIONS = _counter("sage_blockchain_transactions_total")
MESSAGES_PROCESSED = _counter("sage_messages_processed_total")
MESSAGE_PROCESSING_DURATION = _histogram("sage_message_processing_duration_seconds")
MESSAGE_SIZE = _histogram("sage_message_size_bytes")
REPLAY_ATTACKS_DETECTED = _counter("sage_replay_attacks_detected_total")
NONCE_VALIDATIONS = _counter("sage_nonce_validations_total")

"""Sessions, handshakes, cryptography, identities and messages of SAGE."""

from functools import partial

from sage_fastapi_obs.catalog.metric import DEFAULT_BUCKETS, STATUS, Alias, Metric

__all__ = ["ALGORITHMS", "CHAINS", "CRYPTO_OPERATIONS", "HANDSHAKE_ERRORS", "KEY_TYPES", "METRICS", "STAGES"]

SESSION_BUCKETS = tuple(0.0001 * 2**k for k in range(15))
HANDSHAKE_BUCKETS = tuple(0.001 * 2**k for k in range(13))
LIFETIME_BUCKETS = (60.0, 300.0, 600.0, 1800.0, 3600.0)
MESSAGE_BUCKETS = tuple(float(64 * 4**k) for k in range(10))
SIZE_BUCKETS = tuple(float(100 * 2**k) for k in range(11))

CHAINS = ("ethereum", "solana")
CRYPTO_OPERATIONS = ("sign", "verify", "encrypt", "decrypt", "derive_key")
ALGORITHMS = ("ed25519", "secp256k1", "chacha20", "hpke")
KEY_TYPES = ("ed25519", "secp256k1", "unknown")
HANDSHAKE_ERRORS = ("timeout", "invalid", "network")
STAGES = ("init", "process", "finalize")
_CIPHER = ("encrypt", "decrypt")

_alias = partial(Alias, group="sage")

_SESSION_METRICS = (
    Metric("sage_sessions_created_total", "counter", "Sessions whose creation was tried.", {"status": STATUS}),
    Metric("sage_sessions_expired_total", "counter", "Sessions that ran out of time."),
    Metric("sage_sessions_closed_total", "counter", "Sessions that were closed by one of their sides."),
    Metric("sage_sessions_active", "gauge", "Sessions that are open now."),
    Metric(
        "sage_session_duration_seconds",
        "histogram",
        "Time that work on sessions took.",
        {"operation": ("create", "encrypt", "decrypt")},
        "seconds",
        SESSION_BUCKETS,
        aliases=(
            _alias("sage_sessions_duration_seconds"),
            _alias("sage_encryption_duration_seconds", only={"operation": _CIPHER}),
        ),
    ),
    Metric(
        "sage_session_message_size_bytes",
        "histogram",
        "Size of messages in sessions, as plain text.",
        {"direction": ("inbound", "outbound")},
        "bytes",
        MESSAGE_BUCKETS,
        aliases=(_alias("sage_sessions_message_size_bytes"),),
    ),
    Metric(
        "sage_session_lifetime_seconds",
        "histogram",
        "Life of sessions that were closed or expired.",
        unit="seconds",
        buckets=LIFETIME_BUCKETS,
    ),
)
_HANDSHAKE_METRICS = (
    Metric("sage_handshakes_initiated_total", "counter", "Handshakes that began.", {"role": ("client", "server")}),
    Metric(
        "sage_handshakes_completed_total",
        "counter",
        "Handshakes that ended, well or not.",
        {"status": STATUS, "key_type": KEY_TYPES},
        aliases=(_alias("sage_handshakes_total", values={"status": {"failure": "error"}}),),
    ),
    Metric("sage_handshakes_failed_total", "counter", "Handshakes that failed.", {"error_type": HANDSHAKE_ERRORS}),
    Metric(
        "sage_handshake_duration_seconds", "histogram", "Time of whole handshakes.", unit="seconds", buckets=HANDSHAKE_BUCKETS
    ),
    Metric(
        "sage_handshake_stage_duration_seconds",
        "histogram",
        "Time of the stages of handshakes.",
        {"stage": STAGES},
        "seconds",
        HANDSHAKE_BUCKETS,
        aliases=(_alias("sage_handshakes_duration_seconds"),),
    ),
)
_CRYPTO_METRICS = (
    Metric(
        "sage_crypto_operations_total",
        "counter",
        "Cryptographic operations.",
        {"operation": CRYPTO_OPERATIONS, "algorithm": ALGORITHMS},
    ),
    Metric(
        "sage_crypto_errors_total",
        "counter",
        "Cryptographic operations that failed.",
        {"operation": CRYPTO_OPERATIONS, "error_type": ()},
        aliases=(_alias("sage_encryption_errors_total", only={"operation": _CIPHER}),),
    ),
    Metric(
        "sage_crypto_operation_duration_seconds",
        "histogram",
        "Time of cryptographic operations.",
        {"operation": CRYPTO_OPERATIONS},
        "seconds",
        SESSION_BUCKETS,
        aliases=(
            _alias("sage_signature_verification_duration_seconds", only={"operation": ("verify",)}, without=("operation",)),
        ),
    ),
)
_CHAIN: dict[str, tuple[str, ...]] = {"chain": CHAINS}
_DID_METRICS = (
    Metric("sage_did_resolutions_total", "counter", "Resolutions of identities.", {**_CHAIN, "status": STATUS}),
    Metric("sage_did_registrations_total", "counter", "Registrations of identities.", {**_CHAIN, "status": STATUS}),
    Metric(
        "sage_did_resolution_errors_total",
        "counter",
        "Resolutions of identities that failed.",
        {**_CHAIN, "error_type": ()},
    ),
    Metric(
        "sage_did_resolution_duration_seconds",
        "histogram",
        "Time of resolutions of identities.",
        _CHAIN,
        "seconds",
        DEFAULT_BUCKETS,
    ),
    Metric(
        "sage_blockchain_transactions_total",
        "counter",
        "Transactions sent to a chain.",
        {**_CHAIN, "operation": ("register", "update", "revoke"), "status": STATUS},
    ),
)
_MESMETRICS = (
    Metric("sage_messages_processed_total", "counter", "Messages processed.", {"type": ("text", "binary"), "status": STATUS}),
    Metric(
        "sage_message_processing_duration_seconds",
        "histogram",
        "Time of processing messages.",
        unit="seconds",
        buckets=SESSION_BUCKETS,
    ),
    Metric("sage_message_size_bytes", "histogram", "Size of messages.", unit="bytes", buckets=SIZE_BUCKETS),
    Metric(
        "sage_replay_attacks_detected_total",
        "counter",
        "Messages that had been seen before.",
        aliases=(_alias("sage_replay_attempts_total"),),
    ),
    Metric("sage_nonce_validations_total", "counter", "Nonces checked.", {"status": ("valid", "invalid", "expired")}),
)
METRICS = (*_SESSION_METRICS, *_HANDSHAKE_METRICS, *_CRYPTO_METRICS, *_DID_METRICS, *_MESMETRICS)

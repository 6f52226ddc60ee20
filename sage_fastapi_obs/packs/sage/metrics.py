"""Sessions, handshakes, cryptography, identities and messages of SAGE."""

from functools import partial

from sage_fastapi_obs.catalog.metric import DEFAULT_BUCKETS, STATUS, Alias, counter, gauge, histogram

_SESSION_BUCKETS = tuple(0.0001 * 2**k for k in range(15))
_HANDSHAKE_BUCKETS = tuple(0.001 * 2**k for k in range(13))
_LIFETIME_BUCKETS = (60.0, 300.0, 600.0, 1800.0, 3600.0)
_MESSAGE_BUCKETS = tuple(float(64 * 4**k) for k in range(10))
_SIZE_BUCKETS = tuple(float(100 * 2**k) for k in range(11))

_CHAINS = ("ethereum", "solana")
_CRYPTO_OPERATIONS = ("sign", "verify", "encrypt", "decrypt", "derive_key")
_ALGORITHMS = ("ed25519", "secp256k1", "chacha20", "hpke")
_KEY_TYPES = ("ed25519", "secp256k1", "unknown")
_ERRORS = ("timeout", "invalid", "network")
_STAGES = ("init", "process", "finalize")
_CIPHER = ("encrypt", "decrypt")

_alias = partial(Alias, group="sage")
_expensive = partial(histogram, is_expensive=True)
"""A histogram that each message is observed in."""

_SESSION_METRICS = (
    counter("sage_sessions_created_total", "Sessions whose creation was tried.", {"status": STATUS}),
    counter("sage_sessions_expired_total", "Sessions that ran out of time."),
    counter("sage_sessions_closed_total", "Sessions that were closed by one of their sides."),
    gauge("sage_sessions_active", "Sessions that are open now."),
    _expensive(
        "sage_session_duration_seconds",
        "Time that work on sessions took.",
        _SESSION_BUCKETS,
        {"operation": ("create", "encrypt", "decrypt")},
        aliases=(
            _alias("sage_sessions_duration_seconds"),
            _alias("sage_encryption_duration_seconds", only={"operation": _CIPHER}),
        ),
    ),
    _expensive(
        "sage_session_message_size_bytes",
        "Size of messages in sessions, as plain text.",
        _MESSAGE_BUCKETS,
        {"direction": ("inbound", "outbound")},
        aliases=(_alias("sage_sessions_message_size_bytes"),),
    ),
    histogram("sage_session_lifetime_seconds", "Life of sessions that were closed or expired.", _LIFETIME_BUCKETS),
)
_HANDSHAKE_METRICS = (
    counter("sage_handshakes_initiated_total", "Handshakes that began.", {"role": ("client", "server")}),
    counter(
        "sage_handshakes_completed_total",
        "Handshakes that ended, well or not.",
        {"status": STATUS, "key_type": _KEY_TYPES},
        aliases=(_alias("sage_handshakes_total", values={"status": {"failure": "error"}}),),
    ),
    counter("sage_handshakes_failed_total", "Handshakes that failed.", {"error_type": _ERRORS}),
    histogram("sage_handshake_duration_seconds", "Time of whole handshakes.", _HANDSHAKE_BUCKETS),
    histogram(
        "sage_handshake_stage_duration_seconds",
        "Time of the stages of handshakes.",
        _HANDSHAKE_BUCKETS,
        {"stage": _STAGES},
        aliases=(_alias("sage_handshakes_duration_seconds"),),
    ),
)
_CRYPTO_METRICS = (
    counter(
        "sage_crypto_operations_total", "Cryptographic operations.", {"operation": _CRYPTO_OPERATIONS, "algorithm": _ALGORITHMS}
    ),
    counter(
        "sage_crypto_errors_total",
        "Cryptographic operations that failed.",
        {"operation": _CRYPTO_OPERATIONS, "error_type": _ERRORS},
        aliases=(_alias("sage_encryption_errors_total", only={"operation": _CIPHER}),),
    ),
    _expensive(
        "sage_crypto_operation_duration_seconds",
        "Time of cryptographic operations.",
        _SESSION_BUCKETS,
        {"operation": _CRYPTO_OPERATIONS},
        aliases=(
            _alias("sage_signature_verification_duration_seconds", only={"operation": ("verify",)}, without=("operation",)),
        ),
    ),
)
_CHAIN: dict[str, tuple[str, ...]] = {"chain": _CHAINS}
_DID_METRICS = (
    counter("sage_did_resolutions_total", "Resolutions of identities.", {**_CHAIN, "status": STATUS}),
    counter("sage_did_registrations_total", "Registrations of identities.", {**_CHAIN, "status": STATUS}),
    counter("sage_did_resolution_errors_total", "Resolutions of identities that failed.", {**_CHAIN, "error_type": _ERRORS}),
    histogram("sage_did_resolution_duration_seconds", "Time of resolutions of identities.", DEFAULT_BUCKETS, _CHAIN),
    counter(
        "sage_blockchain_transactions_total",
        "Transactions sent to a chain.",
        {**_CHAIN, "operation": ("register", "update", "revoke"), "status": STATUS},
    ),
)
_MESSAGE_METRICS = (
    counter("sage_messages_processed_total", "Messages processed.", {"type": ("text", "binary"), "status": STATUS}),
    _expensive("sage_message_processing_duration_seconds", "Time of processing messages.", _SESSION_BUCKETS),
    _expensive("sage_message_size_bytes", "Size of messages.", _SIZE_BUCKETS),
    counter(
        "sage_replay_attacks_detected_total",
        "Messages that had been seen before.",
        aliases=(_alias("sage_replay_attempts_total"),),
    ),
    counter("sage_nonce_validations_total", "Nonces checked.", {"status": ("valid", "invalid", "expired")}),
)
METRICS = (*_SESSION_METRICS, *_HANDSHAKE_METRICS, *_CRYPTO_METRICS, *_DID_METRICS, *_MESSAGE_METRICS)

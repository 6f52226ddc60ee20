"""SAGE: sessions, handshakes, cryptography, identities and messages."""

from sage_fastapi_obs.export.grafana.boards import shared
from sage_fastapi_obs.export.grafana.boards.service import red
from sage_fastapi_obs.export.grafana.layout import BAD, FINE, WARN, Board, Limit, Panel, Row, limits, numbers
from sage_fastapi_obs.export.grafana.promql import Queries
from sage_fastapi_obs.settings import SlaSettings

__all__ = ["debugging_board", "detailed_board", "overview_board"]

ASK = Queries(shared.SCOPE)
CHOICES = shared.choices("sage_sessions_active")
SESSION = "sage_session_duration_seconds"
STAGE = "sage_handshake_stage_duration_seconds"
CRYPTO = "sage_crypto_operation_duration_seconds"
TAGS = ("sage",)


def overview_board() -> Board:
    """Show whether SAGE is well, at a glance."""
    return Board(
        "sage-overview",
        "SAGE Overview",
        "Whether sessions are opened, handshakes succeed and encryption is fast. The dashboard SAGE Detailed says where, and "
        "SAGE Debugging why.",
        (
            Row(
                "What is wrong",
                (*_standing(), *(each.sized(6, 8) for each in (_active(), _created(), _handshakes(), _encryption()))),
            ),
            Row("Attacks", (_replays(12), _nonces(12))),
        ),
        CHOICES,
        TAGS,
    )


def detailed_board() -> Board:
    """Show every part of SAGE."""
    return Board(
        "sage-detailed",
        "SAGE Detailed",
        "All parts of SAGE: sessions, handshakes, cryptography, identities and chains, messages.",
        (
            Row("What is wrong", _standing()),
            Row("Sessions", (_active(), _created(), _session_failures(), _ends(), _lifetime(), _session_work())),
            Row("Handshakes", (_handshakes(), _handshake_time(), _stages(), _handshake_errors(), _begun())),
            Row("Cryptography", _crypto()),
            Row("Identities and chains", _identities()),
            Row("Messages and attacks", (*_messages(), _replays(8), _nonces(8))),
        ),
        CHOICES,
        TAGS,
    )


def debugging_board(sla: SlaSettings) -> Board:
    """Lead from errors to single requests."""
    return Board(
        "sage-debugging",
        "SAGE Debugging",
        "From a kind of error to the lines and the trace of one request that had it.",
        (
            Row("What is wrong", (*_standing(), *red(ASK, sla, "service"))),
            Row(
                "Where: errors by kind",
                (_handshake_errors(12), _crypto_errors(12), _resolution_errors(12), shared.slowest(ASK)),
            ),
            shared.logs_row(),
        ),
        CHOICES,
        TAGS,
    )


def _standing() -> tuple[Panel, ...]:
    handshakes = ASK.share("sage_handshakes_completed_total", status="failure")
    sessions = ASK.share("sage_sessions_created_total", status="failure")
    replays = ASK.increase("sage_replay_attacks_detected_total", window="5m")
    verified = ASK.rate("sage_crypto_errors_total", operation="verify")
    return (
        shared.firing(),
        shared.up(),
        shared.stat(
            "Handshakes that fail",
            handshakes,
            "SageHighErrorRate fires from 5 %, HighHandshakeErrorRate from 10 %.",
            "percentunit",
            limits(0.05, 0.1),
        ),
        shared.stat(
            "Sessions that fail",
            sessions,
            "Share of sessions that could not be created; HighSessionFailureRate fires from 10 %.",
            "percentunit",
            limits(0.05, 0.1),
        ),
        shared.stat(
            "Replays in 5 minutes",
            replays,
            "Messages that had been seen before: an attack, or a client that repeats.",
            steps=(Limit(FINE), Limit(BAD, 0.5)),
        ),
        shared.stat(
            "Signatures refused",
            f"{verified} or vector(0)",
            "Per second; SignatureVerificationFailureHigh fires from 1.",
            "cps",
            limits(0.5, 1),
        ),
    )


def _active() -> Panel:
    return Panel(
        "Active Sessions",
        numbers((ASK.value("sage_sessions_active", "instance"), "{{instance}}")),
        "Sessions that are open now. Rising without end: they are not closed (SessionLeakSuspected from 10,000).",
        limits=limits(None, 10_000),
    )


def _created() -> Panel:
    return Panel(
        "Session Creation Rate",
        numbers((ASK.rate("sage_sessions_created_total", "status"), "{{status}}")),
        "Sessions per second whose creation was tried.",
        unit="ops",
    )


def _handshakes() -> Panel:
    succeeded = ASK.share("sage_handshakes_completed_total", status="success")
    return Panel(
        "Handshake Success Rate",
        numbers((succeeded, "succeeded")),
        "Share of handshakes that ended well. Below the lines SageHighErrorRate and HighHandshakeErrorRate fire.",
        unit="percentunit",
        limits=(Limit(BAD), Limit(WARN, 0.9), Limit(FINE, 0.95)),
        most=1,
    )


def _encryption() -> Panel:
    return shared.latency(
        "Encryption Latency (p50, p95, p99)",
        shared.quantiles(ASK, SESSION, operation="encrypt"),
        "Lines: HighEncryptionLatency (10 ms) and EncryptionSlowdown (100 ms) look at p95. Between bounds of the histogram the "
        "quantile is an estimate.",
        limits(0.010, 0.100),
    )


def _session_failures() -> Panel:
    return Panel(
        "Session failure ratio",
        numbers((ASK.share("sage_sessions_created_total", status="failure"), "failed")),
        "Share of sessions that could not be created.",
        unit="percentunit",
        limits=limits(0.05, 0.1),
    )


def _ends() -> Panel:
    return Panel(
        "Sessions expired and closed",
        numbers(
            (ASK.rate("sage_sessions_expired_total"), "expired"),
            (ASK.rate("sage_sessions_closed_total"), "closed"),
        ),
        "Many that expire: clients go without goodbye, or the time is too short (SessionExpirationHigh from 10 per second).",
        unit="ops",
        limits=limits(None, 10),
    )


def _lifetime() -> Panel:
    return shared.latency(
        "Session lifetime",
        shared.quantiles(ASK, "sage_session_lifetime_seconds"),
        "Life of sessions that were closed or expired.",
    )


def _session_work() -> Panel:
    return shared.latency(
        "Work on sessions: p95",
        numbers((ASK.quantile(0.95, SESSION, "operation"), "{{operation}}")),
        "Creating, encrypting and decrypting.",
    )


def _handshake_time() -> Panel:
    return shared.latency(
        "Handshake duration",
        shared.quantiles(ASK, "sage_handshake_duration_seconds"),
        "Whole handshakes; SlowHandshakes fires from a p95 of 1 s.",
        limits(0.5, 1),
    )


def _stages() -> Panel:
    return shared.latency(
        "Handshake stages: p95",
        numbers((ASK.quantile(0.95, STAGE, "stage"), "{{stage}}")),
        "Which stage takes the time: process resolves the other side's identity.",
    )


def _handshake_errors(width: int = 8) -> Panel:
    return Panel(
        "Handshakes that failed, by error",
        numbers((ASK.rate("sage_handshakes_failed_total", "error_type"), "{{error_type}}")),
        "timeout and network: the other side or the way to it; invalid: what it sent.",
        unit="cps",
        width=width,
        stacked=True,
    )


def _begun() -> Panel:
    return Panel(
        "Handshakes begun and ended",
        numbers(
            (ASK.rate("sage_handshakes_initiated_total", "role"), "begun as {{role}}"),
            (ASK.rate("sage_handshakes_completed_total", "key_type"), "ended with {{key_type}}"),
        ),
        "More begun than ended: they hang.",
        unit="ops",
        width=16,
    )


def _crypto() -> tuple[Panel, ...]:
    operations = ASK.rate("sage_crypto_operations_total", "operation", "algorithm")
    return (
        Panel(
            "Crypto operations",
            numbers((operations, "{{operation}} {{algorithm}}")),
            "Operations per second.",
            unit="ops",
            stacked=True,
        ),
        _crypto_errors(8),
        shared.latency(
            "Crypto operations: p95",
            numbers((ASK.quantile(0.95, CRYPTO, "operation"), "{{operation}}")),
            "All slow at once: the processor is busy. One slow: its algorithm or its key.",
        ),
    )


def _crypto_errors(width: int) -> Panel:
    return Panel(
        "Crypto errors",
        numbers((ASK.rate("sage_crypto_errors_total", "operation", "error_type"), "{{operation}} {{error_type}}")),
        "verify: forged or damaged signatures; decrypt: keys that do not fit, or damaged frames.",
        unit="cps",
        width=width,
        stacked=True,
    )


def _identities() -> tuple[Panel, ...]:
    return (
        shared.latency(
            "DID resolution: p95",
            numbers((ASK.quantile(0.95, "sage_did_resolution_duration_seconds", "chain"), "{{chain}}")),
            "Time of asking the chain's node.",
            width=12,
        ),
        _resolution_errors(12),
        Panel(
            "DID resolutions and registrations",
            numbers(
                (ASK.rate("sage_did_resolutions_total", "chain", "status"), "resolved {{chain}} {{status}}"),
                (ASK.rate("sage_did_registrations_total", "chain", "status"), "registered {{chain}} {{status}}"),
            ),
            "Identities per second.",
            unit="ops",
            width=12,
        ),
        Panel(
            "Blockchain transactions",
            numbers(
                (
                    ASK.rate("sage_blockchain_transactions_total", "chain", "operation", "status"),
                    "{{chain}} {{operation}} {{status}}",
                )
            ),
            "Transactions per second; BlockchainUnavailable fires when more than 80 % of a chain's fail.",
            unit="ops",
            width=12,
            stacked=True,
        ),
    )


def _resolution_errors(width: int) -> Panel:
    return Panel(
        "DID resolutions that failed",
        numbers((ASK.rate("sage_did_resolution_errors_total", "chain", "error_type"), "{{chain}} {{error_type}}")),
        "DIDResolutionFailure fires from 0.5 per second of a chain.",
        unit="cps",
        width=width,
        stacked=True,
        limits=limits(None, 0.5),
    )


def _messages() -> tuple[Panel, ...]:
    return (
        Panel(
            "Message throughput",
            numbers((ASK.rate("sage_messages_processed_total", "type", "status"), "{{type}} {{status}}")),
            "Messages per second.",
            unit="mps",
        ),
        Panel(
            "Average message size",
            numbers((ASK.mean("sage_session_message_size_bytes", "direction"), "{{direction}}")),
            "As plain text, in sessions.",
            unit="bytes",
        ),
        shared.latency(
            "Message processing",
            shared.quantiles(ASK, "sage_message_processing_duration_seconds"),
            "Time of processing one message.",
        ),
        Panel(
            "Message size",
            shared.quantiles(ASK, "sage_message_size_bytes"),
            "Of all messages.",
            unit="bytes",
        ),
    )


def _replays(width: int) -> Panel:
    return Panel(
        "Replay attacks",
        numbers((ASK.increase("sage_replay_attacks_detected_total", window="5m"), "in 5 minutes")),
        "One is enough for ReplayAttacksDetected.",
        width=width,
        limits=limits(None, 1),
    )


def _nonces(width: int) -> Panel:
    bad = ASK.rate("sage_nonce_validations_total", "status", status="!=valid")
    whole = ASK.rate("sage_nonce_validations_total")
    return Panel(
        "Nonce failures",
        numbers((f"{bad} / on () group_left () {whole}", "{{status}}")),
        "Share of nonces: invalid ones were used before or are no nonces, expired ones came late: look at clocks.",
        unit="percentunit",
        width=width,
    )

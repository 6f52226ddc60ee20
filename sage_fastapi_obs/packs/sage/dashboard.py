"""SAGE: sessions, handshakes, cryptography, identities and messages."""

from sage_fastapi_obs.catalog.services import Services, with_pack
from sage_fastapi_obs.dashboards import panels
from sage_fastapi_obs.dashboards.layout import BAD, FINE, WARN, Dashboard, Panel, Row, Threshold, numbers
from sage_fastapi_obs.dashboards.panels import SCOPE, PanelBuilder
from sage_fastapi_obs.dashboards.service import red
from sage_fastapi_obs.packs.sage.memory_forecast import memory_forecast

panel = PanelBuilder()
ask = panel.ask
FAILED, SUCCEEDED = {"status": "failure"}, {"status": "success"}

_WRONG = (
    panels.firing(),
    panels.up(),
    panels.stat(
        "Handshakes that fail",
        ask.share("sage_handshakes_completed_total", status="failure"),
        "percentunit",
        warn=0.05,
        bad=0.1,
    ).about("SageHighErrorRate fires from 5 %, HighHandshakeErrorRate from 10 %."),
    panels.stat(
        "Sessions that fail", ask.share("sage_sessions_created_total", status="failure"), "percentunit", warn=0.05, bad=0.1
    ).about("Share of sessions that could not be created; HighSessionFailureRate fires from 10 %."),
    panels.stat(
        "Replays in 5 minutes",
        ask.increase("sage_replay_attacks_detected_total", window="5m"),
        thresholds=(Threshold(FINE), Threshold(BAD, 0.5)),
    ).about("Messages that had been seen before: an attack, or a client that repeats."),
    panels.stat(
        "Signatures refused", f"{ask.rate('sage_crypto_errors_total', operation='verify')} or vector(0)", "cps", warn=0.5, bad=1
    ).about("Per second; SignatureVerificationFailureHigh fires from 1."),
)
_ACTIVE = panel.gauge("Active Sessions", "sage_sessions_active", ["instance"], bad=10_000).about(
    "Sessions that are open now. Rising without end: they are not closed (SessionLeakSuspected from 10,000)."
)
_MEMORY_NOW = ask.value("process_resident_memory_bytes", "service", "instance", how="max")
_MEMORY = Panel(
    "Memory forecast from active sessions",
    numbers(
        (_MEMORY_NOW, "{{instance}} now"),
        (f"{memory_forecast(SCOPE)} or {_MEMORY_NOW}", "{{instance}} in 4 hours"),
    ),
    unit="bytes",
    bad=1e9,
).about(
    "Memory now, and in 4 hours if sessions go on growing as in the last hour and each costs what it has cost today; both "
    "are the same while there are no more sessions than at the quietest moment of the day. "
    "HighMemoryForecast fires from 1 GB."
)
_CREATED = panel.rate("Session Creation Rate", "sage_sessions_created_total", ["status"]).about(
    "Sessions per second whose creation was tried."
)
_HANDSHAKES = panel.share(
    "Handshake Success Rate",
    "sage_handshakes_completed_total",
    legend="succeeded",
    where=SUCCEEDED,
    thresholds=(Threshold(BAD), Threshold(WARN, 0.9), Threshold(FINE, 0.95)),
    max=1,
).about("Share of handshakes that ended well. Below the lines SageHighErrorRate and HighHandshakeErrorRate fire.")
_ENCRYPTION = panel.quantiles(
    "Encryption Latency (p50, p95, p99)", "sage_session_duration_seconds", where={"operation": "encrypt"}, warn=0.010, bad=0.100
).about(
    "Lines: HighEncryptionLatency (10 ms) and EncryptionSlowdown (100 ms) look at p95. Between bounds of the histogram the "
    "quantile is an estimate."
)
_SESSIONS = (
    _ACTIVE,
    _CREATED,
    panel.share(
        "Session failure ratio", "sage_sessions_created_total", legend="failed", where=FAILED, warn=0.05, bad=0.1
    ).about("Share of sessions that could not be created."),
    Panel(
        "Sessions expired and closed",
        numbers((ask.rate("sage_sessions_expired_total"), "expired"), (ask.rate("sage_sessions_closed_total"), "closed")),
        unit="ops",
        bad=10,
    ).about(
        "Many that expire: clients go without goodbye, or the time is too short (SessionExpirationHigh from 10 per second)."
    ),
    panel.quantiles("Session lifetime", "sage_session_lifetime_seconds").about("Life of sessions that were closed or expired."),
    panel.p95("Work on sessions: p95", "sage_session_duration_seconds", ["operation"]).about(
        "Creating, encrypting and decrypting."
    ),
    _MEMORY,
)
_HANDSHAKE_ERRORS = panel.rate(
    "Handshakes that failed, by error", "sage_handshakes_failed_total", ["error_type"], unit="cps", stacked=True
).about("timeout and network: the other side or the way to it; invalid: what it sent.")
_ALL_HANDSHAKES = (
    _HANDSHAKES,
    panel.quantiles("Handshake duration", "sage_handshake_duration_seconds", warn=0.5, bad=1).about(
        "Whole handshakes; SlowHandshakes fires from a p95 of 1 s."
    ),
    panel.p95("Handshake stages: p95", "sage_handshake_stage_duration_seconds", ["stage"]).about(
        "Which stage takes the time: process resolves the other side's identity."
    ),
    _HANDSHAKE_ERRORS,
    Panel(
        "Handshakes begun and ended",
        numbers(
            (ask.rate("sage_handshakes_initiated_total", "role"), "begun as {{role}}"),
            (ask.rate("sage_handshakes_completed_total", "key_type"), "ended with {{key_type}}"),
        ),
        unit="ops",
        width=16,
    ).about("More begun than ended: they hang."),
)
_CRYPTO_ERRORS = panel.rate(
    "Crypto errors", "sage_crypto_errors_total", ["operation", "error_type"], unit="cps", stacked=True
).about("verify: forged or damaged signatures; decrypt: keys that do not fit, or damaged frames.")
_CRYPTO = (
    panel.rate("Crypto operations", "sage_crypto_operations_total", ["operation", "algorithm"], stacked=True).about(
        "Operations per second."
    ),
    _CRYPTO_ERRORS,
    panel.p95("Crypto operations: p95", "sage_crypto_operation_duration_seconds", ["operation"]).about(
        "All slow at once: the processor is busy. One slow: its algorithm or its key."
    ),
)
_RESOLUTION_ERRORS = panel.rate(
    "DID resolutions that failed",
    "sage_did_resolution_errors_total",
    ["chain", "error_type"],
    unit="cps",
    width=12,
    stacked=True,
    bad=0.5,
).about("DIDResolutionFailure fires from 0.5 per second of a chain.")
_IDENTITIES = (
    panel.p95("DID resolution: p95", "sage_did_resolution_duration_seconds", ["chain"], width=12).about(
        "Time of asking the chain's node."
    ),
    _RESOLUTION_ERRORS,
    Panel(
        "DID resolutions and registrations",
        numbers(
            (ask.rate("sage_did_resolutions_total", "chain", "status"), "resolved {{chain}} {{status}}"),
            (ask.rate("sage_did_registrations_total", "chain", "status"), "registered {{chain}} {{status}}"),
        ),
        unit="ops",
        width=12,
    ).about("Identities per second."),
    panel.rate(
        "Blockchain transactions",
        "sage_blockchain_transactions_total",
        ["chain", "operation", "status"],
        width=12,
        stacked=True,
    ).about("Transactions per second; BlockchainUnavailable fires when more than 80 % of a chain's fail."),
)
_REPLAYS = panel.increase(
    "Replay attacks", "sage_replay_attacks_detected_total", window="5m", legend="in 5 minutes", bad=1
).about("One is enough for ReplayAttacksDetected.")
_REFUSED_NONCES = ask.rate("sage_nonce_validations_total", "status", status="!=valid")
_NONCES = Panel(
    "Nonce failures",
    numbers((f"{_REFUSED_NONCES} / on () group_left () {ask.rate('sage_nonce_validations_total')}", "{{status}}")),
    unit="percentunit",
).about("Share of nonces: invalid ones were used before or are no nonces, expired ones came late: look at clocks.")
_MESSAGES = (
    panel.rate("Message throughput", "sage_messages_processed_total", ["type", "status"], unit="mps").about(
        "Messages per second."
    ),
    Panel(
        "Average message size",
        numbers((ask.mean("sage_session_message_size_bytes", "direction"), "{{direction}}")),
        unit="bytes",
    ).about("As plain text, in sessions."),
    panel.quantiles("Message processing", "sage_message_processing_duration_seconds").about("Time of processing one message."),
    panel.quantiles("Message size", "sage_message_size_bytes", unit="bytes").about("Of all messages."),
)


def dashboards(services: Services) -> tuple[Dashboard, ...]:
    """Return the dashboards: whether SAGE is well at a glance, all of its parts, and the way from an error to one request."""
    choices, tags = panels.choices("sage_sessions_active"), ("sage",)
    sla = with_pack(services, "sage")[0].sla
    errors = [each.sized(12, 8) for each in (_HANDSHAKE_ERRORS, _CRYPTO_ERRORS, _RESOLUTION_ERRORS)]
    return (
        Dashboard(
            "sage-overview",
            "SAGE Overview",
            "Whether sessions are opened, handshakes succeed and encryption is fast. The dashboard SAGE Detailed says where, "
            "and SAGE Debugging why.",
            (
                Row("What is wrong", (*_WRONG, *(each.sized(6, 8) for each in (_ACTIVE, _CREATED, _HANDSHAKES, _ENCRYPTION)))),
                Row("Attacks", (_REPLAYS.sized(12, 8), _NONCES.sized(12, 8))),
            ),
            choices,
            tags,
        ),
        Dashboard(
            "sage-detailed",
            "SAGE Detailed",
            "All parts of SAGE: sessions, handshakes, cryptography, identities and chains, messages.",
            (
                Row("What is wrong", _WRONG),
                Row("Sessions", _SESSIONS),
                Row("Handshakes", _ALL_HANDSHAKES),
                Row("Cryptography", _CRYPTO),
                Row("Identities and chains", _IDENTITIES),
                Row("Messages and attacks", (*_MESSAGES, _REPLAYS, _NONCES)),
            ),
            choices,
            tags,
        ),
        Dashboard(
            "sage-debugging",
            "SAGE Debugging",
            "From a kind of error to the lines and the trace of one request that had it.",
            (
                Row("What is wrong", (*_WRONG, *red(panel, sla, "service"))),
                Row("Where: errors by kind", (*errors, panels.slowest(ask))),
                panels.logs_row(),
            ),
            choices,
            tags,
        ),
    )

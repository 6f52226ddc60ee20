"""The pack `sage`: its spans, its metrics, and what it makes of nonsense."""

import asyncio
from typing import Any

import httpx
import pytest
from loguru import logger
from opentelemetry.trace import SpanKind, StatusCode

from sage_fastapi_obs.packs import sage


@pytest.fixture
async def watched(watch):
    """Return one that is started, with the pack."""
    one = watch(metrics={"packs": ["sage"]})
    async with one.obs:
        yield one


TRACED = [
    (sage.trace_request("protected_endpoint"), "sage.request", {"sage.endpoint": "protected_endpoint"}),
    (
        sage.trace_handshake("did:a", "did:b"),
        "sage.handshake",
        {"sage.client_did": "did:a", "sage.server_did": "did:b", "sage.version": "1.0"},
    ),
    (sage.trace_handshake_verification("did:a"), "sage.handshake.verify", {"sage.client_did": "did:a"}),
    (sage.trace_session_create("s1"), "sage.session.create", {"sage.session_id": "s1"}),
    (sage.trace_encryption("s1", 64), "sage.session.encrypt", {"sage.session_id": "s1", "sage.payload_size": 64}),
    (sage.span_encryption("s1"), "sage.session.encrypt", {"sage.session_id": "s1"}),
    (
        sage.trace_decryption("s1", 64, key_id="k1"),
        "sage.session.decrypt",
        {"sage.session_id": "s1", "sage.payload_size": 64, "sage.key_id": "k1"},
    ),
    (sage.trace_decryption("s1", 64), "sage.session.decrypt", {"sage.session_id": "s1", "sage.payload_size": 64}),
    (
        sage.trace_signature("ed25519", "EdDSA"),
        "sage.signature.create",
        {"sage.key_type": "ed25519", "sage.algorithm": "EdDSA"},
    ),
    (sage.trace_signature_verification("ed25519"), "sage.signature.verify", {"sage.key_type": "ed25519"}),
    (sage.trace_key_generation("secp256k1"), "sage.key.generate", {"sage.key_type": "secp256k1"}),
    (sage.trace_key_derivation("hpke"), "sage.hpke.derive", {"sage.algorithm": "hpke"}),
    (sage.trace_did_resolution("solana"), "sage.did.resolve", {"sage.chain": "solana"}),
]


@pytest.mark.parametrize(("traced", "name", "attributes"), TRACED, ids=lambda value: value if isinstance(value, str) else "")
async def test_a_step_is_a_span(watched, traced: Any, name: str, attributes: dict[str, Any]):
    """Each step has its name and attributes, gives its span, fails with the work, and is no metric."""
    with traced as span:
        span.set_attribute("more", 1)
    with pytest.raises(ValueError, match="bad"):
        async with traced:
            raise ValueError("bad")
    good, bad = watched.spans
    assert (good.name, good.kind, dict(good.attributes)) == (name, SpanKind.INTERNAL, {**attributes, "more": 1})
    assert (bad.name, bad.status.status_code) == (name, StatusCode.ERROR)
    assert bad.events[0].attributes["exception.message"] == "bad"
    assert watched.series("operations_total") == {}


async def test_lines_of_a_step_have_the_standard_fields(watched):
    """Who reads a line sees the operation, and whose session or keys it is about, at the top of the line."""
    with sage.trace_handshake("did:a", "did:b"), sage.trace_signature("ed25519"):
        logger.info("signing")
    (line,) = [line for line in watched.lines if line["message"] == "signing"]
    fields = {name: line[name] for name in ("operation", "client_did", "server_did", "key_type")}
    assert fields == {"operation": "sign", "client_did": "did:a", "server_did": "did:b", "key_type": "ed25519"}


async def test_the_short_names_are_the_same_helpers():
    """The first design's names lead to the helpers of today."""
    assert sage.span_handshake is sage.trace_handshake
    assert sage.span_encryption is sage.trace_encryption
    assert sage.span_signature is sage.trace_signature


async def test_a_handshake_is_counted_and_timed(watched):
    """Initiated by role, completed by how and with what key, whole and in stages."""
    with sage.observe_handshake("client") as handshake:
        with handshake.stage("init"):
            pass
        async with handshake.stage("finalize"):
            pass
        handshake.key_type = "ed25519"
    assert handshake.key_type == "ed25519"
    assert watched.value("sage_handshakes_initiated_total", role="client") == 1
    assert watched.value("sage_handshakes_completed_total", status="success", key_type="ed25519") == 1
    assert watched.value("sage_handshake_duration_seconds_count") == 1
    assert watched.value("sage_handshake_stage_duration_seconds_count", stage="init") == 1
    assert watched.value("sage_handshake_stage_duration_seconds_count", stage="process") == 0
    assert sum(watched.series("sage_handshakes_failed_total").values()) == 0
    assert watched.spans == []


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (TimeoutError(), "timeout"),
        (httpx.ReadTimeout("late"), "timeout"),
        (ConnectionResetError(), "network"),
        (OSError(), "network"),
        (httpx.ConnectError("gone"), "network"),
        (ValueError("bad signature"), "invalid"),
    ],
    ids=repr,
)
async def test_a_handshake_that_failed_says_why(watched, error: Exception, why: str):
    """Once as completed with a failure, and once by what went wrong; however it ended it is timed."""
    with pytest.raises(type(error)):
        async with sage.observe_handshake("server", "secp256k1"):
            raise error
    assert watched.value("sage_handshakes_completed_total", status="failure", key_type="secp256k1") == 1
    assert {dict(key)["error_type"] for key, n in watched.series("sage_handshakes_failed_total").items() if n} == {why}
    assert watched.value("sage_handshake_duration_seconds_count") == 1


async def test_a_handshake_that_was_cancelled_is_neither(watched):
    """A client that left is no failure of the protocol."""
    with pytest.raises(asyncio.CancelledError), sage.observe_handshake("server"):
        raise asyncio.CancelledError
    assert sum(watched.series("sage_handshakes_completed_total").values()) == 0
    assert watched.value("sage_handshakes_initiated_total", role="server") == 1


async def test_sessions_are_counted_through_their_life(watched):
    """Creation that worked raises those that are active; closing and expiring lower them, never below 0."""
    for _ in range(4):
        with sage.observe_session_operation("create"):
            pass
    with pytest.raises(LookupError), sage.observe_session_operation("create"):
        raise LookupError
    assert watched.value("sage_sessions_created_total", status="success") == 4
    assert watched.value("sage_sessions_created_total", status="failure") == 1
    assert watched.value("sage_sessions_active") == 4
    assert watched.value("sage_session_duration_seconds_count", operation="create") == 5
    sage.session_closed(90.0)
    sage.session_closed()
    sage.sessions_expired(1, [700.0])
    sage.sessions_expired(0)
    assert watched.value("sage_sessions_active") == 1
    sage.sessions_expired(7)
    assert watched.value("sage_sessions_active") == 0
    assert watched.value("sage_sessions_closed_total") == 2
    assert watched.value("sage_sessions_expired_total") == 8
    assert watched.value("sage_session_lifetime_seconds_count") == 2
    assert watched.value("sage_session_lifetime_seconds_sum") == 790.0


async def test_messages_of_sessions_have_a_direction_and_a_size(watched):
    """What is encrypted goes out and what is decrypted comes in; sizes are told also when the work fails."""
    with sage.observe_session_operation("encrypt", 100):
        pass
    with pytest.raises(ValueError, match="tag"):
        async with sage.observe_session_operation("decrypt", 50):
            raise ValueError("tag")
    with sage.observe_session_operation("decrypt", direction="outbound") as run:
        run.size = 7
    sizes = "sage_session_message_size_bytes_sum"
    assert (watched.value(sizes, direction="outbound"), watched.value(sizes, direction="inbound")) == (107, 50)
    assert watched.value("sage_session_duration_seconds_count", operation="decrypt") == 2
    assert watched.value("sage_sessions_active") == 0


async def test_cryptography_is_counted_timed_and_its_errors_named(watched):
    """As a block and as a decorator."""

    @sage.observe_crypto("verify", "ed25519")
    def verify(good: bool) -> None:
        if not good:
            raise ValueError

    verify(True)
    with pytest.raises(ValueError):
        verify(False)
    with sage.observe_crypto("derive_key", "hpke"):
        pass
    assert watched.value("sage_crypto_operations_total", operation="verify", algorithm="ed25519") == 2
    assert watched.value("sage_crypto_errors_total", operation="verify", error_type="invalid") == 1
    assert watched.value("sage_crypto_operation_duration_seconds_count", operation="verify") == 2
    assert watched.value("sage_crypto_operation_duration_seconds_count", operation="derive_key") == 1


async def test_identities_and_chains_are_counted(watched):
    """Resolutions are timed, registrations and transactions are told."""
    async with sage.observe_did_resolution("ethereum"):
        pass
    with pytest.raises(TimeoutError), sage.observe_did_resolution("solana"):
        raise TimeoutError
    sage.record_did_registration("solana", "success")
    sage.record_blockchain_transaction("ethereum", "revoke", "failure")
    assert watched.value("sage_did_resolutions_total", chain="ethereum", status="success") == 1
    assert watched.value("sage_did_resolutions_total", chain="solana", status="failure") == 1
    assert watched.value("sage_did_resolution_errors_total", chain="solana", error_type="timeout") == 1
    assert watched.value("sage_did_resolution_duration_seconds_count", chain="solana") == 1
    assert watched.value("sage_did_registrations_total", chain="solana", status="success") == 1
    assert watched.value("sage_blockchain_transactions_total", chain="ethereum", operation="revoke", status="failure") == 1


async def test_messages_nonces_and_replays_are_counted(watched):
    """A valid nonce is also an event of the span in which it was checked."""
    with sage.trace_request("in"), sage.observe_message("binary", 300):
        sage.record_nonce("valid", "n-1")
        sage.record_nonce("expired", "n-0")
        sage.record_replay_attack()
        sage.add_span_event("checked", token="secret", n=1)
    assert watched.value("sage_messages_processed_total", type="binary", status="success") == 1
    assert watched.value("sage_message_processing_duration_seconds_count") == 1
    assert watched.value("sage_message_size_bytes_sum") == 300
    assert watched.value("sage_nonce_validations_total", status="valid") == 1
    assert watched.value("sage_nonce_validations_total", status="expired") == 1
    assert watched.value("sage_replay_attacks_detected_total") == 1
    events = {event.name: dict(event.attributes) for event in watched.spans[0].events}
    assert events == {"nonce_validated": {"nonce": "n-1"}, "checked": {"token": "REDACTED", "n": 1}}


async def test_nonsense_is_counted_as_other_and_raises_nothing(watched):
    """Values nobody knows, and numbers that are none."""
    sage.record_nonce("odd")  # type: ignore[arg-type]
    sage.record_did_registration("bitcoin", "success")
    sage.session_closed("soon")  # type: ignore[arg-type]
    sage.sessions_expired(1, [None])  # type: ignore[list-item]
    with sage.observe_handshake("peer", "rsa"), sage.observe_crypto("guess", "rot13"):
        pass
    with sage.observe_session_operation("encrypt", "big"):  # type: ignore[arg-type]
        pass
    assert watched.value("sage_nonce_validations_total", status="other") == 1
    assert watched.value("sage_did_registrations_total", chain="other", status="success") == 1
    assert watched.value("sage_handshakes_completed_total", status="success", key_type="other") == 1
    assert watched.value("sage_crypto_operations_total", operation="other", algorithm="other") == 1
    assert watched.obs.internal_errors.counts == {"record": 2, "operation": 1}


async def test_the_core_pack_counts_its_part(watch):
    """With `sage-core` the same helpers count what is there, and leave the rest without a word."""
    watched = watch(metrics={"packs": ["sage-core"]})
    async with watched.obs:
        with sage.observe_handshake("client"), sage.observe_session_operation("create", 3):
            sage.record_nonce("valid")
    assert watched.value("sage_handshakes_completed_total", status="success", key_type="unknown") == 1
    assert watched.value("sage_sessions_active") == 1
    assert not [line for line in watched.lines if "counted nowhere" in line["message"]]
    assert watched.obs.internal_errors.counts == {}

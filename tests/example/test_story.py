"""The whole story of agents, seen from outside: what each step and each failure leaves in metrics, spans and lines."""

import asyncio
import base64
import time

from conftest import attributes, events
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from example_app.sage.messages import Message
from example_app.sage.signatures import IN_SESSION

ERROR = Status.STATUS_CODE_ERROR
UNKNOWN = f"did:sage:solana:{'0' * 40}"


def sealed(frame):
    return {"frame": base64.b64encode(frame).decode()}


async def send_protected(example, agent, session, body, **options):
    """Send an encrypted message in a signed request; returns a function that sends the very same once more."""
    url = f"{example.url}/protected"
    headers = agent.signed("POST", url, body, {"Sage-Session": session.peer_id}, IN_SESSION)

    async def send(content=body):
        return await example.client.post(url, content=content, headers=headers)

    return send


async def test_from_the_handshake_to_the_end(run_example):
    """Handshake, messages in both directions, a protected request, a goodbye and an expiry: all of it is told, and agrees."""
    text = "grüß Gott".encode()
    async with run_example(EXAMPLE_SESSION_SECONDS="2") as example:
        server, agent = await example.server_did(), await example.agent("solana", "ed25519")
        session = await agent.shake(example.client, server)
        path = f"/sessions/{session.peer_id}"
        frame = agent.encrypt(session.id, Message("text", text))
        assert (await example.client.post(f"{path}/decrypt", json=sealed(frame))).status_code == 200
        answer = await example.client.post(
            f"{path}/encrypt", json={"type": "binary", "content": base64.b64encode(text).decode()}
        )
        assert agent.decrypt(session.id, base64.b64decode(answer.json()["frame"])) == Message("binary", text)
        send = await send_protected(example, agent, session, agent.encrypt(session.id, Message("binary", b"\0\1")))
        protected = await send()
        assert protected.status_code == 200
        other = await agent.shake(example.client, server)
        assert (await example.client.delete(f"/sessions/{other.peer_id}")).status_code == 204
        before = await example.metrics()
        deadline = time.monotonic() + 30
        while (expired := await example.client.post(f"{path}/encrypt", json={"content": "x"})).status_code == 200:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
        assert expired.status_code == 410
        after = await example.metrics()

    assert {
        "initiated as server": before("sage_handshakes_initiated_total", role="server"),
        "initiated as client": before("sage_handshakes_initiated_total", role="client"),
        "succeeded": before("sage_handshakes_completed_total", status="success", key_type="ed25519"),
        "ended": before("sage_handshakes_completed_total"),
        "failed": before("sage_handshakes_failed_total"),
        "timed": before("sage_handshake_duration_seconds_count"),
        "stages": [
            before("sage_handshake_stage_duration_seconds_count", stage=stage) for stage in ("init", "process", "finalize")
        ],
        "created": before("sage_sessions_created_total", status="success"),
        "closed": before("sage_sessions_closed_total"),
        "active": before("sage_sessions_active"),
        "session work": [
            before("sage_session_duration_seconds_count", operation=work) for work in ("create", "encrypt", "decrypt")
        ],
        "bytes in": before("sage_session_message_size_bytes_sum", direction="inbound"),
        "messages": [before("sage_messages_processed_total", type=kind, status="success") for kind in ("text", "binary")],
        "messages timed": before("sage_message_processing_duration_seconds_count"),
        "message bytes": before("sage_message_size_bytes_sum"),
        "verified": before("sage_crypto_operations_total", operation="verify", algorithm="ed25519"),
        "signed": before("sage_crypto_operations_total", operation="sign", algorithm="secp256k1"),
        "derived": before("sage_crypto_operations_total", operation="derive_key", algorithm="hpke"),
        "decrypted": before("sage_crypto_operations_total", operation="decrypt", algorithm="chacha20"),
        "crypto errors": before("sage_crypto_errors_total"),
        "resolved": before("sage_did_resolutions_total", chain="solana", status="success"),
        "resolutions timed": before("sage_did_resolution_duration_seconds_count", chain="solana"),
        "registered": [
            before("sage_did_registrations_total", chain=chain, status="success") for chain in ("ethereum", "solana")
        ],
        "transactions": before("sage_blockchain_transactions_total", operation="register", status="success"),
        "nonces": before("sage_nonce_validations_total", status="valid"),
        "replays": before("sage_replay_attacks_detected_total"),
    } == {
        "initiated as server": 2,
        "initiated as client": 0,
        "succeeded": 2,
        "ended": 2,
        "failed": 0,
        "timed": 2,
        "stages": [2, 2, 2],
        "created": 2,
        "closed": 1,
        "active": 1,
        # The answer to the protected request is encrypted too.
        "session work": [2, 2, 2],
        "bytes in": 1 + len(text) + 1 + 2,
        "messages": [1, 1],
        "messages timed": 2,
        "message bytes": 1 + len(text) + 1 + 2,
        "verified": 3,
        "signed": 2,
        "derived": 2,
        "decrypted": 2,
        "crypto errors": 0,
        "resolved": 3,
        "resolutions timed": 3,
        "registered": [1, 1],
        "transactions": 2,
        "nonces": 3,
        "replays": 0,
    }
    assert (after("sage_sessions_active"), after("sage_sessions_expired_total")) == (0, 1)
    assert after("sage_session_lifetime_seconds_count") == 2
    assert after("sage_session_lifetime_seconds_sum") >= 2

    known = {"session_id": session.peer_id, "client_did": agent.did, "server_did": server, "key_type": "ed25519"}
    (line,) = example.lines(message="handshake completed", operation="handshake", **known)
    (whole,) = example.lines(request_id=line["request_id"], message="request completed")
    assert (whole["route"], whole["status"], whole["service"]) == ("/handshake", 201, "example")
    assert {name: whole[name] for name in known} == known
    shaken = next(span for span in example.spans("sage.handshake") if span.trace_id.hex() == line["trace_id"])
    assert attributes(shaken) == {"sage.client_did": agent.did, "sage.server_did": server, "sage.version": "1.0"}
    inside = {span.name for span in example.all_spans() if span.trace_id == shaken.trace_id}
    assert inside == {
        "POST /handshake",
        "GET /registry/{chain}/documents/{did}",
        *("sage.handshake", "sage.handshake.verify", "sage.did.resolve", "sage.signature.verify"),
        *("sage.hpke.derive", "sage.signature.create", "sage.session.create"),
    }
    assert whole["span_id"] in {span.span_id.hex() for span in example.spans("POST /handshake")}

    (verified,) = [span for span in example.spans("sage.signature.verify") if "sage.request" in example.parents(span)]
    assert example.parents(verified) == ["sage.request", "POST /protected"]
    assert attributes(verified) == {"sage.key_type": "ed25519"}
    assert len(events(verified)["nonce_validated"]["nonce"]) == 32
    (decrypted,) = [span for span in example.spans("sage.session.decrypt") if "sage.request" in example.parents(span)]
    assert attributes(decrypted) == {
        "sage.session_id": session.peer_id,
        "sage.payload_size": 8 + 3 + 16,
        "sage.key_id": f"{agent.did}#sign",
    }
    (request,) = example.spans("sage.request")
    assert attributes(request) == {"sage.endpoint": "protected_endpoint"}
    assert {span.kind for span in example.spans("sage.request")} == {Span.SPAN_KIND_INTERNAL}
    (encrypted,) = example.lines(
        route="/sessions/{session_id}/encrypt", operation="encrypt", status=200, response_bytes=len(answer.content)
    )
    assert encrypted["session_id"] == session.peer_id
    (late,) = example.lines(status=410)
    assert (late["data"]["reason"], late["level"]) == ("ExpiredSession", "warn")


async def test_both_sides_of_a_handshake_are_one_trace(run_example):
    """The service as a client: key, offer, signature, the way over the network, and the server's part, in one trace."""
    async with run_example() as example:
        assert (await example.client.get("/agent")).status_code == 200
        opened = (await example.client.post("/sessions", json={})).json()
        value = await example.metrics()
        await example.client.post(f"/sessions/{opened['session_id']}/encrypt", json={"content": "hello"})
    assert [value("sage_handshakes_initiated_total", role=role) for role in ("client", "server")] == [1, 1]
    assert value("sage_handshakes_completed_total", status="success", key_type="secp256k1") == 2
    assert value("sage_sessions_active") == 2
    assert value("sage_crypto_operations_total", operation="encrypt", algorithm="hpke") == 1
    (route,) = example.spans("POST /sessions")
    inner = {span.span_id: span for span in example.spans("sage.handshake")}
    outer = next(span for span in inner.values() if span.parent_span_id == route.span_id)
    (answered,) = example.spans("POST /handshake")
    assert (answered.trace_id, answered.parent_span_id) == (route.trace_id, outer.span_id)
    for name in ("sage.key.generate", "sage.signature.create", "sage.did.resolve", "sage.hpke.derive", "sage.session.create"):
        assert outer.span_id in {span.parent_span_id for span in example.spans(name)}, name
    lines = example.lines(trace_id=route.trace_id.hex(), operation="handshake")
    assert {line["message"] for line in lines} >= {"handshake completed", "session opened"}
    assert {line["session_id"] for line in lines if line["message"] == "session opened"} == {opened["session_id"]}
    (key,) = example.spans("sage.key.generate")
    assert attributes(key) == {"sage.key_type": "x25519"}

"""The whole story of agents, seen from outside: what each step and each failure leaves in metrics, spans and lines."""

import asyncio
import base64
import json
import re
from pathlib import Path

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from served import attributes, events
from support import eventually

from example_app.sage import errors
from example_app.sage.agent import Agent
from example_app.sage.messages import Message
from example_app.sage.resolver import Resolver
from example_app.sage.signatures import IN_SESSION

ERROR = Status.STATUS_CODE_ERROR
RUNBOOKS = Path(__file__).parents[2] / "docs/runbooks"
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
    async with run_example() as example:
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

    known = {"session_id": session.peer_id, "client_did": agent.did, "server_did": server, "key_type": "ed25519"}
    (line,) = example.lines(message="handshake completed", operation="handshake", **known)
    assert line["data"] == {"encrypted": True, "cipher": "chacha20-poly1305"}
    (whole,) = example.lines(request_id=line["request_id"], message="request completed")
    assert (whole["route"], whole["status"], whole["service"]) == ("/handshake", 201, "example")
    assert {name: whole[name] for name in known} == known
    shaken = next(span for span in example.spans("sage.handshake") if span.trace_id.hex() == line["trace_id"])
    assert attributes(shaken) == {"sage.client_did": agent.did, "sage.server_did": server, "sage.version": "1.0"}
    # On a busy machine the end of any request takes long enough to have a span of its own.
    inside = {span.name for span in example.all_spans() if span.trace_id == shaken.trace_id} - {"background"}
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


async def test_sessions_expire_though_nobody_asks_for_them(run_example):
    """Both ends of a session that is left alone are over after a while, and counted."""
    async with run_example(EXAMPLE_SESSION_SECONDS="0.5") as example:
        assert (await example.client.post("/sessions", json={})).status_code == 201
        await over(example, 2)


async def test_a_session_that_is_over_encrypts_nothing(run_example):
    """It is gone, and counted as one that has expired, with the time that it lived."""
    async with run_example(EXAMPLE_SESSION_SECONDS="0.5") as example:
        session = await (await example.agent()).shake(example.client, await example.server_did())
        value = await over(example, 1)
        answer = await example.client.post(f"/sessions/{session.peer_id}/encrypt", json={"content": "x"})
    assert answer.status_code == 410
    # It lives from a moment before it is counted on.
    assert value("sage_session_lifetime_seconds_sum") >= 0.4
    (late,) = example.lines(status=410)
    assert (late["data"]["reason"], late["level"]) == ("ExpiredSession", "warn")


async def over(example, sessions):
    """Wait until some sessions have expired; return what reads the metrics."""

    async def have_expired():
        value = await example.metrics()
        return value if value("sage_sessions_expired_total") == sessions else None

    value = await eventually(have_expired)
    assert (value("sage_sessions_active"), value("sage_session_lifetime_seconds_count")) == (0, sessions)
    return value


def failed(example, name, error):
    """Find the only span of a name that has failed, and hold it to the error; return its trace."""
    (span,) = [span for span in example.spans(name) if span.status.code == ERROR]
    exception = events(span)["exception"]
    assert exception["exception.type"].endswith(error)
    assert error in exception["exception.stacktrace"]
    assert attributes(span)["error.type"].endswith(error)
    return span.trace_id.hex()


def refused(example, trace, route, status, reason):
    """Hold the canonical line of a trace to what went wrong."""
    (line,) = example.lines(trace_id=trace, route=route, status=status)
    assert line["data"]["reason"] == reason
    assert line["level"] == ("error" if status >= 500 else "warn")


def asked(example, alert):
    """Find the lines that a runbook asks the log store for: of its levels, with its words."""
    query = r'^\{service="sage-backend"(?:, level=~"([\w|]+)")?\} \|= "([^"]+)" \| json'
    ((levels, words),) = re.findall(query, (RUNBOOKS / f"{alert}.md").read_text(), re.MULTILINE)
    return [line for line in example.lines() if words in json.dumps(line) and re.fullmatch(levels or ".*", line["level"])]


async def test_a_bad_signature_is_told(run_example):
    """The span of the check has failed, and all that is around it; the count, the line and the answer say the same."""
    async with run_example() as example:
        agent = await example.agent()
        session = await agent.shake(example.client, await example.server_did())
        send = await send_protected(example, agent, session, agent.encrypt(session.id, Message("text", b"pay one")))
        answer = await send(b"something else")
        assert (answer.status_code, answer.json()) == (401, {"detail": "signature verify failed"})
        value = await example.metrics()
    assert value("sage_crypto_errors_total", operation="verify", error_type="invalid") == 1
    assert value("sage_crypto_errors_total") == 1
    assert value("sage_crypto_operation_duration_seconds_count", operation="verify") == 2
    assert value("http_requests_total", route="/protected", status="401") == 1
    trace = failed(example, "sage.signature.verify", "BadSignature")
    assert failed(example, "sage.request", "BadSignature") == trace
    assert example.spans("sage.session.decrypt") == []
    refused(example, trace, "/protected", 401, "BadSignature")
    assert [line["client_did"] for line in asked(example, "SignatureVerificationFailureHigh")] == [agent.did]


async def test_replays_are_told(run_example):
    """A request that comes again, and a frame that does: both are attacks, the one for its nonce, the other for its counter."""
    async with run_example() as example:
        agent = await example.agent()
        session = await agent.shake(example.client, await example.server_did())
        frame = agent.encrypt(session.id, Message("text", b"pay one"))
        send = await send_protected(example, agent, session, frame)
        assert [(await send()).status_code for _ in range(2)] == [200, 409]
        first = await example.metrics()
        again = await example.client.post(f"/sessions/{session.peer_id}/decrypt", json=sealed(frame))
        assert again.status_code == 409
        second = await example.metrics()
    assert [value("sage_replay_attacks_detected_total") for value in (first, second)] == [1, 2]
    assert [value("security_events_total", event_type="replay") for value in (first, second)] == [1, 2]
    assert [second("sage_nonce_validations_total", status=status) for status in ("valid", "invalid", "expired")] == [2, 1, 0]
    assert second("sage_crypto_errors_total", operation="decrypt", error_type="invalid") == 1
    assert second("sage_messages_processed_total") == 1
    trace = failed(example, "sage.signature.verify", "ReplayedNonce")
    refused(example, trace, "/protected", 409, "ReplayedNonce")
    trace = failed(example, "sage.session.decrypt", "ReplayedFrame")
    refused(example, trace, "/sessions/{session_id}/decrypt", 409, "ReplayedFrame")
    found = [(line["session_id"], line.get("client_did")) for line in asked(example, "ReplayAttacksDetected")]
    assert found == [(session.peer_id, agent.did), (session.peer_id, None)]
    validated = [span for span in example.spans("sage.signature.verify") if "nonce_validated" in events(span)]
    assert len(validated) == 2


async def test_an_expired_nonce_is_told(run_example):
    """A handshake that was signed an hour ago has failed as invalid, with its key type unknown, and is no replay."""
    async with run_example() as example:
        example.clock.ahead = -3_600.0
        late = await example.agent()
        with pytest.raises(errors.PeerRefused):
            await late.shake(example.client, await example.server_did())
        value = await example.metrics()
    assert [value("sage_nonce_validations_total", status=status) for status in ("valid", "invalid", "expired")] == [0, 0, 1]
    assert value("sage_handshakes_completed_total", status="failure", key_type="unknown") == 1
    assert value("sage_handshakes_failed_total", error_type="invalid") == 1
    assert value("sage_handshake_duration_seconds_count") == 1
    assert value("sage_replay_attacks_detected_total") == value("sage_sessions_created_total") == 0
    trace = failed(example, "sage.signature.verify", "ExpiredNonce")
    assert failed(example, "sage.handshake", "ExpiredNonce") == trace
    assert failed(example, "sage.handshake.verify", "ExpiredNonce") == trace
    refused(example, trace, "/handshake", 401, "ExpiredNonce")
    assert [line["client_did"] for line in asked(example, "SageHighErrorRate")] == [late.did]
    assert {line["operation"] for line in example.lines(trace_id=trace, route="/handshake")} == {"handshake"}


def unopenable(example, agent, server_did=UNKNOWN):
    """Sign and send an offer whose seal cannot be opened."""
    url = f"{example.url}/handshake"
    body = f'{{"client_did":"{agent.did}","server_did":"{server_did}","sealed":"AAAA"}}'.encode()
    return example.client.post(url, content=body, headers=agent.signed("POST", url, body))


async def test_a_registry_that_is_not_there_is_told(run_example):
    """Nobody listens where the registry should be: resolution, transaction and handshake have failed, of the network."""
    async with run_example(EXAMPLE_REGISTRY_URL="http://127.0.0.1:1") as example:
        answer = await unopenable(example, Agent(Resolver(example.registry), chain="solana"))
        assert (answer.status_code, answer.json()) == (503, {"detail": "nobody answers"})
        assert (await example.client.get("/agent")).status_code == 503
        value = await example.metrics()
    assert value("sage_handshakes_failed_total", error_type="network") == value("sage_handshakes_failed_total") == 1
    assert value("sage_did_resolutions_total", chain="solana", status="failure") == 1
    assert value("sage_did_resolution_errors_total", chain="solana", error_type="network") == 1
    assert value("sage_did_resolution_duration_seconds_count", chain="solana") == 1
    assert value("sage_blockchain_transactions_total", chain="ethereum", operation="register", status="failure") == 1
    assert value("sage_did_registrations_total", chain="ethereum", status="failure") == 1
    assert value("request_errors_total", route="/handshake", error_type="503") == 1
    trace = failed(example, "sage.did.resolve", "Unreachable")
    assert failed(example, "sage.handshake", "Unreachable") == trace
    refused(example, trace, "/handshake", 503, "Unreachable")


async def test_a_registry_that_is_slow_is_told(run_example):
    """A node that takes too long makes the handshake fail for the time, and one that is down for the network."""
    async with run_example(EXAMPLE_REGISTRY_SECONDS="2") as example:
        agent = await example.agent("solana")
        for kind, status in (("down", 503), ("slow", 504)):
            await example.client.post("/registry/solana/outage", json={"kind": kind, "seconds": 10})
            assert (await unopenable(example, agent)).status_code == status
        value = await example.metrics()
    counted = {kind: value("sage_handshakes_failed_total", error_type=kind) for kind in ("timeout", "network", "invalid")}
    assert counted == {"timeout": 1, "network": 1, "invalid": 0}
    assert value("sage_did_resolution_errors_total", chain="solana", error_type="timeout") == 1
    assert value("sage_did_resolution_errors_total", chain="solana", error_type="network") == 1
    assert value("sage_did_resolution_duration_seconds_sum", chain="solana") >= 2


async def test_what_cannot_be_read_is_told(run_example):
    """A changed frame is an error of decryption, what is no message one of processing, and a bad offer one of keys."""
    async with run_example() as example:
        agent = await example.agent()
        session = await agent.shake(example.client, await example.server_did())
        path = f"/sessions/{session.peer_id}/decrypt"
        frame = agent.encrypt(session.id, Message("text", b"pay one"))
        assert (await example.client.post(path, json=sealed(frame[:-1] + bytes([frame[-1] ^ 1])))).status_code == 400
        broken = agent.sessions.get(session.id).encrypt(b"t\xff")
        assert (await example.client.post(path, json=sealed(broken))).status_code == 422
        assert (await unopenable(example, agent, await example.server_did())).status_code == 400
        value = await example.metrics()
    assert value("sage_crypto_errors_total", operation="decrypt", error_type="invalid") == 1
    assert value("sage_crypto_errors_total", operation="derive_key", error_type="invalid") == 1
    assert value("sage_messages_processed_total", type="text", status="failure") == 1
    assert value("sage_message_size_bytes_sum") == value("sage_session_message_size_bytes_sum", direction="inbound") == 2
    assert value("sage_handshakes_completed_total", status="failure", key_type="ed25519") == 1
    assert [value("sage_session_duration_seconds_count", operation=work) for work in ("decrypt", "encrypt")] == [2, 0]
    trace = failed(example, "sage.hpke.derive", "BadHandshake")
    refused(example, trace, "/handshake", 400, "BadHandshake")


async def test_the_other_packs_are_fed(run_example):
    """Textbooks, logins and orders, good and bad, are counted; what goes wrong has a line that says so."""
    async with run_example() as example:
        post = example.client.post
        await post("/identify", json={"location": "Table 3", "confidence": 0.95}, headers={"X-Client-Type": "pos"})
        made = {"grade_level": "grade-1", "subject": "math", "pages": ["one and one are two", "a bell\a"], "user_id": 7}
        textbook = (await post("/textbooks", json=made)).json()["textbook_id"]
        for way in ("start", "start", "end", "end", "end", "start"):
            await post(f"/textbooks/{textbook}/sessions/{way}")
        tokens = (await post("/ai/ask", json={"textbook_id": textbook, "question": "one and one?"})).json()["tokens"]
        user = (await post("/login", json={"name": "ada", "password": "engine"})).json()
        for path, headers in (("/users/2", {"Authorization": f"Bearer {user['token']}"}), ("/users/1", {})):
            await example.client.get(path, headers=headers)
        for name in ("ada", "nobody", "' or 1=1 --"):
            await post("/login", json={"name": name, "password": "?"})
        tries = [post("/login", json={"name": "nobody", "password": "?"}) for _ in range(80)]
        limited = [answer.status_code for answer in await asyncio.gather(*tries)].count(429)
        assert limited
        for item, card in (("tea", "4111111111111111"), ("coffee", "4111111111111111"), ("tea", "4111111111111112")):
            await post("/orders", json={"item": item, "count": 2, "card": card})
        value = await example.metrics()
    assert value("textbooks_created_total", grade_level="grade-1", subject="math") == 1
    assert value("active_learning_sessions", textbook_id=textbook) == 1
    assert value("ai_tokens_used_total", component="tutor", model="lookup-1") == tokens == 8
    assert value("active_users") == value("business_active_users") == 1
    assert value("auth_login_failed_total", reason="bad_password") == 1
    assert value("auth_login_failed_total", reason="unknown_user") >= 1
    assert value("rate_limit_exceeded_total", client_ip="127.0.0.0/24") == limited
    found = {
        kind: value("security_events_total", event_type=kind)
        for kind in ("unauthorized_access", "injection_attempt", "rate_limit")
    }
    assert found == {"unauthorized_access": 2, "injection_attempt": 1, "rate_limit": limited}
    assert value("orders_processed_total") == value("business_transactions_total") == value("order_value_count") == 2
    assert value("revenue_total") == value("order_value_sum") == pytest.approx(6.4 + 9.6)
    assert value("orders_by_category_total", category="leaves") == 1
    assert value("operations_total", operation="order_processing", status="success") == 2
    assert value("operations_total", operation="payment", status="failure") == 1
    assert value("operation_duration_seconds_count", operation="inventory_update") == 2
    (identified,) = example.lines(message="Customer identified")
    assert identified["event_id"].startswith("evt-")
    assert identified["data"].keys() == {"customer_id", "location", "confidence"}
    assert example.lines(route="/identify")[0]["client_type"] == "pos"
    (created,) = example.lines(message="Textbook created")
    assert created["data"].keys() == {"textbook_id", "user_id", "page_count", "processing_time_ms"}
    (undrawn,) = example.lines(message="Failed to generate image")
    assert (undrawn["level"], undrawn["data"], undrawn["error"]["type"]) == (
        "error",
        {"page_id": 2, "attempt": 1},
        "ValueError",
    )
    failed(example, "payment", "OrderRefused")


async def test_the_troubles_of_the_alerts_can_be_made(run_example):
    """Sessions that are refused, encryption that is slow and memory that is full are settings, and show in the metrics."""
    troubles = {"EXAMPLE_MOST_SESSIONS": "1", "EXAMPLE_CIPHER_SECONDS": "0.15", "EXAMPLE_BALLAST_BYTES": "300000000"}
    async with run_example(**troubles) as example:
        agent = await example.agent()
        session = await agent.shake(example.client, await example.server_did())
        assert (await example.client.post("/sessions", json={})).status_code == 503
        path = f"/sessions/{session.peer_id}/encrypt"
        assert (await example.client.post(path, json={"type": "text", "content": "pay"})).status_code == 200
        value = await example.metrics()
        rules = (await example.client.get("/monitoring/alerts")).json()["alert_rules"]
    assert value("sage_sessions_created_total", status="failure") >= 1
    assert value("sage_handshakes_completed_total", status="failure") >= 1
    assert value("sage_session_duration_seconds_sum", operation="encrypt") >= 0.1
    assert value("process_resident_memory_bytes") > 3e8
    assert {"HighSessionFailureRate", "ReplayAttacksDetected"} <= {rule["name"] for rule in rules}

"""Keys, signatures, handshakes, sessions and nonces of the example's agents: real keys, and the vectors of the standards."""

import os
import time
from dataclasses import replace

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from hypothesis import given
from hypothesis import strategies as st

from example_app.sage import errors
from example_app.sage.did import DidDocument, Transaction, did_for
from example_app.sage.handshake import _SUITE, Answer, Opening, _derive, accept
from example_app.sage.keys import KEY_TYPES, SigningKey, VerifyKey, agreement_from_multibase, agreement_to_multibase
from example_app.sage.messages import MOST_BYTES, Message
from example_app.sage.nonces import SKEW_SECONDS, Nonces
from example_app.sage.registry import Ledger
from example_app.sage.resolver import Resolver
from example_app.sage.sessions import WINDOW, Session, Sessions
from example_app.sage.signatures import Envelope, key_id_of, sign, verify

KEYS = {key_type: SigningKey.generate(key_type) for key_type in KEY_TYPES}
AGREES = X25519PrivateKey.generate()
CLIENT, SERVER = "did:sage:solana:" + "c" * 40, "did:sage:ethereum:" + "5" * 40
each_key = pytest.mark.parametrize("key", KEYS.values(), ids=KEYS)

# RFC 9421, appendix B.1.4, B.2 and B.2.6.
RFC_KEY = b"""-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEAJrQLj5P/89iXES9+vFgrIy29clF9CC/oPPsw3c5D0bs=
-----END PUBLIC KEY-----
"""
RFC_REQUEST = Envelope(
    "POST",
    "https://example.com/foo?param=Value&Pet=dog",
    {
        "Date": "Tue, 20 Apr 2021 02:07:55 GMT",
        "Content-Type": "application/json",
        "Content-Length": "18",
        "Signature-Input": 'sig-b26=("date" "@method" "@path" "@authority" "content-type" "content-length")'
        ';created=1618884473;keyid="test-key-ed25519"',
        "Signature": "sig-b26=:wqcAqbmYJ2ji2glfAMaRy4gruYYnx2nEFN2HN6jrnDnQCK1u02Gb04v9EDgwUPiu4A0w6vuQv5lIp5WPpBKRCw==:",
    },
)


class Clock:
    """Shows what it is set to."""

    def __init__(self, now: float = 1_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def flipped(data: bytes, bit: int) -> bytes:
    """Flip one bit, counted round the end."""
    bit %= len(data) * 8
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def opened() -> Opening:
    """Begin a handshake."""
    return Opening(CLIENT, SERVER, AGREES.public_key(), X25519PrivateKey.generate())


def shaken(key: SigningKey = KEYS["ed25519"], lifetime: float = 60.0, now: float = 0.0) -> tuple[Session, Session]:
    """Shake hands, and return both ends."""
    opening = opened()
    answer, secrets = accept(opening.offer, AGREES, "s", now + lifetime)
    received = Answer.model_validate_json(answer.signed(opening.offer, key).model_dump_json())
    received.verify(opening.offer, key.verify_key)
    assert opening.finish(received) == secrets
    known = {"client_did": CLIENT, "server_did": SERVER, "key_type": key.key_type, "secrets": secrets}
    times = {"created_at": now, "expires_at": now + lifetime}
    return Session("c", "client", **known, **times), Session("s", "server", **known, **times)


@pytest.mark.parametrize("key_type", KEY_TYPES)
@given(data=st.binary(), bit=st.integers(0))
def test_no_bit_of_what_was_signed_may_change(key_type, data, bit):
    """A signature holds for its key and data, and not when a bit of either of them, or of itself, is another."""
    key = KEYS[key_type]
    signature = key.sign(data)
    assert len(signature) == 64
    key.verify_key.verify(signature, data)
    longer = signature[:32] + b"\0" + signature[32:]
    changed = [(flipped(signature, bit), data), (signature, data + b"\0"), (signature[:-1], data), (longer, data)]
    if data:
        changed.append((signature, flipped(data, bit)))
    for wrong_signature, wrong_data in changed:
        with pytest.raises(errors.BadSignature):
            key.verify_key.verify(wrong_signature, wrong_data)
    with pytest.raises(errors.BadSignature):
        SigningKey.generate(key_type).verify_key.verify(signature, data)


def test_signatures_of_others_on_secp256k1_hold():
    """A well-known deterministic signature (RFC 6979 with private key 1 over "Satoshi Nakamoto") is understood."""
    signature = "934b1ea10a4b3c1757e2b0c017d0b6143ce3c9a7e6a4a49860d7a6ab210ee3d8"
    signature += "2442ce9d2b916064108014783e923ec36b49743e2ffa1c4496f01a512aafd9e5"
    key = VerifyKey(ec.derive_private_key(1, ec.SECP256K1()).public_key())
    key.verify(bytes.fromhex(signature), b"Satoshi Nakamoto")


@each_key
def test_keys_are_read_back(key):
    """What a document says of a key is that key."""
    assert VerifyKey.from_multibase(key.verify_key.to_multibase()) == key.verify_key
    agrees = AGREES.public_key()
    assert agreement_from_multibase(agreement_to_multibase(agrees)).public_bytes_raw() == agrees.public_bytes_raw()


@pytest.mark.parametrize("text", ["", "u", "zQm", "u!!!!", "u7QE", "u5wE", "u7AE", "u5wED" + "A" * 43])
def test_what_is_no_key_is_refused(text):
    """A document with something else in the place of a key is no document."""
    for read in (VerifyKey.from_multibase, agreement_from_multibase):
        with pytest.raises(errors.InvalidDocument):
            read(text)


def test_the_standards_own_signature_holds():
    """The Ed25519 vector of RFC 9421 verifies, and not when any of what it covers is another."""
    key = VerifyKey(load_pem_public_key(RFC_KEY))
    covered = ("date", "@method", "@path", "@authority", "content-type", "content-length")
    signed = verify(RFC_REQUEST, None, key, tag=None, covered=covered)
    assert signed == ("test-key-ed25519", "", 1618884473.0)
    assert key_id_of(RFC_REQUEST) == "test-key-ed25519"
    for wrong in (
        replace(RFC_REQUEST, method="PUT"),
        replace(RFC_REQUEST, url="https://example.org/foo?param=Value&Pet=dog"),
        replace(RFC_REQUEST, headers={**RFC_REQUEST.headers, "Content-Length": "19"}),
        replace(RFC_REQUEST, headers={name: value for name, value in RFC_REQUEST.headers.items() if name != "Date"}),
    ):
        with pytest.raises(errors.BadSignature):
            verify(wrong, None, key, tag=None, covered=covered)
    with pytest.raises(errors.BadSignature):
        verify(RFC_REQUEST, None, key, tag=None, covered=("@query",))


@pytest.mark.parametrize("key_type", KEY_TYPES)
@given(body=st.binary(max_size=200), bit=st.integers(0), nonce=st.from_regex(r"[0-9a-f]{16}", fullmatch=True))
def test_signed_requests_cannot_be_changed(key_type, body, bit, nonce):
    """A request verifies with its body, method and address, and with no other; and what it says of itself is signed too."""
    key = KEYS[key_type]
    bare = Envelope("POST", "http://127.0.0.1:8000/protected?a=1", {"Sage-Session": "s"})
    covered = ("@method", "@target-uri", "sage-session")
    headers = sign(bare, body, key, "me#sign", nonce=nonce, created=1_000.0, covered=covered)
    signed = replace(bare, headers=headers)
    assert verify(signed, body, key.verify_key, covered=covered) == ("me#sign", nonce, 1_000.0)
    assert key_id_of(signed) == "me#sign"
    wrong = [
        (signed, body + b"\0"),
        (replace(signed, method="PUT"), body),
        (replace(signed, url=signed.url + "1"), body),
        (replace(signed, headers=headers | {"Sage-Session": "t"}), body),
        (replace(signed, headers=headers | {"Signature-Input": headers["Signature-Input"].replace("=1000", "=1001")}), body),
        (bare, body),
    ]
    if body:
        wrong.append((signed, flipped(body, bit)))
    for envelope, content in wrong:
        with pytest.raises(errors.BadSignature):
            verify(envelope, content, key.verify_key, covered=covered)
    with pytest.raises(errors.BadSignature):
        verify(signed, body, key.verify_key, tag="another protocol", covered=covered)
    for other in KEY_TYPES:
        with pytest.raises(errors.BadSignature):
            verify(signed, body, SigningKey.generate(other).verify_key, covered=covered)


@pytest.mark.parametrize(
    "field", ["", "x", "sage=1", 'sage=("a")', 'sage=("a");keyid=7', 'a=();keyid="x", b=();keyid="x"', "é"]
)
def test_who_has_signed_must_be_said(field):
    """Whatever stands in the header: a key id comes out of it, or it is a bad signature."""
    with pytest.raises(errors.BadSignature):
        key_id_of(Envelope("GET", "http://a/", {"signature-input": field}))


@each_key
def test_documents_belong_to_their_did(key):
    """A document with another agent's key is nobody's, and only the owner can publish."""
    document = DidDocument.of("solana", key.verify_key, AGREES.public_key())
    assert document.id == did_for("solana", key.verify_key)
    assert DidDocument.model_validate_json(document.model_dump_json()) == document
    assert document.verify_key() == key.verify_key
    other = DidDocument.of("solana", SigningKey.generate("ed25519").verify_key, AGREES.public_key())
    forged = document.model_copy(update={"verification_method": other.verification_method})
    for read in (forged.verify_key, Transaction.signed("register", forged, 0, key).verify):
        with pytest.raises(errors.InvalidDocument):
            read()
    transaction = Transaction.signed("register", document, 0, key)
    transaction.verify()
    for change in ({"operation": "revoke"}, {"sequence": 1}, {"document": other}, {"proof": "no"}, {"proof": ""}):
        with pytest.raises(errors.BadSignature):
            transaction.model_copy(update=change).verify()


def test_a_ledger_takes_each_transaction_once():
    """Register, update, revoke, in this order; nothing twice, and nothing after a revocation."""
    key, ledger = KEYS["ed25519"], Ledger()
    first = DidDocument.of("ethereum", key.verify_key, AGREES.public_key())
    second = DidDocument.of("ethereum", key.verify_key, X25519PrivateKey.generate().public_key())
    with pytest.raises(errors.UnknownDid):
        ledger.find(first.id)
    with pytest.raises(errors.TransactionRefused):
        ledger.apply(Transaction.signed("update", first, 0, key))
    ledger.apply(Transaction.signed("register", first, 0, key))
    assert ledger.find(first.id) == first
    update = Transaction.signed("update", second, 1, key)
    ledger.apply(update)
    assert ledger.find(first.id) == second
    for late in (update, Transaction.signed("register", first, 2, key), Transaction.signed("update", first, 1, key)):
        with pytest.raises(errors.TransactionRefused):
            ledger.apply(late)
    ledger.apply(Transaction.signed("revoke", second, 2, key))
    with pytest.raises(errors.RevokedDid):
        ledger.find(first.id)
    with pytest.raises(errors.TransactionRefused):
        ledger.apply(Transaction.signed("update", first, 3, key))


@each_key
def test_a_handshake_gives_both_the_same(key):
    """Both ends hold the same secrets, and no two handshakes give the same."""
    (client, server), (other, _) = shaken(key), shaken(key)
    assert client.secrets == server.secrets
    assert len({client.secrets.client_key, client.secrets.server_key, other.secrets.client_key, other.secrets.server_key}) == 4


def test_all_of_a_handshake_goes_into_the_keys():
    """With another secret, another shared key or other words said, both keys are others."""
    own, other = X25519PrivateKey.generate(), AGREES.public_key().public_bytes_raw()
    derived = [
        _derive(key, other, secret, binding)
        for key in (own, X25519PrivateKey.generate())
        for secret in (b"1" * 32, b"2" * 32)
        for binding in (b"1" * 32, b"2" * 32)
    ]
    assert len({secrets.client_key for secrets in derived} | {secrets.server_key for secrets in derived}) == 16


@given(bit=st.integers(0))
def test_no_bit_of_a_handshake_may_change(bit):
    """An offer that was changed cannot be opened, and of the answer nothing can be another."""
    opening = opened()
    with pytest.raises(errors.BadHandshake):
        accept(opening.offer.model_copy(update={"sealed": flipped(opening.offer.sealed, bit)}), AGREES, "s", 60.0)
    answer = accept(opening.offer, AGREES, "s", 60.0).answer.signed(opening.offer, KEYS["ed25519"])
    server = KEYS["ed25519"].verify_key
    answer.verify(opening.offer, server)
    for change in (
        {"ephemeral": flipped(answer.ephemeral, bit)},
        {"signature": flipped(answer.signature, bit)},
        {"session_id": "t"},
        {"expires_at": 61.0},
    ):
        with pytest.raises(errors.BadSignature):
            answer.model_copy(update=change).verify(opening.offer, server)


@pytest.mark.parametrize("sealed", [b"", b"short", os.urandom(112)])
def test_what_is_no_offer_is_refused(sealed):
    """Nonsense, and offers of or for somebody else, cannot be opened."""
    offer = opened().offer
    for change in ({"sealed": sealed}, {"client_did": SERVER}, {"server_did": CLIENT}):
        with pytest.raises(errors.BadHandshake):
            accept(offer.model_copy(update=change), AGREES, "s", 60.0)
    other = offer.model_copy(update={"sealed": _SUITE.encrypt(b"short", AGREES.public_key(), offer.info)})
    with pytest.raises(errors.BadHandshake):
        accept(other, AGREES, "s", 60.0)
    with pytest.raises(errors.BadHandshake):
        accept(offer, X25519PrivateKey.generate(), "s", 60.0)


def test_a_key_without_a_secret_is_refused():
    """A public key with which everybody agrees on nothing but zeros ends the handshake."""
    opening = opened()
    answer, _ = accept(opening.offer, AGREES, "s", 60.0)
    with pytest.raises(errors.BadHandshake):
        opening.finish(answer.model_copy(update={"ephemeral": bytes(32)}))


@given(payloads=st.lists(st.binary(max_size=500), min_size=1, max_size=5), bit=st.integers(0))
def test_any_payload_makes_the_round_trip_once(payloads, bit):
    """In both directions all payloads arrive as they were; no bit may change, no other may read, and none comes twice."""
    client, server = shaken()
    stranger, _ = shaken()
    for sender, receiver in ((client, server), (server, client)):
        frames = [sender.encrypt(payload) for payload in payloads]
        assert [receiver.decrypt(frame) for frame in frames] == payloads
        for frame, reader in ((flipped(frames[0], bit), receiver), (frames[0], stranger), (frames[0], sender), (b"", receiver)):
            with pytest.raises(errors.Undecryptable):
                reader.decrypt(frame)
        for frame in frames:
            with pytest.raises(errors.ReplayedFrame):
                receiver.decrypt(frame)


@given(order=st.permutations(range(20)))
def test_frames_may_overtake_one_another(order):
    """In any order each frame arrives once."""
    client, server = shaken()
    frames = [client.encrypt(bytes([number])) for number in range(20)]
    assert [server.decrypt(frames[number]) for number in order] == [bytes([number]) for number in order]
    with pytest.raises(errors.ReplayedFrame):
        server.decrypt(frames[order[0]])


def test_what_is_remembered_of_frames_is_bounded():
    """A frame as old as what was forgotten is refused, though it was never here."""
    client, server = shaken()
    late, *frames = [client.encrypt(b"") for _ in range(WINDOW + 1)]
    for frame in frames:
        server.decrypt(frame)
    assert len(server._window) <= WINDOW
    with pytest.raises(errors.ReplayedFrame):
        server.decrypt(late)


def test_sessions_end():
    """A session is found until it is closed or its time is over, and then it is known to be over."""
    clock = Clock()
    sessions = Sessions(60.0, clock, most=2)
    closed, expired = (replace(shaken(now=clock.now)[0], id=name) for name in ("closed", "expired"))
    sessions.add(closed)
    sessions.add(expired)
    with pytest.raises(errors.TooManySessions):
        sessions.add(replace(closed, id="third"))
    assert sessions.close("closed") is closed
    clock.now += 59.9
    assert sessions.get("expired") is expired
    assert sessions.sweep() == []
    clock.now += 0.1
    for name in ("closed", "expired"):
        with pytest.raises(errors.ExpiredSession):
            sessions.get(name)
    assert sessions.sweep() == [expired]
    assert (len(sessions), sessions.sweep()) == (0, [])
    with pytest.raises(errors.ExpiredSession):
        sessions.close("expired")
    with pytest.raises(errors.UnknownSession):
        sessions.get("never")


def test_a_nonce_works_once_and_soon():
    """The second use is a replay, and one signed long ago, or in the future, is too old or too new to know."""
    clock = Clock()
    nonces = Nonces(30.0, clock)
    nonces.use("a", "n", clock.now)
    nonces.use("b", "n", clock.now)
    with pytest.raises(errors.ReplayedNonce):
        nonces.use("a", "n", clock.now)
    for created in (clock.now - 30.1, clock.now + SKEW_SECONDS + 0.1, float("nan")):
        with pytest.raises(errors.ExpiredNonce):
            nonces.use("a", "m", created)
    nonces.use("a", "m", clock.now - 30.0)


def test_a_full_memory_of_nonces_lets_nobody_in_again():
    """While all that is remembered is still needed a new request is refused; once it is not, there is room."""
    clock = Clock()
    nonces = Nonces(30.0, clock, most=1)
    nonces.use("a", "n", clock.now)
    with pytest.raises(errors.ExpiredNonce, match="too many"):
        nonces.use("a", "m", clock.now)
    with pytest.raises(errors.ReplayedNonce):
        nonces.use("a", "n", clock.now)
    clock.now += 31.0
    nonces.use("a", "m", clock.now)
    assert len(nonces) == 1


@given(steps=st.lists(st.tuples(st.integers(0, 20), st.integers(0, 8), st.floats(-5, 40)), max_size=60))
def test_no_request_gets_in_twice(steps):
    """However clocks run and whatever is forgotten in between, no signed request is taken a second time."""
    clock = Clock()
    nonces = Nonces(30.0, clock, most=4)
    taken = set()
    for passed, nonce, age in steps:
        clock.now += passed
        request = ("a", str(nonce), clock.now - age)
        for again in {request, *taken}:
            try:
                nonces.use(*again)
            except (errors.ExpiredNonce, errors.ReplayedNonce):
                continue
            assert again not in taken
            taken.add(again)
        assert len(nonces) <= 4


def test_messages_are_checked():
    """A text is a text, nothing is longer than it may be, and what is neither text nor binary is no message."""
    for message in (Message("text", "grüß".encode()), Message("binary", b"\xff\0"), Message("text", b"")):
        assert Message.from_bytes(message.to_bytes()) == message
    for data in (b"", b"x", b"t\xff", b"b" + bytes(MOST_BYTES + 1)):
        with pytest.raises(errors.InvalidMessage):
            Message.from_bytes(data)


def test_what_a_session_holds_is_not_shown():
    """Whoever prints a session or an opening sees no key."""
    session, _ = shaken()
    opening = opened()
    assert "secrets" not in repr(session)
    assert "secret" not in repr(opening)
    assert time.time() > session.expires_at


@pytest.mark.parametrize("lie", ["another key", "another DID", "nonsense"])
async def test_a_registry_that_lies_is_not_believed(lie):
    """A document with another agent's key or name, or none at all, is refused whatever the registry says."""
    honest, other = (DidDocument.of("solana", SigningKey.generate("ed25519").verify_key, AGREES.public_key()) for _ in range(2))
    body = {
        "another key": honest.model_copy(update={"verification_method": other.verification_method}).model_dump_json(),
        "another DID": other.model_dump_json(),
        "nonsense": "[]",
    }[lie]
    lying = httpx.MockTransport(lambda _: httpx.Response(200, text=body))
    async with httpx.AsyncClient(transport=lying, base_url="http://registry/") as client:
        with pytest.raises(errors.InvalidDocument):
            await Resolver(client).resolve(honest.id)

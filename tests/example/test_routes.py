"""What the example's routes answer, over real sockets: agents, logins, textbooks and orders, and who misuses them."""

import asyncio
import base64
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from example_app.accounts import TRIES, Accounts, LoginFailed, RateLimit
from example_app.orders import Order, OrderRefused, Store
from example_app.sage import errors
from example_app.sage.did import DidDocument, Transaction
from example_app.sage.keys import KEY_TYPES, SigningKey
from example_app.sage.messages import Message
from example_app.sage.signatures import IN_SESSION
from example_app.textbooks import MOST_TEXTBOOKS, Library

CARD = "4111111111111111"


def frame(data):
    return {"frame": base64.b64encode(data).decode()}


async def told(answer, status):
    """Hold an answer to its status; return what it says."""
    answer = await answer
    assert answer.status_code == status, answer.text
    return answer.json() if answer.content else None


async def test_agents_talk(run_example):
    """With both kinds of keys: messages arrive in both directions, and a session that was closed is over."""
    async with run_example() as example:
        did = await example.server_did()
        for key_type in KEY_TYPES:
            agent = await example.agent(key_type=key_type)
            session = await agent.shake(example.client, did)
            path = f"/sessions/{session.peer_id}"
            for message, shown in (
                (Message("text", "grüß".encode()), {"type": "text", "content": "grüß"}),
                (Message("binary", b"\xff\0"), {"type": "binary", "content": base64.b64encode(b"\xff\0").decode()}),
            ):
                sealed = frame(agent.encrypt(session.id, message))
                assert await told(example.client.post(f"{path}/decrypt", json=sealed), 200) == shown
                sealed = await told(example.client.post(f"{path}/encrypt", json=shown), 200)
                assert agent.decrypt(session.id, base64.b64decode(sealed["frame"])) == message
            body = agent.encrypt(session.id, Message("text", b"pay one"))
            url = f"{example.url}/protected"
            headers = agent.signed("POST", url, body, {"Sage-Session": session.peer_id}, IN_SESSION)
            sealed = await told(example.client.post(url, content=body, headers=headers), 200)
            assert agent.decrypt(session.id, base64.b64decode(sealed["frame"])).content == b"7 bytes arrived"
            await told(example.client.delete(path), 204)
            await told(example.client.delete(path), 410)


async def test_the_service_talks_to_itself(run_example):
    """As a client it shakes hands over the network, and what one end encrypts the other end can read."""
    async with run_example() as example:
        ends = await told(example.client.post("/sessions", json={}), 201)
        assert ends["client_did"] == ends["server_did"] == await example.server_did()
        sealed = await told(example.client.post(f"/sessions/{ends['session_id']}/encrypt", json={"content": "hi"}), 200)
        opened = await told(example.client.post(f"/sessions/{ends['peer_session_id']}/decrypt", json=sealed), 200)
        assert opened == {"type": "text", "content": "hi"}


async def test_what_agents_may_not_do(run_example):
    """Forged, replayed, stale, stolen or unreadable: each is refused with a status of its own."""
    async with run_example() as example:
        did, agent, other = await example.server_did(), await example.agent(), await example.agent(key_type="secp256k1")
        post = example.client.post
        session = await agent.shake(example.client, did)
        url, known = f"{example.url}/protected", {"Sage-Session": session.peer_id}
        body = agent.encrypt(session.id, Message("text", b"pay one"))
        headers = agent.signed("POST", url, body, known, IN_SESSION)
        forged = await told(post(url, content=body + b"!", headers=headers), 401)
        assert forged == {"detail": "signature verify failed"}
        await told(post(url, content=body, headers=known), 401)
        await told(post(url, content=body, headers=other.signed("POST", url, body, known, IN_SESSION)), 401)
        await told(post(url, content=body, headers=agent.signed("POST", url, body, known)), 401)
        await told(post(url, content=body, headers=headers), 200)
        await told(post(url, content=body, headers=headers), 409)
        await told(post(f"/sessions/{session.peer_id}/decrypt", json=frame(body)), 409)
        await told(post(f"/sessions/{session.peer_id}/decrypt", json=frame(body[:-1] + bytes([body[-1] ^ 1]))), 400)
        await told(post(f"/sessions/{session.peer_id}/decrypt", json={"frame": "?"}), 400)
        odd = agent._session(session.id).encrypt(b"neither")
        await told(post(f"/sessions/{session.peer_id}/decrypt", json=frame(odd)), 422)
        await told(post(f"/sessions/{session.peer_id}/encrypt", json={"type": "binary", "content": "?"}), 422)
        await told(post("/sessions/unknown/encrypt", json={"content": "x"}), 404)
        example.clock.ahead = -3_600.0
        late = agent.signed("POST", url, body, known, IN_SESSION)
        example.clock.ahead = 0.0
        await told(post(url, content=body, headers=late), 401)


async def test_handshakes_that_fail(run_example):
    """An offer that is no offer, of a stranger, in another's name, for another, or twice: refused, and the agent is told."""
    async with run_example() as example:
        did, agent, other = await example.server_did(), await example.agent(), await example.agent()
        url = f"{example.url}/handshake"

        async def offered(body, signer):
            return await example.client.post(url, content=body, headers=signer.signed("POST", url, body))

        await told(offered(b"{}", agent), 400)
        sealed = '{"client_did":"%s","server_did":"%s","sealed":"AAAA"}'
        await told(offered((sealed % (agent.did, did)).encode(), agent), 400)
        await told(offered((sealed % (agent.did, did)).encode(), other), 401)
        stranger = type(agent)(agent._resolver)
        await told(offered((sealed % (stranger.did, did)).encode(), stranger), 401)
        body = (sealed % (agent.did, did)).encode()
        headers = agent.signed("POST", url, body)
        await told(example.client.post(url, content=body, headers=headers), 400)
        await told(example.client.post(url, content=body, headers=headers), 409)
        elsewhere = await told(offered((sealed % (agent.did, other.did)).encode(), agent), 400)
        assert elsewhere == {"detail": "the offer is for somebody else"}
        with pytest.raises(errors.PeerRefused):
            await agent.shake(example.client, other.did)
        await told(example.client.post("/sessions", json={"did": other.did}), 502)


async def test_documents_are_published_by_their_owners(run_example):
    """Registered, updated and revoked over the network; what another key has signed is refused."""
    async with run_example() as example:
        post = example.client.post
        agent = await example.agent("ethereum", "secp256k1")
        document = await told(post("/did/resolve", json={"did": agent.did}), 200)
        assert DidDocument.model_validate(document) == agent.document
        agent.rotate()
        await told(post("/did/transactions", json=agent.transaction("update").model_dump()), 201)
        assert await agent.resolve(agent.did) == agent.document
        forged = Transaction.signed("revoke", agent.document, 9, SigningKey.generate("ed25519"))
        await told(post("/did/transactions", json=forged.model_dump()), 409)
        await told(post("/did/transactions", json=agent.transaction("register").model_dump()), 409)
        await told(post("/did/transactions", json=agent.transaction("revoke").model_dump()), 201)
        await told(post("/did/resolve", json={"did": agent.did}), 410)
        await told(post("/did/resolve", json={"did": f"did:sage:solana:{'0' * 40}"}), 404)
        await told(post("/did/resolve", json={"did": "did:web:example.com"}), 422)


async def test_a_registry_that_fails(run_example):
    """Down, too slow, or not there at all: the answer says which of them, and later all is well again."""
    async with run_example(EXAMPLE_REGISTRY_SECONDS="2") as example:
        agent = await example.agent()
        wanted = {"json": {"did": agent.did}}
        await example.server_did()
        for kind, status in (("down", 503), ("slow", 504)):
            await told(example.client.post("/registry/solana/outage", json={"kind": kind, "seconds": 10}), 204)
            await told(example.client.post("/did/resolve", **wanted), status)
        await told(example.client.post("/registry/solana/outage", json={"kind": "slow", "seconds": 0.01}), 204)
        await told(example.client.post("/did/resolve", **wanted), 200)
    async with run_example(EXAMPLE_REGISTRY_URL="http://127.0.0.1:1") as example:
        await told(example.client.get("/agent"), 503)
        await told(example.client.post("/sessions", json={}), 503)


async def test_logins(run_example):
    """A token opens the own account and no other; wrong names and passwords look alike; too many tries are too many."""
    async with run_example() as example:
        user = await told(example.client.post("/login", json={"name": "ada", "password": "engine"}), 200)
        headers = {"Authorization": f"Bearer {user['token']}"}
        assert await told(example.client.get("/users/1", headers=headers), 200) == {"user_id": 1, "name": "ada"}
        await told(example.client.get("/users/2", headers=headers), 403)
        await told(example.client.get("/users/1"), 401)
        batch = await told(example.client.post("/users/batch", json=[1, 77], headers=headers), 200)
        assert batch == [{"user_id": 1, "name": "ada"}, None]
        await told(example.client.post("/users/batch", json=[1]), 401)
        for name in ("nobody", "ada"):
            assert await told(example.client.post("/login", json={"name": name, "password": "?"}), 401) == {
                "detail": "wrong name or password"
            }
        await told(example.client.post("/login", json={"name": "' or 1=1 --", "password": "?"}), 422)
        # All at once: on a busy machine one after the other is not too many.
        tries = [example.client.post("/login", json={"name": "nobody", "password": "?"}) for _ in range(80)]
        assert 429 in {answer.status_code for answer in await asyncio.gather(*tries)}


def test_accounts_lock_and_tokens_end():
    """After some wrong passwords the right one does not help for a while, and a token works for its time."""
    now = [0.0]
    accounts = Accounts({"ada": "engine"}, lambda: now[0])
    user, token = accounts.login("ada", "engine")
    assert (accounts.user_of(token), accounts.active()) == (user, 1)
    for _ in range(TRIES):
        with pytest.raises(LoginFailed, match="bad_password"):
            accounts.login("ada", "?")
    with pytest.raises(LoginFailed, match="locked"):
        accounts.login("ada", "engine")
    now[0] += 60.0
    with pytest.raises(LoginFailed, match="expired_token"):
        accounts.user_of(token)
    assert accounts.active() == 0
    assert accounts.login("ada", "engine")[0] is user
    with pytest.raises(LookupError):
        accounts.user_of("?")


def test_a_rate_limit_gives_back():
    """So many at once, then as many as time has brought back; of each client by itself."""
    now = [0.0]
    limit = RateLimit(3, 2, lambda: now[0])
    assert [limit.allows("a") for _ in range(4)] == [True, True, True, False]
    assert limit.allows("b")
    now[0] += 0.5
    assert [limit.allows("a") for _ in range(2)] == [True, False]
    now[0] += 60.0
    assert [limit.allows("a") for _ in range(4)] == [True, True, True, False]


def test_a_rate_limit_is_asked_by_one_thread_at_a_time():
    """Logins run in threads: two that come at once do not both take the last of what is left."""
    looking, most = [], []

    def clock():
        looking.append(None)
        most.append(len(looking))
        time.sleep(0.02)
        looking.pop()
        return 0.0

    limit = RateLimit(3, 0, clock)
    with ThreadPoolExecutor(8) as threads:
        allowed = [*threads.map(limit.allows, ["a"] * 8)]
    assert (sum(allowed), max(most)) == (3, 1)


async def test_textbooks(run_example):
    """The tutor finds the page that fits; a page that cannot be drawn is one picture less; nobody stops who has not begun."""
    async with run_example() as example:
        post = example.client.post
        pages = ["one and one are two", "water boils\nat a hundred degrees", "a bell\a"]
        made = await told(post("/textbooks", json={"grade_level": "grade-1", "subject": "math", "pages": pages}), 201)
        assert made["pictures"] == 2
        path = f"/textbooks/{made['textbook_id']}/sessions"
        for way, status in (("start", 204), ("end", 204), ("end", 409)):
            await told(post(f"{path}/{way}"), status)
        asked = {"textbook_id": made["textbook_id"], "question": "When does water boil, at how many degrees?"}
        assert await told(post("/ai/ask", json=asked), 200) == {"answer": pages[1], "tokens": 8 + 6}
        await told(post("/ai/ask", json={**asked, "textbook_id": "?"}), 404)
        await told(post("/textbooks/unknown/sessions/start"), 404)


def test_who_learns_is_forgotten_with_the_textbook():
    """When a textbook makes room for new ones, nobody learns from it any more, and nothing is kept of those who did."""
    library = Library()
    first = library.add("grade-1", "math", ("one",))
    library.start(first.id)
    for _ in range(MOST_TEXTBOOKS):
        library.add("grade-1", "math", ("two",))
    assert library.find(first.id) is None
    assert not library.end(first.id)


async def test_orders(run_example):
    """An order is confirmed, or refused with the reason."""
    async with run_example() as example:
        placed = await told(example.client.post("/orders", json={"item": "tea", "count": 2, "card": CARD}), 201)
        assert placed["confirmation"].startswith("2 x tea for 6.40, payment ")
        for wrong, detail in (
            ({"item": "gold", "card": CARD}, "nothing of that name"),
            ({"item": "tea", "count": 0, "card": CARD}, "not so many"),
            ({"item": "tea", "card": "4111111111111112"}, "the card is not good"),
            ({"item": "cocoa", "count": 21, "card": CARD}, "sold out"),
        ):
            assert await told(example.client.post("/orders", json=wrong), 409) == {"detail": detail}


def test_an_empty_shelf_is_filled():
    """What is sold out is there again for the next."""
    store = Store({"cocoa": 3})
    order = Order("cocoa", 2, CARD)
    store.take(order)
    with pytest.raises(OrderRefused, match="sold out"):
        store.take(order)
    store.take(order)

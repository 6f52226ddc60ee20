"""Visitors who do more than one thing after another: agents, pupils, and people who log in, honest and otherwise."""

import asyncio
import base64
import itertools
import random
import time
from collections import deque
from typing import Any, get_args

import httpx

from example_app.delays import PATHS
from example_app.sage.agent import Agent
from example_app.sage.did import Chain, Operation
from example_app.sage.errors import SageError
from example_app.sage.handshake import Offer
from example_app.sage.keys import KEY_TYPES
from example_app.sage.messages import Message
from example_app.sage.resolver import Resolver
from example_app.sage.sessions import Session
from example_app.sage.signatures import IN_SESSION

__all__ = ["Visitors"]

MOST_AGENTS = 6
RETIRING = 0.2
"""Share of agents that go for good, of those that move; the registry remembers them all."""
LEFT_OPEN = 0.2
"""Share of sessions that nobody closes."""
LEARNERS = 10
"""How many learn at the same time."""
JOINING = 0.5
"""Share of learners that take a textbook which somebody learns from."""
SAYINGS = ("hello", "two teas, please", "how late is it?", "good night")
LESSONS = ("one and one are two", "two and two are four", "a circle has no corners", "water boils at a hundred degrees")
_CHAINS: tuple[Chain, ...] = get_args(Chain)


class Visitors:
    """All of them share a client; each method is one visit, and its errors are the caller's."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client
        self._url = str(client.base_url).rstrip("/")
        self._registry = httpx.AsyncClient(base_url=f"{self._url}/registry", timeout=client.timeout, trust_env=False)
        self._agents: list[Agent] = []
        self._delays = itertools.cycle(PATHS)
        self._late: Agent | None = None
        self._server_did = ""
        self._left: deque[Session] = deque(maxlen=100)
        self._learning: deque[str] = deque()
        """Textbooks that somebody learns from, the one that was begun first at the left."""
        self._tokens: deque[str] = deque(maxlen=100)
        """Of logins, the oldest first."""

    async def aclose(self) -> None:
        """Hang up."""
        await self._registry.aclose()

    async def converse(self) -> None:
        """Shake hands, say something in both directions, and mostly say goodbye."""
        agent, session = await self._shake()
        said = Message("text", random.choice(SAYINGS).encode())
        if random.random() < 0.3:
            said = Message("binary", random.randbytes(random.randint(0, 20_000)))
        await self._post(f"/sessions/{session.peer_id}/decrypt", _frame(agent.encrypt(session.id, said)))
        reply = await self._take(f"/sessions/{session.peer_id}/encrypt", {"content": "at your service"})
        agent.decrypt(session.id, base64.b64decode(reply["frame"]))
        await self._send_protected(agent, session)
        if random.random() < LEFT_OPEN:
            self._left.append(session)
        else:
            await self._part(agent, session)

    async def introduce(self) -> None:
        """Have the service shake hands with itself, and carry a message from one end to the other."""
        ends = await self._take("/sessions", {})
        sealed = await self._take(f"/sessions/{ends['session_id']}/encrypt", {"content": random.choice(SAYINGS)})
        await self._post(f"/sessions/{ends['peer_session_id']}/decrypt", sealed)
        for end in ("session_id", "peer_session_id"):
            await self._client.delete(f"/sessions/{ends[end]}")

    async def move(self) -> None:
        """Be known by another key, or go for good, and have somebody new come."""
        agent = await self._agent()
        agent.rotate()
        await self._publish(agent, "update")
        # Another visitor may have been faster.
        if agent in self._agents and len(self._agents) >= MOST_AGENTS and random.random() < RETIRING:
            self._agents.remove(agent)
            await self._publish(agent, "revoke")

    async def learn(self) -> None:
        """Make a textbook or join who learns from one, ask the tutor, and stay while the next ones come."""
        joins = self._learning and random.random() < JOINING
        textbook_id = random.choice(self._learning) if joins else await self._make_textbook()
        await self._post(f"/textbooks/{textbook_id}/sessions/start", {})
        self._learning.append(textbook_id)
        await self._post("/ai/ask", {"textbook_id": textbook_id, "question": f"is it true that {random.choice(LESSONS)}?"})
        if len(self._learning) > LEARNERS:
            await self._post(f"/textbooks/{self._learning.popleft()}/sessions/end", {})

    async def _make_textbook(self) -> str:
        pages = random.sample(LESSONS, 3)
        new = {"grade_level": f"grade-{random.randint(1, 6)}", "subject": "math", "pages": pages}
        made: str = (await self._take("/textbooks", new))["textbook_id"]
        return made

    async def log_in(self) -> None:
        """Log in and look at the own account and at those of others."""
        user = await self._take("/login", {"name": "ada", "password": "engine"})
        headers = {"Authorization": f"Bearer {user['token']}"}
        await self._client.get(f"/users/{user['user_id']}", headers=headers)
        self._tokens.append(user["token"])
        await self._client.post("/users/batch", json=[1, 2, 77], headers=headers)

    async def pry(self) -> None:
        """Read somebody else's account, and one without a token, or with one that may be too old."""
        await self._client.get("/users/1")
        if self._tokens:
            await self._client.get("/users/1", headers={"Authorization": f"Bearer {self._tokens[0]}"})
        user = await self._take("/login", {"name": "grace", "password": "compiler"})
        await self._client.get("/users/1", headers={"Authorization": f"Bearer {user['token']}"})

    async def guess(self) -> None:
        """Try passwords, names and pieces of SQL."""
        for name, password in (("linus", "guess"), ("linus", "again"), ("nobody", "guess"), ("' or 1=1 --", "x")):
            await self._post("/login", {"name": name, "password": password})

    async def hammer(self) -> None:
        """Log in more often than is allowed."""
        for _ in range(30):
            answer = await self._post("/login", {"name": "nobody", "password": ""})
            if answer.status_code == httpx.codes.TOO_MANY_REQUESTS:
                return

    async def forge(self) -> None:
        """Change a request after it was signed."""
        agent, session = await self._shake()
        body = agent.encrypt(session.id, Message("text", b"pay one"))
        headers = self._signed(agent, session, body)
        await self._client.post("/protected", content=body + b"!", headers=headers)
        await self._part(agent, session)

    async def dawdle(self) -> None:
        """Send a request that was signed an hour ago."""
        if self._late is None:
            late = Agent(Resolver(self._registry), clock=lambda: time.time() - 3_600)
            await self._publish(late, "register")
            self._late = late
        await self._late.shake(self._client, await self._server())

    async def babble(self) -> None:
        """Offer and send what nobody can read, and use sessions that are over or never were."""
        agent, session = await self._shake()
        offer = Offer(client_did=agent.did, server_did=session.server_did, sealed=b"?").model_dump_json().encode()
        headers = agent.signed("POST", f"{self._url}/handshake", offer)
        await self._client.post("/handshake", content=offer, headers=headers)
        await self._post(f"/sessions/{session.peer_id}/decrypt", _frame(session.encrypt(b"t\xff")))
        garbage = agent.encrypt(session.id, Message("text", b"x"))[:-1] + b"?"
        await self._post(f"/sessions/{session.peer_id}/decrypt", _frame(garbage))
        await self._part(agent, session)
        await self._post("/sessions/unknown/decrypt", _frame(garbage))
        over = next((left for left in self._left if left.expires_at < time.time()), session)
        await self._post(f"/sessions/{over.peer_id}/decrypt", _frame(garbage))

    async def replay(self) -> None:
        """Send a request that was sent before, and a frame that was."""
        agent, session = await self._shake()
        body = agent.encrypt(session.id, Message("text", b"pay one"))
        headers = self._signed(agent, session, body)
        for _ in range(3):
            await self._client.post("/protected", content=body, headers=headers)
        await self._post(f"/sessions/{session.peer_id}/decrypt", _frame(body))
        await self._part(agent, session)

    async def cut_off(self) -> None:
        """Have one chain's node go down for a moment."""
        await self._post("/registry/solana/outage", {"kind": "down", "seconds": 0.3})
        await self._post("/did/resolve", {"did": f"did:sage:solana:{'0' * 40}"})

    async def congest(self) -> None:
        """Have one chain's node be slow, sometimes longer than anybody waits."""
        await self._post("/registry/solana/outage", {"kind": "slow", "seconds": random.choice((0.4, 0.8, 2.5))})
        await self._post("/did/resolve", {"did": f"did:sage:solana:{'0' * 40}"})

    async def linger(self) -> None:
        """Do one of the things that take long; the next visitor does the next one."""
        path = next(self._delays)
        # Several at once, where one alone has nothing to wait for.
        together = {"threads": 60, "connections": 3}.get(path, 1)
        await asyncio.gather(*[self._client.get(f"/delays/{path}") for _ in range(together)])

    async def _shake(self) -> tuple[Agent, Session]:
        agent = await self._agent()
        agent.sweep()
        return agent, await agent.shake(self._client, await self._server())

    async def _part(self, agent: Agent, session: Session) -> None:
        agent.close(session.id)
        await self._client.delete(f"/sessions/{session.peer_id}")

    async def _agent(self) -> Agent:
        if len(self._agents) < MOST_AGENTS:
            agent = Agent(Resolver(self._registry), chain=random.choice(_CHAINS), key_type=random.choice(KEY_TYPES))
            await self._publish(agent, "register")
            self._agents.append(agent)
        return random.choice(self._agents)

    async def _server(self) -> str:
        if not self._server_did:
            answer = await self._client.get("/agent")
            self._server_did = answer.raise_for_status().json()["did"]
        return self._server_did

    async def _publish(self, agent: Agent, operation: Operation) -> None:
        await self._take("/did/transactions", agent.transaction(operation).model_dump())

    async def _send_protected(self, agent: Agent, session: Session) -> None:
        body = agent.encrypt(session.id, Message("text", b"two teas, please"))
        answer = await self._client.post("/protected", content=body, headers=self._signed(agent, session, body))
        agent.decrypt(session.id, base64.b64decode(answer.raise_for_status().json()["frame"]))

    def _signed(self, agent: Agent, session: Session, body: bytes) -> dict[str, str]:
        return agent.signed("POST", f"{self._url}/protected", body, {"Sage-Session": session.peer_id}, IN_SESSION)

    async def _take(self, path: str, body: Any) -> Any:
        """Ask for what the visit cannot go on without."""
        return (await self._post(path, body)).raise_for_status().json()

    async def _post(self, path: str, body: Any) -> httpx.Response:
        return await self._client.post(path, json=body)


def _frame(frame: bytes) -> dict[str, str]:
    return {"frame": base64.b64encode(frame).decode()}


VISIT_ENDS = (SageError, httpx.HTTPError, OSError)
"""How a visit may end early: the service said no, is going, or is too slow."""

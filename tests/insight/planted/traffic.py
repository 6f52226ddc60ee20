"""Sends the planted service its requests, and writes down of each what it was to show.

Run it with the file to write, the port, how much of everything, and a seed. It is a process of its own, with few connections,
so that what it measures is the service and not itself.
"""

import asyncio
import json
import random
import sys
import time
from collections.abc import Awaitable, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

BLOCKS = {
    "endpoint": ("sleep", "loop", "multiply", "match", "parse", "sort", "query", "operate", "psycopg"),
    "dependency": ("sleep", "loop", "multiply", "query"),
    "background": ("sleep", "loop", "match", "query"),
    "worker": ("sleep", "loop", "multiply"),
    "callback": ("sleep", "loop", "sort"),
    "child": ("sleep", "loop", "parse"),
    "asgi": ("sleep", "loop", "multiply"),
    "base": ("sleep", "loop", "match"),
}
"""Where the loop is blocked, and how."""
TIMED = frozenset({"sleep", "loop", "psycopg"})
INSIDE = frozenset({"endpoint", "dependency", "child", "asgi", "base"})
"""Where the block is a part of the request's own duration."""
OTHERS = {
    # What is asked for, the causes that are right, and the mark of the line that has to be named.
    "repeated": ("/repeated", ["repeated_query"], "repeated"),
    "repeated-sync": ("/repeated-sync", ["repeated_query"], "repeated-sync"),
    "slow-query": ("/slow-query", ["database"], None),
    "call": ("/call?port={port}", ["call"], None),
    "waiting": ("/waiting", ["waiting"], "waiting"),
    "dependencies": ("/dependencies", ["dependencies", "waiting"], None),
    "serialization": ("/serialization", ["serialization", "blocked_loop"], None),
    "validation": ("/quick/none", ["validation"], None),
    "refused": ("/refused", ["refused"], None),
    "exception": ("/failing", ["exception"], None),
}
INNOCENTS = ("/quick/{number}", "/short-wait/{number}", "/short-wait/{number}", "/in-thread/{number}")


@dataclass
class Asked:
    """One request, as the client saw it; times monotonic, in ns."""

    request_id: str
    plant: str
    path: str
    causes: list[str] = field(default_factory=list)
    """The first causes that are right; none: it is an innocent, or is judged by what took it long."""
    mark: str | None = None
    sent_ns: int = 0
    received_ns: int = 0
    status: int = 0


class Connection:
    """One connection that is kept open."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, asked: Asked) -> None:
        """Send a request, and read the answer."""
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        head = f"GET {asked.path} HTTP/1.1\r\nHost: planted\r\nX-Correlation-ID: {asked.request_id}\r\n\r\n"
        asked.sent_ns = time.monotonic_ns()
        writer.write(head.encode())
        answer = await reader.readuntil(b"\r\n\r\n")
        await _read_body(reader, answer.lower())
        asked.received_ns = time.monotonic_ns()
        asked.status = int(answer.split(b" ", 2)[1])
        if asked.status >= 500:
            # uvicorn closes the connection after an exception, and does not say so.
            self.close()

    def close(self) -> None:
        """Close it; the next request opens another."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


async def _read_body(reader: asyncio.StreamReader, head: bytes) -> None:
    if b"content-length: " in head:
        await reader.readexactly(int(head.split(b"content-length: ")[1].split(b"\r\n")[0]))
    elif b"transfer-encoding: chunked" in head:
        while size := int(await reader.readuntil(b"\r\n"), 16):
            await reader.readexactly(size + 2)
        await reader.readuntil(b"\r\n")


class Traffic:
    """All requests of one run."""

    def __init__(self, port: int, seed: int) -> None:
        self._port = port
        self._partner_port = 0
        self._random = random.Random(seed)
        self._numbers = count()
        self.asked: list[Asked] = []

    async def send_all(self, rounds: int, innocents: int, *, has_postgres: bool) -> None:
        """Send everything: `rounds` times each plant, and so many innocents beside; 0 rounds: some of each sort, once."""
        partner = await asyncio.start_server(_answer_late, "127.0.0.1", 0)
        self._partner_port = partner.sockets[0].getsockname()[1]
        await self._lane([*self._innocents(20)], 0.001)
        places = [(place, kind) for place, kinds in BLOCKS.items() for kind in kinds if kind != "psycopg" or has_postgres]
        if not rounds:
            # Each place, and each way.
            places = [(place, kind) for place, kind in places if place == "endpoint" or kind == BLOCKS[place][-1]]
            rounds = 1
        blocks = self._mixed(rounds, places)
        others = self._mixed(rounds, OTHERS)
        seconds = 0.4 * len(blocks)
        # Most of the time one blocks the loop at once.
        lanes = [self._lane(blocks[::4], 1.2), self._lane([block for at, block in enumerate(blocks) if at % 4], 0.25)]
        lanes += [self._lane(each, seconds / (2 + len(each))) for each in (others[::2], others[1::2])]
        lanes += [self._lane([*self._innocents(innocents // 6)], 6 * seconds / (2 + innocents)) for _ in range(6)]
        await asyncio.gather(*lanes)
        await self._with_innocents(self._lane([self._both(number) for number in range(4 * rounds)], 0.05), 0)
        for number in range(rounds):
            await self._with_innocents(self._crowd(12, "threads", "/threads"), number)
            await self._with_innocents(self._empty_pool(), number)
            await self._with_innocents(self._starve(), number)
        await self._once("setup", "/fill")
        for number in range(rounds):
            await self._with_innocents(self._collect(), number)
        await self._once("setup", "/empty")
        partner.close()

    def _mixed(self, rounds: int, plants: Iterable[Any]) -> list[Asked]:
        """Make requests with each plant so many times, in any order."""
        made = [self._block(*plant) if isinstance(plant, tuple) else self._other(plant) for plant in [*plants] * rounds]
        self._random.shuffle(made)
        return made

    def _new(self, plant: str, path: str, causes: Iterable[str] = (), mark: str | None = None) -> Asked:
        asked = Asked(f"r{next(self._numbers)}", plant, path, [*causes], mark)
        self.asked.append(asked)
        return asked

    def _block(self, place: str, kind: str) -> Asked:
        seconds = f"?s={self._random.uniform(0.18, 0.4):.3f}" if kind in TIMED else ""
        causes = ["blocked_loop"] if place in INSIDE else []
        return self._new(f"{place}/{kind}", f"/{place}/{kind}{seconds}", causes, kind)

    def _other(self, plant: str) -> Asked:
        path, causes, mark = OTHERS[plant]
        return self._new(plant, path.format(port=self._partner_port), causes, mark)

    def _both(self, number: int) -> Asked:
        one, other = self._random.sample([0.2, 0.35, 0.5], 2)
        if number % 2:
            return self._new("both", f"/both?s={one}&query_seconds={other}")
        return self._new("both-waits", f"/both-waits?port={self._partner_port}&s={one}&query_seconds={other}")

    def _innocents(self, number: int) -> Iterable[Asked]:
        for _ in range(number):
            path = self._random.choice(INNOCENTS)
            yield self._new("innocent", path.format(number=self._random.randrange(1_000)))

    async def _lane(self, requests: list[Asked], pause_seconds: float) -> None:
        """Send requests one after the other, with pauses of that length on average."""
        connection = Connection(self._port)
        for asked in requests:
            await asyncio.sleep(self._random.uniform(0, 2 * pause_seconds))
            await connection.ask(asked)
        connection.close()

    async def _with_innocents(self, plants: Awaitable[None], number: int) -> None:
        innocents = [self._lane([*self._innocents(5)], 0.15) for _ in range(2 + number % 2)]
        await asyncio.gather(plants, *innocents)

    async def _crowd(self, size: int, plant: str, path: str) -> None:
        await asyncio.gather(*(self._once(plant, path, pause=0.01) for _ in range(size)))

    async def _empty_pool(self) -> None:
        holders = [self._once("report", "/report", ["waiting"], "report") for _ in range(2)]
        waiters = [self._once("pooled", "/pooled", pause=0.25) for _ in range(3)]
        await asyncio.gather(*holders, *waiters)

    async def _starve(self) -> None:
        await self._once("setup", "/burn?s=1.5")
        await asyncio.gather(*(self._once("starved", "/steps", ["busy_threads"], pause=0.3) for _ in range(2)))
        await asyncio.sleep(1.0)

    async def _collect(self) -> None:
        await asyncio.sleep(0.2)
        await self._once("collection", "/collect", ["garbage_collection"])

    async def _once(
        self, plant: str, path: str, causes: Iterable[str] = (), mark: str | None = None, pause: float = 0.0
    ) -> None:
        await self._lane([self._new(plant, path, causes, mark)], pause / 2)


async def _answer_late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Be another service, which takes as long as it is told."""
    with suppress(asyncio.CancelledError):
        while head := await reader.readline():
            seconds = float(head.split(b"s=")[1].split(b" ")[0])
            await reader.readuntil(b"\r\n\r\n")
            await asyncio.sleep(seconds)
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
    writer.close()


async def send(port: str, rounds: str, innocents: str, seed: str, postgres: str) -> dict[str, Any]:
    """Send everything, and ask the service what happened."""
    traffic = Traffic(int(port), int(seed))
    await traffic.send_all(int(rounds), int(innocents), has_postgres=postgres == "postgres")
    return {"asked": [asdict(asked) for asked in traffic.asked], **await _truth(int(port))}


async def _truth(port: int) -> dict[str, Any]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /truth HTTP/1.1\r\nHost: planted\r\nConnection: close\r\n\r\n")
    answer = await reader.read()
    writer.close()
    found: dict[str, Any] = json.loads(answer.partition(b"\r\n\r\n")[2])
    return found


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps(asyncio.run(send(*sys.argv[2:]))))

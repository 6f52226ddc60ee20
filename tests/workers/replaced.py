"""A server whose workers are killed and replaced one after the other, while one of them stays, and is asked each time."""

import asyncio
import json
import multiprocessing
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI
from prometheus_client.parser import text_string_to_metric_families

from sage_fastapi_obs import Observability, Settings

WORKERS = 4
_FORK = multiprocessing.get_context("fork")


def serve(connection: Connection, folder: str) -> None:
    """Be a worker: ask the app for each path that comes; tell the answer, what it cost, and where the slots are."""
    app = FastAPI()
    settings = Settings(
        service={"name": Path(folder).name},
        logging={"level": "warn", "output": f"{folder}/lines"},
        store={"path": folder},
        monitoring={"access": "open"},
    )
    obs = Observability(settings)
    obs.install(app)

    @app.get("/items/{number}")
    async def item(number: int) -> int:
        return number

    async def answer() -> None:
        transport = httpx.ASGITransport(app)
        async with obs, httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            while True:
                path = await asyncio.to_thread(connection.recv)
                begun = time.process_time()
                text = (await client.get(path)).text
                assert obs.worker is not None
                assert obs.worker.group is not None
                connection.send([text, time.process_time() - begun, str(obs.worker.group.folder)])

    asyncio.run(answer())


class Replaceable:
    """One worker."""

    def __init__(self, folder: str) -> None:
        self._connection, other = _FORK.Pipe()
        self._process = _FORK.Process(target=serve, args=(other, folder), daemon=True)
        self._process.start()
        other.close()

    def get(self, path: str) -> list[Any]:
        """Have it answer."""
        self._connection.send(path)
        found: list[Any] = self._connection.recv()
        return found

    def kill(self) -> None:
        """End it without a word."""
        self._process.kill()
        self._process.join()
        self._connection.close()


def main(folder: str, turns: int) -> None:
    """Print, after each replacement, how many requests were made and are counted, the files and their bytes, and the cost."""
    workers = [Replaceable(folder) for _ in range(WORKERS)]
    sent = 0
    for turn in range(turns):
        place = 1 + turn % (WORKERS - 1)
        for worker in workers:
            worker.get(f"/items/{turn}")
            sent += 1
        workers[place].kill()
        workers[place] = Replaceable(folder)
        workers[place].get("/monitoring/health")
        page, seconds, slots = workers[0].get("/metrics")
        files = [path for path in Path(slots).iterdir() if path.exists()]
        stored = [path for path in Path(folder).rglob("*") if not path.is_dir()]
        size = sum(path.stat().st_size for path in files)
        sys.stdout.write(json.dumps([sent, counted(page), len(files), size, len(stored), seconds, len(page)]) + "\n")
        sys.stdout.flush()
    for worker in workers:
        worker.kill()


def counted(page: str) -> float:
    """Return how many requests a page has counted."""
    return sum(
        sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.name == "http_requests_total" and sample.labels["route"] == "/items/{number}"
    )


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))

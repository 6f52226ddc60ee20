"""Threads of the package belong to no request."""

import threading
from contextvars import copy_context

from fastapi import FastAPI
from support import PATIENCE_SECONDS, client

from sage_fastapi_obs import Observability
from sage_fastapi_obs.request.exchange import Exchange, current_exchange
from sage_fastapi_obs.threads import start_thread


class InheritingThread(threading.Thread):
    """A thread as Python 3.14 has it with `-X thread_inherit_context=1`, and always where it has no global lock."""

    def start(self) -> None:
        self._inherited = copy_context()
        super().start()

    def run(self) -> None:
        self._inherited.run(super().run)


async def test_a_thread_that_a_request_happens_to_start_is_not_of_that_request(monkeypatch, watch):
    """It has no exchange, so that its lines do not have the request's ids, and nothing of the request stays in memory."""
    monkeypatch.setattr(threading, "Thread", InheritingThread)
    seen: list[Exchange | None] = []
    obs: Observability = watch().obs
    app = FastAPI()
    obs.install(app)

    @app.get("/")
    def read() -> None:
        seen.append(current_exchange.get(None))
        start_thread("test", lambda: seen.append(current_exchange.get(None))).join(PATIENCE_SECONDS)

    async with client(app) as opened:
        await opened.get("/")
    assert seen[0] is not None
    assert seen[1:] == [None]

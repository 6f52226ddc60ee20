"""Metrics on a port of their own, by a small server in a thread: for networks that protect them by the port.

With a token, the live page is there, too.
"""

import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from fastapi import APIRouter
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sage_fastapi_obs.endpoints.metrics_page import MetricsPage, parts
from sage_fastapi_obs.processes import at_fork
from sage_fastapi_obs.settings import Settings
from sage_fastapi_obs.threads import start_thread
from sage_fastapi_obs.workers.control_socket import ControlSocket
from sage_fastapi_obs.workers.other_workers import Workers

if TYPE_CHECKING:
    import uvicorn

_START_SECONDS = 5.0
_VERB = "port"
_ASK_SECONDS = 1.0
_PAUSES_SECONDS = (0.0, 0.05, 0.2, 0.75)
"""Before each try to listen at the start: the sockets of a process that was killed close later than its lock is given up."""


class MetricsPort:
    """Serves one scrape on one port; of several workers one has it, and another takes over when that one ends."""

    component = "MetricsPort"

    def __init__(
        self,
        scrape: MetricsPage,
        settings: Settings,
        workers: Workers,
        control: ControlSocket,
        pages: Callable[[], APIRouter | None],
    ) -> None:
        """`workers`: those of which one serves the port. `control`: where they ask, and what tries again each second.

        `pages`: builds what is served besides metrics.
        """
        self._scrape = scrape
        self._pages = pages
        self._app = Starlette()
        self._paths = {settings.metrics.path: "", **parts(settings.metrics)}
        """The paths of the page and its parts, each with the beginning of its metrics' names."""
        self._configured_port = settings.metrics.port
        self._workers = workers
        self._is_wanted = False
        self._server: uvicorn.Server | None = None
        self._listening: socket.socket | None = None
        self._thread: threading.Thread | None = None
        self.port: int | None = None
        """The port that it listens on; None until started, and while another worker does."""
        self.failure = ""
        """Why nobody of this service listens."""
        at_fork(in_child=self._forget)
        if settings.monitoring.access == "port":
            control.add(_VERB, self._tell, tick=self.retry)

    def start(self) -> None:
        """Listen, unless another worker does. Raises `OSError` when a stranger has the port, and `NoThreadError`."""
        # Before it listens: whoever connects is answered at once.
        self._app = self._application()
        self._is_wanted = True
        try:
            found = self._listen_first()
        except OSError as error:
            self.failure = os.strerror(error.errno) if error.errno else type(error).__name__
            raise
        if found is None:
            return
        server, thread = found
        deadline = time.monotonic() + _START_SECONDS
        while not server.started and thread.is_alive() and time.monotonic() < deadline:
            time.sleep(0.01)

    def retry(self) -> None:
        """Listen if whoever did so has ended; called each second."""
        if self._is_wanted and self._server is None:
            with suppress(OSError):
                self._listen()

    def _listen_first(self) -> "tuple[uvicorn.Server, threading.Thread] | None":
        """Listen; None where another worker does, or may do. Raises `OSError`."""
        for pause in _PAUSES_SECONDS:
            time.sleep(pause)
            with suppress(OSError):
                return self._listen()
            # Who had it may have been killed before it was asked; the next one may have it by now.
            answers = self._workers.ask(_VERB, seconds=_ASK_SECONDS).values()
            if b"yes" in answers:
                return None
        if any(answer != b"no" for answer in answers):
            # One is too busy to say whether it has the port; to retry goes on each second.
            return None
        return self._listen()

    def _tell(self, _: object) -> bytes:
        return b"no" if self.port is None else b"yes"

    def _listen(self) -> "tuple[uvicorn.Server, threading.Thread]":
        """Serve the page in a thread."""
        # Bind here: uvicorn would end the process when the port is taken.
        listening = socket.create_server(("0.0.0.0", self._configured_port))  # noqa: S104 - scraped from elsewhere; the port is the fence
        self.port = listening.getsockname()[1]
        try:
            server = self._uvicorn()
            self._thread = start_thread("sage-obs-metrics", partial(server.run, [listening]))
        except BaseException:
            # Otherwise clients could connect, and would wait for ever.
            listening.close()
            self.port = None
            raise
        self._server, self._listening = server, listening
        return server, self._thread

    def _application(self) -> Starlette:
        async def metrics(request: Request) -> Response:
            return await self._scrape.response(request, self._paths[request.url.path])

        pages = self._pages()
        return Starlette(routes=[*(Route(path, metrics) for path in self._paths), *(() if pages is None else pages.routes)])

    def _uvicorn(self) -> "uvicorn.Server":
        import uvicorn  # noqa: PLC0415 - takes long, and only this way of access needs it

        return uvicorn.Server(uvicorn.Config(self._app, lifespan="off", log_config=None, access_log=False))

    def close(self) -> None:
        """Stop listening."""
        self._is_wanted = False
        if self._server is not None and self._thread is not None:
            self._server.should_exit = True
            self._thread.join(_START_SECONDS)
        self._server = self._listening = self._thread = self.port = None

    def _forget(self) -> None:
        """Let go of the parent's port, in a forked child: nobody else could have it after the parent's end."""
        self._is_wanted = False
        if self._listening is not None:
            # The loop holds the number of the file, which is not to become that of another one.
            with Path(os.devnull).open("rb") as nothing:
                os.dup2(nothing.fileno(), self._listening.fileno(), inheritable=False)
        self._server = self._listening = self._thread = self.port = None

"""Metrics on a port of their own, by a small server in a thread: for networks that protect them by the port."""

import os
import socket
import threading
import time
from functools import partial
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sage_fastapi_obs.endpoints.metrics_page import MetricsPage, parts
from sage_fastapi_obs.settings import MetricsSettings
from sage_fastapi_obs.threads import NoThreadError, start_thread

if TYPE_CHECKING:
    import uvicorn

__all__ = ["MetricsPort"]

START_SECONDS = 5.0


class MetricsPort:
    """Serves one scrape on one port."""

    def __init__(self, scrape: MetricsPage, settings: MetricsSettings) -> None:
        self._scrape = scrape
        self._paths = {settings.path: "", **parts(settings)}
        """The paths of the page and its parts, each with the beginning of its metrics' names."""
        self._configured_port = settings.port
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None
        self.port: int | None = None
        """The port that it listens on; None until started."""
        self.failure = ""
        """Why it does not listen."""

    def start(self) -> None:
        """Listen. Raises `OSError` when the port is taken, `NoThreadError` when no thread can start."""
        import uvicorn  # noqa: PLC0415 - takes long, and only this way of access needs it

        async def metrics(request: Request) -> Response:
            return await self._scrape.response(request, self._paths[request.url.path])

        app = Starlette(routes=[Route(path, metrics) for path in self._paths])
        listening = self._listening()
        port = listening.getsockname()[1]
        config = uvicorn.Config(app, lifespan="off", log_config=None, access_log=False)
        server = uvicorn.Server(config)
        try:
            self._thread = start_thread("sage-obs-metrics", partial(server.run, [listening]))
        except NoThreadError:
            # Otherwise clients could connect, and would wait for ever.
            listening.close()
            raise
        self._server, self.port = server, port
        deadline = time.monotonic() + START_SECONDS
        while not server.started and self._thread.is_alive() and time.monotonic() < deadline:
            time.sleep(0.01)

    def _listening(self) -> socket.socket:
        """Bind here: uvicorn would end the process when the port is taken."""
        try:
            return socket.create_server(("0.0.0.0", self._configured_port))  # noqa: S104 - scraped from elsewhere; the port is the fence
        except OSError as error:
            self.failure = os.strerror(error.errno) if error.errno else type(error).__name__
            raise

    def close(self) -> None:
        """Stop listening."""
        if self._server is not None and self._thread is not None:
            self._server.should_exit = True
            self._thread.join(START_SECONDS)
        self._server = self._thread = self.port = None

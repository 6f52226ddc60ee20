"""A pytest plugin for the test suites of others: every app that they build or drive is watched.

With `WATCHED_SUITE=inside` the middleware is added to each app that is built; with `outside` it is put around whatever a
test client drives.
"""

import os
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any

import pytest
from fastapi import FastAPI
from opentelemetry.sdk.trace import TracerProvider
from starlette.applications import Starlette
from starlette.testclient import TestClient, _is_asgi3, _WrapASGI2

from sage_fastapi_obs import Observability, ObservabilityMiddleware, Settings

# One for all: what is tested is how it treats an app, and building one takes longer than most tests.
obs = Observability(
    Settings(logging={"output": os.devnull}, alerts={"defaults": False}),
    # Of our own, and going nowhere: the global one is what telemetry of others is tested with.
    tracer_provider=TracerProvider(shutdown_on_exit=False),
)


@pytest.fixture(autouse=True)
def nothing_of_ours_runs_on() -> Iterator[None]:
    """Stop what a test's requests have started, as the end of a lifespan does."""
    yield
    obs.abandon()


def replace_init(kind: Any, build: Callable[..., None]) -> None:
    """Let `build(init, self, …)` make objects of a class."""
    init = kind.__init__

    @wraps(init)
    def replaced(self: Any, *args: Any, **kwargs: Any) -> None:
        build(init, self, *args, **kwargs)

    kind.__init__ = replaced


def inside(init: Any, app: Starlette, /, *args: Any, **kwargs: Any) -> None:
    """Build an app, and add the middleware."""
    init(app, *args, **kwargs)
    app.add_middleware(ObservabilityMiddleware, observability=obs)


def outside(init: Any, client: TestClient, /, app: Any, *args: Any, **kwargs: Any) -> None:
    """Build a client for an app with the middleware around it."""
    app = app if _is_asgi3(app) else _WrapASGI2(app)
    init(client, ObservabilityMiddleware(app, observability=obs), *args, **kwargs)


match os.environ.get("WATCHED_SUITE"):
    case "inside":
        replace_init(Starlette, inside)
        replace_init(FastAPI, inside)
    case "outside":
        replace_init(TestClient, outside)

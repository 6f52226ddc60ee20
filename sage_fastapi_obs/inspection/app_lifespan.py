"""Runs the lifespan of an app, as a server does."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from starlette.types import ASGIApp, Message

from sage_fastapi_obs.errors import ObservabilityError
from sage_fastapi_obs.privacy.redaction import BUILT_IN


class LifespanError(ObservabilityError):
    """The app did not start."""


@asynccontextmanager
async def running_lifespan(app: ASGIApp) -> AsyncIterator[dict[str, Any]]:
    """Start an app, and stop it after the block; an app without a lifespan is left alone. Yields the state of its lifespan.

    Raises `LifespanError` where the app does not start.
    """
    incoming, answers = asyncio.Queue[Message](), asyncio.Queue[Message]()
    state: dict[str, Any] = {}
    scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": state}
    # In one task from begin to end, as contexts of the app may have to be left where they were entered.
    running = asyncio.create_task(_run(app, scope, incoming, answers))
    try:
        await incoming.put({"type": "lifespan.startup"})
        started = await answers.get()
        if started["type"] == "lifespan.startup.failed":
            text = BUILT_IN.readable(BUILT_IN.error_text(started.get("message", "")))
            raise LifespanError(f"the app does not start: {text.strip().rpartition(chr(10))[2] or 'its lifespan has failed'}")
        yield state
        await incoming.put({"type": "lifespan.shutdown"})
        await answers.get()
    finally:
        running.cancel()
        await asyncio.wait([running])


async def _run(app: ASGIApp, scope: Any, incoming: "asyncio.Queue[Message]", answers: "asyncio.Queue[Message]") -> None:
    answered = False

    async def send(message: Message) -> None:
        nonlocal answered
        answered = True
        await answers.put(message)

    try:
        await app(scope, incoming.get, send)
    except Exception as error:
        if answered:
            await answers.put({"type": "lifespan.startup.failed", "message": f"{type(error).__name__}: {error}"})
    finally:
        # Whoever waits for an answer waits no longer; an app that raises at once has no lifespan, says the specification.
        await answers.put({"type": "lifespan.none"})

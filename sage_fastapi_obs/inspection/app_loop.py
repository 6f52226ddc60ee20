"""The event loop that an app is looked at in: it ends, whatever the app has left in it."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

_Result = TypeVar("_Result")
_LAST_SECONDS = 2.0
"""Time that tasks of the app have to end when they are cancelled."""


def run_in_loop(looking: Coroutine[Any, Any, _Result]) -> _Result:
    """Return what comes of looking at an app. `asyncio.run` would wait for the app's threads and tasks as long as they like."""
    runner = asyncio.Runner()
    try:
        return runner.run(looking)
    finally:
        loop = runner.get_loop()
        # What the app has left behind may fail, and nobody wants to hear of it.
        loop.set_exception_handler(lambda *_: None)
        loop.run_until_complete(end(*asyncio.all_tasks(loop)))
        loop.close()


async def end(*tasks: "asyncio.Task[Any]") -> None:
    """Cancel tasks; those that do not let themselves be cancelled are left alone after a while."""
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=_LAST_SECONDS)

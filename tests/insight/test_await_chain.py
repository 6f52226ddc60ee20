"""What a task is seen to wait for, from its chain of coroutines."""

import asyncio
from typing import Any

import pytest

from sage_fastapi_obs.insight.application_code import ApplicationCode
from sage_fastapi_obs.insight.await_chain import WaitPlace, wait_place

LAYER = """
async def {name}(inner):
    await inner
"""


def layer(file: str, name: str) -> Any:
    """Return a coroutine function that stands in a file, and only waits for another."""
    names: dict[str, Any] = {}
    exec(compile(LAYER.format(name=name), file, "exec"), names)
    return names[name]


middleware, endpoint = layer("/srv/shop/timing.py", "dispatch"), layer("/srv/shop/orders.py", "read")
router, call_next = (
    layer("/lib/site-packages/starlette/routing.py", "app"),
    layer("/lib/site-packages/starlette/middleware/base.py", "call_next"),
)
library = layer("/lib/site-packages/queue/client.py", "get")


async def place_of(*layers: Any) -> WaitPlace:
    """Return where a task waits that consists of layers, the outermost first."""
    waited = asyncio.get_running_loop().create_future()
    coroutine: Any = library(waited)
    for one in reversed(layers):
        coroutine = one(coroutine)
    task = asyncio.create_task(coroutine)
    await asyncio.sleep(0)
    found = wait_place(task, ApplicationCode())
    waited.set_result(None)
    await task
    return found


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        pytest.param([middleware, router, endpoint], "srv/shop/orders.py:3", id="an endpoint waits"),
        pytest.param([middleware, router], None, id="a middleware waits for the framework"),
        pytest.param([middleware, call_next], None, id="a middleware waits for the next one"),
        pytest.param([middleware], "srv/shop/timing.py:3", id="a middleware waits for something of its own"),
    ],
)
async def test_where_it_waits(layers: list[Any], expected: str | None) -> None:
    """The innermost line of the application is named, but not a middleware that waits for what it was put around."""
    assert (await place_of(*layers)).place == expected

"""Ready-made health checks: `obs.health.add("database", sql(connect))`. Each is healthy unless it returns False or raises."""

import shutil
import time
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
from opentelemetry.instrumentation.utils import suppress_instrumentation

from sage_fastapi_obs.delivery.http_client import http_client
from sage_fastapi_obs.errors import SettingsError

_LAG_PROBE_SECONDS = 0.01


def url(address: str, *, timeout_seconds: float = 2.0) -> Callable[[], Awaitable[bool]]:
    """Check that an address answers a GET with a status below 400."""

    async def answers() -> bool:
        with suppress_instrumentation(), anyio.fail_after(timeout_seconds):
            async with http_client(timeout_seconds) as client, client.stream("GET", address) as response:
                # However long the page is, its status says it.
                return response.status_code < 400

    return answers


def tcp(host: str, port: int) -> Callable[[], Awaitable[None]]:
    """Check that a TCP port accepts connections."""

    async def listens() -> None:
        async with await anyio.connect_tcp(host, port):
            pass

    return listens


def redis(client: Any) -> Callable[[], object]:
    """Check that a Redis client, sync or async, gets an answer to PING."""
    ping: Callable[[], object] = client.ping
    return ping


def sql(connect: Callable[[], Any], statement: str = "SELECT 1") -> Callable[[], None]:
    """Check that a database answers.

    `connect`: returns a new DB-API connection, or one from a pool, which is closed afterwards: `partial(psycopg.connect, dsn)`,
    or SQLAlchemy's `engine.raw_connection`.
    """

    def answers() -> None:
        with closing(connect()) as connection, closing(connection.cursor()) as cursor:
            cursor.execute(statement)
            cursor.fetchone()

    return answers


def disk(path: str | Path = "/", *, most_used: float = 0.8) -> Callable[[], bool]:
    """Check that no more than a share of the disk that a path is on is used, 0 to 1."""
    if not 0 < most_used <= 1:
        raise SettingsError(f"most_used is a share above 0 and up to 1, not {most_used:g}")

    def has_room() -> bool:
        usage = shutil.disk_usage(path)
        return usage.used <= most_used * usage.total

    return has_room


def event_loop(*, most_lag_seconds: float = 0.5) -> Callable[[], Awaitable[bool]]:
    """Check that the event loop gets round to a task that is due."""

    async def keeps_up() -> bool:
        due = time.monotonic() + _LAG_PROBE_SECONDS
        await anyio.sleep(_LAG_PROBE_SECONDS)
        return time.monotonic() - due <= most_lag_seconds

    return keeps_up

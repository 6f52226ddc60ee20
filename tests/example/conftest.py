"""Fixtures: the example service, in a process of its own."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from receivers import SpanCollector, serving
from served import Example
from support import PATIENCE_SECONDS

ROOT = Path(__file__).parents[2]


def environment(url: str, log: Path, collector: SpanCollector, env: dict[str, str]) -> dict[str, str]:
    """Say where the example is, and where it tells what."""
    return {
        "EXAMPLE_URL": url,
        "SERVICE_NAME": "example",
        "SAGE_OBS_LOGGING__OUTPUT": str(log),
        "SAGE_OBS_LOGGING__FORMAT": "json",
        "SAGE_OBS_LOGGING__LEVEL": "debug",
        "SAGE_OBS_TRACING__OTLP_ENDPOINT": f"{collector.url}/v1/traces",
        **env,
    }


@pytest.fixture
def run_example(tmp_path: Path) -> Callable[..., Any]:
    """Return what runs the example in a process of its own, so that whatever it tells is its own; to be read afterwards too."""

    @asynccontextmanager
    async def run(**env: str) -> AsyncIterator[Example]:
        with serving(SpanCollector()) as collector, socket.socket() as listening:
            listening.bind(("127.0.0.1", 0))
            listening.listen(100)
            url = f"http://127.0.0.1:{listening.getsockname()[1]}"
            log = tmp_path / "lines.jsonl"
            command = [sys.executable, "-m", "uvicorn", "--factory", "example_app.app:create_app"]
            command += ["--fd", str(listening.fileno()), "--log-level", "warning"]
            process = await asyncio.create_subprocess_exec(
                *command,
                env={**os.environ, **environment(url, log, collector, env)},
                pass_fds=(listening.fileno(),),
                stderr=asyncio.subprocess.PIPE,
                cwd=ROOT,
            )
            async with Example(url, log, collector) as example:
                try:
                    # The socket listens already: whoever asks waits until somebody answers.
                    (await example.client.get("/monitoring/health/live", timeout=PATIENCE_SECONDS)).raise_for_status()
                    yield example
                finally:
                    process.terminate()
                    _, said = await asyncio.wait_for(process.communicate(), PATIENCE_SECONDS)
            # uvicorn ends by the signal that it was stopped with.
            assert (process.returncode in (0, -signal.SIGTERM), said) == (True, b""), said.decode()

    return run

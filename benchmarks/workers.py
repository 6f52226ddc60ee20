"""Processes that wait to be told to measure, so that variants can take turns on a machine whose speed changes."""

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Self

__all__ = ["Worker", "answer", "receiver", "say"]

ENVIRONMENT = {
    # The stable conventions, for all.
    "OTEL_SEMCONV_STABILITY_OPT_IN": "http",
    # `_created` samples would give prometheus_client half as many lines again to write.
    "PROMETHEUS_DISABLE_CREATED_SERIES": "true",
}


class Worker:
    """A process that runs a module of this package, reads questions from its input, and answers on its output, in JSON."""

    def __init__(self, module: str, *arguments: object) -> None:
        command = [sys.executable, "-m", f"benchmarks.{module}", *map(str, arguments)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **ENVIRONMENT}
        )

    def read(self) -> Any:
        """Wait for an answer; the first one says that the process is ready."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{' '.join(map(str, self._process.args[2:]))} ended with {self._process.wait()}")  # type: ignore[index]
        return json.loads(line)

    def ask(self, question: Any) -> Any:
        """Put a question and wait for its answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{json.dumps(question)}\n")
        self._process.stdin.flush()
        return self.read()

    def stop(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def say(text: str) -> None:
    """Tell how far it is."""
    print(text, flush=True)


def answer(prepare: Callable[[], Awaitable[Callable[[Any], Awaitable[Any]]]]) -> None:
    """Be a worker: prepare, say so, and answer questions until there are no more."""
    # What an app prints must not look like an answer.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def put(what: Any) -> None:
        answers.write(f"{json.dumps(what)}\n")
        answers.flush()

    async def run() -> None:
        reply = await prepare()
        put("ready")
        for line in sys.stdin:
            put(await reply(json.loads(line)))

    asyncio.run(run())
    # Without the goodbyes of exporters, which may take long.
    os._exit(0)


@contextlib.contextmanager
def receiver() -> Iterator[str]:
    """Run a collector in a process of its own; yield its endpoint for spans."""
    with Worker("receiver") as collector:
        yield f"http://127.0.0.1:{collector.read()}/v1/traces"

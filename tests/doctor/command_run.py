"""One run of the command in a process of its own: what takes long to import is imported once for all of them."""

import multiprocessing
import os
import warnings
from collections.abc import Sequence
from pathlib import Path

from sage_fastapi_obs.cli import app_process, console
from sage_fastapi_obs.inspection import synthetic_requests

# Not what is tested: the lines of a module are run, and can be counted, where it is imported.
PRELOADED = [
    *("a2wsgi", "httpx", "prometheus_client.asgi", "sentry_sdk", "structlog", "opentelemetry.instrumentation.asgi"),
    *(
        "opentelemetry.sdk._logs.export",
        "opentelemetry.sdk.metrics.export",
        "sage_fastapi_obs.cli",
        "sage_fastapi_obs.observability",
    ),
]


def start(folder: Path, arguments: Sequence[str], environment: dict[str, str]) -> multiprocessing.process.BaseProcess:
    """Begin to look at what is in a folder."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    process = context.Process(target=_look, args=(folder, arguments, environment), daemon=True)
    process.start()
    return process


def _look(folder: Path, arguments: Sequence[str], environment: dict[str, str]) -> None:
    app_process.MOST_SECONDS = int(environment.pop("MOST_SECONDS", 300))
    synthetic_requests.LONGEST_SECONDS = float(environment.pop("LONGEST_SECONDS", 300))
    warnings.simplefilter("ignore")
    os.environ.update(environment)
    os.chdir(folder)
    for number, name in enumerate(("out", "err"), start=1):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT), number)
    console(["doctor", *arguments])

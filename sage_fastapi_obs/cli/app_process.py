"""A process that loads an app of somebody: which app, and that it ends, whatever the app has started or waits for."""

import argparse
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from types import FrameType

from sage_fastapi_obs.errors import ObservabilityError

FAILED = 2
MOST_SECONDS = 300


class OverdueExit(SystemExit):
    """The app does not let go of this process. An exit, which loops of uvloop let through, too."""


def add_app_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what says which app."""
    parser.add_argument("app", metavar="MODULE:APP", help="the app, as for uvicorn: shop.main:app")
    parser.add_argument("--factory", action="store_true", help="what is named is a function that returns the app")
    parser.add_argument("--app-dir", default=".", metavar="DIR", help="folder that the module is in; by default this one")
    parser.add_argument("--lifespan", action="store_true", help="run the app's own start and stop, too")


def app_command(act: Callable[[argparse.Namespace], int]) -> Callable[[argparse.Namespace], int]:
    """Make a command of what looks at an app: what fails meanwhile is said, whoever has raised it, and never a traceback."""

    @wraps(act)
    def run(given: argparse.Namespace) -> int:
        try:
            return act(given)
        except (BrokenPipeError, KeyboardInterrupt):
            raise
        except (ObservabilityError, OverdueExit, OSError) as error:
            text = str(error)
        except BaseException as error:
            from sage_fastapi_obs.inspection.app_loading import failure  # noqa: PLC0415 - only for commands that load apps

            text = failure("looking at the app", error)
        print(f"{given.prog}: {text}", file=sys.stderr)
        return FAILED

    return run


@contextmanager
def limited() -> Iterator[None]:
    """End what blocks the only thread there is: a server that a module starts, a request that never ends."""
    if not hasattr(signal, "SIGALRM") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(_: int, frame: FrameType | None) -> None:
        place = "" if frame is None else f" and is at {frame.f_code.co_filename}, line {frame.f_lineno}"
        raise OverdueExit(f"the app has not come back within {MOST_SECONDS} s{place}: see that loading it starts no server")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(MOST_SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def end_with_threads(code: int) -> None:
    """End the process where threads of the app would keep it from ending."""
    if any(not thread.daemon for thread in threading.enumerate() if thread is not threading.main_thread()):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

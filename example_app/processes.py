"""What the demo, the stack and the visitors have in common as programs: the ports they need, how they and others end."""

import asyncio
import signal
import socket
from asyncio.subprocess import Process
from collections.abc import Callable

__all__ = ["end", "is_taken", "when_told_to_end"]

PATIENCE_SECONDS = 15.0
"""Longer than services take that end in order."""


def is_taken(port: int) -> bool:
    """Tell whether somebody else listens on a port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False


def when_told_to_end(do: Callable[[], object]) -> None:
    """Do something on Ctrl-C, and when this process is ended or its terminal goes."""
    for ending in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(ending, do)


async def end(process: Process) -> None:
    """Have a process end in order, or else at once."""
    if process.returncode is not None:
        return
    process.terminate()
    try:
        await asyncio.wait_for(process.wait(), PATIENCE_SECONDS)
    except TimeoutError:
        process.kill()
        await process.wait()

"""The signal at which a process writes the stacks of its threads."""

import asyncio
import signal
import subprocess
import sys

import pytest

from sage_fastapi_obs import Settings
from sage_fastapi_obs.errors import SettingsError


@pytest.mark.parametrize("name", ["SIGUSR2", "usr2"])
async def test_a_signal_writes_stacks_to_stderr(name: str) -> None:
    """At the signal each thread's lines are written, and no values; without the setting it is the system's."""
    source = f"""
import os, signal, time
from sage_fastapi_obs import Observability, Settings
obs = Observability(Settings(insight={{"stacks_signal": {name!r}}}, store={{"enabled": False}}, logging={{"enabled": False}}))
obs.start()
def blocked(secret):
    os.kill(os.getpid(), signal.SIGUSR2)
blocked("s3cr3t")
obs.abandon()
assert signal.getsignal(signal.SIGUSR2) == signal.SIG_DFL
"""
    done = await asyncio.to_thread(subprocess.run, [sys.executable, "-c", source], capture_output=True, check=True)
    assert b"line 7 in blocked" in done.stderr
    assert b"s3cr3t" not in done.stderr


@pytest.mark.parametrize("name", ["SIGNONSENSE", "SIGKILL", "SIGSEGV", "SIG_DFL", "12", ""])
def test_a_signal_that_cannot_be_used_is_refused(name: str) -> None:
    """An unknown signal, and one that means an end or a fault, stops the start."""
    with pytest.raises(SettingsError, match="must be a signal of this system that is free"):
        Settings(insight={"stacks_signal": name})


async def test_stacks_are_written_while_a_call_holds_the_interpreter() -> None:
    """A call in C that never ends is shown with its line at each signal, though no thread of Python can run."""
    source = """
import re, sys
from sage_fastapi_obs import Observability, Settings
obs = Observability(Settings(insight={"stacks_signal": "SIGUSR2"}, store={"enabled": False}, logging={"enabled": False}))
obs.start()
def held(secret):
    print("ready", flush=True)
    re.match("(a|aa)+$", "a" * 200 + secret)
held("s3cr3t")
"""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", source, stdout=pipe, stderr=pipe)
    assert await process.stdout.readline() == b"ready\n"
    # One that comes just as the call begins may see no frame of it.
    signals = asyncio.create_task(_send_again_and_again(process))
    try:
        seen = 0
        while seen < 2:
            line = await process.stderr.readline()
            assert line, "the process has ended"
            assert b"s3cr3t" not in line
            seen += b"line 8 in held" in line
    finally:
        signals.cancel()
        process.kill()
        await process.wait()


async def _send_again_and_again(process: asyncio.subprocess.Process) -> None:
    while True:
        await asyncio.sleep(0.5)
        process.send_signal(signal.SIGUSR2)

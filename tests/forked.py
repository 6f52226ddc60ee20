"""Runs programs in processes of their own that need not import what each of them imports: children of one that has."""

import atexit
import json
import os
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

from support import PATIENCE_SECONDS

IMPORTED = """
import fastapi, httpx, opentelemetry.sdk.trace, starlette.testclient, sage_fastapi_obs.monitoring
from sage_fastapi_obs import Observability
"""
"""What takes most of a second. Nothing of it starts a thread."""
PARENT = f"""
import json, os, signal, sys, warnings
{IMPORTED}
for row in sys.stdin:
    asked = json.loads(row)
    child = os.fork()
    if not child:
        break
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
else:
    os._exit(0)
"""
CHILD = f"""
signal.alarm({PATIENCE_SECONDS:.0f})
for number, path in enumerate((os.devnull, asked["out"], asked["err"])):
    opened = os.open(path, os.O_RDWR)
    os.dup2(opened, number)
    os.close(opened)
sys.stdin, sys.argv = open(0), ["-c", *asked["arguments"]]
os.environ.clear()
os.environ.update(asked["environment"])
if asked["strict"]:
    warnings.simplefilter("error")
exec(asked["code"], {{"__name__": "__main__"}})
"""
"""The rest of the child's life, and the end of its interpreter, are those of any program."""


@cache
def _parent(_pid: int) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", PARENT + CHILD]
    started = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    # It ends where its input does.
    atexit.register(started.communicate)
    return started


def run(code: str, *arguments: str, strict: bool = False, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run code as `python -c` does, with `-W error` if it is strict; return its status and what it printed."""
    parent = _parent(os.getpid())
    assert parent.stdin
    assert parent.stdout
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder) / "out", Path(folder) / "err"
        out.touch()
        err.touch()
        asked = {"code": code, "arguments": arguments, "strict": strict, "environment": {**os.environ, **environment}}
        parent.stdin.write(json.dumps({**asked, "out": str(out), "err": str(err)}) + "\n")
        parent.stdin.flush()
        status = int(parent.stdout.readline())
        return subprocess.CompletedProcess([], status, out.read_text(), err.read_text())

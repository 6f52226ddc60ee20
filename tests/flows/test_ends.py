"""Jobs that end soon, and children that end in any normal way: no line of theirs is lost."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from receivers import Bulk, LogCollector, SpanCollector, serving
from support import LONG_ENOUGH, PATIENCE_SECONDS

LOGGING = """
import json, sys
from loguru import logger
from sage_fastapi_obs import Settings, configure_logging
"""


def run(source: str, folder: Path, logging: dict[str, Any]) -> str:
    """Run a program, whose logging settings are its first argument; return what it says on stderr."""
    program = folder / "program.py"
    program.write_text(LOGGING + source)
    command = [sys.executable, "-W", "ignore", str(program), json.dumps(logging)]
    env = {**os.environ, "no_proxy": "*"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE_SECONDS, env=env)
    assert done.returncode == 0, done.stderr
    return done.stderr


def messages(path: Path) -> list[str]:
    return [json.loads(row)["message"] for row in path.read_text().splitlines()]


def bodies(collector: LogCollector) -> list[str]:
    return [record.body.string_value for record in collector.records()]


def instances(requests: list[Any]) -> set[str]:
    """Name the processes that have sent lines."""
    return {
        attribute.value.string_value
        for request in requests
        for one in request.resource_logs
        for attribute in one.resource.attributes
        if attribute.key == "service.instance.id"
    }


JOBS = {
    "just ends": "logger.info('one')\nlogger.error('two')",
    "at exit": "import atexit\nfor said in ('two', 'one'):\n    atexit.register(logger.info, said)",
    "a thread that outlives the main one": """
import threading
def work():
    threading.main_thread().join()
    logger.info("one")
    logger.info("two")
threading.Thread(target=work).start()
""",
}


@pytest.mark.parametrize("job", JOBS)
def test_a_short_job_delivers_every_line_everywhere(job: str, tmp_path: Path) -> None:
    """It ends before a sender's thread has come round to anything, and says nothing about that."""
    path = tmp_path / "lines"
    with serving(Bulk()) as bulk, serving(LogCollector()) as collector:
        servers = {"elasticsearch_url": bulk.url, "otlp_endpoint": f"{collector.url}/v1/logs"}
        places = {"output": str(path), "shutdown_seconds": LONG_ENOUGH, **servers}
        said = run(f"configure_logging(Settings(logging=json.loads(sys.argv[1])))\n{JOBS[job]}", tmp_path, places)
    assert (said, messages(path), bulk.messages(), bodies(collector)) == ("", *[["one", "two"]] * 3)


CHILDREN = """
import multiprocessing, os, sys, threading
from concurrent.futures import ProcessPoolExecutor
from functools import partial

def say(said):
    logger.info(said)

def say_in_a_thread(said):
    def late():
        threading.Event().wait(0.05)
        say(said)
    threading.Thread(target=late).start()

def fork(leave, said):
    if pid := os.fork():
        assert os.waitpid(pid, 0)[1] == 0
    else:
        say(said)
        leave(0)

def put_into_background(said):
    # As daemons do it: who has said something leaves, and a child goes on.
    if pid := os.fork():
        assert os.waitpid(pid, 0)[1] == 0
    else:
        configure()
        say(said)
        os.fork()
        os._exit(0)

def process(method, do, said):
    child = multiprocessing.get_context(method).Process(target=do, args=(said,))
    child.start()
    child.join()

def executor(said):
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork")) as children:
        list(children.map(say, [said]))

def pool(said):
    with multiprocessing.get_context("fork").Pool(2) as children:
        children.map(say, [said])

def configure():
    configure_logging(Settings(logging=json.loads(sys.argv[1])))

def configured(said):
    configure()
    say(said)

WAYS = {
    "Process": partial(process, "fork", say),
    "ProcessPoolExecutor": executor,
    "sys.exit": partial(fork, sys.exit),
    "configured in a fork": partial(process, "fork", configured),
    "configured in a spawn": partial(process, "spawn", configured),
    "configured in a forkserver": partial(process, "forkserver", configured),
    "Process with a thread": partial(process, "fork", say_in_a_thread),
    "Pool": pool,
    "os._exit": partial(fork, os._exit),
    "a daemon": put_into_background,
}
if __name__ == "__main__":
    configure()
    logger.info("parent")
    for way, do in WAYS.items():
        if way in %r:
            do(way)
"""
WITH_AN_END = {
    "Process",
    "ProcessPoolExecutor",
    "sys.exit",
    "configured in a fork",
    "configured in a spawn",
    "configured in a forkserver",
}
WAYS = WITH_AN_END | {"Process with a thread", "Pool", "os._exit", "a daemon"}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_children_lose_no_line(tmp_path: Path) -> None:
    """However they end normally, with lines that would have waited for others to be written with."""
    path = tmp_path / "lines"
    assert run(CHILDREN % WAYS, tmp_path, {"output": str(path), "gather_seconds": 1.0}) == ""
    assert sorted(messages(path)) == sorted({"parent", *WAYS})


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_children_send_their_lines(tmp_path: Path) -> None:
    """To servers as well, each process under a name of its own, where there is an end of which a process can be told."""
    with serving(Bulk()) as bulk, serving(LogCollector()) as collector:
        servers = {"elasticsearch_url": bulk.url, "otlp_endpoint": f"{collector.url}/v1/logs"}
        places = {"output": "/dev/null", "shutdown_seconds": LONG_ENOUGH, **servers}
        assert run(CHILDREN % WITH_AN_END, tmp_path, places) == ""
    said = sorted({"parent", *WITH_AN_END})
    assert (sorted(bulk.messages()), sorted(bodies(collector))) == (said, said)
    assert len(instances(collector.requests)) == len(said)


SPANS = """
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from sage_fastapi_obs import Observability, operation

def work(number):
    with operation(f"child {number}"):
        pass

if __name__ == "__main__":
    obs = Observability(Settings(logging={"output": "/dev/null"}, tracing=json.loads(sys.argv[1])))
    obs.start()
    work(-1)
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork")) as children:
        list(children.map(work, range(4)))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_children_export_their_spans(tmp_path: Path) -> None:
    """Those of a pool, too, though its children never come to the end of an interpreter."""
    with serving(SpanCollector()) as collector:
        run(SPANS, tmp_path, {"otlp_endpoint": f"{collector.url}/v1/traces", "shutdown_seconds": LONG_ENOUGH})
    assert sorted(span.name for span in collector.spans()) == [f"child {number}" for number in range(-1, 4)]

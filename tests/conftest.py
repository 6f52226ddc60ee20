"""Fixtures: each test gets objects of its own, so that nothing needs a reset."""

import functools
import gc
import itertools
import os
import ssl
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx._transports.default as httpx_transports
import hypothesis
import pytest
from httpx._config import DEFAULT_TIMEOUT_CONFIG

sys.path.insert(0, str(Path(__file__).parent))

from support import PATIENCE_SECONDS, SOAK, Watched, times

from sage_fastapi_obs import active
from sage_fastapi_obs.logs import takeover

# The stores of services under test go here, also of those in processes of their own, and not where a user has them.
_STATE = tempfile.TemporaryDirectory(prefix="sage-obs-tests-")
os.environ["XDG_STATE_HOME"] = _STATE.name
_numbers = itertools.count()

# Whoever says otherwise has every program under test compile the package anew, a third of what such programs cost.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# Loguru asks for the same 36 paths for each of its sinks: a quarter of what the start of an Observability costs.
sysconfig.get_path = functools.cache(sysconfig.get_path)

# So does httpx read all certificates of the machine for each of its clients, 40 ms for one question over plain HTTP.
_create_ssl_context = httpx_transports.create_ssl_context


@functools.cache
def _usual_ssl_context(_certificates: str | None) -> ssl.SSLContext:
    return _create_ssl_context()


def _shared_ssl_context(verify: Any = True, cert: Any = None, trust_env: bool = True) -> ssl.SSLContext:
    if verify is not True or cert is not None or not trust_env:
        return _create_ssl_context(verify=verify, cert=cert, trust_env=trust_env)
    return _usual_ssl_context(os.environ.get("SSL_CERT_FILE"))


httpx_transports.create_ssl_context = _shared_ssl_context

# Its limit of five seconds is for a machine that is not busy.
for _limit in ("connect", "read", "write", "pool"):
    setattr(DEFAULT_TIMEOUT_CONFIG, _limit, PATIENCE_SECONDS)

# No test asserts a time: machines are busy.
# There are some hundred properties, each run finds examples of its own, and the whole suite has to stay short on two cores.
hypothesis.settings.register_profile("project", deadline=None, max_examples=times(25))
hypothesis.settings.load_profile("project")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark properties as tests with a long form, more examples; leave out what has nothing but a long form."""
    for item in items:
        if getattr(getattr(item, "obj", None), "is_hypothesis_test", False) or item.get_closest_marker("soak_only"):
            item.add_marker("soak")
    left_out = [] if SOAK else [item for item in items if item.get_closest_marker("soak_only")]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


def pytest_collection_finish() -> None:
    """Have the garbage collector pass over what is there before the first test: it would look through it thousands of times."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Iterator[None]:
    """Show captured lines as they can be written: a worker of xdist cannot send a lone surrogate, and ends."""
    report = yield
    report.sections = [(name, text.encode("utf-8", "backslashreplace").decode()) for name, text in report.sections]
    return report


@pytest.fixture
def watch(tmp_path: Path) -> Iterator[Callable[..., Watched]]:
    """Build watched observabilities, and give the process's logging back afterwards."""
    made: list[Watched] = []

    def build(**sections: Any) -> Watched:
        folder = tmp_path / str(len(made))
        folder.mkdir()
        made.append(Watched(folder, **sections))
        return made[-1]

    yield build
    for watched in made:
        active.unregister(watched.obs)
        watched.obs.status.abandon()
        # Each looks at every run of the garbage collector, of which the tests that follow would have thousands.
        watched.obs.instruments.runtime.stop()
        if watched.obs.insight is not None:
            watched.obs.insight.stop()
        if watched.obs.store is not None:
            watched.obs.store.close(time.monotonic() + PATIENCE_SECONDS)
        watched.obs.logs.close()
        watched.provider.shutdown()


@pytest.fixture(autouse=True)
def logging_is_given_back() -> Iterator[None]:
    """See that a test leaves the process's logging as it was: others would find their lines elsewhere."""
    before = takeover.writers()
    yield
    left = [logs for logs in takeover.writers() if logs not in before]
    for logs in left:
        logs.close()
    assert not left, "an Observability was started and not closed"


@pytest.fixture(autouse=True)
def nothing_runs_on() -> Iterator[None]:
    """End what a test has started and not closed: it would judge rules and count pauses beside all tests that follow."""
    before = _running()
    yield
    for left in _running():
        if left not in before:
            left.abandon()


def _running() -> list[Any]:
    return [started for reference in active._started[:] if (started := reference()) is not None]


@pytest.fixture(autouse=True)
def environment_is_given_back() -> Iterator[None]:
    """See that a test leaves the environment as it was: the processes of others would be set up by it.

    Each has places of its own for workers and for stores: a service tells of the workers that died at its last start, and goes
    on with the windows of the process before; those may be another test's.
    """
    number = next(_numbers)
    os.environ["XDG_RUNTIME_DIR"] = f"{_STATE.name}/workers-{number}"
    os.environ["XDG_STATE_HOME"] = f"{_STATE.name}/state-{number}"
    before = _environment()
    yield
    assert _environment() == before, "an environment variable was not set with monkeypatch"


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}

"""The same tests with other versions of FastAPI, and the tests of others with us: each in an environment under `.matrix/`."""

import json
import os
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

import pytest
from support import SOAK

pytestmark = [pytest.mark.matrix, pytest.mark.soak]

ROOT = Path(__file__).parents[1]
MATRIX = ROOT / ".matrix"
VERSIONS = {
    "0.115.0": "the oldest supported",
    "0.136.0": "the last whose routes carry the prefixes of include_router",
    "0.137.0": "the first that keeps them elsewhere",
}
USUAL = ["0.115.0"] if not SOAK else list(VERSIONS)
"""The versions that are tried each time; the newest is what all other tests run with."""
TESTS = ["tests/request/test_route_templates.py", "tests/endpoints/test_route_precedence.py", "tests/test_smoke.py"]

SUITES = {
    "starlette": "starlette[full] httpx2[zstd] blockbuster pytest>=9.1 pytest-xdist trio",
    "fastapi": (
        "fastapi[standard] httpx2 a2wsgi anyio[trio] dirty-equals flask inline-snapshot logfire pwdlib[argon2] pyjwt"
        " pytest>=9.0,<9.2 pytest-codspeed pytest-timeout pytest-xdist sentry-sdk sqlmodel strawberry-graphql ujson"
        " opentelemetry-exporter-otlp-proto-http opentelemetry-instrumentation-fastapi"
    ),
}
"""What each suite needs besides."""
SAMPLES = {
    "starlette": ("middleware/*", "test_websockets.py", "test_responses.py", "test_background.py"),
    "fastapi": (
        *("test_telemetry/test_data.py", "test_telemetry/test_exceptions.py", "test_telemetry/test_websockets.py"),
        *("test_ws_*.py", "test_stream_json*.py", "test_dependency_*yield*.py", "test_router_events.py"),
    ),
}
"""What of each suite is run each time: what is most likely to see us. The whole of them is the long form."""
LEFT_OUT = {
    "tests/test_fastapi_cli.py": "serves no app, and fails without us where `coverage` is not installed",
    "tests/test_telemetry/test_environment_integrations.py": "starts interpreters, where the plugin is not: 15 s for each",
    "tests/test_telemetry/test_integrations.py": "the same; one of its tests wants an interpreter without OpenTelemetry's SDK",
    "tests/test_telemetry/test_native_integrations.py": "the same",
    "tests/test_telemetry/test_runtime.py": "the same, twenty of them",
}
"""Tests that say nothing of us, and why."""
SEEN = {
    "starlette": {
        "tests/middleware/test_base.py::test_multiple_middlewares_stacked_client_disconnected": "all headers",
        "tests/test_routing.py::test_websocket_route_middleware": "all headers",
        "tests/test_websockets.py::test_additional_headers": "all headers",
        "tests/test_websockets.py::test_no_additional_headers": "all headers",
    },
    "fastapi": {},
}
"""Tests that see what we document: all headers of a response, ours among them."""


def run(*command: str | Path, allowed: Iterable[int] = (0,), **options) -> None:
    """Run a command; show the end of what it printed when it fails."""
    options = {"cwd": ROOT, **options}
    done = subprocess.run(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, **options
    )
    assert done.returncode in allowed, f"{' '.join(map(str, command))}\n{done.stdout[-4000:]}"


def environment(name: str, *packages: str) -> Path:
    """Make an environment with some packages before those that the tests have, or find it made already; return its Python.

    It has only what differs: to install everything again would take longer than the tests.
    """
    folder = MATRIX / name
    python = folder / "bin" / "python"
    ready = folder / ".ready"
    made_of = "\n".join([str(ROOT), sys.executable, *packages, (ROOT / "pyproject.toml").read_text()])
    if not ready.exists() or ready.read_text() != made_of:
        run(sys.executable, "-m", "venv", "--clear", "--without-pip", folder)
        (own,) = folder.glob("lib/python*/site-packages")
        (own / "shared.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
        run(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--disable-pip-version-check", *packages)
        ready.write_text(made_of)
    return python


@pytest.mark.parametrize("number", USUAL)
def test_other_versions_of_fastapi(number: str):
    """Routes and signals are right there too; the newest version is what all other tests run with."""
    python = environment(number, f"fastapi=={number}")
    run(python, "-c", f"import fastapi; assert fastapi.__version__ == {number!r}")
    run(python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *TESTS)


class Suite:
    """The tests that a package's source distribution carries."""

    def __init__(self, name: str, folder: Path) -> None:
        release = f"{name}=={version(name)}"
        self._python = environment(name, release, *SUITES[name].split())
        self._cache = folder / "cache"
        self._name, self._seen = name, SEEN[name]
        run(self._python, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", name, "--dest", folder, release)
        (archive,) = folder.glob("*.tar.gz")
        with tarfile.open(archive) as opened:
            opened.extractall(folder, filter="data")
        self._folder = archive.with_name(archive.name.removesuffix(".tar.gz"))

    def failures(self, layer: str, *tests: str, workers: int = 0) -> set[str]:
        """Run tests with our middleware `inside` or `outside` of each app, or without it; return those that fail."""
        failed = self._cache / "v/cache/lastfailed"
        failed.unlink(missing_ok=True)
        run(
            *(self._python, "-m", "pytest", "-q", "-p", "watched_suite", "-n", str(workers), "--dist", "loadgroup"),
            # Of ours, and not of theirs.
            *(f"-pno:{plugin}" for plugin in ("asyncio", "faker", "randomly", "schemathesis")),
            *("-o", f"cache_dir={self._cache}", *tests),
            allowed=(0, 1),
            cwd=self._folder,
            env=os.environ
            | {"WATCHED_SUITE": layer, "PYTHONPATH": f"docs_src:{ROOT}:{ROOT / 'tests'}"}
            | {"PYTEST_ADDOPTS": "", "PYTEST_TIMEOUT": "0"},
        )
        return set(json.loads(failed.read_text())) if failed.exists() else set()

    def _chosen(self) -> list[str]:
        """List the files to run: all of them, or the sample."""
        patterns = ("**/test_*.py",) if SOAK else SAMPLES[self._name]
        found = {str(path.relative_to(self._folder)) for pattern in patterns for path in self._folder.glob(f"tests/{pattern}")}
        return sorted(path for path in found - set(LEFT_OUT) if Path(path).name.startswith("test_"))

    def expected(self) -> set[str]:
        """Name the tests that see us, of those that are run."""
        return {test for test in self._seen if test.partition("::")[0] in self._chosen()}

    def broken(self, layer: str) -> set[str]:
        """Find the tests that fail because of us: each time, and not without us."""
        found = self.failures(layer, *self._chosen(), workers=2 if SOAK else 0)
        for once_more in (layer, "nowhere"):
            others = sorted(test for test in found if test.partition("[")[0] not in self._seen)
            again = self.failures(once_more, *others) if others else set()
            found -= set(others) - again if once_more == layer else again
        return {test.partition("[")[0] for test in found}


@pytest.mark.parametrize("name", SUITES)
def test_the_tests_of_others(name: str, tmp_path: Path):
    """Whatever Starlette and FastAPI hold true is true with our middleware inside and outside of every app."""
    suite = Suite(name, tmp_path)
    broken = suite.broken("inside") | suite.broken("outside")
    assert broken == suite.expected()

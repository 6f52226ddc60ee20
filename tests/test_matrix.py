"""The same tests with other versions of FastAPI, each in an environment of its own under `.matrix/`."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.matrix

ROOT = Path(__file__).parents[1]
VERSIONS = {
    "0.115.0": "the oldest supported",
    "0.136.0": "the last whose routes carry the prefixes of include_router",
    "0.137.0": "the first that keeps them elsewhere",
}
TESTS = ["tests/request/test_route_templates.py", "tests/test_smoke.py"]


def run(*command: str | Path) -> None:
    """Run a command; show the end of what it printed when it fails."""
    done = subprocess.run(
        list(map(str, command)), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout[-4000:]}"


def environment(version: str) -> Path:
    """Make an environment with one version of FastAPI, or find it made already; return its Python."""
    folder = ROOT / ".matrix" / version
    python = folder / "bin" / "python"
    ready = folder / ".ready"
    wanted = [f"fastapi=={version}", "--editable", ".", "pytest", "pytest-asyncio", "hypothesis"]
    made_of = "\n".join([*wanted, (ROOT / "pyproject.toml").read_text()])
    if not ready.exists() or ready.read_text() != made_of:
        run(sys.executable, "-m", "venv", "--clear", folder)
        run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *wanted)
        ready.write_text(made_of)
    return python


@pytest.mark.parametrize("version", VERSIONS)
def test_other_versions_of_fastapi(version: str):
    """Routes and signals are right there too; the newest version is what all other tests run with."""
    python = environment(version)
    run(python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *TESTS)

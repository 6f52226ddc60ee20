"""The fixture `telemetry` in runs of pytest: of an app with us, of one without, and of one among OpenTelemetry and Sentry."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from support import PATIENCE_SECONDS

ROOT = Path(__file__).parents[2]
SAMPLES = Path(__file__).parent / "samples"

INI = """
[pytest]
asyncio_mode = auto
asyncio_default_fixture_loop_scope = function
filterwarnings = error
python_files = check_*.py fail_*.py
"""
CONFTEST = """
import sys
assert {"sage_fastapi_obs", "fastapi"}.isdisjoint(sys.modules), "imported at the start of pytest"
"""
"""Imported after all plugins, and before the tests."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Put the sample apps and the page's example into a folder, and the entry points where an installation has them."""
    shutil.copytree(SAMPLES, tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    installed = tmp_path / "installed" / "sage_fastapi_obs_as_declared-0.dist-info"
    installed.mkdir(parents=True)
    installed.joinpath("METADATA").write_text("Metadata-Version: 2.1\nName: sage_fastapi_obs_as_declared\nVersion: 0\n")
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["pytest11"]
    points = "".join(f"{name} = {module}\n" for name, module in declared.items())
    installed.joinpath("entry_points.txt").write_text(f"[pytest11]\n{points}")
    (tmp_path / "pytest.ini").write_text(INI)
    (tmp_path / "conftest.py").write_text(CONFTEST)
    example = (ROOT / "docs" / "testing.md").read_text().partition("```python\n")[2].partition("```")[0]
    (tmp_path / "check_example_of_the_docs.py").write_text(example)
    return tmp_path


def run(folder: Path, *arguments: str) -> str:
    """Run pytest in the folder; return what it printed, after checking that nothing failed but what fails on purpose."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "COV"))}
    env["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(folder / "installed"), str(folder)])
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:randomly", "-p", "no:cacheprovider", *arguments]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False, timeout=PATIENCE_SECONDS)
    printed = done.stdout + done.stderr
    assert re.findall(r"^FAILED (\S+)", printed, re.MULTILINE) == ["fail_on_purpose.py::test_that_fails"], printed
    assert re.search(r"^1 failed, 20 passed in", printed, re.MULTILINE), printed
    return printed


def test_three_apps_and_their_coverage(folder: Path) -> None:
    """All tests of the samples pass, and coverage sees the first lines of the package: pytest has not imported it before."""
    (folder / ".coveragerc").write_text("[run]\nsource_pkgs = sage_fastapi_obs.errors,shop_fastapi\n")
    printed = run(folder, "--cov", "--cov-report=term")
    covered = dict(re.findall(r"^\S*?(\w+\.py)\s+\d+\s+\d+\s+(\d+)%", printed, re.MULTILINE))
    assert covered == {"errors.py": "100", "shop_fastapi.py": "100"}, printed


def test_the_same_among_several_processes(folder: Path) -> None:
    """With xdist each process observes its own apps; the report of a failure has what was recorded, and no secret."""
    recorded = run(folder, "-n", "2").partition("Recorded telemetry")[2]
    for shown in ("<GET /carts/1 -> 200>", "cart read", "SELECT 1", "span  GET /carts/{number}"):
        assert shown in recorded
    assert "t0ps3cret" not in recorded

"""What is released: the same bytes from the same sources, everywhere, and all that a user needs in them."""

import email
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
from support import PATIENCE_SECONDS

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LEFT_OUT = shutil.ignore_patterns("__pycache__")


def build(folder: Path, umask: int = 0o022) -> dict[str, str]:
    """Build both distributions of a folder; return the digest of each by its ending."""
    shutil.rmtree(folder / "dist", ignore_errors=True)
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build"],
        cwd=folder,
        umask=umask,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_SECONDS,
    )
    assert done.returncode == 0, done.stderr
    return {made.suffix: hashlib.sha256(made.read_bytes()).hexdigest() for made in (folder / "dist").iterdir()}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy what a distribution is made of."""
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("checkout")
    for path in [*PROJECT["tool"]["hatch"]["build"]["targets"]["sdist"]["include"], "/pyproject.toml"]:
        given, there = ROOT / path[1:], folder / path[1:]
        shutil.copytree(given, there, ignore=LEFT_OUT) if given.is_dir() else shutil.copy(given, there)
    return folder


def test_the_same_sources_give_the_same_bytes(checkout: Path, tmp_path: Path):
    """It matters not when, where and by whom a release is built, nor whether from a checkout or from the sources."""
    made = build(checkout)
    assert sorted(made) == [".gz", ".whl"]
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(checkout, elsewhere)
    for path in elsewhere.rglob("*"):
        os.utime(path, (1_000_000_000, 1_000_000_000))
    assert build(elsewhere, umask=0o077) == made
    with tarfile.open(next((elsewhere / "dist").glob("*.tar.gz"))) as source:
        source.extractall(tmp_path / "source", filter="data")
    (unpacked,) = (tmp_path / "source").iterdir()
    assert build(unpacked)[".whl"] == made[".whl"]


def test_a_wheel_has_what_the_package_reads(checkout: Path):
    """Types, pages and runbooks are in it, and nothing that is not the package's."""
    build(checkout)
    with zipfile.ZipFile(next((checkout / "dist").glob("*.whl"))) as wheel:
        names = set(wheel.namelist())
        told = email.message_from_bytes(wheel.read(next(name for name in names if name.endswith("/METADATA"))))
    files = {str(path.relative_to(ROOT)) for path in (ROOT / "sage_fastapi_obs").rglob("*") if path.is_file()}
    files = {name for name in files if not name.endswith(".pyc")} | {"sage_fastapi_obs_pytest.py"}
    assert {name for name in names if ".dist-info/" not in name} == files
    assert "sage_fastapi_obs/py.typed" in names
    assert told["Requires-Python"] == PROJECT["project"]["requires-python"]


def test_the_pythons_that_are_promised_are_those_of_the_matrix():
    """The classifiers, the oldest version that installs, and the environments of tox agree."""
    promised = [row.rpartition(" ")[2] for row in PROJECT["project"]["classifiers"] if "Python :: 3." in row]
    assert tomllib.loads((ROOT / "tox.toml").read_text())["env_list"] == promised
    assert PROJECT["project"]["requires-python"] == f">={promised[0]}"


def test_every_extra_for_users_is_documented():
    """The table of extras names each of them, and none that is only for who works on the package."""
    table = (ROOT / "docs/reference.md").read_text().partition("## Extras")[2]
    named = [extra for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE) for extra in re.findall(r"`([^`]+)`", row)]
    extras = set(PROJECT["project"]["optional-dependencies"]) - {"bench", "demo", "docs", "test"}
    assert sorted(named) == sorted(extras)

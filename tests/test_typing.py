"""What type checkers infer for those who use the package; the files in tests/typing are checked, never run."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "tests" / "typing").glob("*.py"))


def mypy(path: Path, folder: Path) -> str:
    """Let mypy check a file; return what it has to say."""
    cache = folder.parent / "mypy"
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", f"--cache-dir={cache}", "--follow-imports=silent"]
    done = subprocess.run([*command, str(path)], capture_output=True, text=True, check=False, cwd=ROOT)
    return "" if done.returncode == 0 else done.stdout + done.stderr


def pyright(path: Path, folder: Path) -> str:
    """Let basedpyright check a file as strictly as pyright does: it is pyright as a wheel, which downloads nothing to run."""
    options = {"include": [str(path)], "extraPaths": [str(ROOT)], "typeCheckingMode": "strict", "pythonVersion": "3.11"}
    settings = folder / "pyrightconfig.json"
    settings.write_text(json.dumps(options))
    command = [sys.executable, "-m", "basedpyright", "--pythonpath", sys.executable, "--project", str(settings)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    return "" if done.returncode == 0 else done.stdout + done.stderr


@pytest.mark.parametrize("check", [mypy, pyright])
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_types_are_inferred(check, path, tmp_path):
    """Through whole chains, without a cast, each type is what the file asserts."""
    assert check(path, tmp_path) == ""


@pytest.mark.parametrize("check", [mypy, pyright])
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_wrong_type_is_found(check, path, tmp_path):
    """The same file with the last of its assertions wrong is refused: the checkers do look."""
    wrong = tmp_path / "wrong.py"
    *before, last = path.read_text().rpartition("assert_type(")
    wrong.write_text("".join(before) + re.sub(r", .*\)\n", ", bytes)\n", last, count=1))
    said = check(wrong, tmp_path)
    assert "bytes" in said
    assert len(re.findall(r"wrong\.py:\d+.*error", said)) == 1

"""The snippets of the RFS guide run and pass a type checker, with the import root as the only change."""

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import forked
import pytest

ROOT = Path(__file__).parents[2]
GUIDE = Path(__file__).with_name("rfs_guide.md").read_text().replace("rfs.monitoring", "sage_fastapi_obs.monitoring")
GIVEN = "".join(re.findall(r"```python given\n(.*?)```", GUIDE, re.DOTALL))
SNIPPETS = re.findall(r"## (\d+ .*?)\n\n```python\n(.*?)```\n\n```python run\n(.*?)```", GUIDE, re.DOTALL)
MISSING = ["--allow-any-generics"]
"""What the guide itself lacks: it writes `dict` without its parameters."""


def test_all_snippets_are_there():
    """Twenty, numbered."""
    assert [int(title.split()[0]) for title, _, _ in SNIPPETS] == [*range(1, 21)]


def named(node, own):
    """Name what an import of everything imports, but for some names."""
    if isinstance(node, ast.ImportFrom) and node.names[0].name == "*":
        names = sorted({*importlib.import_module(node.module).__all__} - own)
        return ast.ImportFrom(node.module, [ast.alias(name) for name in names], 0)
    return node


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Write each snippet as a module, behind what the guide does not define, but for what the snippet does."""
    folder = tmp_path_factory.mktemp("guide")
    for title, snippet, run in SNIPPETS:
        own = {node.name for node in ast.parse(snippet).body if hasattr(node, "name")}
        given = [named(node, own) for node in ast.parse(GIVEN).body if getattr(node, "name", None) not in own]
        source = "\n".join([*map(ast.unparse, given), snippet, run])
        (folder / f"snippet_{title.split()[0]}.py").write_text(source)
    return folder


@pytest.mark.parametrize("title", [title for title, _, _ in SNIPPETS])
def test_a_snippet_runs(files, title):
    """In a process of its own that starts monitoring first, as the guide says; what it is for is asserted."""
    run = "import asyncio, runpy, sys\nfrom sage_fastapi_obs.monitoring import start_monitoring\nstart_monitoring()\n"
    run += "asyncio.run(runpy.run_path(sys.argv[1])['main']())"
    done = forked.run(run, str(files / f"snippet_{title.split()[0]}.py"), SAGE_OBS_ALERTS__DEFAULTS="false")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def checked(path, files):
    """Return what mypy says, as strict as it can be with what the guide lacks."""
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", f"--cache-dir={files.parent / 'mypy'}", *MISSING]
    return subprocess.run([*command, path], capture_output=True, text=True, check=False, cwd=ROOT).stdout


def test_snippets_pass_a_type_checker(files):
    """Mypy finds nothing wrong with any of them."""
    assert checked(files, files).startswith("Success: no issues found in 20 source files")


def test_the_type_checker_does_look(files, tmp_path):
    """A key that a summary has not, and an error of another type, are found."""
    wrong = tmp_path / "wrong.py"
    source = (files / "snippet_10.py").read_text() + (files / "snippet_6.py").read_text()
    wrong.write_text(source.replace("['mean']", "['man']").replace("Failure('no such user')", "Failure(7)"))
    said = checked(wrong, files)
    assert 'has no key "man"' in said
    assert 'Argument 1 to "Failure" has incompatible type "int"' in said

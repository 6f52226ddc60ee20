"""Commands whose outputs are closed, or full: they do what they are for, and say nothing that is not theirs."""

import subprocess
import sys
from pathlib import Path

import pytest
from support import PATIENCE_SECONDS

CONSOLE = "import sys; from sage_fastapi_obs.cli import console; console(sys.argv[1:])"
COMMANDS = {
    "logs": ("logs", "lines.jsonl"),
    "show": ("show", "slow"),
    "unknown": ("nonsense",),
}


def run(folder: Path, arguments: tuple[str, ...], closed: str = "") -> subprocess.CompletedProcess[bytes]:
    """Run a command by a shell that closes some of its outputs."""
    (folder / "lines.jsonl").write_text('{"message": "here", "level": "info"}\n')
    command = ["sh", "-c", f'"$@" {closed}', "sh", sys.executable, "-c", CONSOLE, *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, check=False, timeout=PATIENCE_SECONDS)


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
@pytest.mark.parametrize("name", COMMANDS)
def test_a_closed_output_changes_nothing_else(tmp_path: Path, name: str, closed: str) -> None:
    """The code and the other output are those of a run with both open."""
    usual, found = run(tmp_path, COMMANDS[name]), run(tmp_path, COMMANDS[name], closed)
    assert found.returncode == usual.returncode
    assert found.stderr == (b"" if "2>&-" in closed else usual.stderr)
    assert found.stdout == (b"" if closed.startswith(">&-") else usual.stdout)

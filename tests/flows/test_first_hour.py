"""What the page for the first hour tells a newcomer to do, done: its commands run as they stand, and show what it says."""

import os
import re
import subprocess
import sys
from pathlib import Path

import httpx
from servers import Server, running
from support import PATIENCE_SECONDS, until

PAGE = (Path(__file__).parents[2] / "docs/first-hour.md").read_text()
TASKS = PAGE.split("\n## ")[1:]
BIN = Path(sys.executable).parent


def block(task: int, number: int, language: str = "sh") -> str:
    """Take a block of a task."""
    return re.findall(rf"^```{language}\n(.*?)^```$", TASKS[task - 1], re.MULTILINE | re.DOTALL)[number]


def environment(folder: Path, exports: str = "") -> dict[str, str]:
    """Let the commands find the program, keep their files below a folder, and have what a block exports."""
    (folder / "venv").mkdir(exist_ok=True)
    (folder / "venv/bin").is_symlink() or (folder / "venv/bin").symlink_to(BIN)
    given = {"PATH": os.environ["PATH"], "PYTHONPATH": os.environ.get("PYTHONPATH", ""), "XDG_STATE_HOME": str(folder)}
    given |= {"SAGE_OBS_MONITORING__INTERVAL_SECONDS": "1", "COLUMNS": "250"}
    exported = "\n".join(line for line in exports.splitlines() if not line.startswith("venv/bin/uvicorn"))
    told = subprocess.run(["bash", "-c", f"{exported}\nenv -0"], env=given, capture_output=True, text=True, check=True).stdout
    return dict(row.partition("=")[::2] for row in told.split("\0") if row)


def served(folder: Path, started: str) -> Server:
    """Build the server that a block starts."""
    (arguments,) = re.findall(r"^venv/bin/uvicorn (.*)$", started, re.MULTILINE)
    command = [str(BIN / "uvicorn"), *arguments.split(), "--port"]
    return Server(lambda server: [*command, str(server.port)], cwd=folder, env=environment(folder, started))


def typed(server: Server, folder: Path, commands: str) -> str:
    """Type the commands of a block into a shell; return what they show."""
    here = commands.replace("localhost:8000", f"localhost:{server.port}").replace("sleep 20\n", "")
    shell = ["bash", "-euo", "pipefail", "-c", here]
    done = subprocess.run(
        shell, cwd=folder, env=environment(folder), capture_output=True, text=True, check=False, timeout=PATIENCE_SECONDS
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_tasks_of_the_first_hour_show_what_the_page_says(tmp_path: Path):
    """Someone who types each command of the page, and nothing else, sees an id, a reason, an alert and a closed page."""
    (tmp_path / "main.py").write_text(block(1, 0, "python"))
    with running(served(tmp_path, block(4, 0))) as server:
        until(lambda: httpx.get(f"http://localhost:{server.port}/monitoring/health/live").is_success)
        shown = typed(server, tmp_path, block(1, 1))
        assert "x-request-id: " in shown
        assert 'http_requests_total{method="GET",route="/items/{item_id}",status="200"} 1.0' in shown
        shown = typed(server, tmp_path, block(2, 0))
        assert "GET /items/8 KeyError" in shown
        (request_id,) = re.findall(r"x-request-id: (\S+)", shown)
        (show,) = re.findall(r"`(venv/bin/sage-obs show) ID`", TASKS[1])
        opened = typed(server, tmp_path, f"{show} {request_id}")
        assert "looking it up" in opened
        assert "KeyError: 8" in opened
        (place,) = re.findall(r"`blocked the event loop \d+ ms (at main.py:\d+)`", TASKS[2])
        # On a busy machine the culprit of one block may not be seen.
        until(lambda: re.search(rf"blocked the event loop [0-9.]+ m?s {place}", typed(server, tmp_path, block(3, 0))))
        typed(server, tmp_path, block(4, 1))
        alerts = f"http://localhost:{server.port}/monitoring/alerts"
        until(lambda: "ItemsFail" in [alert["name"] for alert in httpx.get(alerts).json()["active_alerts"]])
    with running(served(tmp_path, block(5, 0))) as server:
        until(lambda: httpx.get(f"http://localhost:{server.port}/monitoring/health/ready").is_success)
        assert typed(server, tmp_path, block(5, 1)) == '401\n200\n{"status":"ready"}'

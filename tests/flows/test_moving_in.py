"""The pages about moving in: each diff applies to the app above it, and both apps leave behind what the tables say."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import forked
import pytest
from receivers import Receiver, serving
from servers import need

DOCS = Path(__file__).parents[2] / "docs"
PAGES = ["from-instrumentator", "from-opentelemetry", "from-correlation-id", "moving-in", "sentry"]
STEP = re.compile(
    r"^```python\n(?P<before>.*?)^```$.*?^```diff\n(?P<diff>.*?)^```$.*?"
    r"^#+ What stays$(?P<stays>.*?)^#+ What changes$(?P<changes>.*?)(?=^#|\Z)",
    re.MULTILINE | re.DOTALL,
)
DRIVER = """
import json, sys

sys.path.insert(0, ".")
from starlette.testclient import TestClient
import main

# The public address is a visitor's; the last request is one of this machine.
trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
uuid = "6f2a7f5e0d3c4b0c8a5f4d0c9b1e2a3f"
asked = [
    ("/items/7?q=1", {"traceparent": trace, "X-Request-ID": uuid}),
    ("/items/7", {"X-Request-ID": "order-7"}),
    ("/items/8", {"X-Request-ID": "order-8"}),
    ("/nowhere", {}),
    ("/metrics", {"Accept-Encoding": "identity"}),
]
with TestClient(main.app, "http://localhost", client=("127.0.0.1", 50000), raise_server_exceptions=False) as client:
    for path, headers in asked:
        answer = client.get(path, headers=headers)
        rows = [path, str(answer.status_code), *(": ".join(header) for header in answer.headers.items()), answer.text]
        sys.stdout.write("\\n".join(rows) + "\\n")
sys.stdout.flush()
"""


class Step(NamedTuple):
    """One app of a page, its change, and what the page says of both."""

    page: str
    before: str
    diff: str
    stays: str
    changes: str


def steps() -> Iterator[Step]:
    """Read the pages."""
    for page in PAGES:
        for found in STEP.finditer((DOCS / f"{page}.md").read_text()):
            yield Step(page, **found.groupdict())


def codes(cell: str) -> list[str]:
    """Take what a cell of a table names."""
    return re.findall(r"`([^`]+)`", cell)


def rows(table: str) -> list[list[str]]:
    """Split a table into the cells of its rows, without the head."""
    lines = [line for line in table.splitlines() if line.startswith("|")][2:]
    return [line.strip("|").split("|") for line in lines]


def left_behind(folder: Path, sentry: str) -> str:
    """Run the app of a folder and ask it; return all that it writes and answers."""
    code = f"import os; os.chdir({str(folder)!r})\n{DRIVER}"
    environment = {"SAGE_OBS_LOGGING__FORMAT": "json", "SAGE_OBS_STORE__PATH": str(folder), "SENTRY_DSN": sentry}
    done = forked.run(code, **environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


class Events(Receiver):
    """Takes what Sentry's client sends."""

    def __init__(self) -> None:
        super().__init__()
        self.taken: list[bytes] = []

    def accept(self, handler, body: bytes) -> None:
        self.taken.append(body)
        handler.answer(200, b"{}")


@pytest.mark.parametrize("step", list(steps()), ids=lambda step: f"{step.page}-{len(step.before)}")
def test_an_app_moves_in_and_keeps_what_the_page_says(step: Step, tmp_path: Path):
    """What the page says stays is there before and after its diff; what it says changes is there on its own side only."""
    main = tmp_path / "main.py"
    main.write_text(step.before)
    record = []
    for moved in (False, True):
        if moved:
            patch = [need("git", "git"), "apply", "-"]
            subprocess.run(patch, input=step.diff, cwd=tmp_path, text=True, check=True, capture_output=True)
        with serving(Events()) as events:
            record.append(left_behind(tmp_path, f"http://key@127.0.0.1:{events.server_port}/1"))
            record[-1] += b"\n".join(events.taken).decode()
    before, after = record
    stays = [code for name, *_ in rows(step.stays) for code in codes(name)]
    was, becomes = ([code for row in rows(step.changes) for code in codes(row[column])] for column in (0, 1))
    assert stays
    assert becomes
    assert [code for code in stays + was if code not in before] == []
    assert [code for code in stays + becomes if code not in after] == []
    assert [code for code in was if code in after] + [code for code in becomes if code in before] == []

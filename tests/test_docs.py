"""The README and the docs agree with the code: examples run, tables are complete, links lead somewhere."""

import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import forked
import pytest
from support import PATIENCE_SECONDS, until

from sage_fastapi_obs import Settings
from sage_fastapi_obs.catalog import CATALOG
from sage_fastapi_obs.logs import application_fields

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = sorted((ROOT / "docs").glob("*.md"))
LINKED = [*ROOT.glob("*.md"), *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "queries").glob("*.md"))]
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
DRIVER = """
import asyncio, httpx

async def ask():
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost:8000") as client:
        # The end in the same write: lines of the log come from another thread, and could stand before it.
        print((await client.get("/items/7")).headers["x-request-id"] + "\\n", end="")
        print((await client.get("/metrics?name[]=http_requests_total")).text, end="")

asyncio.run(ask())
"""


def blocks(text: str, language: str) -> list[str]:
    """Find the code blocks of one language."""
    return [body for kind, body in FENCE.findall(text) if kind == language]


def run(code: str) -> list[str]:
    """Run code in a process of its own; return the lines it printed."""
    done = forked.run(code, strict=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_quick_start_gives_what_the_readme_shows():
    """The quick start runs, and its lines have the fields of the captured ones."""

    def ran() -> list[str]:
        # On a busy machine a request may be slow, or have waited, and then says so.
        printed = run(blocks(README, "python")[0] + DRIVER)
        return (
            [] if any(said in line for line in printed for said in ('"why"', '"queued_up_to_ms"', '"delayed_by"')) else printed
        )

    printed = until(ran)
    lines = [json.loads(line) for line in printed if line.startswith("{")]
    captured = [json.loads(line) for line in blocks(README, "console")[0].splitlines() if line.startswith("{")]
    asked = [line for line in lines if "request_id" in line]
    assert [(set(line), line["message"]) for line in captured] == [
        (set(line), line["message"]) for line in asked[: len(captured)]
    ]
    assert captured[-1]["data"] == asked[len(captured) - 1]["data"]
    assert asked[0]["request_id"] in printed
    assert 'http_requests_total{method="GET",route="/items/{item_id}",status="200"} 1.0' in printed


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_examples_of_the_docs_run(page: Path):
    """Every Python example of a page runs as it stands."""
    for code in blocks(page.read_text(), "python"):
        run(code)


def test_the_docs_show_what_the_command_shows():
    """What stands below `$ sage-obs show` on the page about it is its output."""
    (block,) = blocks((ROOT / "docs/explain.md").read_text(), "console")
    command, _, expected = block.partition("\n")
    given = [sys.executable, "-m", "sage_fastapi_obs", *command.removeprefix("$ sage-obs ").split()]
    env = {**os.environ, "TZ": "UTC", "COLUMNS": "110", "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(given, cwd=ROOT, env=env, capture_output=True, check=False, timeout=PATIENCE_SECONDS)
    assert (done.stdout.decode(), done.stderr) == (expected, b"")


def test_the_settings_page_is_what_the_settings_say():
    """Its table is written from the fields and the presets, and has a row for each."""
    check = [sys.executable, str(ROOT / "scripts/document_settings.py"), "--check"]
    done = subprocess.run(check, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    documented = re.findall(r"^\| `([a-z0-9_.]+)` \|", (ROOT / "docs/settings.md").read_text(), re.MULTILINE)
    sections = {name: field.annotation for name, field in Settings.model_fields.items()}
    keys = ["enabled"] + [f"{name}.{key}" for name, section in sections.items() for key in getattr(section, "model_fields", ())]
    assert documented == keys


def test_the_metrics_page_is_what_the_catalog_says():
    """The page is written from the catalog, and nobody has written on it, or in the catalog, since."""
    check = [sys.executable, str(ROOT / "scripts/document_metrics.py"), "--check"]
    done = subprocess.run(check, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_alerts_page_is_what_the_rules_say():
    """Its tables are written from the rules of the demo, and nobody has changed either since."""
    check = [sys.executable, str(ROOT / "scripts/document_alerts.py"), "--check"]
    done = subprocess.run(check, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_files_that_the_designs_name_have_a_place_here():
    """The table of files names what there is, and the modules that the pack of SAGE has."""
    table = (ROOT / "docs/compatibility.md").read_text().partition("## Files\n")[2].partition("\n## ")[0]
    cells = [row.split("|")[2] for row in table.splitlines() if row.startswith("| ")]
    ours = [path for cell in cells for path in re.findall(r"`([^`]*/[^`]*)`", cell)]
    assert len(ours) > 20
    assert [path for path in ours if not (ROOT / path).exists()] == []


def test_every_metric_is_documented():
    """The metrics page has a row for every metric of the catalog, and no other."""
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \|", (ROOT / "docs/metrics.md").read_text(), re.MULTILINE)
    assert rows == [(metric.name, metric.type) for metric in CATALOG]


@pytest.mark.parametrize("page", LINKED, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path):
    """Every relative link of a page names a file that exists, and a heading that this file has."""
    for target, anchor in re.findall(r"\]\((?!http)([^)#]*)#?([^)]*)\)", page.read_text()):
        there = page.parent / target if target else page
        assert there.exists(), target
        assert not anchor or anchor in anchors(there), f"{target}#{anchor}"


@pytest.mark.parametrize("urls", [{}, {"Source": "https://code.example/obs/blob/main"}], ids=["without", "with"])
def test_a_package_index_shows_no_broken_link(urls: dict[str, str]):
    """The long description is the README, without links to files that a package index does not have."""
    pytest.importorskip("hatchling")
    hook = runpy.run_path(str(ROOT / "hatch_build.py"))["LongDescription"](str(ROOT), {})
    metadata = {"urls": urls}
    hook.update(metadata)
    text = metadata["readme"]["text"]
    assert "captured from this app" in text
    assert ("https://code.example/obs/blob/main/docs/first-hour.md" in text) is bool(urls)
    assert ("](https://code.example/obs/raw/main/docs/images/overview-light.png)" in text) is bool(urls)
    assert re.findall(r"\]\((?!https:|#)", text) == []


def anchors(page: Path) -> set[str]:
    """Name a page's headings as links do: small letters, digits, dashes for spaces."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_field_with_a_constant_is_documented():
    """The page on logs spells every constant with the field it stands for, and no other."""
    rows = re.findall(r"^\| `(\w+)` \| `(FIELD_\w+)` \|", (ROOT / "docs/logs.md").read_text(), re.MULTILINE)
    assert rows == [(getattr(application_fields, name), name) for name in (constant for _, constant in rows)]
    assert sorted(name for _, name in rows) == sorted(name for name in vars(application_fields) if name.startswith("FIELD_"))

"""The documentation as a site: it builds, and every page has its place in the order of reading."""

import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import PATIENCE_SECONDS

ROOT = Path(__file__).parents[1]
SITE = tomllib.loads((ROOT / "zensical.toml").read_text())["project"]


def pages(nav: Any) -> Iterator[str]:
    """Yield the pages that a navigation names."""
    if isinstance(nav, str):
        yield nav
    else:
        for below in nav.values() if isinstance(nav, dict) else nav:
            yield from pages(below)


def test_every_page_is_in_the_navigation():
    """`nav` of zensical.toml names each page once; runbooks are reached from their alerts."""
    docs = ROOT / "docs"
    found = {str(page.relative_to(docs)) for page in docs.rglob("*.md")}
    runbooks = {page for page in found if page.startswith("runbooks/")}
    named = list(pages(SITE["nav"]))
    assert sorted(named) == sorted((found - runbooks) | (runbooks & set(named)))


def test_the_site_builds_without_a_broken_link(tmp_path: Path):
    """All links between pages and to headings lead somewhere, and every name of the reference is found."""
    pytest.importorskip("zensical")
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    for name in ("zensical.toml", "CHANGELOG.md"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "sage_fastapi_obs").symlink_to(ROOT / "sage_fastapi_obs")
    build = [sys.executable, "-m", "zensical", "build", "--strict"]
    done = subprocess.run(build, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=PATIENCE_SECONDS)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    site = tmp_path / SITE["site_dir"]
    assert "Everything one app needs to be watched" in (site / "reference/index.html").read_text()
    assert "Keep a Changelog" in (site / "changelog/index.html").read_text()

"""Fixtures: a real browser, and the real example service under traffic. Whatever goes wrong on a page fails its test."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from browsed import FLAGS, Browsed
from playwright.sync_api import Browser, sync_playwright
from servers import free_port, need
from support import PATIENCE_SECONDS, until

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Run Chromium; of a module and not of the whole session, as Playwright's loop is in the way of those of other tests."""
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=need("chromium", "chromium"), args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture
def browse(browser) -> Iterator[Callable[..., Browsed]]:
    """Return what opens an address in a window of its own; at the end of the test nothing may have gone wrong in any."""
    opened: list[Browsed] = []

    def open_page(url: str, **options: Any) -> Browsed:
        opened.append(Browsed(browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options}), url))
        return opened[-1]

    yield open_page
    for each in opened:
        each.page.context.close()
    assert [problem for each in opened for problem in each.problems] == []


@contextmanager
def demo(folder: Path, *options: str) -> Iterator[str]:
    """Run the example under traffic; returns where its page is."""
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "example_app",
        "--port",
        str(port),
        "--rate",
        "8",
        "--log",
        str(folder / "demo.log"),
        *options,
    ]
    environment = {**os.environ, "XDG_STATE_HOME": str(folder), "XDG_RUNTIME_DIR": str(folder)}
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment) as running:
        try:
            page = f"http://127.0.0.1:{port}/monitoring/"
            until(
                lambda: httpx.get(f"{page}requests?failed=true&limit=1", trust_env=False).json()["requests"], "failed request"
            )
            until(lambda: httpx.get(f"{page}requests?kept=slow&limit=1", trust_env=False).json()["requests"], "slow request")
            yield page
        finally:
            running.send_signal(signal.SIGINT)
            running.wait(PATIENCE_SECONDS)


@pytest.fixture(scope="module")
def example(tmp_path_factory) -> Iterator[str]:
    """Run the example under traffic for all tests of a module."""
    with demo(tmp_path_factory.mktemp("example")) as page:
        yield page

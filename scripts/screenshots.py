"""Takes pictures of every view of the live page, in light, in dark and on a phone, beside the example under traffic.

Those that the README and docs/page.md show go to docs/images, all others to build/screenshots, to be looked at.
"""

import argparse
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from playwright.sync_api import Browser, Page, sync_playwright

ROOT = Path(__file__).parents[1]
SHOWN = ROOT / "docs" / "images"
OTHERS = ROOT / "build" / "screenshots"
PUBLISHED = ("overview-light", "overview-dark", "overview-phone", "request-light")
WINDOWS: dict[str, dict[str, Any]] = {
    "light": {"viewport": {"width": 1280, "height": 860}, "color_scheme": "light"},
    "dark": {"viewport": {"width": 1280, "height": 860}, "color_scheme": "dark"},
    "phone": {"viewport": {"width": 390, "height": 844}, "color_scheme": "light", "is_mobile": True, "has_touch": True},
}
QUERIES = {"requests": "?cause=repeated_query"}
"""Which of what a view lists is to be pictured."""
DETAILS = {"requests": "request", "routes": "route", "issues": "issue", "metrics": "metric", "alerts": "alert"}
"""Views whose first link leads to one of what they list, and the name of its picture."""
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
SETTLED_MS = 2_500


def main() -> None:
    """Take all pictures."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--page", help="address of a page that is there already, such as http://localhost:8000/monitoring/")
    arguments.add_argument("--seconds", type=float, default=120.0, help="how long the example is visited before")
    given = arguments.parse_args()
    for folder in (SHOWN, OTHERS):
        folder.mkdir(parents=True, exist_ok=True)
    with page_of(given.page, given.seconds) as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        for name, window in WINDOWS.items():
            take(browser, url, name, window)
        browser.close()


@contextmanager
def page_of(url: str | None, seconds: float) -> Iterator[str]:
    """Return the address of a page: the one that is given, or one of the example after some visits."""
    if url is not None:
        yield url
        return
    port = 8765
    log = Path(tempfile.mkdtemp()) / "demo.log"
    command = [sys.executable, "-m", "example_app", "--port", str(port), "--log", str(log)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) as running:  # noqa: S603 - ours
        try:
            time.sleep(seconds)
            url = f"http://127.0.0.1:{port}/monitoring/"
            httpx.get(url).raise_for_status()
            yield url
        finally:
            running.send_signal(signal.SIGINT)


def take(browser: Browser, url: str, mode: str, window: dict[str, Any]) -> None:
    """Take the pictures of one kind of window."""
    page = browser.new_context(**window).new_page()
    page.goto(url)
    page.locator("nav a").first.wait_for()
    for view in page.eval_on_selector_all("nav a", "links => links.map(link => link.dataset.view)"):
        picture(page, f"{url}#/{view}", f"{view}-{mode}")
        page.goto(f"{url}#/{view}{QUERIES.get(view, '')}")
        page.locator(f"main .view.{view} h1").wait_for()
        page.wait_for_timeout(SETTLED_MS)
        detail = page.locator(f'main td a[href^="#/{view}/"], main li a[href^="#/{view}/"]').first
        if view in DETAILS and detail.count():
            picture(page, f"{url}{detail.get_attribute('href')}", f"{DETAILS[view]}-{mode}")
    page.context.close()


def picture(page: Page, url: str, name: str) -> None:
    """Open a view, wait until it has settled, and take its picture."""
    page.goto(url)
    page.locator(f"main .view.{url.partition('#/')[2].split('/')[0]} h1").wait_for()
    page.wait_for_timeout(SETTLED_MS)
    folder = SHOWN if name in PUBLISHED else OTHERS
    page.screenshot(path=folder / f"{name}.png", full_page=folder is OTHERS)
    print(f"{folder.relative_to(ROOT)}/{name}.png")


if __name__ == "__main__":
    main()

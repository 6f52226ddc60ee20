"""A page in the browser, with all that goes wrong on it."""

import re
from collections.abc import Sequence
from typing import Any

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import BrowserContext, Request, Response, Route, expect
from support import PATIENCE_SECONDS

FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"),
]
_ABORTED = "net::ERR_ABORTED"
"""What a page has given up itself: a stream that it closed, an answer that nobody waits for."""
REFUSED = re.compile("status of 40[14]")
"""What the browser says of an answer that the service gives on purpose."""
OF_A_FAKE = re.compile("Failed to load resource|MIME type|ERR_CONNECTION_|ERR_FAILED|ERR_EMPTY|ERR_INCOMPLETE")
"""What the browser says of answers that are no answers of the service, and of a service that is gone."""
expect.set_options(timeout=PATIENCE_SECONDS * 1000)


class Browsed:
    """One window."""

    def __init__(self, context: BrowserContext, url: str) -> None:
        self.problems: list[str] = []
        """Errors on the console and violations of the policy among them, exceptions, requests that failed."""
        self.expected: re.Pattern[str] | None = None
        """What may go wrong, as the test itself is the reason; set before it does: the browser may tell later."""
        self.transferred = 0
        """Bytes of the bodies that came, compressed."""
        context.set_default_timeout(PATIENCE_SECONDS * 1000)
        self.page = context.new_page()
        self.page.on("console", lambda said: said.type == "error" and self._note(said.text))
        self.page.on("pageerror", lambda error: self._note(str(error)))
        self.page.on("requestfailed", self._failed)
        self.page.on("response", self._answered)
        self.url = url

    def open(self, address: str = "") -> "Browsed":
        """Go to an address of the page, such as `#/routes`, and wait until its view is there."""
        self.page.goto(f"{self.url}{address}")
        self.page.locator("main h1").wait_for()
        return self

    def intercept(self, names: Sequence[str], answer: dict[str, Any] | None) -> None:
        """Answer for the service what is asked of some documents, as a proxy in between might; None: break the connection."""

        def fake(route: Route) -> None:
            route.abort("connectionreset") if answer is None else route.fulfill(**answer)

        for name in names:
            self.page.route(f"{self.url}{name}", fake)
            self.page.route(f"{self.url}{name}?*", fake)
            self.page.route(f"{self.url}{name}/**", fake)

    def intercept_data(self, answer: dict[str, Any] | None) -> None:
        """Answer for the service whatever is asked of it but for the page and its files."""

        def fake(route: Route) -> None:
            path = route.request.url.removeprefix(self.url)
            if not path or path.startswith("static/"):
                route.continue_()
            else:
                route.abort("connectionreset") if answer is None else route.fulfill(**answer)

        self.page.route(f"{self.url}**", fake)

    def figures(self) -> dict[str, str]:
        """Return the state of each figure that is shown, by its label."""
        shown = self.page.locator(".figure").all()
        return {each.locator("dt").inner_text(): each.get_attribute("data-state") or "" for each in shown}

    def text(self) -> str:
        """Return all that can be read."""
        return self.page.locator("body").inner_text()

    def axe(self) -> list[str]:
        """List what is serious or critical for people who do not see, or do not use a mouse."""
        found = Axe().run(self.page).response["violations"]
        return [
            f"{one['id']}: {node['target']} {node['html'][:160]}"
            for one in found
            if one["impact"] in {"serious", "critical"}
            for node in one["nodes"]
        ]

    def _note(self, problem: str) -> None:
        if self.expected is None or not self.expected.search(problem):
            self.problems.append(problem)

    def _failed(self, request: Request) -> None:
        if request.failure != _ABORTED:
            self._note(f"{request.url}: {request.failure}")

    def _answered(self, response: Response) -> None:
        if not response.url.startswith(self.url.partition("/monitoring")[0]):
            self._note(f"asked another host: {response.url}")

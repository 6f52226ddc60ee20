"""`python -m example_app`: the shop under live traffic, its log lines and a summary in the terminal."""

import argparse
import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from example_app.processes import end, is_taken, when_told_to_end
from example_app.summary import table
from example_app.traffic import SCENARIOS, Traffic
from example_app.trouble import alert_rows, cause

START_SECONDS = 30.0
TROUBLE_AFTER_SECONDS = 15.0
LINES_SHOWN = 6
REASONS_SHOWN = 8
LOWEST = 26
"""Rows of a terminal that has no room for reasons."""
PORT_TAKEN = 2
SERVICE = "example-shop"


def main() -> None:
    """Run the demo until Ctrl-C, or for some seconds."""
    arguments = argparse.ArgumentParser(prog="python -m example_app", description=__doc__)
    arguments.add_argument("--port", type=int, default=8000)
    arguments.add_argument("--rate", type=float, default=20.0, help="visits per second")
    arguments.add_argument("--seconds", type=float, default=float("inf"), help="end by itself")
    arguments.add_argument("--log", type=Path, default=Path("demo.log"), help="where the JSON lines go")
    arguments.add_argument(
        "--scenario", action="append", choices=SCENARIOS, help="what the visitors do; may be given again, all by default"
    )
    given = arguments.parse_args()
    if is_taken(given.port):
        print(f"Port {given.port} is in use. Choose another: make demo PORT={given.port + 1}", file=sys.stderr)
        sys.exit(PORT_TAKEN)
    asyncio.run(Demo(given.port, given.rate, given.seconds, given.log, given.scenario or SCENARIOS).run())


class Demo:
    """The shop in a process of its own, visitors and a view on both in this one."""

    def __init__(self, port: int, rate: float, seconds: float, log: Path, scenarios: Iterable[str]) -> None:
        self._url = f"http://127.0.0.1:{port}"
        self._port = port
        self._rate = rate
        self._seconds = seconds
        self._log = log
        self._scenarios = scenarios
        self._stopping = asyncio.Event()
        self._drawn = 0

    async def run(self) -> None:
        """Start everything, show it, and stop it again."""
        when_told_to_end(self._stopping.set)
        self._log.write_bytes(b"")
        print(f"starting the shop on {self._url} …", flush=True)
        async with self._shop() as shop:
            self._say_where_to_look()
            traffic = Traffic(self._url, self._rate, self._scenarios)
            visiting = asyncio.create_task(traffic.run())
            trouble = asyncio.create_task(cause(self._url, TROUBLE_AFTER_SECONDS))
            leaving = asyncio.create_task(shop.wait())
            await self._show(leaving, visiting)
            visiting.cancel()
            trouble.cancel()
            await asyncio.gather(visiting, trouble, return_exceptions=True)
            self._tell_a_story()
            if leaving.done():
                print(f"the shop has ended by itself with code {shop.returncode}", file=sys.stderr)
                sys.exit(1)
            leaving.cancel()
        print(f"stopped after {traffic.made} visits; the lines are in {self._log}")

    @asynccontextmanager
    async def _shop(self) -> AsyncIterator[asyncio.subprocess.Process]:
        settings = {
            "SERVICE_NAME": SERVICE,
            "EXAMPLE_URL": self._url,
            "EXAMPLE_SESSION_SECONDS": "20",
            "SAGE_OBS_LOGGING__OUTPUT": str(self._log),
            "SAGE_OBS_LOGGING__FORMAT": "json",
            "SAGE_OBS_LOGGING__LEVEL": "info",
            "SAGE_OBS_MONITORING__INTERVAL_SECONDS": "2",
            "SAGE_OBS_MONITORING__ACCESS": "local",
        }
        command = [sys.executable, "-m", "uvicorn", "--factory", "example_app.app:create_app"]
        command += ["--port", str(self._port), "--log-level", "warning"]
        # A session of its own: Ctrl-C is for the demo, which then stops the shop in order.
        shop = await asyncio.create_subprocess_exec(*command, env=os.environ | settings, start_new_session=True)
        try:
            await self._wait_until_ready(shop)
            yield shop
        finally:
            await end(shop)

    async def _wait_until_ready(self, shop: asyncio.subprocess.Process) -> None:
        deadline = time.monotonic() + START_SECONDS
        async with httpx.AsyncClient(base_url=self._url) as client:
            while time.monotonic() < deadline and shop.returncode is None and not self._stopping.is_set():
                try:
                    if (await client.get("/monitoring/health/ready")).is_success:
                        return
                except httpx.TransportError:
                    await asyncio.sleep(0.1)
        if not self._stopping.is_set():
            sys.exit("the shop did not start")

    def _say_where_to_look(self) -> None:
        print(f"""
  the live page    {self._url}/monitoring/
  the service      {self._url}/docs
  its metrics      {self._url}/metrics
  its health       {self._url}/monitoring/health
  how it is doing  {self._url}/monitoring/summary?minutes=5
  what has failed  {self._url}/monitoring/requests?failed=true
  its alerts       {self._url}/monitoring/alerts (orders fail for a while after {TROUBLE_AFTER_SECONDS:.0f} s)
  its log lines    tail -f {self._log}
  for Prometheus   scrape_configs: [{{job_name: shop, static_configs: [{{targets: ["127.0.0.1:{self._port}"]}}]}}]

Ctrl-C stops it.
""")

    async def _show(self, leaving: "asyncio.Task[int]", visiting: "asyncio.Task[None]") -> None:
        started = time.monotonic()
        async with httpx.AsyncClient(base_url=self._url) as client:
            while not (self._stopping.is_set() or leaving.done() or visiting.done()):
                left = self._seconds - (time.monotonic() - started)
                if left <= 0:
                    return
                try:
                    await asyncio.wait_for(self._stopping.wait(), min(2.0, left))
                except TimeoutError:
                    await self._draw(client, time.monotonic() - started)

    async def _draw(self, client: httpx.AsyncClient, seconds: float) -> None:
        try:
            text = (await client.get("/metrics")).text
            alerts = await alert_rows(client)
        except httpx.TransportError:
            return
        height = os.get_terminal_size().lines if sys.stdout.isatty() else 100
        reasons = self._reasons(min(REASONS_SHOWN, height - LOWEST))
        lines = map(_readable, self._lines(20_000)[-LINES_SHOWN:])
        below = ["", *alerts, *reasons, "", "the last log lines:", *lines]
        # The cursor is on a row of its own.
        rows = [*table(text, seconds, height - len(below) - 1), *below]
        if sys.stdout.isatty():
            width = os.get_terminal_size().columns
            above = f"\x1b[{self._drawn}A\x1b[J" if self._drawn else ""
            print(above + "\n".join(row[: width - 1] for row in rows), flush=True)
            self._drawn = len(rows)
        else:
            print("\n".join([*rows, ""]), flush=True)

    def _reasons(self, most: int) -> list[str]:
        """Say why requests were slow lately: the last one of each cause."""
        if most <= 0:
            return []
        found = {line["cause"]: line for line in self._lines(200_000) if "why" in line and "cause" in line}
        last = sorted(found.values(), key=lambda line: line["timestamp"])[-most:]
        rows = [f"{line['method']} {line['route'] or '(no route)'}: {line['why'][0]}" for line in last]
        return ["", "why requests were slow, were refused or failed:", *rows] if rows else []

    def _tell_a_story(self) -> None:
        """Find one failed request by its id, as one would at night."""
        lines = self._lines()
        failed = next((line for line in reversed(lines) if line.get("status") == 500 and "request_id" in line), None)
        if failed is None:
            return
        print(f"\na request that failed, by its id: grep {failed['request_id']} {self._log}")
        for line in lines:
            if line.get("request_id") == failed["request_id"]:
                print(f"  {_readable(line)}")
        print(f"  {failed['error']['stack_trace'].strip().splitlines()[-1]}")
        command = Path(sys.executable).with_name("sage-obs")
        print(f"\nall that is kept of it, its spans and lines: {command} show {failed['request_id']}")

    def _lines(self, most_bytes: int = 1_000_000) -> list[dict[str, Any]]:
        """Read the last whole lines that are there now."""
        with self._log.open("rb") as log:
            log.seek(max(0, self._log.stat().st_size - most_bytes))
            first, *whole = log.read().split(b"\n")[:-1] or [b""]
            whole = whole if log.tell() > most_bytes else [first, *whole]
        return [json.loads(line) for line in whole if line]


def _readable(line: dict[str, Any]) -> str:
    said = line["message"]
    if "duration_ms" in line:
        said = f"{line['method']} {line['path']} {line['status']} {line['duration_ms']:.1f} ms"
    fields = " ".join(f"{key}={value}" for key, value in line.get("data", {}).items())
    return f"{line['timestamp'][11:23]} {line['level']:<6}{line.get('request_id', '')[-6:]:>7}  {said}  {fields}"


if __name__ == "__main__":
    main()

"""The example service, in process and as the demo that a stranger runs."""

import fcntl
import json
import os
import pty
import re
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from servers import free_port
from support import PATIENCE_SECONDS

from example_app.app import create_app
from example_app.summary import quantile

ROOT = Path(__file__).parents[2]
ROUTES = [
    ("GET", "/api/items", "/api/items", 200),
    ("GET", "/api/items/1", "/api/items/{item_id}", 200),
    ("GET", "/api/items/77", "/api/items/{item_id}", 404),
    ("GET", "/api/items/x", "/api/items/{item_id}", 422),
    ("GET", "/api/items/2/price", "/api/items/{item_id}/price", 200),
    ("DELETE", "/api/items/2/price", "/api/items/{item_id}/price", 405),
    ("GET", "/admin/reports/2024", "/admin/reports/{year}", 200),
    ("GET", "/export", "/export", 200),
    ("GET", "/boom", "/boom", 500),
    ("GET", "/wp-login.php", None, 404),
]


async def test_signals_of_the_shop_agree(telemetry):
    """Each route leaves one line, one span and one count, with its whole template, its status and the id of the response."""
    app = create_app()
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        for method, path, route, status in ROUTES:
            await client.request(method, path)
            telemetry.last.assert_consistent()
            telemetry.last.assert_route(route)
            telemetry.last.assert_one_line(method=method, path=path, status=status)
        health = (await client.get("/monitoring/health")).json()
    await app.state.prices.aclose()
    await app.state.sage_fastapi_obs.close()
    assert {check["name"]: check["status"] for check in health["checks"]} == {
        "stock": "pass",
        "printer": "pass",
        "load": "pass",
    }


def demo(tmp_path: Path, port: int, *more: str, stdout: int = subprocess.PIPE) -> subprocess.Popen[str]:
    """Start the demo."""
    command = [sys.executable, "-m", "example_app", "--port", str(port), "--log", str(tmp_path / "demo.log"), "--rate", "60"]
    return subprocess.Popen([*command, *more], cwd=ROOT, stdout=stdout, stderr=subprocess.PIPE, text=True, env=dict(os.environ))


def shown(running: subprocess.Popen[str], *patterns: str) -> str:
    """Read what the demo shows until everything that is looked for was there, and end it; return all that it showed."""
    output = ""
    for line in running.stdout:
        output += line
        if all(re.search(pattern, output) for pattern in patterns):
            running.send_signal(signal.SIGINT)
            break
    rest, errors = running.communicate(timeout=PATIENCE_SECONDS)
    assert (running.returncode, errors) == (0, "")
    assert [pattern for pattern in patterns if not re.search(pattern, output)] == []
    return output + rest


def test_the_demo_shows_live_traffic(tmp_path):
    """It says where to look, and shows rows with numbers and real lines; Ctrl-C ends it."""
    port = free_port()
    output = shown(
        demo(tmp_path, port, "--seconds", str(PATIENCE_SECONDS)),
        f"http://127.0.0.1:{port}/metrics",
        r"GET /api/items/\{item_id\} +[1-9]\d* ",
        r"agents: [1-9]\d* handshakes, .* [1-9]\d* messages, ",
        r"others: .* [1-9]\d* textbooks, [1-9]\d* tokens; [1-9]\d* orders",
        r"\d\d:\d\d:\d\d\.\d{3} info +[0-9a-f]{6}  (GET|POST) /",
    )
    counted = int(re.findall(r"^(\d+) requests, ", output, re.MULTILINE)[-1])
    written = [json.loads(line) for line in (tmp_path / "demo.log").read_text().splitlines()]
    assert 0 < counted <= sum("duration_ms" in line and "close_code" not in line for line in written)
    assert all(line["service"] == "example-shop" for line in written)
    assert_stopped(output, port)


def assert_stopped(output: str, port: int) -> None:
    """Hold that it has said so, and that nobody goes on listening."""
    assert "stopped after" in output
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{port}/")


def test_the_demo_fits_into_its_terminal(tmp_path):
    """What is drawn is not higher than the screen, from its first row to the last line; and it ends by itself."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 120, 0, 0))
    output = b""
    with demo(tmp_path, free_port(), "--seconds", "4", stdout=theirs) as running:
        os.close(theirs)
        # A terminal that nobody writes to any more is an error to read from.
        with suppress(OSError):
            while said := os.read(ours, 10_000):
                output += said
    os.close(ours)
    assert running.returncode == 0
    drawn = re.findall(rb"\x1b\[(\d+)A\x1b\[J(\d+ requests, )?", output)
    assert drawn
    assert [rows for rows, totals in drawn if int(rows) >= 24 or not totals] == []


def test_the_demo_shows_one_scenario_alone(tmp_path):
    """With only replays there are replays, and nothing that has to do with anything else."""
    port = free_port()
    running = demo(tmp_path, port, "--seconds", str(PATIENCE_SECONDS), "--scenario", "replay")
    nothing_else = "others: 0 logins failed, 0 too many; 0 textbooks, 0 tokens; 0 orders"
    output = shown(running, r"agents: [1-9]\d* handshakes, 0 failed; .* [1-9]\d* replays", nothing_else)
    assert "/api/items" not in output


def test_the_demo_stops_cleanly(tmp_path):
    """SIGTERM ends it without a word of complaint, as Ctrl-C does in the tests above."""
    port = free_port()
    running = demo(tmp_path, port)
    assert running.stdout is not None
    for line in running.stdout:
        if "Ctrl-C" in line:
            break
    time.sleep(1)
    running.send_signal(signal.SIGTERM)
    output, errors = running.communicate(timeout=PATIENCE_SECONDS)
    assert (running.returncode, errors) == (0, "")
    assert_stopped(output, port)


def test_a_taken_port_is_said(tmp_path):
    """Somebody else on the port: the demo says so, and how to choose another."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        running = demo(tmp_path, taken.getsockname()[1])
        _, errors = running.communicate(timeout=PATIENCE_SECONDS)
    assert running.returncode == 2
    assert "make demo PORT=" in errors


def test_quantiles_interpolate_as_prometheus_does():
    """Within a bucket the quantile is linear; beyond the last bound it is that bound."""
    buckets = {0.1: 10.0, 0.5: 30.0, float("inf"): 40.0}
    assert quantile(0.125, buckets) == pytest.approx(0.05)
    assert quantile(0.5, buckets) == pytest.approx(0.3)
    assert quantile(0.99, buckets) == 0.5

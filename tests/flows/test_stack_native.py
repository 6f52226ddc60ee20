"""The stack without containers: what `make stack-native` starts, says, shows and stops; and the webhook that prints alerts."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest
from servers import need
from support import PATIENCE_SECONDS, until

from example_app.alert_sink import Sink, lines

ROOT = Path(__file__).parents[2]
ALERT = {
    "status": "firing",
    "labels": {"alertname": "HighErrorRate", "service": "shop", "severity": "critical"},
    "annotations": {"summary": "shop fails", "description": "50% of all requests\nare answered 5xx."},
}


def free_offset() -> int:
    """Find an offset at which none of the stack's ports are in use."""
    for offset in range(20_000, 50_000, 1_000):
        with socket.socket() as probe:
            if all(probe.connect_ex(("127.0.0.1", port + offset)) for port in (8000, 8001, 3001, 8002, 9091, 9093, 9094)):
                return offset
    raise AssertionError("no free ports")


def known_targets(prometheus: str, jobs: set[str]) -> list[dict[str, Any]]:
    """Return the targets of Prometheus once it knows those of all jobs; that takes some seconds."""
    targets = httpx.get(f"{prometheus}/api/v1/targets").json()["data"]["activeTargets"]
    return targets if {target["labels"]["job"] for target in targets} == jobs else []


@pytest.mark.stack
def test_the_stack_starts_and_stops(tmp_path: Path):
    """All targets are scraped, rules are loaded, an alert is printed, and Ctrl-C leaves nothing behind."""
    need("prometheus")
    need("prometheus-alertmanager")
    offset = free_offset()
    command = [sys.executable, "-m", "example_app.stack", f"--offset={offset}", "--rate=2"]
    with (tmp_path / "out").open("w") as output:
        stack = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    try:
        until(lambda: "Ctrl-C stops it." in (tmp_path / "out").read_text(), "word of where to look")
        said = (tmp_path / "out").read_text()
        prometheus = re.search(r"Prometheus +(http://\S+)/alerts", said)[1]
        alertmanager = re.search(r"Alertmanager +(http://\S+)", said)[1]
        for url in re.findall(r"http://\S+/docs", said):
            assert httpx.get(url).is_success
        groups = httpx.get(f"{prometheus}/api/v1/rules").json()["data"]["groups"]
        names = {path.stem for path in (ROOT / "prometheus/rules").iterdir()}
        assert {Path(group["file"]).stem for group in groups} == names
        jobs = {"sage-backend", "ai-textbook-core", "customer-id", "rfs-demo"}
        jobs |= {"node", "prometheus", "alertmanager", "fluent-bit"}
        targets = until(lambda: known_targets(prometheus, jobs), "targets")
        assert {target["scrapeUrl"].split(":")[1] for target in targets} == {"//127.0.0.1"}
        httpx.post(f"{alertmanager}/api/v2/alerts", json=[{"labels": ALERT["labels"], "annotations": ALERT["annotations"]}])
        until(
            lambda: re.search(r"firing +-> critical +HighErrorRate \[shop\] shop fails", (tmp_path / "out").read_text()),
            "alert",
        )
    finally:
        stack.send_signal(signal.SIGINT)
        code = stack.wait(PATIENCE_SECONDS)
    assert (code, (tmp_path / "out").read_text().splitlines()[-1]) == (0, "stopped")
    with socket.socket() as probe:
        assert all(probe.connect_ex(("127.0.0.1", port + offset)) for port in (8000, 9091, 9093, 9094))


@pytest.mark.stack
def test_ports_in_use_are_named(tmp_path: Path):
    """Nothing is started where something else listens."""
    need("prometheus")
    need("prometheus-alertmanager")
    offset = free_offset()
    with socket.create_server(("127.0.0.1", 9093 + offset)):
        command = [sys.executable, "-m", "example_app.stack", f"--offset={offset}"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == f"ports in use: {9093 + offset}; move all of them with --offset 10000\n"


def test_the_sink_takes_webhooks_and_nothing_else():
    """What Alertmanager says is handed on by receiver; what cannot be read is refused, and the sink goes on."""
    heard = []
    with Sink("127.0.0.1", 0, lambda receiver, told: heard.extend(lines(receiver, told))) as sink:
        thread = threading.Thread(target=sink.serve_forever)
        thread.start()
        url = f"http://127.0.0.1:{sink.server_address[1]}"
        try:
            refused = [
                httpx.post(url, content=body).status_code for body in (b"", b"{", b"[]", b'{"alerts": [{}]}', b'{"alerts": 1}')
            ]
            taken = httpx.post(f"{url}/critical", content=json.dumps({"alerts": [ALERT]}))
        finally:
            sink.shutdown()
            thread.join()
    assert refused == [400] * 5
    assert taken.status_code == 200
    (line,) = heard
    assert line[9:] == "firing   -> critical  HighErrorRate [shop] shop fails 50% of all requests\\nare answered 5xx."

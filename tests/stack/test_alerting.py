"""A service misbehaves; a real Prometheus notices by the exported rules, and a real Alertmanager tells of its begin and end."""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from running import ROOT
from servers import free_port, need, stop
from support import PATIENCE_SECONDS, until

from example_app.alert_sink import Sink
from sage_fastapi_obs import Settings
from sage_fastapi_obs.export import alertmanager, prometheus

pytestmark = pytest.mark.stack

FACTOR = 60
"""All windows and durations of the rules are this many times shorter than they are written: minutes become seconds."""
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
SERVICE = "sage-backend"
FIRING = {
    "ReplayAttacksDetected",
    "HighSessionFailureRate",
    "HighHandshakeErrorRate",
    "DIDResolutionFailure",
    "BlockchainUnavailable",
    "SignatureVerificationFailureHigh",
    "HandshakeFailures",
    "EncryptionSlowdown",
    "SlowHandshakes",
    "SessionExpirationHigh",
    "SessionLeakSuspected",
    "HighErrorRate",
    "HighResponseTime",
    "HighAITokenUsage",
    "ResultCriticalSystemFailure",
    "ResultSlowResponse",
    "CircuitBreakerOpen",
    "ErrorBudgetBurnFast",
    "SecurityEventsHigh",
}
NEEDLESS = {"SageHighErrorRate", "HighEncryptionLatency", "ResultHighErrorRate"}
"""What fires as well, and is not told because another alert says more."""
RESOLVED = FIRING - {"HighAITokenUsage", "ErrorBudgetBurnFast"}
"""Those whose windows are over soon."""


class Told:
    """What Alertmanager has told, by alert: state, labels and texts, in order; and by which receivers."""

    def __init__(self) -> None:
        self.states: defaultdict[str, list[str]] = defaultdict(list)
        self.alerts: dict[str, dict[str, Any]] = {}
        self.receivers: defaultdict[str, set[str]] = defaultdict(set)

    def __call__(self, receiver: str, told: dict[str, Any]) -> None:
        for alert in told["alerts"]:
            name = alert["labels"]["alertname"]
            self.states[name].append(alert["status"])
            self.receivers[name].add(receiver)
            if alert["status"] == "firing":
                self.alerts[name] = alert

    def latest(self, state: str) -> set[str]:
        """Name the alerts that were last told to be in a state."""
        return {name for name, states in self.states.items() if states[-1] == state}


def shorter(duration: re.Match[str]) -> str:
    """Divide a duration."""
    return f"{int(duration[1]) * UNITS[duration[2]] * 1000 // FACTOR}ms"


def shortened(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Divide all windows and durations of rules."""
    text = re.sub(r"(?:(?<=\[)|(?<=offset ))(\d+)([smhd])\b", shorter, json.dumps(groups))
    text = re.sub(r"(?<=time\(\) - )\d+\b", lambda seconds: str(int(seconds[0]) / FACTOR), text)
    text = re.sub(r'(?<="for": ")(\d+)([smhd])(?=")', shorter, text)
    return json.loads(re.sub(r'(?<="interval": ")(\d+)([smhd])(?=")', "1s", text))


@pytest.fixture
def told() -> Iterator[tuple[Told, str]]:
    """Take webhooks; yield what they told, and the address for them."""
    found = Told()
    with Sink("127.0.0.1", 0, found) as sink:
        thread = threading.Thread(target=sink.serve_forever)
        thread.start()
        yield found, f"http://127.0.0.1:{sink.server_address[1]}"
        sink.shutdown()
        thread.join()


@pytest.fixture
def service(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], Settings]]:
    """Run the service; yield its process and its settings."""
    port = free_port()
    settings = {
        "service": {"name": SERVICE},
        "metrics": {"packs": ["http", "runtime", "sage", "textbook", "result", "security"]},
        "monitoring": {"access": "local"},
        "logging": {"output": str(tmp_path / "lines.jsonl")},
        "export": {"targets": [f"127.0.0.1:{port}"], "monitored_by": ["prometheus", "alertmanager"]},
    }
    file = tmp_path / "settings.yaml"
    file.write_text(yaml.safe_dump(settings))
    command = [
        sys.executable,
        "-m",
        "uvicorn",
        "--factory",
        "misbehaving:create_app",
        "--port",
        str(port),
        "--log-level",
        "warning",
    ]
    environment = {**os.environ, "SAGE_OBS_FILE": str(file), "PYTHONPATH": f"{Path(__file__).parent}{os.pathsep}{ROOT}"}
    process = subprocess.Popen(command, env=environment)
    try:
        until(lambda: httpx.get(f"http://127.0.0.1:{port}/monitoring/health/live").is_success, "service")
        yield process, Settings(**settings)
    finally:
        stop(process)


@pytest.fixture
def servers(tmp_path: Path, service: Any, told: tuple[Told, str]) -> Iterator[tuple[str, str]]:
    """Run Alertmanager and Prometheus with what is exported for the service; yield their addresses."""
    settings = service[1]
    ports = {"alertmanager": free_port(), "prometheus": free_port()}
    exported = json.dumps(alertmanager.configuration([settings], is_demo=True))
    routing = json.loads(exported.replace(alertmanager.DEMO_SINK, told[1]))
    routing["route"] |= {"group_wait": "1s", "group_interval": "1s"}
    addresses = {f"{name}:{port}": f"127.0.0.1:{ports[name]}" for name, port in (("prometheus", 9090), ("alertmanager", 9093))}
    written = json.dumps(prometheus.configuration([settings]))
    watching = json.loads(re.sub("|".join(addresses), lambda found: addresses[found[0]], written))
    watching["global"] = {"scrape_interval": "500ms", "evaluation_interval": "500ms"}
    for name, content in (("alertmanager", routing), ("prometheus", watching)):
        (tmp_path / f"{name}.yml").write_text(yaml.safe_dump(content))
    (tmp_path / "rules").mkdir()
    (tmp_path / "rules" / "all.yml").write_text(yaml.safe_dump({"groups": shortened(prometheus.rule_groups([settings]))}))
    flags = {"alertmanager": [f"--storage.path={tmp_path / 'am'}", "--cluster.listen-address="]}
    flags["prometheus"] = [f"--storage.tsdb.path={tmp_path / 'tsdb'}"]
    programs = {
        "alertmanager": shutil.which("alertmanager") or need("prometheus-alertmanager"),
        "prometheus": need("prometheus"),
    }
    running = []
    try:
        for name, port in ports.items():
            with (tmp_path / f"{name}.log").open("w") as log:
                command = [programs[name], f"--config.file={tmp_path / name}.yml", f"--web.listen-address=127.0.0.1:{port}"]
                running.append(subprocess.Popen([*command, *flags[name]], stdout=log, stderr=log))
        for name, port in ports.items():
            until(lambda port=port: httpx.get(f"http://127.0.0.1:{port}/-/ready").is_success, name)
        yield tuple(f"http://127.0.0.1:{port}" for port in ports.values())
    finally:
        for process in running:
            stop(process)


def suppressed(alertmanager: str) -> set[str]:
    """Name the alerts that Alertmanager keeps to itself because of others."""
    alerts = httpx.get(f"{alertmanager}/api/v2/alerts").raise_for_status().json()
    return {alert["labels"]["alertname"] for alert in alerts if alert["status"]["inhibitedBy"]}


def awaited(wanted: set[str], found: Callable[[], set[str]], what: str) -> None:
    """Wait until all that is wanted is found; say what is missing else."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while missing := wanted - found():
        assert time.monotonic() < deadline, f"not {what} within {PATIENCE_SECONDS:.0f} s: {sorted(missing)}"
        time.sleep(0.1)


def test_alerts_are_told_of_when_they_begin_and_when_they_end(service: Any, servers: tuple[str, str], told: tuple[Told, str]):
    """All that goes wrong is told once, by whom it concerns, without what another alert says already; and that it is over."""
    process, settings = service
    known, (alertmanager, watching) = told[0], servers
    app = f"http://{settings.export.targets[0]}"
    until(lambda: httpx.get(f"{watching}/api/v1/query", params={"query": "up == 1"}).json()["data"]["result"], "scrape")
    awaited({"Watchdog"}, lambda: known.latest("firing"), "told")
    assert {name: known.receivers[name] for name in known.states} == {"Watchdog": {"watchdog"}}

    httpx.post(f"{app}/behave", params={"badly": True}).raise_for_status()
    awaited(FIRING, lambda: known.latest("firing"), "told")
    awaited(NEEDLESS, lambda: suppressed(alertmanager), "kept back")
    assert not NEEDLESS & set(known.states)
    for name in FIRING:
        alert = known.alerts[name]
        assert known.receivers[name] == {alert["labels"]["severity"]}, name
        assert alert["labels"]["service"] == SERVICE, name
        assert alert["annotations"]["runbook_url"] == f"docs/runbooks/{name}.md"
        texts = " ".join(alert["annotations"].values())
        assert not re.search(r"error expanding|<no value>|\{\{", texts), texts
    assert known.alerts["DIDResolutionFailure"]["labels"]["chain"] == "ethereum"
    assert known.alerts["BlockchainUnavailable"]["annotations"]["description"].startswith("100% of transactions on solana")
    assert known.alerts["CircuitBreakerOpen"]["labels"]["name"] == "prices"

    httpx.post(f"{app}/behave", params={"badly": False}).raise_for_status()
    awaited(RESOLVED, lambda: known.latest("resolved"), "told to be over")
    assert "SAGEBackendDown" not in known.states

    awaited({"SlaViolation"}, lambda: known.latest("firing"), "told")
    stop(process)
    awaited({"SAGEBackendDown"}, lambda: known.latest("firing"), "told")
    assert known.receivers["SAGEBackendDown"] == {"critical"}
    awaited({"SlaViolation"}, lambda: suppressed(alertmanager), "kept back")

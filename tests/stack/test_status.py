"""A real Prometheus scrapes the example service every second: both see the same trouble, and the same numbers."""

import json
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from running import serving
from servers import free_port, need, prometheus, query
from support import PATIENCE_SECONDS, until

from example_app.app import create_app

pytestmark = pytest.mark.stack

CONFIG = """
global: {{scrape_interval: 1s, evaluation_interval: 1s}}
rule_files: [rules.yml]
scrape_configs:
  - job_name: example
    static_configs: [{{targets: ["127.0.0.1:{port}"]}}]
"""
ORDER = {"item_id": 2, "count": 1}


@pytest.fixture
def service(tmp_path: Path) -> Iterator[str]:
    """Run the example service, which looks at its metrics every second; yield its address."""
    port = free_port()
    settings = {
        "SAGE_OBS_LOGGING__OUTPUT": str(tmp_path / "lines.jsonl"),
        "SAGE_OBS_LOGGING__FORMAT": "json",
        "SAGE_OBS_MONITORING__INTERVAL_SECONDS": "1",
        "EXAMPLE_URL": f"http://127.0.0.1:{port}",
    }
    with serving("example_app.app:create_app", tmp_path, port, **settings):
        yield f"http://127.0.0.1:{port}"


@pytest.fixture
def watching(tmp_path: Path, service: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Run Prometheus with the service's own rules; yield its address."""
    monkeypatch.setenv("SAGE_OBS_LOGGING__OUTPUT", str(tmp_path / "unused"))
    rules = [rule.prometheus() for rule in create_app().state.sage_fastapi_obs.status.alerts.rules]
    (tmp_path / "rules.yml").write_text(json.dumps({"groups": [{"name": "shop", "rules": rules}]}))
    subprocess.run([need("promtool"), "check", "rules", tmp_path / "rules.yml"], check=True, capture_output=True)
    config = tmp_path / "prometheus.yml"
    config.write_text(CONFIG.format(port=service.rpartition(":")[2]))
    with prometheus(config, tmp_path) as address:
        yield address


@pytest.fixture
def traffic(service: str) -> Iterator[threading.Event]:
    """Let visitors come until the event is set."""
    leaving = threading.Event()

    def visit() -> None:
        with httpx.Client(base_url=service, timeout=PATIENCE_SECONDS) as client:
            while not leaving.wait(0.05):
                # A connection ends with an error that nobody has handled.
                with suppress(httpx.TransportError):
                    client.post("/api/orders", json=ORDER)
                    client.get("/api/items/1")

    visitor = threading.Thread(target=visit)
    visitor.start()
    yield leaving
    leaving.set()
    visitor.join()


def value(address: str, expression: str) -> float:
    """Ask Prometheus for one number."""
    return float(query(address, expression)[0]["value"][1])


def test_both_see_the_same_trouble(service: str, watching: str, traffic: threading.Event):
    """The alert fires in both and ends in both; afterwards counts, errors, means and quantiles are the same."""

    def ours(kind: str) -> list[str]:
        return [one["name"] for one in httpx.get(f"{service}/monitoring/alerts").json()[f"{kind}_alerts"]]

    def theirs() -> list[str]:
        alerts: list[dict[str, Any]] = httpx.get(f"{watching}/api/v1/alerts").json()["data"]["alerts"]
        return [one["labels"]["alertname"] for one in alerts if one["state"] == "firing"]

    placed = 'http_requests_total{route="/api/orders", status="201"}'
    until(lambda: value(watching, f"sum(increase({placed}[10s]))") > 0, "scrape")
    assert httpx.post(f"{service}/trouble", params={"seconds": 12}).status_code == 202
    assert httpx.post(f"{service}/trouble").status_code == 409
    until(lambda: "OrdersFail" in ours("active"), "alert of ours")
    until(lambda: "OrdersFail" in theirs(), "alert of Prometheus")
    assert httpx.get(f"{service}/monitoring/health", params={"strict": True}).status_code == 503
    until(lambda: "OrdersFail" in ours("resolved"), "end of ours")
    until(lambda: "OrdersFail" not in theirs(), "end of Prometheus'")
    traffic.set()
    at_rest = 'sum(increase(http_requests_total{route=~"/api/.*"}[3s]))'
    until(lambda: value(watching, at_rest) == 0, "rest")
    # All that there was is within the last minutes, of which no scrape may have seen the first.
    found = httpx.get(f"{service}/monitoring/summary", params={"minutes": 5}).json()
    orders = next(one for one in found["routes"] if (one["method"], one["route"]) == ("POST", "/api/orders"))
    which, over = '{route="/api/orders", method="POST"', "[5m]"
    failed, all_ = (
        value(watching, f"sum(max_over_time(http_requests_total{which}{more}}}{over}))") for more in (', status=~"5.."', "")
    )
    assert (orders["failed"], orders["count"]) == (failed, all_)
    assert orders["error_ratio"] == pytest.approx(failed / all_)
    duration = "http_request_duration_seconds"
    total, count = (value(watching, f"sum(max_over_time({duration}_{part}{which}}}{over}))") for part in ("sum", "count"))
    assert orders["duration"]["mean"] == pytest.approx(total / count)
    buckets = f"sum by (le) (max_over_time({duration}_bucket{which}}}{over}))"
    assert orders["duration"]["p95"] == pytest.approx(value(watching, f"histogram_quantile(0.95, {buckets})"))

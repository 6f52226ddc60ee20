"""A real Prometheus scrapes the example service, over OpenMetrics, and what it stores leads back to the log."""

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from running import serving
from servers import need, prometheus, query
from support import until

pytestmark = pytest.mark.stack

REQUESTS = 40
CONFIG = """
global: {{scrape_interval: 1s, evaluation_interval: 1s}}
scrape_configs:
  - job_name: example
    static_configs: [{{targets: ["127.0.0.1:{port}"], labels: {{service: example}}}}]
"""


@pytest.fixture
def service(tmp_path: Path) -> Iterator[tuple[int, Path]]:
    """Run the example service; yield its port and its log file."""
    lines = tmp_path / "lines.jsonl"
    settings = {"SERVICE_NAME": "example", "SAGE_OBS_LOGGING__OUTPUT": str(lines), "SAGE_OBS_LOGGING__FORMAT": "json"}
    with serving("example_app.app:create_app", tmp_path, **settings) as port:
        yield port, lines


@pytest.fixture
def watching(tmp_path: Path, service: tuple[int, Path]) -> Iterator[str]:
    """Run Prometheus beside the service; yield its address."""
    config = tmp_path / "prometheus.yml"
    config.write_text(CONFIG.format(port=service[0]))
    with prometheus(config, tmp_path) as address:
        yield address


def test_prometheus_stores_rates_and_an_exemplar_that_leads_to_a_line(service: tuple[int, Path], watching: str):
    """Counts and rates are those of the requests made, and an exemplar's trace id is in the log."""
    port, lines = service
    until(lambda: query(watching, 'up{job="example"} == 1'), "scrape")
    until(lambda: httpx.get(f"http://127.0.0.1:{port}/nowhere").status_code == 404, "answer")
    until(lambda: query(watching, 'http_requests_total{route="unmatched"}'), "first sample")
    asked = [httpx.get(f"http://127.0.0.1:{port}/nowhere") for _ in range(REQUESTS)]
    total = f'http_requests_total{{job="example", method="GET", route="unmatched", status="404"}} == {REQUESTS + 1}'
    until(lambda: query(watching, total), "count of all requests")
    increase = until(lambda: query(watching, 'increase(http_requests_total{route="unmatched"}[1m]) > 0'), "increase")
    assert float(increase[0]["value"][1]) == pytest.approx(REQUESTS, rel=0.6)
    count = 'http_request_duration_seconds_count{route="unmatched"} == on(route) http_requests_total{route="unmatched"}'
    assert query(watching, count)
    quantile = 'histogram_quantile(0.95, sum by (le) (http_request_duration_seconds_bucket{route="unmatched"}))'
    assert 0 < float(query(watching, quantile)[0]["value"][1]) < 10

    ids = {response.headers["traceresponse"].split("-")[1]: response.headers["x-request-id"] for response in asked}
    params = {
        "query": 'http_request_duration_seconds_bucket{route="unmatched"}',
        "start": time.time() - 120,
        "end": time.time(),
    }
    found = until(lambda: httpx.get(f"{watching}/api/v1/query_exemplars", params=params).json()["data"], "exemplar")
    traces = [exemplar["labels"]["trace_id"] for series in found for exemplar in series["exemplars"]]
    trace = next(trace for trace in traces if trace in ids)
    written = [json.loads(line) for line in lines.read_text().splitlines()]
    assert [line["request_id"] for line in written if line.get("trace_id") == trace] == [ids[trace]]


def test_promtool_finds_nothing_wrong_with_the_metrics(service: tuple[int, Path]):
    """Names, types and help are as Prometheus' own linter wants them."""
    httpx.get(f"http://127.0.0.1:{service[0]}/nowhere")
    text = httpx.get(f"http://127.0.0.1:{service[0]}/metrics").text
    checked = subprocess.run([need("promtool"), "check", "metrics"], input=text, capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")

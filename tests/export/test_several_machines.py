"""What the page about workers says of several machines: Prometheus takes it, and it adds over machines and their restarts."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from demo import promtool, run

pytestmark = pytest.mark.stack

PAGE = (Path(__file__).parents[2] / "docs" / "workers.md").read_text()
BLOCKS = [yaml.safe_load(block) for block in re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)]


def block_with(key: str) -> Any:
    return next(block for block in BLOCKS if key in block)


def write(folder: Path, name: str, content: Any) -> Path:
    path = folder / name
    path.write_text(yaml.safe_dump(content))
    return path


def test_the_scrape_configurations_are_valid(tmp_path: Path) -> None:
    """By a list, by DNS and from Kubernetes; Debian builds Prometheus without the last, which VictoriaMetrics reads."""
    config = block_with("scrape_configs")
    *others, pods = config["scrape_configs"]
    known = {"scrape_configs": [*others, {key: value for key, value in pods.items() if key != "kubernetes_sd_configs"}]}
    checked = run("promtool", "check", "config", write(tmp_path, "prometheus.yml", known))
    assert checked.returncode == 0, checked.stderr
    whole = write(tmp_path, "whole.yml", config)
    read = run("victoria-metrics", f"-promscrape.config={whole}", "-promscrape.config.strictParse", "-promscrape.config.dryRun")
    assert read.returncode == 0, read.stderr
    assert [next(key for key in job if "_sd_" in key or key == "static_configs") for job in config["scrape_configs"]] == [
        *("static_configs", "dns_sd_configs", "kubernetes_sd_configs")
    ]


def test_the_recording_rules_add_over_machines_and_restarts(tmp_path: Path) -> None:
    """Two machines, one of which begins anew: rates, quantiles and memory are those of both."""
    rules = write(tmp_path, "rules.yml", block_with("groups"))
    assert run("promtool", "check", "rules", rules).returncode == 0
    requests = 'http_requests_total{job="shop",route="/",status="200",instance="%s"}'
    buckets = 'http_request_duration_seconds_bucket{job="shop",route="/",le="%s",instance="%s"}'
    memory = 'process_resident_memory_bytes{job="shop",instance="%s",worker="%s"}'
    series = [
        # Of the second machine the counter falls to 0 after three minutes: its server has been started again.
        {"series": requests % "a", "values": "0+60x10"},
        {"series": requests % "b", "values": "0+120x2 0+120x8"},
        *(
            {"series": buckets % (le, instance), "values": f"0+{step}x10"}
            for le, steps in BUCKETS.items()
            for instance, step in steps
        ),
        *({"series": memory % place, "values": "100x10"} for place in (("a", 0), ("a", 1), ("b", 0))),
    ]
    expected = {
        # 60 a minute, and in four of the five minutes 120.
        'job:http_requests:rate5m{job="shop"}': 2.6,
        'job:http_request_duration_seconds:p95_5m{job="shop"}': 0.75,
        'job:process_resident_memory_bytes:sum{job="shop"}': 300,
    }
    tests = [
        {
            "expr": f"round(sum by (job) ({series}), 0.01)",
            "eval_time": "5m",
            "exp_samples": [{"labels": '{job="shop"}', "value": value}],
        }
        for series, value in expected.items()
    ]
    group = {"interval": "1m", "input_series": series, "promql_expr_test": tests}
    judged = promtool(tmp_path, write(tmp_path, "test.yml", {"rule_files": [str(rules)], "tests": [group]}))
    assert judged.returncode == 0, judged.stdout + judged.stderr


BUCKETS = {"0.5": (("a", 60), ("b", 30)), "1": (("a", 60), ("b", 40)), "+Inf": (("a", 60), ("b", 40))}
"""Of 100 requests in a minute, 90 took less than half a second, and 10, all on one machine, more."""

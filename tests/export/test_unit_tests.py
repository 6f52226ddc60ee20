"""The unit tests that are exported with the rules: promtool passes them, and they fail when a rule is another."""

import re
from collections import Counter
from collections.abc import Container
from pathlib import Path

import pytest
import yaml
from demo import SERVICES, promtool, run, service, write

from sage_fastapi_obs.alert_rules.rule_test_series import values_around
from sage_fastapi_obs.alerting.rules import AlertCondition
from sage_fastapi_obs.export import prometheus
from sage_fastapi_obs.export.all_rules import alerts

pytestmark = pytest.mark.stack

FILES = prometheus.files(SERVICES)
FAILING = {"status": "=~5.."}
DOWN = 'count by (service) (ALERTS{alertname=~".+Down", alertstate="firing"})'
OWN = [
    {"name": "increase", "metric": "http_requests_total", "threshold": 7, "labels": {"tier": "1", "empty": ""}},
    {
        "name": "rate",
        "metric": "http_requests_total",
        "statistic": "rate",
        "where": {"route": "/pay", "method": "!=HEAD"},
        "threshold": 3,
    },
    {
        "name": "no_traffic",
        "metric": "http_requests_total",
        "statistic": "rate",
        "condition": "<",
        "threshold": 0.5,
        "for_seconds": 90,
    },
    {
        "name": "nothing_paid",
        "metric": "result_success_total",
        "condition": "==",
        "threshold": 0,
        "absent": 0,
        "for_seconds": 120,
    },
    {"name": "p50", "metric": "http_request_duration_seconds", "statistic": "p50", "by": ["route"], "threshold": 0.3},
    {"name": "p99", "metric": "http_request_duration_seconds", "statistic": "p99", "threshold": 2.5, "condition": ">="},
    {
        "name": "mean",
        "metric": "result_duration_seconds",
        "statistic": "mean",
        "by": ["operation"],
        "threshold": 2,
        "window_seconds": 60,
    },
    {"name": "count", "metric": "result_duration_seconds", "statistic": "count", "threshold": 20, "window_seconds": 30},
    {"name": "sum", "metric": "result_duration_seconds", "statistic": "sum", "threshold": 20},
    {"name": "rate_of_a_histogram", "metric": "result_duration_seconds", "statistic": "rate", "threshold": 20},
    {"name": "gauge", "metric": "active_users", "threshold": 20, "condition": "<="},
    {"name": "lowest", "metric": "active_users", "statistic": "lowest", "threshold": 20, "window_seconds": 600},
    {"name": "highest", "metric": "load_ratio", "statistic": "highest", "threshold": 0.9},
    {
        "name": "average",
        "metric": "load_ratio",
        "statistic": "average",
        "threshold": 0.9,
        "resolve_threshold": 0.7,
        "keep_firing_seconds": 120,
    },
    {"name": "total", "metric": "load_ratio", "statistic": "total", "threshold": -1, "condition": "<"},
    {"name": "not_equal", "metric": "circuit_breaker_status", "by": ["name"], "condition": "!=", "threshold": 0},
    {
        "name": "share",
        "metric": "http_requests_total",
        "where": FAILING,
        "by": ["route"],
        "divided_by": [{"metric": "http_requests_total"}],
        "threshold": 0.1,
    },
    {
        "name": "share_of_two",
        "metric": "result_failure_total",
        "divided_by": [{"metric": "result_failure_total"}, {"metric": "result_success_total"}],
        "threshold": 0.2,
    },
    {
        "name": "share_of_another",
        "metric": "request_errors_total",
        "divided_by": [{"metric": "http_requests_total"}],
        "threshold": 0.2,
    },
    {
        "name": "burn",
        "metric": "http_requests_total",
        "where": FAILING,
        "divided_by": [{"metric": "http_requests_total"}],
        "objective": 0.99,
        "window_seconds": 3600,
        "short_window_seconds": 300,
        "threshold": 14.4,
    },
    {"name": "own_counter", "metric": "parcels_lost_total", "threshold": 3, "where": {"kind": "=~box|bag", "size": "large"}},
]
"""A rule of each kind that settings can declare."""


REQUESTS = {"metric": "http_requests_total", "divided_by": [{"metric": "http_requests_total"}]}
UNTESTABLE = [
    {"name": "never", "metric": "http_requests_total", "condition": "<", "threshold": 0},
    {"name": "beyond", "metric": "http_request_duration_seconds", "statistic": "p95", "threshold": 60},
    {"name": "more_than_all", **REQUESTS, "where": FAILING, "threshold": 2},
    {"name": "all_of_it", **REQUESTS, "threshold": 0.5},
    {"name": "less_than_none", **REQUESTS, "where": FAILING, "condition": "<", "threshold": 0},
    {"name": "filled_in", "metric": "http_requests_total", "threshold": 1, "labels": {"route": "{{ $labels.route }}"}},
    {"name": "strange", "metric": "http_requests_total", "where": {"route": "=~x{7}"}, "threshold": 1},
]
"""Rules of which no example can be given."""


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write what is exported for the demo."""
    return write(FILES, tmp_path_factory.mktemp("demo"))


@pytest.mark.parametrize("test", [path for path in FILES if "/tests/" in path])
def test_every_rule_passes_its_test(exported: Path, test: str):
    """Just below its threshold a rule is silent, just above it fires, and it ends; so it does when its series disappear."""
    done = promtool(exported, exported / test)
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_service_is_a_job():
    """Prometheus looks every 15 seconds, tells services apart by a label, and shows the route under its other name."""
    written = prometheus.configuration(SERVICES)
    assert written["global"] == {"scrape_interval": "15s", "evaluation_interval": "15s"}
    assert written["alerting"]["alertmanagers"][0]["static_configs"][0]["targets"] == ["alertmanager:9093"]
    jobs = {job["job_name"]: job for job in written["scrape_configs"]}
    assert [*jobs] == [*(one.service.name for one in SERVICES), "prometheus", "alertmanager", "node", "fluent-bit"]
    assert jobs["fluent-bit"]["metrics_path"] == "/api/v2/metrics/prometheus"
    for one in SERVICES:
        job, name = jobs[one.service.name], one.service.name
        assert job["static_configs"] == [{"targets": [f"{name}:9090"], "labels": {"service": name}}]
        assert job["metric_relabel_configs"] == [{"source_labels": ["route"], "regex": "(.+)", "target_label": "path"}]
        assert "metrics_path" not in job
    other = prometheus.configuration([service(metrics={"path": "/numbers"})])["scrape_configs"][0]
    assert (other["metrics_path"], other["static_configs"][0]["targets"]) == ("/numbers", ["shop:8000"])


def test_every_rule_has_a_test(exported: Path):
    """No alert is exported without one, and without another in which its series disappear."""
    tested = Counter(
        test["name"]
        for path in (exported / "prometheus/tests").glob("*.yml")
        for test in yaml.safe_load(path.read_text())["tests"]
    )
    names = Counter(alert.name for alert in alerts(SERVICES))
    assert tested == names + Counter({f"{name}: its series disappear": number for name, number in names.items()})


SCRAPED = {
    job["static_configs"][0]["labels"]["service"]: job["job_name"]
    for job in prometheus.configuration(SERVICES)["scrape_configs"]
}
"""By the label `service`, the jobs of everything that the exported configuration scrapes."""


@pytest.mark.parametrize("how", ["stale", "0x60", "0x1 stale"])
def test_whatever_is_scraped_is_missed_when_it_goes(exported: Path, tmp_path: Path, how: str):
    """Each target that stops to answer, or that Prometheus no longer knows, makes one alert of its own, and none of others."""
    tests = [
        {
            "interval": "1m",
            "input_series": [
                {
                    "series": f'up{{job="{job}", service="{service}", instance="one"}}',
                    "values": f"1x30 {how}" if service == lost else "1x90",
                }
                for service, job in SCRAPED.items()
            ],
            "promql_expr_test": [
                {"expr": DOWN, "eval_time": "30m", "exp_samples": []},
                {"expr": DOWN, "eval_time": "60m", "exp_samples": [{"labels": f'{{service="{lost}"}}', "value": 1}]},
            ],
        }
        for lost in SCRAPED
    ]
    written = [yaml.safe_load(path.read_text()) for path in (exported / "prometheus/rules").glob("*.yml")]
    groups = [group for each in written for group in each["groups"]]
    for group in groups:
        # The others are not asked about, and take long.
        group["rules"] = [rule for rule in group["rules"] if rule.get("alert", "").endswith("Down")]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": groups}))
    rules = [str(tmp_path / "rules.yml")]
    (tmp_path / "gone.yml").write_text(yaml.safe_dump({"rule_files": rules, "evaluation_interval": "1m", "tests": tests}))
    done = run("promtool", "test", "rules", tmp_path / "gone.yml")
    assert done.returncode == 0, done.stdout + done.stderr


def test_programs_that_nobody_runs_are_neither_scraped_nor_missed():
    """`export.monitored_by` leaves out what there is not, in the configuration and among the alerts."""
    alone = [service(metrics={"packs": ["runtime"]}, export={"monitored_by": ["alertmanager"]})]
    assert [job["job_name"] for job in prometheus.configuration(alone)["scrape_configs"]] == ["shop", "alertmanager"]
    named = [alert.name for alert in alerts(alone)]
    assert named == ["ServiceDown", "AlertmanagerDown", "AlertmanagerNotificationsFailed"]


def test_prometheus_takes_configuration_and_rules(exported: Path):
    """The tool of Prometheus finds nothing wrong with any of them."""
    done = run("promtool", "check", "config", exported / "prometheus/prometheus.yml")
    assert done.returncode == 0, done.stderr
    assert f"{len([path for path in FILES if '/rules/' in path])} rule files found" in done.stdout
    checked = run("promtool", "check", "rules", *(exported / "prometheus/rules").glob("*.yml"))
    assert checked.returncode == 0, checked.stderr


@pytest.mark.parametrize(
    ("rules", "alert", "found", "other"),
    [
        ("sage-critical", "HighSessionFailureRate", r"> 0\.1$", "> 0.105"),
        ("sage-critical", "HighSessionFailureRate", r"> 0\.1$", "> 0.095"),
        ("sage-critical", "ReplayAttacksDetected", "replay_attacks_detected", "replay_attacks"),
        ("sage-critical", "DIDResolutionFailure", r"sum by \(service, chain\)", "sum by (service)"),
        ("sage-critical", "SAGEBackendDown", r" or absent.*", ""),
        ("sage-warning", "HighEncryptionLatency", "0.95", "0.5"),
        ("sage-warning", "HandshakeFailures", 'status="failure"', 'status="success"'),
        ("sage-warning", "EncryptionSlowdown", "_bucket", ""),
        ("sage-warning", "HighMemoryForecast", r"> 10+$", "> 920000000"),
        ("availability", "HighErrorRate", r"sum by \(service\) ", ""),
        ("availability", "ServiceDown", "== 0", "== 1"),
        ("availability", "ServiceDown", r" or absent.*", ""),
        ("monitoring", "NodeExporterDown", r" or absent.*", ""),
        ("monitoring", "Watchdog", "== 1", ">= 0"),
        ("logs", "LogShipperLosesLines", "dropped", "errors"),
        ("security", "SecurityEventsHigh", "> 20", "> 30"),
        ("performance", "HighDiskUsage", "avail", "size"),
        ("performance", "HighCPUUsage", "100 - ", ""),
        ("business", "NoTextbooksCreated", "== 0", "== 1"),
        ("customer-id", "HighLatency", "_sum", "_count"),
        ("result", "CircuitBreakerOpen", "== 1", "== 0"),
        ("result", "ResultHighErrorRate", "$", " or absent(result_failure_total)"),
        ("slo", "ErrorBudgetBurnFast", r"0\.0144", "0.0152"),
        ("slo", "ErrorBudgetBurnFast", "5m", "30m"),
        ("slo-long", "ErrorBudgetBurnSlow", "2h", "1d"),
        ("slo", "SlaViolation", r"(99\.9|(?<=> bool )0\.1)(?= or)", "50"),
    ],
)  # fmt: skip
def test_a_rule_that_is_another_fails_its_test(tmp_path: Path, rules: str, alert: str, found: str, other: str):
    """The tests notice a wrong threshold, metric, label, statistic or operator, and an alert that series leave behind."""
    path = f"prometheus/rules/{rules.removesuffix('-long')}.yml"
    written = yaml.safe_load(FILES[path])
    judged = next(rule for rule in written["groups"][0]["rules"] if rule.get("alert") == alert)
    changed = re.sub(found, other, judged["expr"])
    assert changed != judged["expr"]
    judged["expr"] = changed
    tests = with_tests_alone(f"prometheus/tests/{rules}.yml", {alert, f"{alert}: its series disappear"})
    folder = write({path: yaml.safe_dump(written), **tests}, tmp_path)
    done = promtool(folder)
    assert done.returncode != 0
    assert "FAILED" in done.stdout + done.stderr
    assert alert in done.stdout + done.stderr


def with_tests_alone(path: str, names: Container[str]) -> dict[str, str]:
    """Take the tests of some names out of a file, for they are what has to notice, and all of them take long."""
    written = yaml.safe_load(FILES[path])
    tests = [test for test in written["tests"] if test["name"] in names]
    assert tests
    return {path: yaml.safe_dump({**written, "tests": tests})}


@pytest.mark.parametrize("seconds", ["0s", "4h"])
def test_a_rule_that_waits_for_another_time_fails_its_test(tmp_path: Path, seconds: str):
    """The tests notice an alert that fires as soon as its condition holds, though it has to hold for a while, or later."""
    waiting, files = set(), {}
    for path in (path for path in FILES if "/rules/" in path):
        written = yaml.safe_load(FILES[path])
        rules = [rule for group in written["groups"] for rule in group["rules"] if rule.get("for", "0s") != "0s"]
        names = {rule["alert"] for rule in rules}
        for rule in rules:
            rule["for"] = seconds
        if rules:
            files |= {path: yaml.safe_dump(written), **with_tests_alone(path.replace("/rules/", "/tests/"), names)}
        waiting |= names
    done = promtool(write(files, tmp_path))
    assert {*re.findall(r'expr: "sum.*alertname=."(\w+).", alertstate=."pending', done.stdout + done.stderr)} == waiting


def test_rules_of_the_settings_come_with_tests(tmp_path: Path):
    """Whatever a service's settings declare, is exported and passes a test that was made up for it."""
    files = prometheus.files([service(alerts={"rules": OWN}, metrics={"packs": []}), service("other")])
    folder = write(files, tmp_path)
    own = folder / "prometheus/tests/own.yml"
    names = [name for rule in OWN for name in (rule["name"], f"{rule['name']}: its series disappear")]
    assert [test["name"] for test in yaml.safe_load(own.read_text())["tests"]] == names
    done = promtool(folder, own)
    assert done.returncode == 0, done.stdout + done.stderr
    rules = yaml.safe_load((folder / "prometheus/rules/own.yml").read_text())["groups"][0]["rules"]
    assert {rule["alert"]: rule["keep_firing_for"] for rule in rules if "keep_firing_for" in rule} == {"average": "2m"}
    for rule in rules:
        assert rule["labels"]["service"] == "shop"
        assert 'service="shop"' in rule["expr"]


@pytest.mark.parametrize("rule", UNTESTABLE, ids=lambda rule: rule["name"])
def test_a_rule_that_no_series_can_be_made_up_for_is_exported_all_the_same(tmp_path: Path, rule: dict[str, object]):
    """The file with the tests says which rule has none."""
    folder = write(prometheus.files([service(alerts={"rules": [rule]})]), tmp_path)
    text = (folder / "prometheus/tests/own.yml").read_text()
    assert f"# No series could be made up for {rule['name']}." in text
    assert rule["name"] in (folder / "prometheus/rules/own.yml").read_text()
    assert promtool(folder, folder / "prometheus/tests/own.yml").returncode == 0


@pytest.mark.parametrize("condition", AlertCondition)
@pytest.mark.parametrize("threshold", [-3.0, 0.0, 0.05, 5.0, 1e9])
def test_scenes_are_on_either_side_of_a_threshold(condition: AlertCondition, threshold: float):
    """The first value does not meet the condition, the second does, and both are close."""
    quiet, loud = values_around(condition, threshold)
    assert not condition.holds(quiet, threshold)
    assert condition.holds(loud, threshold)
    assert abs(quiet - threshold) <= max(1, abs(threshold) * 0.02)

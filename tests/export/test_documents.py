"""Documents for those who are on call: a page per alert, and queries of metrics and fields that exist."""

import json
import re
from pathlib import Path

import pytest
import yaml
from demo import ROOT, SERVICES

from queries import fenced, named
from sage_fastapi_obs.export import prometheus

RUNBOOKS = ROOT / "docs/runbooks"
RULES = [
    rule
    for path, text in prometheus.files(SERVICES).items()
    if path.startswith("prometheus/rules/")
    for group in yaml.safe_load(text)["groups"]
    for rule in group["rules"]
    if "alert" in rule
]
ALERTS = sorted({rule["alert"] for rule in RULES})
GENERAL = {"service-down", "performance-degraded", "diagnosis-workflow"}
PAGES = sorted([*(ROOT / "queries").glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def test_every_alert_has_a_runbook_and_every_runbook_an_alert():
    """The page that an alert's annotation names is there, and none is left over."""
    assert {page.stem for page in RUNBOOKS.glob("*.md")} == {*ALERTS, *GENERAL}
    for rule in RULES:
        assert rule["annotations"]["runbook_url"].endswith(f"docs/runbooks/{rule['alert']}.md")


@pytest.mark.parametrize("alert", ALERTS)
def test_a_runbook_helps(alert: str):
    """It says what the alert means, what to look at, what it may be and what to do; its dashboards exist."""
    text = (RUNBOOKS / f"{alert}.md").read_text()
    assert re.findall(r"^#+ (.+)$", text, re.MULTILINE)[:4] == [alert, "First look", "Likely causes", "What to do"]
    assert len(re.findall(r"^- ", text, re.MULTILINE)) >= 2
    assert len(re.findall(r"^\d\. ", text, re.MULTILINE)) >= 2
    boards = re.findall(r"/d/([\w-]+)\)", text)
    assert boards
    assert all((ROOT / f"grafana/dashboards/{board}.json").exists() for board in boards)


@pytest.mark.parametrize("alert", ALERTS)
def test_a_runbook_looks_at_what_the_alert_is_about(alert: str):
    """At least one of its first queries is about a metric of the alert's expression."""
    watched = series(" ".join(rule["expr"] for rule in RULES if rule["alert"] == alert))
    assert watched & series(" ".join(fenced(RUNBOOKS / f"{alert}.md", "promql")))


def series(text: str) -> set[str]:
    """Find names of metrics, without what a histogram adds."""
    words = {re.sub(r"_(bucket|sum|count)$", "", word) for word in re.findall(r"[a-z]\w+(?::\w+)*", text)}
    return {word for word in words if ("_" in word or word == "up") and word != "histogram_quantile"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_queries_of_a_page_speak_of_metrics_that_exist(page: Path):
    """Names, labels and values in the page's PromQL are in the catalog."""
    for query in fenced(page, "promql"):
        assert named(query) == [], query


def test_a_name_that_does_not_exist_is_noticed():
    """The check above can fail: names, labels, groupings and values that do not exist are found."""
    wrong = {
        "sum(rate(http_request_total[5m]))": ["no metric http_request_total"],
        'up{path="/"}': ["up: no label path"],
        "sum by (path) (rate(http_requests_total[5m]))": ["by: no label path"],
        'sage_sessions_created_total{status="error"}': ["status=error is no value of sage_sessions_created_total"],
        "service:http_requests:rate5m / foo": ["no metric foo"],
    }
    assert {query: named(query) for query in wrong} == wrong


def test_the_template_of_elasticsearch_knows_the_fields_of_a_line():
    """Fields that every line may have are mapped, objects as objects, and indices go after 30 days."""
    folder = ROOT / "deploy/logging/elasticsearch"
    mapped = json.loads((folder / "index-template.json").read_text())["template"]["mappings"]["properties"]
    documented = set(re.findall(r"^\| `(\w+)` \| `FIELD_\w+` \|", (ROOT / "docs/logs.md").read_text(), re.MULTILINE))
    assert documented
    assert documented | {"timestamp", "level", "message", "service", "duration_ms", "error", "data", "context"} <= set(mapped)
    assert mapped["service"]["fields"]["keyword"]["type"] == "keyword"
    policy = json.loads((folder / "ilm-policy.json").read_text())["policy"]["phases"]
    assert policy["delete"]["min_age"] == "30d"


def test_the_config_map_of_fluentd_is_the_file():
    """Kubernetes gets the same configuration as the compose stack."""
    mapped = yaml.safe_load((ROOT / "deploy/k8s/fluentd-config.yaml").read_text())
    assert mapped["data"]["fluent.conf"] == (ROOT / "deploy/logging/fluentd.conf").read_text()


@pytest.mark.parametrize("path", sorted((ROOT / "deploy").rglob("*.y*ml")), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_for_others_is_yaml(path: Path):
    """Each document of the file has something in it."""
    assert all(yaml.safe_load_all(path.read_text()))


def test_lines_are_read_before_a_restart_loses_them():
    """The playbook for a service that is down reads logs first, in Kubernetes those of the last container, and with compose."""
    rows = re.findall(r"^\| .+ \| `(.+)` \| (.+) \|$", (RUNBOOKS / "service-down.md").read_text(), re.MULTILINE)
    for commands in zip(*rows, strict=True):
        first = [next(number for number, text in enumerate(commands) if word in text) for word in (" logs ", "restart")]
        assert first == sorted(first)
    assert "logs POD --tail=100 --previous" in (RUNBOOKS / "service-down.md").read_text()

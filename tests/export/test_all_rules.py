"""Which rules are exported for which settings, and what they say."""

import re
from itertools import chain

import pytest
from demo import SERVICES, service

from queries import NOT_OURS
from sage_fastapi_obs import Observability
from sage_fastapi_obs.alert_rules.exported_rule import ExportedRule
from sage_fastapi_obs.catalog import CATALOG, PACKS
from sage_fastapi_obs.errors import SettingsError
from sage_fastapi_obs.export import grafana, prometheus
from sage_fastapi_obs.export.all_rules import alerts, recordings

DOCUMENTED = {
    "ReplayAttacksDetected": ("sage_critical", "1m", "critical"),
    "HighSessionFailureRate": ("sage_critical", "5m", "critical"),
    "HighHandshakeErrorRate": ("sage_critical", "5m", "critical"),
    "SageHighErrorRate": ("sage_critical", "5m", "critical"),
    "DIDResolutionFailure": ("sage_critical", "5m", "critical"),
    "BlockchainUnavailable": ("sage_critical", "5m", "critical"),
    "SAGEBackendDown": ("sage_critical", "1m", "critical"),
    "SignatureVerificationFailureHigh": ("sage_warning", "5m", "warning"),
    "HandshakeFailures": ("sage_warning", "2m", "warning"),
    "HighEncryptionLatency": ("sage_warning", "5m", "warning"),
    "EncryptionSlowdown": ("sage_warning", "5m", "warning"),
    "SlowHandshakes": ("sage_warning", "5m", "warning"),
    "SessionExpirationHigh": ("sage_warning", "5m", "warning"),
    "SessionLeakSuspected": ("sage_warning", "10m", "warning"),
    "HighMemoryUsage": ("sage_warning", "5m", "warning"),
    "HighMemoryForecast": ("sage_warning", "30m", "warning"),
    "ServiceDown": ("availability", "2m", "critical"),
    "CustomerIdServiceDown": ("customer-id-alerts", "1m", "critical"),
    "HighErrorRate": ("availability", "5m", "critical"),
    "HighResponseTime": ("performance", "10m", "warning"),
    "HighLatency": ("customer-id-alerts", "1m", "critical"),
    "HighCPUUsage": ("performance", "10m", "warning"),
    "NoTextbooksCreated": ("business", "2h", "warning"),
    "HighAITokenUsage": ("business", "0s", "warning"),
    "ResultHighErrorRate": ("result", "0s", "warning"),
    "ResultCriticalSystemFailure": ("result", "0s", "critical"),
    "ResultSlowResponse": ("result", "0s", "warning"),
    "CircuitBreakerOpen": ("result", "0s", "critical"),
    "SlaErrorRateViolation": ("result", "0s", "warning"),
}
"""All alerts that were asked for: group, how long the condition has to hold, and severity."""
ADDED = {"SlaViolation": ("slo", "0s", "warning")}
ADDED |= {"ErrorBudgetBurnFast": ("slo", "0s", "critical"), "ErrorBudgetBurnSlow": ("slo", "0s", "warning")}
ADDED |= {"HighDiskUsage": ("performance", "10m", "warning")}
ADDED |= {
    "FailedLoginsHigh": ("security", "0s", "warning"),
    "LoginAttackSuspected": ("security", "0s", "critical"),
    "RateLimitViolationsHigh": ("security", "0s", "warning"),
    "SecurityEventsHigh": ("security", "0s", "critical"),
}
WATCHING = {
    "Watchdog": ("monitoring", "0s", "info"),
    "PrometheusDown": ("monitoring", "5m", "critical"),
    "PrometheusReloadFailed": ("monitoring", "5m", "warning"),
    "PrometheusRuleFailures": ("monitoring", "0s", "critical"),
    "PrometheusAlertsDropped": ("monitoring", "0s", "critical"),
    "PrometheusStorageFailures": ("monitoring", "0s", "warning"),
    "AlertmanagerDown": ("monitoring", "5m", "critical"),
    "AlertmanagerNotificationsFailed": ("monitoring", "5m", "critical"),
    "NodeExporterDown": ("monitoring", "5m", "warning"),
    "LogShipperDown": ("logs", "5m", "warning"),
    "LogShipperLosesLines": ("logs", "0s", "warning"),
}
"""Alerts about the programs that watch."""
THRESHOLDS = {
    "ReplayAttacksDetected": r"\[5m\]\)\) > 0$",
    "HighSessionFailureRate": r"> 0\.1$",
    "HighHandshakeErrorRate": r"> 0\.1$",
    "SageHighErrorRate": r"> 0\.05$",
    "DIDResolutionFailure": r"> 0\.5$",
    "BlockchainUnavailable": r"> 0\.8$",
    "SignatureVerificationFailureHigh": r'\{operation="verify"\}\[5m\]\)\) > 1$',
    "HandshakeFailures": r'\{status="failure"\}\[5m\]\)\) > 10$',
    "HighEncryptionLatency": r'\{operation="encrypt"\}\[5m\]\)\)\) > 0\.01$',
    "EncryptionSlowdown": r'\{operation="encrypt"\}\[5m\]\)\)\) > 0\.1$',
    "SlowHandshakes": r"> 1$",
    "SessionExpirationHigh": r"> 10$",
    "SessionLeakSuspected": r"> 10000$",
    "HighMemoryUsage": r'\{job="sage-backend"\}\) > 1000000000$',
    "HighMemoryForecast": r"predict_linear\(sage_sessions_active\[1h\], 14400\).* > 1000000000$",
    "HighErrorRate": r'status=~"5\.\."\}\[5m\].*> 0\.05$',
    "HighResponseTime": r"histogram_quantile\(0\.95.*> 1$",
    "HighLatency": r'_sum\{service="customer-id"\}.*> 1$',
    "HighCPUUsage": r"> 80$",
    "HighAITokenUsage": r"\[1h\]\)\) > 1000000$",
    "ResultHighErrorRate": r"\[5m\]\)\) > 50$",
    "ResultCriticalSystemFailure": r"\[5m\]\)\) > 100$",
    "ResultSlowResponse": r"> 5$",
    "CircuitBreakerOpen": r"== 1$",
    "SlaErrorRateViolation": r"\[1h\].*> 0\.001$",
}
WORDS = {
    "predict_linear",
    "sum",
    "by",
    "rate",
    "increase",
    "histogram_quantile",
    "max",
    "min",
    "avg",
    "count",
    "on",
    "and",
    "or",
    "vector",
    "absent",
}
WORDS |= {"unless", "resets", "time"}
WORDS |= {"bool", "le", "min_over_time", "avg_over_time", "max_over_time"}
OF_THE_SCRAPE = {"service", "job", "instance", "le"}
"""Labels that Prometheus gives."""
ALONE = {"monitored_by": ()}
"""A service that nothing watches: only its own rules are exported."""
RULES = [*alerts(SERVICES)]
DASHBOARDS = {board.name for board in grafana.dashboards(SERVICES)}


def named(name: str) -> ExportedRule:
    return next(alert for alert in RULES if alert.name == name)


def test_all_documented_alerts_are_exported():
    """The demo has every alert that was asked for, in its group, with its duration and severity, and few more."""
    entries = {
        entry["alert"]: (group["name"], entry["for"], entry["labels"]["severity"])
        for group in prometheus.rule_groups(SERVICES)
        for entry in group["rules"]
        if "alert" in entry
    }
    assert entries == DOCUMENTED | ADDED | WATCHING


@pytest.mark.parametrize(("name", "pattern"), THRESHOLDS.items(), ids=THRESHOLDS)
def test_thresholds_are_the_documented_ones(name: str, pattern: str):
    """Window, choice of labels and threshold of each rule are those that were asked for."""
    assert re.search(pattern, named(name).expr), named(name).expr


@pytest.mark.parametrize(
    "rule",
    [*[(one.name, one.expr) for one in RULES], *[(one["record"], one["expr"]) for one in recordings(SERVICES)]],
    ids=lambda rule: rule[0],
)
def test_rules_know_only_what_the_catalog_knows(rule: tuple[str, str]):
    """Every metric that an expression names is in the catalog, and has the labels by which it is chosen or told apart."""
    expr = rule[1]
    known = {metric.name: metric for metric in CATALOG}
    recorded = {one["record"] for one in recordings(SERVICES)}
    bare = re.sub(r'"[^"]*"|\[\w+\]|offset \w+', "", expr)
    labels = {*re.findall(r"(\w+)(?==|!=)", re.sub(r"[^{]*\{([^}]*)\}[^{]*", r"\1,", bare) if "{" in bare else "")}
    grouped = chain.from_iterable(re.findall(r"\w+", one) for one in re.findall(r"(?:by|on) \(([^)]*)\)", bare))
    unbraced = re.sub(r"\{[^}]*\}|(?:by|on) \([^)]*\)", "", bare)
    names = {one for one in re.findall(r"[a-zA-Z_:][\w:]*", unbraced) if one not in WORDS}
    assert names
    ours = names - {*NOT_OURS} - recorded
    metrics = [known.get(re.sub(r"_(bucket|sum|count)$", "", one)) or known.get(one) for one in ours]
    assert all(metrics), names
    of_others = (NOT_OURS[one] for one in names & {*NOT_OURS})
    allowed = OF_THE_SCRAPE.union(*(metric.labels for metric in metrics), *of_others)
    assert {*labels, *grouped} <= allowed, (labels, allowed)
    assert "service" not in set().union(*(metric.labels for metric in metrics))


@pytest.mark.parametrize("alert", RULES, ids=lambda alert: alert.name)
def test_every_alert_says_what_to_do(alert: ExportedRule):
    """Each has its labels, two different texts, a runbook of its own name and a dashboard."""
    entry = alert.entry(prometheus.links(alert, SERVICES, DASHBOARDS))
    assert {"severity", "system", "seed_alert"} <= set(entry["labels"])
    texts = entry["annotations"]
    assert texts["summary"] != texts["description"] != ""
    assert texts["runbook_url"].endswith(f"/{alert.name}.md")
    assert re.fullmatch(r"http://localhost:3000/d/[a-z-]+", texts["dashboard"])
    assert alert.test is not None


@pytest.mark.parametrize("packs", [["http", "runtime", "sage-core"], ["sage-core"], ["http"], ["result"], []], ids="-".join)
def test_an_alert_leads_to_a_dashboard_that_there_is(packs: list[str]):
    """Where the dashboard of its system is not exported, that of any service is meant; where there is none, none is named."""
    services = [service(metrics={"packs": packs})]
    exported = {board.name for board in grafana.dashboards(services)}
    for alert in alerts(services):
        named = prometheus.links(alert, services, exported).get("dashboard", "").rpartition("/")[2]
        assert named in exported if "http" in packs else named in {*exported, ""}, alert.name


def test_words_for_the_same_in_other_places_are_kept():
    """Alerts that are called otherwise in process or were renamed carry the other name."""
    seeds = {alert.name: alert.seed for alert in RULES if alert.seed}
    assert seeds == {
        "ReplayAttacksDetected": "ReplayAttackDetected",
        "SageHighErrorRate": "HighErrorRate",
        "CustomerIdServiceDown": "ServiceDown",
        "ResultHighErrorRate": "high_error_rate",
        "ResultCriticalSystemFailure": "critical_system_failure",
        "ResultSlowResponse": "slow_api_response",
        "CircuitBreakerOpen": "circuit_breaker_activated",
        "SlaErrorRateViolation": "sla_violation",
        "SlaViolation": "sla_violation",
    }


def test_only_rules_of_packs_that_are_switched_on():
    """A service is told of nothing that it does not count."""
    assert [alert.name for alert in alerts([service(metrics={"packs": []}, export=ALONE)])] == ["ServiceDown"]
    assert alerts([service(metrics={"enabled": False, "packs": ["http", "sage"]})])[0].name == "ServiceDown"
    assert recordings([service(metrics={"packs": ["sage"]})]) == []
    for pack in PACKS:
        some = [
            alert
            for alert in alerts([service(metrics={"packs": [pack]}, export=ALONE)])
            if alert.name not in ("ServiceDown", "SAGEBackendDown")
        ]
        own = {metric.name for metric in PACKS[pack]}
        for alert in some:
            used = {re.sub(r"_(bucket|sum|count)$", "", one) for one in re.findall(r"\b[a-z_]{6,}\b(?=[{\[)])", alert.expr)}
            known = {metric.name for metric in CATALOG}
            assert used & known <= own, (pack, alert.name, used)


def test_the_first_part_of_sage_has_the_rules_of_its_metrics():
    """Who begins with handshakes and open sessions is told what these tell, and no more."""
    core = alerts([service(metrics={"packs": ["sage-core"]}, export={"team": "core"} | ALONE)])
    found = {alert.name for alert in core}
    of_core = {"HighHandshakeErrorRate", "SageHighErrorRate", "HandshakeFailures", "SlowHandshakes", "SessionLeakSuspected"}
    assert found == of_core | {"SAGEBackendDown"}
    assert {alert.labels["team"] for alert in core} == {"core"}


def test_the_team_of_an_alert_is_that_of_its_services():
    """A rule about services of one team names it, and one about several teams names none."""
    teams = {alert.name: alert.labels.get("team") for alert in RULES}
    assert teams["ReplayAttacksDetected"] == teams["SAGEBackendDown"] == "sage"
    assert teams["HighLatency"] == "customer-id"
    assert teams["NoTextbooksCreated"] == "textbook"
    assert teams["HighErrorRate"] is None


def test_services_that_promise_different_things_are_judged_apart():
    """Each has a rule with its own objective, labelled by its name; without an objective there is none."""
    strict, loose, silent = (
        service("strict", sla={"availability": 99.99}),
        service("loose", sla={"availability": 99}),
        service("silent", sla=dict.fromkeys(("availability", "error_rate", "response_time_p95_ms", "response_time_mean_ms"))),
    )
    found = [alert for alert in alerts([strict, loose, silent]) if alert.name == "ErrorBudgetBurnFast"]
    labels = [{"service": name, "window": window} for name in ("strict", "loose") for window in ("1h", "6h")]
    assert [alert.labels for alert in found] == labels
    assert 'ratio_rate1h{service="strict"} > 0.00144 and' in found[0].expr
    assert 'ratio_rate30m{service="loose"} > 0.06' in found[3].expr
    assert {alert.labels.get("service") for alert in alerts([strict, loose, silent]) if alert.name == "SlaViolation"} == {
        "strict",
        "loose",
    }
    assert not [alert for alert in alerts([silent]) if alert.group == "slo"]
    assert not [alert for alert in alerts([service(sla={"availability": 100})]) if alert.name.startswith("ErrorBudget")]


def test_rules_about_one_service_differ_by_their_labels():
    """Where two services have the same packs, no rule is there twice."""
    packs = {"packs": ["http", "runtime", "sage", "textbook", "result"]}
    both = [service("one", metrics=packs, sla={"availability": 99}), service("two", metrics=packs)]
    entries = [
        (rule["alert"], *sorted(rule["labels"].items()))
        for group in prometheus.rule_groups(both)
        for rule in group["rules"]
        if "alert" in rule
    ]
    assert len(set(entries)) == len(entries)
    down = [alert for alert in alerts(both) if alert.name in ("SAGEBackendDown", "HighMemoryUsage")]
    assert [alert.labels["service"] for alert in down] == ["one", "two"] * 2


def test_services_of_one_name_are_refused():
    """What is told of them could not be told apart."""
    with pytest.raises(SettingsError, match=r"two services are called 'shop': service\.name has to differ"):
        alerts([service(), service()])


def test_a_job_is_matched_as_it_is_called():
    """A name is no expression, unless the settings give one."""
    assert 'up{job=~"a\\\\.b"}' in alerts([service("a.b")])[0].expr
    both = alerts([service("a", export={"job": "a.*"}), service("c")])
    assert ['up{job=~"a.*"}' in both[0].expr, 'up{job=~"c"}' in both[1].expr] == [True, True]


def test_groups_are_in_the_order_in_which_they_are_shown():
    """Groups follow one another, each once."""
    shown = [group["name"] for group in prometheus.rule_groups(SERVICES)]
    assert shown == [
        *("sage_critical", "sage_warning", "availability", "performance", "business", "security", "customer-id-alerts"),
        *("result", "slo", "monitoring", "logs"),
    ]


def test_rules_that_are_judged_in_process_are_the_same_in_prometheus():
    """Each default rule is exported under its own name or as its seed, with the same threshold and duration."""
    shop = service(metrics={"packs": ["http", "result", "sage"]})
    exported = alerts([shop])
    judged = {rule.name: rule for rule in Observability(shop).status.alerts.rules}
    assert set(judged) <= {name for alert in exported for name in (alert.seed, alert.name)}
    for name, rule in judged.items():
        alert = next(one for one in exported if name == one.name or (name == one.seed and one.group.system == "result"))
        scale = 1000 if name == "slow_api_response" else 1
        assert (
            re.search(rf"{re.escape(rule.condition.value)} {rule.threshold / scale:g}$", alert.expr) or name == "sla_violation"
        )
        assert (alert.for_seconds, alert.severity) == (rule.for_seconds, rule.severity), name

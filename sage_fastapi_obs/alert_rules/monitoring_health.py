"""Whether alerting itself works: Prometheus, Alertmanager, the measuring of hosts, and the way of the log lines."""

from sage_fastapi_obs.alert_rules.any_service import down_alert
from sage_fastapi_obs.alert_rules.exported_rule import ExportedRule, RuleGroup, alert_from_rule, threshold_alert
from sage_fastapi_obs.alerting.expressions import Stat
from sage_fastapi_obs.alerting.rules import AlertCondition, AlertRule
from sage_fastapi_obs.catalog.monitoring_programs import Program, monitoring_programs
from sage_fastapi_obs.catalog.services import Services
from sage_fastapi_obs.settings import Severity

MONITORING = RuleGroup("monitoring", "Alerting itself: Prometheus, Alertmanager and node-exporter", "monitoring", weight=70)
_LOGS = RuleGroup("logs", "The way of the log lines: Fluent Bit", "logs", weight=71)
_HOUR = 3600.0
_PROMETHEUS, _ALERTMANAGER, _NODE_EXPORTER, _FLUENT_BIT = "prometheus", "alertmanager", "node-exporter", "fluent-bit"
_DOWN: dict[str, tuple[str, Severity]] = {
    _PROMETHEUS: ("PrometheusDown", "critical"),
    _ALERTMANAGER: ("AlertmanagerDown", "critical"),
    _NODE_EXPORTER: ("NodeExporterDown", "warning"),
    _FLUENT_BIT: ("LogShipperDown", "warning"),
}


def _equal(name: str, expression: Stat, value: float, severity: Severity, for_seconds: float = 0) -> ExportedRule:
    rule = AlertRule(
        name=name,
        expression=expression,
        condition=AlertCondition.EQUAL,
        threshold=value,
        for_seconds=for_seconds,
        severity=severity,
    )
    return alert_from_rule(rule, MONITORING, target={"service": _PROMETHEUS})


def _failed(name: str, program: str, expression: Stat, severity: Severity, minutes: float = 0) -> ExportedRule:
    target = {"service": program}
    return threshold_alert(name, expression, 0, group=_group(program), severity=severity, minutes=minutes, target=target)


def _group(program: str) -> RuleGroup:
    return _LOGS if program == _FLUENT_BIT else MONITORING


_HEALTH = {
    _PROMETHEUS: (
        _equal("Watchdog", Stat("up", "last", where={"service": _PROMETHEUS}), 1, "info").about(
            "Alerting works", "This alert always fires: somebody outside notices when it no longer arrives."
        ),
        _equal(
            "PrometheusReloadFailed",
            Stat("prometheus_config_last_reload_successful", "last", by=("instance",)),
            0,
            "warning",
            300,
        ).about("Prometheus refuses its configuration", "{{ $labels.instance }} keeps the one before: changes have no effect."),
        _failed(
            "PrometheusRuleFailures",
            _PROMETHEUS,
            Stat("prometheus_rule_evaluation_failures_total", "increase", by=("rule_group",)),
            "critical",
        ).about("Prometheus cannot judge rules", "Rules of {{ $labels.rule_group }} fail: their alerts cannot fire."),
        _failed(
            "PrometheusAlertsDropped", _PROMETHEUS, Stat("prometheus_notifications_dropped_total", "increase"), "critical"
        ).about("Alerts do not reach Alertmanager", "{{ $value | humanize }} were dropped in 5 minutes."),
        _failed(
            "PrometheusStorageFailures",
            _PROMETHEUS,
            Stat("prometheus_tsdb_compactions_failed_total", "increase", _HOUR),
            "warning",
        ).about("Prometheus cannot compact its store", "{{ $value | humanize }} attempts failed in an hour: look at its disk."),
    ),
    _ALERTMANAGER: (
        _failed(
            "AlertmanagerNotificationsFailed",
            _ALERTMANAGER,
            Stat("alertmanager_notifications_failed_total", "increase", by=("integration",)),
            "critical",
            minutes=5,
        ).about(
            "Alertmanager cannot notify by {{ $labels.integration }}",
            "{{ $value | humanize }} notifications failed in 5 minutes: somebody is not told.",
        ),
    ),
    _NODE_EXPORTER: (),
    _FLUENT_BIT: (
        _failed(
            "LogShipperLosesLines",
            _FLUENT_BIT,
            Stat("fluentbit_output_dropped_records_total", "increase", by=("name",)),
            "warning",
        ).about("Log lines are lost", "{{ $value | humanize }} did not reach {{ $labels.name }} in 5 minutes."),
    ),
}
"""By program, the alerts about what it tells of itself."""


def alerts(services: Services) -> list[ExportedRule]:
    """Return the alerts of the programs that watch the services."""
    return [alert for program in monitoring_programs(services) for alert in (_down(program), *_HEALTH[program.name])]


def _down(program: Program) -> ExportedRule:
    name, severity = _DOWN[program.name]
    target = {"job": program.job, "service": program.name, "instance": f"one:{program.port}"}
    return down_alert(name, _group(program.name), target, selector_of={"service": program.name}, minutes=5, severity=severity)

"""Metrics, alerts and service levels under the names of the RFS interface. They act on the active `Observability`.

Values are in the units of their names: milliseconds, mebibytes, percent. Without an `Observability`, nothing is recorded,
summaries are empty, and rules are kept for one that starts.
"""

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, get_args

from typing_extensions import TypedDict

from sage_fastapi_obs.active import active_observability, count_internal_error
from sage_fastapi_obs.alerting.alerts import Alert
from sage_fastapi_obs.alerting.default_rules import OPEN_BREAKER
from sage_fastapi_obs.alerting.expressions import kind_in_catalog
from sage_fastapi_obs.alerting.rfs_summary import DashboardData, MetricsSummary, dashboard_data, rfs_summary
from sage_fastapi_obs.alerting.rules import AlertCondition, AlertRule, Callback
from sage_fastapi_obs.alerting.service_status import ServiceStatus
from sage_fastapi_obs.alerting.sla import RESULTS
from sage_fastapi_obs.alerting.summary import SlowOperation, slow_operations
from sage_fastapi_obs.alerting.window import LONGEST_SECONDS
from sage_fastapi_obs.errors import SettingsError
from sage_fastapi_obs.legacy.metric_names import MEBIBYTE
from sage_fastapi_obs.metrics.memory import resident_bytes
from sage_fastapi_obs.monitoring import notifiers, process_state
from sage_fastapi_obs.monitoring.rfs_expression import rfs_expression
from sage_fastapi_obs.observability import Observability
from sage_fastapi_obs.operations.count import set_gauge
from sage_fastapi_obs.operations.operation import operation
from sage_fastapi_obs.operations.operation_run import OperationRun
from sage_fastapi_obs.packs.result.logging import override_options
from sage_fastapi_obs.packs.result.named_metrics import (
    MetricType,
    collect_flux_result_metric,
    collect_metric,
    collect_result_metric,
)
from sage_fastapi_obs.packs.result.results import Failure, FluxResult, MonoResult, Result, Success
from sage_fastapi_obs.request.header_override import header_override
from sage_fastapi_obs.settings import Settings, Severity

__all__ = [
    "SLA_TARGETS",
    "Alert",
    "AlertCondition",
    "AlertRule",
    "DashboardData",
    "Failure",
    "FluxResult",
    "MetricType",
    "MetricsSummary",
    "MonoResult",
    "Result",
    "SlaCheck",
    "Success",
    "activate_circuit_breaker",
    "calculate_failure_rate",
    "check_sla_compliance",
    "circuit_breaker_monitoring",
    "collect_flux_result_metric",
    "collect_metric",
    "collect_result_metric",
    "create_alert_rule",
    "evaluate_alerts",
    "find_slow_operations",
    "get_dashboard_data",
    "get_memory_usage",
    "get_metrics_summary",
    "performance_tracker",
    "remove_alert_rule",
    "reset_circuit_breaker",
    "reset_monitoring",
    "setup_default_alerts",
    "start_monitoring",
    "stop_monitoring",
]

SLA_TARGETS: Mapping[str, float] = {"availability": 99.9, "response_time_p95": 1000.0, "error_rate": 0.1}
"""The targets by default: shares in percent, times in milliseconds."""
_TARGETS = {"response_time_p95": "response_time_p95_ms", "response_time_mean": "response_time_mean_ms"}
OPEN, CLOSED = 1.0, 0.0


def start_monitoring(interval_seconds: float = 15.0) -> None:
    """Judge alert rules from now on; once is enough.

    A started `Observability` does so by itself, at the interval of its settings. In a process without one, such as a script,
    one is started from the environment; it closes when an application's starts. Raises `SettingsError`.
    """
    process_state.start(interval_seconds)


def stop_monitoring() -> None:
    """Judge no more rules, and close what `start_monitoring` made; once is enough. Waits for what is on its way."""
    process_state.stop()


def reset_monitoring() -> None:
    """Go back to how a fresh process is, as tests want it.

    Stops what `start_monitoring` made, takes back the rules that were added, and forgets what was configured for results. What
    an application's `Observability` has recorded stays: give each test its own.
    """
    process_state.reset()
    override_options(None)
    header_override.set(None)


def create_alert_rule(
    name: str,
    metric_name: str,
    condition: AlertCondition,
    threshold: float,
    callback: Callback | None = None,
    *,
    statistic: str | None = None,
    window_minutes: float = 5.0,
    severity: Severity = "warning",
    cooldown_seconds: float = 300.0,
) -> AlertRule:
    """Add a rule, in place of another by this name, and return it.

    It compares a figure of the last `window_minutes` with the threshold, in the unit of the metric's name: what a counter has
    risen by, the 95th percentile of a histogram, the last value of a gauge, or another `statistic`. `callback`, sync or async,
    is called once when the alert begins, with a dictionary that has `name`, `metric_name`, `condition`, `threshold`,
    `current_value`, `timestamp` and `severity`, and not again within `cooldown_seconds`. Raises `SettingsError`,
    also for a statistic that the metric is known not to have. A metric need not exist yet: see `problem` in `alert_rules` of
    `get_dashboard_data()`, and `observability_rules_without_data`.
    """
    if severity not in get_args(Severity):
        raise SettingsError(f"rule {name!r}: {severity!r} is no severity: use {', '.join(get_args(Severity))}")
    rule = AlertRule(
        name=name,
        expression=rfs_expression(metric_name, statistic, window_minutes * 60),
        metric_name=metric_name,
        condition=AlertCondition(condition),
        threshold=threshold,
        severity=severity,
        cooldown_seconds=cooldown_seconds,
        callbacks=() if callback is None else (callback,),
    )
    rule.check(kind_in_catalog)
    return process_state.add_rule(rule)


def remove_alert_rule(name: str) -> bool:
    """Remove a rule and its alerts; return whether there was one."""
    return process_state.remove_rule(name)


def setup_default_alerts() -> None:
    """Add the rules that come with the package, but not in place of others of their names.

    They are there already where `alerts.defaults` is on.
    """
    process_state.add_default_rules()


def evaluate_alerts() -> list[Alert]:
    """Judge all rules now; return the alerts that have changed state."""
    found = active_observability()
    return [] if found is None else found.status.evaluate()


def get_metrics_summary(time_range_minutes: float = 60) -> MetricsSummary:
    """Summarise the last minutes; 0 and less are one minute, and more than 10080 are a week.

    `counters`: what each has risen by. `gauges`: last values. `histograms`: `count`, `sum`, `min`, `max`, `mean`, `p50`, `p95`
    and `p99`. Metrics have the names that they were collected under, and their units; others are in milliseconds and mebibytes.
    `operations`: `success`, `failure`, `failure_rate` (0 to 1), and `mean`, `p95`, `max` in milliseconds with `count`. Label
    sets are added up; of gauges that are shares the mean is shown, of those that are states the highest. The metrics of
    results are always there. `/monitoring/metrics` answers the same.
    """
    status = _status()
    status.refresh()
    return rfs_summary(status, _seconds(time_range_minutes))


def get_dashboard_data() -> DashboardData:
    """Return what a dashboard shows: `metrics_summary`, `active_alerts`, `alert_rules` and `system_status`.

    `/monitoring/dashboard` answers the same.
    """
    status = _status()
    status.refresh()
    return dashboard_data(status)


def _status() -> ServiceStatus:
    """Return the status of the active `Observability`; without one, that of one that records nothing."""
    found = active_observability() or Observability(Settings(metrics={"enabled": False}, alerts={"defaults": False}))
    status: ServiceStatus = found.status
    return status


def _seconds(minutes: float) -> float:
    """Return the length of a window in seconds, within what there is: the number may come from a client."""
    if minutes > LONGEST_SECONDS / 60:
        return LONGEST_SECONDS
    return minutes * 60 if minutes > 0 else 60.0


@asynccontextmanager
async def performance_tracker(operation_name: str) -> AsyncGenerator[OperationRun]:
    """Measure a block, also one that raises: its duration, as `operation`, and what the memory of the process changes by."""
    before = resident_bytes()
    try:
        with operation(operation_name) as run:
            yield run
    finally:
        change, found = resident_bytes() - before, active_observability()
        set_gauge("operation_memory_delta_bytes", change, operation_name)
        if found is not None:
            found.collected.observe_memory(operation_name, change)


def get_memory_usage() -> float:
    """Return the memory that this process has, in MiB; 0 if the system does not say."""
    return resident_bytes() / MEBIBYTE


class SlaCheck(TypedDict):
    """Whether operations keep their promises: shares in percent, times in milliseconds."""

    sla_compliant: bool
    violations: list[str]
    """In words."""
    targets: dict[str, float]
    actual: dict[str, float | None]


async def check_sla_compliance(
    time_range_minutes: float = 60, targets: Mapping[str, float] | None = None
) -> Result[SlaCheck, str]:
    """Compare the operations of the last minutes with targets, by default those of the settings.

    `targets`: as `SLA_TARGETS`. Gives `sla_compliant`, `violations` in words, `targets` and `actual`. Violations are sent with
    `send_sla_violation_alert`; its errors are counted. A Failure without an `Observability`.
    """
    found = active_observability()
    if found is None:
        return Failure("there is no Observability: call start_monitoring() first")
    wanted = None if targets is None else {_TARGETS.get(name, name): target for name, target in targets.items()}
    found.status.refresh()
    compliance = found.status.sla.compliance(_seconds(time_range_minutes) / 60, RESULTS, wanted)
    if compliance.violations:
        try:
            await notifiers.send_sla_violation_alert(list(compliance.violations))
        except Exception as error:
            count_internal_error("check_sla_compliance", error, found)
    return Success(
        {
            "sla_compliant": compliance.compliant,
            "violations": list(compliance.violations),
            "targets": dict(compliance.targets),
            "actual": dict(compliance.actual),
        }
    )


def calculate_failure_rate(metrics: Mapping[str, Any]) -> float:
    """Return the percentage of operations that failed, of what `get_metrics_summary` gave; 0 where there were none."""
    succeeded, failed = (metrics["counters"].get(f"result_{status}_total", 0.0) for status in ("success", "failure"))
    return 100.0 * failed / (succeeded + failed) if failed else 0.0


async def circuit_breaker_monitoring(name: str = "user_service", threshold: float = 50.0, window_minutes: float = 5.0) -> bool:
    """Open a circuit breaker if more than `threshold` percent of the last operations failed; return whether they did."""
    is_failing = calculate_failure_rate(get_metrics_summary(window_minutes)) > threshold
    if is_failing:
        await activate_circuit_breaker(name)
    return is_failing


async def activate_circuit_breaker(name: str) -> None:
    """Show a circuit breaker as open; the rule `circuit_breaker_activated`, added where it is missing, notifies of each."""
    set_gauge("circuit_breaker_status", OPEN, name)
    found = active_observability()
    if found is None or OPEN_BREAKER.name not in {rule.name for rule in found.status.alerts.rules}:
        notify = (notifiers.notify_incident_team,)
        process_state.add_rule(replace(OPEN_BREAKER, callbacks=notify, resolved_callbacks=notify))


async def reset_circuit_breaker(name: str) -> None:
    """Show a circuit breaker as closed."""
    set_gauge("circuit_breaker_status", CLOSED, name)


def find_slow_operations(threshold_ms: float = 5000.0, time_range_minutes: float = 60) -> list[SlowOperation]:
    """List the operations whose 95th percentile is above a threshold, slowest first: `operation`, `p95`, `max`, `count`."""
    found = active_observability()
    if found is None:
        return []
    found.status.refresh()
    return slow_operations(found.status.view(_seconds(time_range_minutes)), threshold_ms)

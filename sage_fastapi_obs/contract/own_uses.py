"""The queries that the package itself brings for a service: those of its dashboards, exported rules and runbooks."""

from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

from sage_fastapi_obs.alerting.default_rules import EXPORTED_NAMES
from sage_fastapi_obs.alerting.expressions import duration
from sage_fastapi_obs.alerting.rules import AlertRule
from sage_fastapi_obs.contract.grafana_variables import Variables
from sage_fastapi_obs.contract.rule_uses import rule_uses
from sage_fastapi_obs.contract.runbook_uses import runbook_uses
from sage_fastapi_obs.contract.telemetry_contract import Use
from sage_fastapi_obs.dashboards.layout import Dashboard
from sage_fastapi_obs.export.grafana.files import dashboards, declared_metrics
from sage_fastapi_obs.export.prometheus import rule_groups
from sage_fastapi_obs.settings import Settings

_PACKAGE = Path(__file__).parents[1]
_WITHOUT_VARIABLES = Variables({})
"""Our dashboards have only those of Grafana outside of quotes."""
_LANGUAGES = {"prometheus": "promql", "loki": "logql", "jaeger": "traceql"}


class OwnRule(NamedTuple):
    """An alert rule that the package exports, or that the service judges itself."""

    query: str
    condition: str
    """When it fires, in words."""


def own_rules(settings: Settings, judged: Iterable[AlertRule]) -> dict[str, OwnRule]:
    """Return the rules that are exported for a service, and those that it judges itself, by the names that runbooks have."""
    exported = (rule for group in rule_groups([settings]) for rule in group["rules"] if "alert" in rule)
    rules = {rule["alert"]: _rule(rule["expr"], rule["for"], rule["labels"]["severity"]) for rule in exported}
    for rule in judged:
        name, query = EXPORTED_NAMES.get(rule.name, rule.name), _promql(rule)
        own = _rule(query, duration(rule.for_seconds), rule.severity)
        known = rules.setdefault(name, own)
        if known != own:
            rules[name] = known._replace(condition=f"{known.condition}; in process {own.condition}")
    return rules


def _rule(query: str, lasting: str, severity: str) -> OwnRule:
    return OwnRule(query, f"{query} for {lasting}, {severity}")


def _promql(rule: AlertRule) -> str:
    try:
        return rule.promql(("service",))
    except Exception:
        # The expression is the application's own.
        return f"{rule.metric_label} {rule.condition.value} {rule.threshold:g}"


def own_uses(settings: Settings, rules: Mapping[str, OwnRule]) -> Iterator[Use]:
    """Yield the queries of dashboards, rules and runbooks for a service with these settings."""
    exported = [*rule_uses({"groups": rule_groups([settings])})]
    yield from exported
    for name in rules.keys() - {use.name for use in exported}:
        yield Use("alert", name, "promql", rules[name].query)
    for board in dashboards([settings], declared_metrics([settings])):
        yield from _of_dashboard(board)
    for name in rules.keys() & _runbooks():
        yield from runbook_uses(_runbooks()[name].read_text(encoding="utf-8"), name)


def _of_dashboard(board: Dashboard) -> Iterator[Use]:
    for panel in board.panels:
        for query in panel.queries:
            text = _WITHOUT_VARIABLES.filled_in(query.text)[0] if query.store == "prometheus" else query.text
            yield Use("dashboard", board.title, _LANGUAGES[query.store], text, panel.title)
    for choice in board.variables:
        yield Use("dashboard", board.title, "promql", choice.series, f"choice {choice.label}", (choice.label,))


@cache
def _runbooks() -> dict[str, Path]:
    return {path.stem: path for path in _PACKAGE.rglob("runbooks/*.md")}

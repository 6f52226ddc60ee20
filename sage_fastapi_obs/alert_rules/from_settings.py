"""The rules that the settings of a service declare."""

from dataclasses import replace

from sage_fastapi_obs.alert_rules.exported_rule import ExportedRule, RuleGroup, alert_from_rule
from sage_fastapi_obs.alerting.expressions import BurnRate, Expression, Ratio, Stat
from sage_fastapi_obs.alerting.notify import Notifiers
from sage_fastapi_obs.alerting.rules import AlertRule, rule_from_settings
from sage_fastapi_obs.catalog.services import Services, service_name
from sage_fastapi_obs.settings import Settings

_OWN = RuleGroup("own", "Rules of the settings", weight=90)


def alerts(services: Services) -> list[ExportedRule]:
    """Return the alerts of the settings, each for its own service."""
    return [_alert(rule, service) for service in services for rule in _rules(service)]


def _rules(service: Settings) -> list[AlertRule]:
    notifiers = Notifiers(service.notify, service_name(service), _no_log).by_name()
    return [rule_from_settings(rule, notifiers) for rule in service.alerts.rules]


def _alert(rule: AlertRule, service: Settings) -> ExportedRule:
    name = service_name(service)
    own = replace(rule, expression=_of(rule.expression, name), labels={**rule.labels, "service": name})
    described = (
        rule.annotations.get("description")
        or f"{rule.metric_label} {rule.condition.value} {rule.threshold:g}: {{{{ $value }}}}"
    )
    return alert_from_rule(own, _OWN, described, also_by=(), target={"service": name})


def _of(expression: Expression, service: str) -> Expression:
    """Limit an expression to what one service tells: others may use the same metric."""
    match expression:
        case Stat():
            return replace(expression, where={**expression.where, "service": service})
        case Ratio():
            part, whole = (
                tuple(replace(one, where={**one.where, "service": service}) for one in stats)
                for stats in (expression.part, expression.whole)
            )
            return Ratio(part, whole)
    assert isinstance(expression, BurnRate)
    errors = _of(expression.errors, service)
    assert isinstance(errors, Ratio)
    return replace(expression, errors=errors)


def _no_log(*_: object, **__: object) -> None:
    """Take a log line that is not to be written."""

"""The rules that the settings of a service declare."""

from dataclasses import replace

from sage_fastapi_obs.export import services as of
from sage_fastapi_obs.export.alert import Alert, judged
from sage_fastapi_obs.export.services import Services
from sage_fastapi_obs.settings import Settings
from sage_fastapi_obs.status.expressions import Expression
from sage_fastapi_obs.status.notify import Notifiers
from sage_fastapi_obs.status.rules import AlertRule, BurnRate, Ratio, Stat, declared

__all__ = ["alerts"]


def alerts(services: Services) -> list[Alert]:
    """Return the alerts of the settings, each for its own service."""
    return [_alert(rule, service) for service in services for rule in _rules(service)]


def _rules(service: Settings) -> list[AlertRule]:
    notifiers = Notifiers(service.notify, of.name(service), _say_nothing).by_name()
    return [declared(rule, notifiers) for rule in service.alerts.rules]


def _alert(rule: AlertRule, service: Settings) -> Alert:
    name = of.name(service)
    own = replace(rule, expression=_of(rule.expression, name), labels={**rule.labels, "service": name})
    described = (
        rule.annotations.get("description")
        or f"{rule.shown_metric} {rule.condition.value} {rule.threshold:g}: {{{{ $value }}}}"
    )
    return judged(own, "own", "", described, also_by=(), target={"service": name})


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


def _say_nothing(*_: object, **__: object) -> None:
    """Take a log line that is not to be written."""

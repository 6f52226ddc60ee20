"""All rules that are exported, one module per system."""

from itertools import chain

from sage_fastapi_obs.export import services as of
from sage_fastapi_obs.export.exported_rule import ExportedRule
from sage_fastapi_obs.export.rules import http, objectives
from sage_fastapi_obs.export.rules import user as own
from sage_fastapi_obs.export.services import Services
from sage_fastapi_obs.packs.result import alert_rules as result
from sage_fastapi_obs.packs.sage import alert_rules as sage
from sage_fastapi_obs.packs.textbook import alert_rules as textbook

__all__ = ["GROUPS", "alerts", "concerned", "recordings"]

GROUPS = (
    "sage_critical",
    "sage_warning",
    "availability",
    "performance",
    "business",
    "customer-id-alerts",
    "result",
    "slo",
    "own",
)
"""Rule groups in the order in which they are shown; each has a file."""
_MODULES = (sage, http, textbook, result, objectives, own)
recordings = objectives.recordings


def alerts(services: Services) -> list[ExportedRule]:
    """Return the alerts of all packs that are switched on, and those that the settings declare."""
    found = chain.from_iterable(module.alerts(of.distinct(services)) for module in _MODULES)
    return sorted((_with_team(alert, services) for alert in found), key=lambda alert: GROUPS.index(alert.group))


def _with_team(alert: ExportedRule, services: Services) -> ExportedRule:
    """Say whose alert it is, where that is one team."""
    teams = {one.export.team for one in concerned(alert, services)}
    return alert.labelled(team=teams.pop() if len(teams) == 1 else "")


def concerned(alert: ExportedRule, services: Services) -> Services:
    """Return the services that an alert may be about."""
    named = [one for one in services if of.name(one) == alert.labels.get("service")]
    if named:
        return named
    if alert.system == http.CUSTOMER_ID:
        return [one for one in services if of.name(one) == http.CUSTOMER_ID]
    return of.telling(services, alert.metric) or of.with_pack(services, alert.system) or services

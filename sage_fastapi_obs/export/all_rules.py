"""All alert rules that are exported: those of any service, those of each pack, and those of the settings."""

from itertools import chain

from sage_fastapi_obs.alert_rules import any_service, from_settings, monitoring_health, objectives
from sage_fastapi_obs.alert_rules.exported_rule import ExportedRule
from sage_fastapi_obs.catalog.services import CUSTOMER_ID, Services, distinct, service_name, with_metric, with_pack
from sage_fastapi_obs.pack_folders import pack_module, pack_names

recordings = objectives.recordings


def alerts(services: Services) -> list[ExportedRule]:
    """Return the alerts of all packs that are switched on, and those that the settings declare, group by group."""
    of_packs = [module for pack in pack_names() if (module := pack_module(pack, "alert_rules"))]
    found = chain.from_iterable(
        module.alerts(distinct(services)) for module in (any_service, *of_packs, objectives, monitoring_health, from_settings)
    )
    return sorted((_with_team(alert, services) for alert in found), key=lambda alert: (alert.group.weight, alert.group.name))


def _with_team(alert: ExportedRule, services: Services) -> ExportedRule:
    """Add the label `team`, if all services of the alert have the same team."""
    teams = {one.export.team for one in concerned(alert, services)}
    return alert.with_labels(team=teams.pop() if len(teams) == 1 else "")


def concerned(alert: ExportedRule, services: Services) -> Services:
    """Return the services that an alert may be about."""
    named = [one for one in services if service_name(one) == alert.labels.get("service")]
    if named:
        return named
    if alert.group.system == CUSTOMER_ID:
        return [one for one in services if service_name(one) == CUSTOMER_ID]
    return with_metric(services, alert.metric) or with_pack(services, alert.group.system) or services

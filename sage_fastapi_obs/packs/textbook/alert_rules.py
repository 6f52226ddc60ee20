"""What the textbook services get done, and what it costs."""

from sage_fastapi_obs.alert_rules.exported_rule import ExportedRule, RuleGroup, RuleTest, threshold_alert
from sage_fastapi_obs.alert_rules.rule_test_series import SeriesShape, series, up
from sage_fastapi_obs.alerting.expressions import Stat
from sage_fastapi_obs.catalog.services import Services, service_name, with_pack

_BUSINESS = RuleGroup("business", "Business: pack `textbook`", "textbook", "textbook-business", weight=30)
_HOUR = 3600.0


def alerts(services: Services) -> list[ExportedRule]:
    """Return the alerts of services that have the pack `textbook`."""
    found = with_pack(services, "textbook")
    # Their expressions add all services up: with one service, it is that one.
    name = service_name(found[0]) if len(found) == 1 else ""
    return [one.with_labels(service=name) for one in (_idle(found), _costly())] if found else []


def _idle(services: Services) -> ExportedRule:
    name = service_name(services[0])
    target = series("up", {"job": name, "service": name, "instance": "one:8000"})
    created = series("textbooks_created_total", {"service": name, "grade_level": "5", "subject": "math"})
    running = {target: SeriesShape(level=1)}
    return ExportedRule(
        name="NoTextbooksCreated",
        group=_BUSINESS,
        expr=f"(sum(increase(textbooks_created_total[1h])) or vector(0)) == 0 and on () count({up(services)} == 1) > 0",
        for_seconds=7200,
        severity="warning",
        summary="No textbooks are created",
        description="None was created for about three hours, while the service runs: look at the creation service.",
        test=RuleTest({**running, created: SeriesShape(2 / _HOUR)}, {**running, created: SeriesShape()}, _HOUR),
    )


def _costly() -> ExportedRule:
    return threshold_alert(
        "HighAITokenUsage",
        Stat("ai_tokens_used_total", "increase", _HOUR),
        1_000_000,
        group=_BUSINESS,
        severity="warning",
        also_by=(),
    ).about("Language models are used a lot", "{{ $value | humanize }} tokens were used in the last hour, more than a million.")

"""What the textbook services get done, and what it costs."""

from sage_fastapi_obs.alerting.rules import Stat
from sage_fastapi_obs.export import services as of
from sage_fastapi_obs.export.exported_rule import ExportedRule, RuleTest, threshold_alert
from sage_fastapi_obs.export.rule_test_series import SeriesShape, series
from sage_fastapi_obs.export.services import Services

__all__ = ["alerts"]

_HOUR = 3600.0


def alerts(services: Services) -> list[ExportedRule]:
    """Return the alerts of services that have the pack `textbook`."""
    found = of.with_pack(services, "textbook")
    return [_idle(found), _costly()] if found else []


def _idle(services: Services) -> ExportedRule:
    name = of.name(services[0])
    up = series("up", {"job": name, "service": name, "instance": "one:8000"})
    created = series("textbooks_created_total", {"service": name, "grade_level": "5", "subject": "math"})
    running = {up: SeriesShape(level=1)}
    return ExportedRule(
        name="NoTextbooksCreated",
        group="business",
        system="textbook",
        expr=f"(sum(increase(textbooks_created_total[1h])) or vector(0)) == 0 and on () count({of.up(services)} == 1) > 0",
        for_seconds=7200,
        severity="warning",
        summary="No textbooks are created",
        description="None was created for about three hours, while the service runs: look at the creation service.",
        story=RuleTest({**running, created: SeriesShape(2 / _HOUR)}, {**running, created: SeriesShape()}, _HOUR),
    )


def _costly() -> ExportedRule:
    return threshold_alert(
        "HighAITokenUsage",
        Stat("ai_tokens_used_total", "increase", _HOUR),
        1_000_000,
        group="business",
        system="textbook",
        severity="warning",
        minutes=0,
        summary="Language models are used a lot",
        description="{{ $value | humanize }} tokens were used in the last hour, more than a million.",
        also_by=(),
    )

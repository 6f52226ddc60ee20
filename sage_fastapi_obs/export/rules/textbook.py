"""What the textbook services get done, and what it costs."""

from sage_fastapi_obs.export import services as of
from sage_fastapi_obs.export.alert import Alert, Story, exceeded
from sage_fastapi_obs.export.scenes import Course, series
from sage_fastapi_obs.export.services import Services
from sage_fastapi_obs.status.rules import Stat

__all__ = ["alerts"]

_HOUR = 3600.0


def alerts(services: Services) -> list[Alert]:
    """Return the alerts of services that have the pack `textbook`."""
    found = of.with_pack(services, "textbook")
    return [_idle(found), _costly()] if found else []


def _idle(services: Services) -> Alert:
    name = of.name(services[0])
    up = series("up", {"job": name, "service": name, "instance": "one:8000"})
    created = series("textbooks_created_total", {"service": name, "grade_level": "5", "subject": "math"})
    running = {up: Course(level=1)}
    return Alert(
        name="NoTextbooksCreated",
        group="business",
        system="textbook",
        expr=f"(sum(increase(textbooks_created_total[1h])) or vector(0)) == 0 and on () count({of.up(services)} == 1) > 0",
        for_seconds=7200,
        severity="warning",
        summary="No textbooks are created",
        description="None was created for about three hours, while the service runs: look at the creation service.",
        story=Story({**running, created: Course(2 / _HOUR)}, {**running, created: Course()}, _HOUR),
    )


def _costly() -> Alert:
    return exceeded(
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

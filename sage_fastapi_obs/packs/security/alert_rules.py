"""What may be an attack: logins that fail, clients beyond their limits, and suspicious events."""

from sage_fastapi_obs.alert_rules.exported_rule import ExportedRule, RuleGroup, threshold_alert
from sage_fastapi_obs.alerting.expressions import Stat
from sage_fastapi_obs.catalog.services import Services, with_pack
from sage_fastapi_obs.settings import Severity

_SECURITY = RuleGroup("security", "Security: pack `security`", "security", "security", "30s", 35)


def _many(
    name: str, metric: str, threshold: float, severity: Severity, *, by: tuple[str, ...] = (), inhibits: str = ""
) -> ExportedRule:
    return threshold_alert(
        name,
        Stat(metric, "increase", by=by),
        threshold,
        group=_SECURITY,
        severity=severity,
        inhibits=inhibits,
    )


_OF_ALL = (
    _many("FailedLoginsHigh", "auth_login_failed_total", 50, "warning").about(
        "Many logins at {{ $labels.service }} fail", "{{ $value | humanize }} failed in 5 minutes, more than 50."
    ),
    _many("LoginAttackSuspected", "auth_login_failed_total", 200, "critical", inhibits="FailedLoginsHigh").about(
        "Somebody tries passwords at {{ $labels.service }}",
        "{{ $value | humanize }} logins failed in 5 minutes, more than 200.",
    ),
    _many("RateLimitViolationsHigh", "rate_limit_exceeded_total", 100, "warning").about(
        "Clients of {{ $labels.service }} go on beyond their limits",
        "{{ $value | humanize }} requests were beyond a rate limit in 5 minutes, more than 100.",
    ),
    _many("SecurityEventsHigh", "security_events_total", 20, "critical", by=("event_type",)).about(
        "{{ $labels.service }} may be under attack: {{ $labels.event_type }}",
        "{{ $value | humanize }} events of this kind in 5 minutes, more than 20.",
    ),
)


def alerts(services: Services) -> list[ExportedRule]:
    """Return the alerts of services that have the pack `security`."""
    return [*_OF_ALL] if with_pack(services, "security") else []

"""Telling people, by the notifiers of the `Observability` of the code that calls; what is not configured is only logged."""

from collections.abc import Iterable, Mapping
from typing import Any

from sage_fastapi_obs.alerting.notify import Notice, Notifiers
from sage_fastapi_obs.logs.loggers import create_logger
from sage_fastapi_obs.monitoring import process
from sage_fastapi_obs.settings import NotifySettings

__all__ = [
    "create_incident_ticket",
    "escalate_to_oncall",
    "notify_incident_team",
    "send_email_alert",
    "send_sla_violation_alert",
    "send_slack_alert",
    "send_slack_notification",
]

Told = Mapping[str, Any] | Iterable[str] | str
"""An alert as callbacks get it, a text, or several."""


async def send_slack_notification(alert: Told) -> None:
    """Post a message to the Slack channel."""
    await _notifiers().send_slack_notification(_notice(alert))


async def send_slack_alert(alert: Told) -> None:
    """Post an alert to the Slack channel."""
    await _notifiers().send_slack_alert(_notice(alert))


async def send_email_alert(alert: Told) -> None:
    """Send a mail."""
    await _notifiers().send_email_alert(_notice(alert))


async def escalate_to_oncall(alert: Told) -> None:
    """Trigger an incident in PagerDuty."""
    await _notifiers().escalate_to_oncall(_notice(alert))


async def create_incident_ticket(alert: Told) -> None:
    """Post an alert to the webhook."""
    await _notifiers().create_incident_ticket(_notice(alert))


async def notify_incident_team(alert: Told) -> None:
    """Tell the Slack channel and whoever is on call."""
    await _notifiers().notify_incident_team(_notice(alert))


async def send_sla_violation_alert(violations: Told) -> None:
    """Tell the Slack channel of violations, and send a mail."""
    await _notifiers().send_sla_violation_alert(_notice(violations))


def _notifiers() -> Notifiers:
    found = process.active_or_none()
    return Notifiers(NotifySettings(), "unknown_service", _say) if found is None else found.status.notifiers


def _notice(told: Told) -> Notice:
    if isinstance(told, str):
        return told
    if isinstance(told, Mapping):
        return {"name": "notification", "metric_name": told.get("metric"), **told}
    return "; ".join(map(str, told))


def _say(level: str, message: str, fields: dict[str, Any]) -> None:
    getattr(create_logger("sage_fastapi_obs.notifiers"), level)(message, **fields)

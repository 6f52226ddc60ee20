"""Notifications under the names of the RFS interface, by the active `Observability`; channels without settings only log."""

from collections.abc import Iterable, Mapping
from typing import Any

from sage_fastapi_obs.active import active_observability
from sage_fastapi_obs.alerting.notification_queue import current_notice
from sage_fastapi_obs.alerting.notify import Notice, Notifiers
from sage_fastapi_obs.logs.loggers import create_logger
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

Message = Mapping[str, Any] | Iterable[str] | str
"""An alert as callbacks get it, a text, or several."""


async def send_slack_notification(alert: Message) -> None:
    """Post a message to the Slack channel."""
    await _notifiers().send_slack_notification(_notice(alert))


async def send_slack_alert(alert: Message) -> None:
    """Post an alert to the Slack channel."""
    await _notifiers().send_slack_alert(_notice(alert))


async def send_email_alert(alert: Message) -> None:
    """Send a mail."""
    await _notifiers().send_email_alert(_notice(alert))


async def escalate_to_oncall(alert: Message) -> None:
    """Trigger an incident in PagerDuty."""
    await _notifiers().escalate_to_oncall(_notice(alert))


async def create_incident_ticket(alert: Message) -> None:
    """Post an alert to the webhook."""
    await _notifiers().create_incident_ticket(_notice(alert))


async def notify_incident_team(alert: Message) -> None:
    """Post to the Slack channel and trigger an incident in PagerDuty."""
    await _notifiers().notify_incident_team(_notice(alert))


async def send_sla_violation_alert(violations: Message) -> None:
    """Post violations to the Slack channel, and send a mail."""
    await _notifiers().send_sla_violation_alert(_notice(violations))


def _notifiers() -> Notifiers:
    observability = active_observability()
    if observability is None:
        return Notifiers(NotifySettings(), "unknown_service", _log)
    notifiers: Notifiers = observability.status.notifiers
    return notifiers


def _notice(message: Message) -> Notice:
    if isinstance(message, str):
        return message
    if isinstance(message, Mapping):
        return {**_alert_behind(message), **message}
    return "; ".join(map(str, message))


def _alert_behind(message: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what a dictionary of one's own leaves out: the rest of the alert of this callback, if it is about that."""
    metric = message.get("metric", message.get("metric_name"))
    alert = current_notice.get() or {}
    if message.get("name", alert.get("name")) == alert.get("name") and metric in (None, alert.get("metric_name")):
        return {"name": "notification", **alert}
    return {"name": metric or "notification", "metric_name": metric}


def _log(level: str, message: str, fields: dict[str, Any]) -> None:
    getattr(create_logger("sage_fastapi_obs.notifiers"), level)(message, **fields)

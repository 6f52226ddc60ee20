"""Telling people: Slack, mail, PagerDuty and webhooks; what is not configured is written to the log instead."""

import smtplib
import ssl
from collections.abc import Awaitable, Callable, Mapping
from email.message import EmailMessage
from functools import partial
from typing import Any, TypeAlias, get_args

import anyio
import anyio.to_thread
import httpx
from opentelemetry.instrumentation.utils import suppress_instrumentation
from pydantic import SecretStr

from sage_fastapi_obs.settings import NotifySettings, Severity

__all__ = ["NotDeliveredError", "Notice", "Notifiers", "Say"]

Notice: TypeAlias = Mapping[str, Any] | str
"""What an alert's callbacks are told, or a text."""
Say: TypeAlias = Callable[[str, str, dict[str, Any]], None]
"""Writes a log line: level, message, fields."""
SECONDS = 5.0


class NotDeliveredError(Exception):
    """A notification did not arrive. The message names no address: the address may be the secret."""


class Notifiers:
    """Takes notifications to where people read them.

    Each method takes an alert as callbacks get it, or a text; raises `NotDeliveredError`.
    """

    def __init__(self, settings: NotifySettings, service: str, say: Say) -> None:
        """`service`: who is speaking. `say`: writes a log line."""
        self._settings = settings
        self._service = service
        self._say = say

    def by_name(self) -> dict[str, Callable[[dict[str, Any]], Awaitable[None]]]:
        """Return the notifiers that rules in the settings may name."""
        return {
            "slack": self.send_slack_alert,
            "email": self.send_email_alert,
            "pagerduty": self.escalate_to_oncall,
            "webhook": self.create_incident_ticket,
        }

    async def send_slack_notification(self, notice: Notice) -> None:
        """Post a message to the Slack channel."""
        url = _reveal(self._settings.slack_webhook_url)
        if url is None:
            self._only_log("slack", notice)
            return
        await self._post("Slack", url, {"text": f"{self._title(notice)}\n{_body(notice)}".rstrip()})

    async def send_slack_alert(self, notice: Notice) -> None:
        """Post an alert to the Slack channel."""
        await self.send_slack_notification(notice)

    async def send_email_alert(self, notice: Notice) -> None:
        """Send a mail."""
        if self._settings.smtp_host is None:
            self._only_log("email", notice)
            return
        message = EmailMessage()
        message["From"], message["To"] = self._settings.email_from, ", ".join(self._settings.email_to)
        message["Subject"] = _one_line(self._title(notice))
        message.set_content(_body(notice) or self._title(notice))
        password = _reveal(self._settings.smtp_password)
        await anyio.to_thread.run_sync(self._mail, message, password)

    async def escalate_to_oncall(self, notice: Notice) -> None:
        """Trigger an incident in PagerDuty, or resolve it when the alert is over."""
        key = _reveal(self._settings.pagerduty_routing_key)
        if key is None:
            self._only_log("pagerduty", notice)
            return
        alert = {} if isinstance(notice, str) else notice
        severity = alert.get("severity")
        event = {
            "routing_key": key,
            "event_action": "resolve" if alert.get("state") == "resolved" else "trigger",
            "payload": {
                "summary": self._title(notice)[:1024],
                "source": self._service,
                "severity": severity if severity in get_args(Severity) else "error",
                "custom_details": dict(alert),
            },
        }
        if alert:
            event["dedup_key"] = _key(self._service, alert)
        await self._post("PagerDuty", self._settings.pagerduty_url, event)

    async def create_incident_ticket(self, notice: Notice) -> None:
        """Post an alert to the webhook, in the format of Alertmanager's (version 4)."""
        url = _reveal(self._settings.webhook_url)
        if url is None:
            self._only_log("webhook", notice)
            return
        await self._post("the webhook", url, self._as_alertmanager(notice))

    async def notify_incident_team(self, notice: Notice) -> None:
        """Tell the Slack channel and whoever is on call."""
        await self._both(self.send_slack_alert, self.escalate_to_oncall, notice)

    async def send_sla_violation_alert(self, notice: Notice) -> None:
        """Tell the Slack channel and send a mail."""
        await self._both(self.send_slack_alert, self.send_email_alert, notice)

    async def _both(
        self, one: Callable[[Notice], Awaitable[None]], other: Callable[[Notice], Awaitable[None]], notice: Notice
    ) -> None:
        """Go both ways, also if the first is blocked."""
        try:
            await one(notice)
        finally:
            await other(notice)

    def _only_log(self, channel: str, notice: Notice) -> None:
        self._say("info", f"{self._title(notice)}: {channel} is not configured, so nobody is told there", {"channel": channel})

    def _title(self, notice: Notice) -> str:
        if isinstance(notice, str):
            return f"{self._service}: {notice}"
        state = str(notice.get("state", "firing")).upper()
        return f"[{state}] {self._service}: {notice.get('name', 'alert')} ({notice.get('severity', 'warning')})"

    def _as_alertmanager(self, notice: Notice) -> dict[str, Any]:
        alert: Mapping[str, Any] = (
            {"name": "notification", "annotations": {"summary": notice}} if isinstance(notice, str) else notice
        )
        status = "resolved" if alert.get("state") == "resolved" else "firing"
        one = {
            "status": status,
            "labels": {**alert.get("labels", {}), "alertname": alert["name"], "service": self._service},
            "annotations": alert.get("annotations", {}),
            "startsAt": alert.get("since"),
            "endsAt": alert.get("timestamp") if status == "resolved" else None,
            "fingerprint": _key(self._service, alert),
            "value": alert.get("current_value"),
            "threshold": alert.get("threshold"),
        }
        return {"version": "4", "status": status, "receiver": "sage_fastapi_obs", "alerts": [one]}

    async def _post(self, whom: str, url: str, body: dict[str, Any]) -> None:
        # Not followed where it is redirected: the answer of one server must not make us ask another.
        try:
            with suppress_instrumentation(), anyio.fail_after(SECONDS):
                async with (
                    httpx.AsyncClient(timeout=SECONDS, follow_redirects=False) as client,
                    client.stream("POST", url, json=body) as response,
                ):
                    # Nobody reads what else it says, however much that is.
                    status = response.status_code
        except Exception as error:
            # Also where a variable names a proxy or a certificate that cannot be used.
            raise NotDeliveredError(f"{whom} could not be reached: {type(error).__name__}") from None
        if not 200 <= status < 300:
            raise NotDeliveredError(f"{whom} answered {status}")

    def _mail(self, message: EmailMessage, password: str | None) -> None:
        settings = self._settings
        assert settings.smtp_host is not None
        # The library itself would take any certificate.
        context = ssl.create_default_context()
        over_tls = partial(smtplib.SMTP_SSL, context=context)
        connect: Callable[..., smtplib.SMTP] = over_tls if settings.smtp_security == "tls" else smtplib.SMTP
        try:
            with connect(settings.smtp_host, settings.smtp_port, timeout=SECONDS) as server:
                if settings.smtp_security == "starttls":
                    server.starttls(context=context)
                if settings.smtp_user is not None:
                    server.login(settings.smtp_user, password or "")
                server.send_message(message)
        except (smtplib.SMTPException, OSError) as error:
            raise NotDeliveredError(f"the mail server did not take it: {type(error).__name__}") from None


def _reveal(secret: SecretStr | None) -> str | None:
    return None if secret is None else secret.get_secret_value()


def _body(notice: Notice) -> str:
    """Write what there is to know about an alert, a line each."""
    if isinstance(notice, str):
        return ""
    lines = [f"{name}: {text}" for name, text in notice.get("annotations", {}).items()]
    lines.append(
        f"{notice.get('metric_name')} is {_shown(notice.get('current_value'))}, limit {_shown(notice.get('threshold'))}"
    )
    lines += [f"{name}: {value}" for name, value in notice.get("labels", {}).items() if name != "severity"]
    return "\n".join([*lines, f"since {notice.get('since')}"])


def _shown(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else "unknown"


def _key(service: str, alert: Mapping[str, Any]) -> str:
    """Identify an alert, the same when it begins and when it ends."""
    labels = ",".join(f"{name}={value}" for name, value in sorted(alert.get("labels", {}).items()))
    return f"{service}/{alert.get('name')}/{labels}"[:255]


def _one_line(text: str) -> str:
    return " ".join(text.split())

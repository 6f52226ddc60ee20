"""Notifies people: Slack, mail, PagerDuty and a webhook. A channel that is not configured writes a log line instead.

A new channel is a method of `Notifiers`, its name in `Notifiers.by_name`, and its settings in `NotifySettings`.
"""

import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from email.message import EmailMessage
from functools import partial
from typing import Any, TypeAlias, get_args

import anyio
from opentelemetry.instrumentation.utils import suppress_instrumentation
from pydantic import SecretStr

from sage_fastapi_obs.delivery.http_client import http_client
from sage_fastapi_obs.settings import NotifySettings, Severity
from sage_fastapi_obs.threads import in_thread

Notice: TypeAlias = Mapping[str, Any] | str
"""An alert, as callbacks get it, or a text."""
Log: TypeAlias = Callable[[str, str, dict[str, Any]], None]
"""Writes a log line: level, message, fields."""
TIMEOUT_SECONDS = 5.0


class NotDeliveredError(Exception):
    """A notification did not arrive. The message names no address, as the address may be the secret."""


class Notifiers:
    """Sends notifications to each channel. Methods raise `NotDeliveredError`."""

    def __init__(self, settings: NotifySettings, service: str, log: Log) -> None:
        """`service`: in whose name it notifies. `log`: writes a log line."""
        self._settings = settings
        self._service = service
        self._log = log

    def by_name(self) -> dict[str, Callable[[dict[str, Any]], Awaitable[None]]]:
        """Return the channels that rules in the settings may name under `notify`."""
        return {
            "slack": self.send_slack_alert,
            "email": self.send_email_alert,
            "pagerduty": self.escalate_to_oncall,
            "webhook": self.create_incident_ticket,
        }

    async def send_slack_alert(self, notice: Notice) -> None:
        """Post an alert to the Slack channel."""
        message = _ChannelTexts(self._service, notice)
        if (url := self._secret(self._settings.slack_webhook_url, "slack", message)) is not None:
            await _post("Slack", url, {"text": f"{message.title}\n{message.body}".rstrip()})

    async def send_slack_notification(self, notice: Notice) -> None:
        """Post a message to the Slack channel."""
        await self.send_slack_alert(notice)

    async def send_email_alert(self, notice: Notice) -> None:
        """Send a mail."""
        message, settings = _ChannelTexts(self._service, notice), self._settings
        if settings.smtp_host is None:
            self._log_unconfigured("email", message)
            return
        mail = EmailMessage()
        mail["From"], mail["To"] = settings.email_from, ", ".join(settings.email_to)
        mail["Subject"] = " ".join(message.title.split())
        mail.set_content(message.body or message.title)
        await in_thread(partial(_send_mail, settings, settings.smtp_host, mail))

    async def escalate_to_oncall(self, notice: Notice) -> None:
        """Trigger an incident in PagerDuty, or resolve it when the alert is over."""
        message = _ChannelTexts(self._service, notice)
        if (key := self._secret(self._settings.pagerduty_routing_key, "pagerduty", message)) is None:
            return
        severity = message.alert.get("severity")
        event = {
            "routing_key": key,
            "event_action": "resolve" if message.is_resolved else "trigger",
            "payload": {
                "summary": message.headline[:1024],
                "source": self._service,
                "severity": severity if severity in get_args(Severity) else "error",
                "custom_details": dict(message.alert),
            },
        }
        if message.alert:
            event["dedup_key"] = _key(self._service, message.alert)
        await _post("PagerDuty", self._settings.pagerduty_url, event)

    async def create_incident_ticket(self, notice: Notice) -> None:
        """Post an alert to the webhook, in the format of Alertmanager's webhooks (version 4)."""
        message = _ChannelTexts(self._service, notice)
        alert = message.alert or {"name": "notification", "annotations": {"summary": notice}}
        if (url := self._secret(self._settings.webhook_url, "webhook", message)) is None:
            return
        status = "resolved" if message.is_resolved else "firing"
        entry = {
            "status": status,
            "labels": {**alert.get("labels", {}), "alertname": alert["name"], "service": self._service},
            "annotations": alert.get("annotations", {}),
            "startsAt": alert.get("since"),
            "endsAt": alert.get("timestamp") if message.is_resolved else None,
            "fingerprint": _key(self._service, alert),
            "value": alert.get("current_value"),
            "threshold": alert.get("threshold"),
        }
        body = {"version": "4", "status": status, "receiver": "sage_fastapi_obs", "alerts": [entry]}
        await _post("the webhook", url, body)

    async def notify_incident_team(self, notice: Notice) -> None:
        """Notify the Slack channel and whoever is on call."""
        await _both(self.send_slack_alert(notice), self.escalate_to_oncall(notice))

    async def send_sla_violation_alert(self, notice: Notice) -> None:
        """Notify the Slack channel and send a mail."""
        await _both(self.send_slack_alert(notice), self.send_email_alert(notice))

    def _secret(self, secret: SecretStr | None, channel: str, message: "_ChannelTexts") -> str | None:
        """Return the secret of a channel; where there is none, log that nobody is notified there."""
        if secret is None:
            self._log_unconfigured(channel, message)
            return None
        return secret.get_secret_value()

    def _log_unconfigured(self, channel: str, message: "_ChannelTexts") -> None:
        text = f"{message.title}: {channel} is not configured, so nobody is notified there"
        self._log("info", text, {"channel": channel})


@dataclass(frozen=True, slots=True)
class _ChannelTexts:
    """A notice in the formats of the channels."""

    service: str
    notice: Notice

    @property
    def alert(self) -> Mapping[str, Any]:
        """The alert; empty for a text."""
        return {} if isinstance(self.notice, str) else self.notice

    @property
    def is_resolved(self) -> bool:
        return self.alert.get("state") == "resolved"

    @property
    def title(self) -> str:
        if isinstance(self.notice, str):
            return f"{self.service}: {self.notice}"
        state = str(self.alert.get("state", "firing")).upper()
        return f"[{state}] {self.service}: {self.alert.get('name', 'alert')} ({self.alert.get('severity', 'warning')})"

    @property
    def headline(self) -> str:
        """The title, and what the alert says of itself: which circuit breaker, which operation."""
        return ": ".join(filter(None, (self.title, self.alert.get("annotations", {}).get("summary"))))

    @property
    def body(self) -> str:
        """What is known about an alert, a line each; empty for a text."""
        if isinstance(self.notice, str):
            return ""
        alert = self.alert
        value, limit = _short(alert.get("current_value")), _short(alert.get("threshold"))
        annotations = (f"{name}: {text}" for name, text in alert.get("annotations", {}).items())
        labels = (f"{name}: {value}" for name, value in alert.get("labels", {}).items() if name != "severity")
        metric = f"{alert.get('metric_name')} is {value}, limit {limit}"
        return "\n".join([*annotations, metric, *labels, f"since {alert.get('since')}"])


async def _both(one: Awaitable[None], other: Awaitable[None]) -> None:
    """Notify by both, also if the first fails."""
    try:
        await one
    finally:
        await other


async def _post(receiver: str, url: str, body: dict[str, Any]) -> None:
    # Redirects are not followed: the answer of one server must not make us ask another.
    try:
        with suppress_instrumentation(), anyio.fail_after(TIMEOUT_SECONDS):
            async with (
                http_client(TIMEOUT_SECONDS) as client,
                client.stream("POST", url, json=body) as response,
            ):
                # The body is not read, however long it is.
                status = response.status_code
    except Exception as error:
        # Also where a variable names a proxy or a certificate that cannot be used.
        raise NotDeliveredError(f"{receiver} could not be reached: {type(error).__name__}") from None
    if not 200 <= status < 300:
        raise NotDeliveredError(f"{receiver} answered {status}")


def _send_mail(settings: NotifySettings, host: str, mail: EmailMessage) -> None:
    import smtplib  # noqa: PLC0415 - few services send mails

    password = "" if settings.smtp_password is None else settings.smtp_password.get_secret_value()
    # Without a context, smtplib accepts any certificate.
    context = ssl.create_default_context()
    over_tls = partial(smtplib.SMTP_SSL, context=context)
    connect: Callable[..., smtplib.SMTP] = over_tls if settings.smtp_security == "tls" else smtplib.SMTP
    try:
        with connect(host, settings.smtp_port, timeout=TIMEOUT_SECONDS) as server:
            if settings.smtp_security == "starttls":
                server.starttls(context=context)
            if settings.smtp_user is not None:
                server.login(settings.smtp_user, password)
            server.send_message(mail)
    except (smtplib.SMTPException, OSError) as error:
        raise NotDeliveredError(f"the mail server did not take it: {type(error).__name__}") from None


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else "unknown"


def _key(service: str, alert: Mapping[str, Any]) -> str:
    """Identify an alert: the same when it begins and when it ends."""
    labels = ",".join(f"{name}={value}" for name, value in sorted(alert.get("labels", {}).items()))
    return f"{service}/{alert.get('name')}/{labels}"[:255]

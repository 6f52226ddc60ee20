"""Notifiers against real receivers: an HTTP server and a mail server on this machine."""

import asyncio
import inspect
import json
import ssl
import threading
from collections.abc import Iterator
from email import message_from_bytes
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.smtp import SMTP, AuthResult
from pydantic import SecretStr
from receivers import certificate

from sage_fastapi_obs import SettingsError
from sage_fastapi_obs.alerting.notify import NotDeliveredError, Notifiers
from sage_fastapi_obs.settings import NotifySettings, Settings

NOTICE = {
    "name": "HighErrorRate",
    "metric_name": "http_requests_total",
    "condition": "GREATER_THAN",
    "threshold": 0.05,
    "current_value": 0.123456,
    "timestamp": "2026-01-01T00:05:00.000Z",
    "severity": "critical",
    "state": "firing",
    "since": "2026-01-01T00:00:00.000Z",
    "labels": {"severity": "critical", "route": "/items"},
    "annotations": {"summary": "12 % of all requests fail"},
}
OVER = {**NOTICE, "state": "resolved"}


class Receiver(ThreadingHTTPServer):
    """Takes whatever is posted, and answers with a status."""

    def __init__(self, status: int = 200) -> None:
        self.status = status
        self.received: list[tuple[str, dict[str, Any]]] = []
        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def url(self, path: str = "/hook/s3cret") -> str:
        """Return an address here."""
        return f"http://127.0.0.1:{self.server_address[1]}{path}"


class Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.received.append((self.path, json.loads(body)))
        self.send_response(self.server.status)
        if self.server.status in (301, 307):
            self.send_header("Location", self.server.url("/elsewhere"))
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """Run a receiver."""
    server = Receiver()
    yield server
    server.shutdown()
    server.server_close()


def build(said: list[Any] | None = None, **settings: Any) -> Notifiers:
    """Build notifiers of a shop."""
    return Notifiers(NotifySettings(**settings), "shop", lambda *line: None if said is None else said.append(line))


async def test_slack(receiver: Receiver):
    """A title that says what and how bad, and a line for each thing to know."""
    notifiers = build(slack_webhook_url=receiver.url())
    await notifiers.send_slack_alert(NOTICE)
    await notifiers.send_slack_notification("all well")
    (path, first), (_, second) = receiver.received
    assert path == "/hook/s3cret"
    assert first["text"].splitlines() == [
        "[FIRING] shop: HighErrorRate (critical)",
        "summary: 12 % of all requests fail",
        "http_requests_total is 0.1235, limit 0.05",
        "route: /items",
        "since 2026-01-01T00:00:00.000Z",
    ]
    assert second == {"text": "shop: all well"}


async def test_pagerduty(receiver: Receiver):
    """The end of an alert resolves what its beginning has triggered."""
    notifiers = build(pagerduty_routing_key="key", pagerduty_url=receiver.url("/v2/enqueue"))
    for notice in (NOTICE, OVER, "help"):
        await notifiers.escalate_to_oncall(notice)
    begun, over, text = (body for _, body in receiver.received)
    assert (begun["event_action"], over["event_action"], text["event_action"]) == ("trigger", "resolve", "trigger")
    assert begun["dedup_key"] == over["dedup_key"] == "shop/HighErrorRate/route=/items,severity=critical"
    assert "dedup_key" not in text
    assert begun["routing_key"] == "key"
    assert (begun["payload"]["severity"], text["payload"]["severity"]) == ("critical", "error")
    assert begun["payload"]["custom_details"]["current_value"] == 0.123456


async def test_webhook(receiver: Receiver):
    """What receives Alertmanager's webhooks receives ours."""
    notifiers = build(webhook_url=receiver.url())
    for notice in (NOTICE, OVER, "a text"):
        await notifiers.create_incident_ticket(notice)
    begun, over, text = (body for _, body in receiver.received)
    assert (begun["version"], begun["status"], over["status"]) == ("4", "firing", "resolved")
    assert begun["alerts"][0]["labels"] == {
        "severity": "critical",
        "route": "/items",
        "alertname": "HighErrorRate",
        "service": "shop",
    }
    assert begun["alerts"][0]["startsAt"] == NOTICE["since"]
    assert (begun["alerts"][0]["endsAt"], over["alerts"][0]["endsAt"]) == (None, OVER["timestamp"])
    assert text["alerts"][0]["annotations"] == {"summary": "a text"}


class Mailbox:
    """Keeps the mails that an SMTP server takes, from those who know the password."""

    def __init__(self) -> None:
        self.mails: list[Any] = []

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:
        self.mails.append((envelope.rcpt_tos, message_from_bytes(envelope.content)))
        return "250 OK"

    def authenticate(self, _server: Any, _session: Any, _envelope: Any, _mechanism: str, data: Any) -> AuthResult:
        return AuthResult(success=data.password == b"s3cret", handled=False)


@pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS:UserWarning")
async def test_mail(tmp_path: Path):
    """A mail to everybody, by a user whose password is in a file; a wrong one is said without it."""
    mailbox = Mailbox()

    def serve() -> SMTP:
        return SMTP(mailbox, authenticator=mailbox.authenticate, auth_required=True, auth_require_tls=False)

    async with await asyncio.get_running_loop().create_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        options = {
            "smtp_host": "127.0.0.1",
            "smtp_port": port,
            "smtp_security": "none",
            "smtp_user": "obs",
            "email_from": "obs@shop.test",
            "email_to": "a@shop.test, b@shop.test",
        }
        notifiers = build(smtp_password="s3cret", **options)
        await notifiers.send_email_alert({**NOTICE, "name": "broken\r\nBcc: x@evil.test"})
        await notifiers.send_sla_violation_alert("not kept")
        with pytest.raises(NotDeliveredError, match="SMTPAuthenticationError") as refused:
            await build(smtp_password="wr0ng", **options).send_email_alert(NOTICE)
        assert "wr0ng" not in str(refused.value)
        with pytest.raises(NotDeliveredError, match="mail server did not take it"):
            await build(smtp_password="x", **{**options, "smtp_security": "starttls"}).send_email_alert(NOTICE)
    (recipients, mail), (_, text) = mailbox.mails
    assert recipients == ["a@shop.test", "b@shop.test"]
    assert mail["Subject"] == "[FIRING] shop: broken Bcc: x@evil.test (critical)"
    assert mail["Bcc"] is None
    assert "12 % of all requests fail" in mail.get_payload()
    assert text["Subject"] == "shop: not kept"


@pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS:UserWarning")
async def test_mail_over_tls_goes_to_a_server_that_is_who_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """One whose certificate nobody vouches for gets neither the password nor the mail; one that is trusted gets both."""
    mailbox = Mailbox()
    path = certificate(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(path)

    def serve() -> SMTP:
        return SMTP(mailbox, authenticator=mailbox.authenticate, auth_required=True, auth_require_tls=False)

    async with await asyncio.get_running_loop().create_server(serve, "localhost", 0, ssl=context) as server:
        notifiers = build(
            smtp_host="localhost",
            smtp_port=server.sockets[0].getsockname()[1],
            smtp_security="tls",
            smtp_user="obs",
            smtp_password="s3cret",
            email_from="obs@shop.test",
            email_to="a@shop.test",
        )
        with pytest.raises(NotDeliveredError, match="SSLCertVerificationError"):
            await notifiers.send_email_alert(NOTICE)
        assert mailbox.mails == []
        monkeypatch.setenv("SSL_CERT_FILE", str(path))
        await notifiers.send_email_alert(NOTICE)
    assert len(mailbox.mails) == 1


async def test_what_is_not_configured_is_logged():
    """Every documented name works without configuration, as an async function of one argument."""
    said: list[Any] = []
    notifiers = build(said)
    names = [
        "send_slack_notification",
        "send_slack_alert",
        "send_email_alert",
        "escalate_to_oncall",
        "create_incident_ticket",
        "notify_incident_team",
        "send_sla_violation_alert",
    ]
    for name in names:
        notifier = getattr(notifiers, name)
        assert inspect.iscoroutinefunction(notifier)
        await notifier(NOTICE)
    assert len(said) == 9
    assert said[0] == (
        "info",
        "[FIRING] shop: HighErrorRate (critical): slack is not configured, so nobody is notified there",
        {"channel": "slack"},
    )
    assert [line[2]["channel"] for line in said[5:]] == ["slack", "pagerduty", "slack", "email"]


@pytest.mark.parametrize("status", [301, 307, 400, 403, 500])
async def test_a_refusal_is_said_without_the_address(receiver: Receiver, status: int):
    """The address of a webhook is its secret, and a redirect is not followed."""
    receiver.status = status
    with pytest.raises(NotDeliveredError, match=f"Slack answered {status}") as refused:
        await build(slack_webhook_url=receiver.url()).send_slack_alert(NOTICE)
    assert "s3cret" not in str(refused.value)
    assert [path for path, _ in receiver.received] == ["/hook/s3cret"]
    assert refused.value.__cause__ is None


async def test_nobody_there(receiver: Receiver):
    """Unreachable receivers are named by kind; of two channels the second is notified when the first is unreachable."""
    gone = "http://127.0.0.1:1/s3cret"
    for address in (gone, "http://[::1/s3cret"):
        # `NotifySettings` would refuse the second.
        settings = NotifySettings().model_copy(update={"slack_webhook_url": SecretStr(address)})
        with pytest.raises(NotDeliveredError, match="Slack could not be reached") as unreached:
            await Notifiers(settings, "shop", print).send_slack_alert(NOTICE)
        assert "s3cret" not in str(unreached.value)
    both = build(slack_webhook_url=gone, pagerduty_routing_key="key", pagerduty_url=receiver.url())
    with pytest.raises(NotDeliveredError):
        await both.notify_incident_team(NOTICE)
    assert len(receiver.received) == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"slack_webhook_url": "ftp://s3cret"}, r"notify.slack_webhook_url: must be an http\(s\) URL"),
        ({"pagerduty_url": "s3cret"}, r"notify.pagerduty_url: must be an http\(s\) URL"),
        ({"smtp_host": "mail", "smtp_password": "s3cret"}, "smtp_host needs email_from and email_to"),
        ({"slack_webhok_url": "s3cret"}, "did you mean slack_webhook_url"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], message: str):
    """With what to change, and without the secret."""
    with pytest.raises(SettingsError, match=message) as refused:
        Settings(notify=settings)
    assert "s3cret" not in str(refused.value)

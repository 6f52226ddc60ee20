"""What people read: a real Alertmanager with the exported configuration sends to Slack, PagerDuty, mail and a watchdog."""

import asyncio
import json
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email import message_from_bytes
from email.message import Message
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from aiosmtpd.smtp import SMTP
from receivers import Handler, Receiver, serving
from running import DEMO
from servers import free_port, need, program
from support import until

from sage_fastapi_obs import Settings
from sage_fastapi_obs.export import alertmanager, prometheus
from sage_fastapi_obs.export.all_rules import alerts

pytestmark = pytest.mark.stack

RUNBOOK = "https://git.example.com/operations/docs/runbooks/HighErrorRate.md"
DASHBOARD = "http://localhost:3000/d/unified"


class Channels(Receiver):
    """Stands for Slack, PagerDuty and whoever watches the watchdog: keeps what is posted, by its path."""

    def __init__(self) -> None:
        super().__init__()
        self.posted: list[tuple[str, dict[str, Any]]] = []

    def accept(self, handler: Handler, body: bytes) -> None:
        self.posted.append((handler.path, json.loads(body)))
        handler.answer(202 if handler.path == "/pagerduty" else 200, b"{}")

    def to(self, path: str) -> list[dict[str, Any]]:
        return [body for posted, body in self.posted if posted == path]


class Mailbox:
    """Keeps the mails that an SMTP server takes."""

    def __init__(self) -> None:
        self.mails: list[Message] = []

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:
        self.mails.append(message_from_bytes(envelope.content))
        return "250 OK"


@contextmanager
def mail_server() -> Iterator[tuple[Mailbox, int]]:
    """Run an SMTP server in a thread of its own; yield what it keeps, and its port."""
    loop, mailbox = asyncio.new_event_loop(), Mailbox()
    server = loop.run_until_complete(loop.create_server(lambda: SMTP(mailbox, loop=loop), "127.0.0.1", 0))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield mailbox, server.sockets[0].getsockname()[1]
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        server.close()
        loop.run_until_complete(server.wait_closed())
        loop.close()


@pytest.fixture
def sent(tmp_path: Path) -> Iterator[tuple[Channels, Mailbox, str]]:
    """Run Alertmanager; yield the channels, the mailbox, and Alertmanager's address."""
    found = shutil.which("alertmanager") or need("prometheus-alertmanager")
    with serving(Channels()) as channels, mail_server() as (mailbox, port):
        notify = {
            "smtp_host": "127.0.0.1",
            "smtp_port": port,
            "smtp_security": "none",
            "email_from": "a@shop.test",
            "email_to": ["b@shop.test"],
        }
        export = {"watchdog_url": f"{channels.url}/watchdog"}
        shop = Settings(service={"name": "shop"}, notify=notify, export=export)
        config = alertmanager.configuration([shop], secrets=str(tmp_path))
        config["route"] |= {"group_wait": "0s", "group_interval": "1s"}
        for receiver in config["receivers"]:
            for pagerduty in receiver.get("pagerduty_configs", ()):
                pagerduty["url"] = f"{channels.url}/pagerduty"
        (tmp_path / "slack_webhook_url").write_text(f"{channels.url}/slack")
        (tmp_path / "pagerduty_routing_key").write_text("key")
        (tmp_path / "config.yml").write_text(yaml.safe_dump(config))
        address = f"127.0.0.1:{free_port()}"
        flags = [f"--storage.path={tmp_path / 'am'}", "--cluster.listen-address=", f"--web.listen-address={address}"]
        with program([found, f"--config.file={tmp_path / 'config.yml'}", *flags], tmp_path / "log"):
            until(lambda: httpx.get(f"http://{address}/-/ready").is_success, "Alertmanager")
            yield channels, mailbox, f"http://{address}"


def tell(address: str, *, ends: str | None = None, name: str = "HighErrorRate", **labels: str) -> None:
    """Tell Alertmanager of an alert, as Prometheus does; `ends`: when it was over."""
    alert = {
        "labels": {"alertname": name, "service": "shop", "severity": "critical", **labels},
        "annotations": {"summary": f"{name} <1>", "description": "7 %.", "runbook_url": RUNBOOK, "dashboard": DASHBOARD},
        **({"endsAt": ends} if ends else {}),
    }
    httpx.post(f"{address}/api/v2/alerts", json=[alert]).raise_for_status()


OVER = "2026-01-01T00:00:00Z"


@pytest.mark.parametrize(
    ("severity", "channel", "title"),
    [
        ("critical", "#alerts-critical", ":rotating_light: CRITICAL: HighErrorRate"),
        ("warning", "#alerts-warning", ":warning: HighErrorRate"),
        ("info", "#alerts", "shop: HighErrorRate"),
    ],
)
def test_people_read_what_happens_and_that_it_is_over(sent: Any, severity: str, channel: str, title: str):
    """Titles and subjects say firing or resolved; what fires has links to its runbook and its dashboard."""
    channels, mailbox, address = sent
    tell(address, severity=severity)
    until(lambda: channels.to("/slack"), "message")
    tell(address, severity=severity, ends=OVER)
    until(lambda: len(channels.to("/slack")) == 2, "message")
    firing, resolved = channels.to("/slack")
    assert {firing["channel"], resolved["channel"]} == {channel}
    (firing,), (resolved,) = firing["attachments"], resolved["attachments"]
    assert (firing["title"], resolved["title"]) == (title, ":white_check_mark: RESOLVED: HighErrorRate")
    assert firing["text"].splitlines()[1:] == ["7 %.", f"<{RUNBOOK}|Runbook> <{DASHBOARD}|Dashboard>"]
    assert (firing["color"], resolved["color"]) == ("danger", "good")
    assert resolved["text"].startswith("Resolved: HighErrorRate")
    assert "7 %" not in resolved["text"]
    if severity == "critical":
        until(lambda: len(channels.to("/pagerduty")) == len(mailbox.mails) == 2, "page and mail")
        trigger, resolve = channels.to("/pagerduty")
        assert [event["event_action"] for event in (trigger, resolve)] == ["trigger", "resolve"]
        assert {link["href"] for link in trigger["links"]} == {RUNBOOK, DASHBOARD}
        assert [mail["Subject"] for mail in mailbox.mails] == [
            f"[{state}] shop: HighErrorRate" for state in ("FIRING", "RESOLVED")
        ]
        texts = [mail.get_payload(0).get_payload(decode=True).decode() for mail in mailbox.mails]
        assert f"Runbook: {RUNBOOK}\nDashboard: {DASHBOARD}\n" in texts[0].replace("\r", "")
        assert texts[1].strip() == "Resolved: HighErrorRate <1>"
    else:
        assert (channels.to("/pagerduty"), mailbox.mails) == ([], [])


def test_one_message_of_several_tells_them_apart(sent: Any):
    """While one of a group still fires, the one that is over is named as such."""
    channels, _, address = sent
    tell(address, severity="warning", chain="solana")
    tell(address, severity="warning", chain="ethereum")
    until(lambda: channels.to("/slack"), "message")
    tell(address, severity="warning", chain="solana", ends=OVER)
    text = until(
        lambda: next((one for body in channels.to("/slack") if "Resolved" in (one := body["attachments"][0]["text"])), None),
        "message about both",
    )
    assert "Runbook" in text.partition("Resolved: HighErrorRate")[0]


def test_the_watchdog_calls_whoever_watches_it_and_nobody_else(sent: Any):
    """The sign of life goes to its own address, not to people."""
    channels, mailbox, address = sent
    (watchdog,) = (alert for alert in alerts([Settings(service={"name": "shop"})]) if alert.name == "Watchdog")
    tell(address, name=watchdog.name, **watchdog.all_labels)
    (call,) = until(lambda: channels.to("/watchdog"), "call")
    assert (call["status"], call["receiver"]) == ("firing", "watchdog")
    assert (channels.to("/slack"), mailbox.mails) == ([], [])


def test_links_of_the_demo_can_be_followed_from_anywhere():
    """Runbooks and dashboards of exported alerts are addresses, not paths."""
    annotations = [rule["annotations"] for group in prometheus.rule_groups(DEMO) for rule in group["rules"] if "alert" in rule]
    assert all(one["runbook_url"].startswith("https://") for one in annotations)
    assert all(one["dashboard"].startswith("http://") for one in annotations)

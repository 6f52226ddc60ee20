"""Who is told of which alert: Alertmanager's own tool takes the configuration, and finds the way of every alert."""

from pathlib import Path

import pytest
import yaml
from demo import SERVICES, run, service, write

from sage_fastapi_obs.export import alertmanager
from sage_fastapi_obs.export.all_rules import alerts

NAMES = [settings.service.name for settings in SERVICES]
SEVERITIES = ["critical", "warning", "info", ""]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the configuration of the demo."""
    return write(alertmanager.files(SERVICES), tmp_path_factory.mktemp("demo")) / "prometheus"


@pytest.mark.stack
@pytest.mark.parametrize("name", ["alertmanager.yml", "alertmanager-demo.yml"])
def test_alertmanager_takes_the_configuration(exported: Path, name: str):
    """The tool of Alertmanager finds nothing wrong."""
    done = run("amtool", "check-config", exported / name)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.stack
@pytest.mark.parametrize("name", ["alertmanager.yml", "alertmanager-demo.yml"])
@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("about", [*NAMES, "stranger", ""])
def test_each_severity_goes_to_its_receiver(exported: Path, name: str, severity: str, about: str):
    """Critical and warning have receivers of their own, some critical alerts are mailed as well, the rest is default."""
    wanted = severity if severity in ("critical", "warning") else "default"
    told = [*(["email-customer-id"] if (severity, about) == ("critical", "customer-id") else []), wanted]
    labels = [*([f"severity={severity}"] if severity else []), *([f"service={about}"] if about else []), "alertname=x"]
    done = run("amtool", "config", "routes", "test", f"--config.file={exported / name}", *labels)
    assert (done.returncode, done.stdout.strip().split(",")) == (0, told), done.stderr


def test_nothing_secret_is_written():
    """Secrets are files of Alertmanager's own, also where the service itself knows them."""
    notify = {
        "slack_webhook_url": "https://hooks.example.com/hush-hush",
        "pagerduty_routing_key": "hush-hush",
        "smtp_password": "hush-hush",
        "smtp_security": "none",
        "smtp_host": "mail",
        "smtp_user": "me",
        "email_from": "a@example.com",
        "email_to": ["b@example.com", "c@example.com"],
    }
    services = [service("other"), service(notify=notify)]
    assert "hush-hush" not in "".join(alertmanager.files(services).values())
    told = {one["name"]: one for one in alertmanager.configuration(services, secrets="/run")["receivers"]}
    slack = {told[name]["slack_configs"][0]["api_url_file"] for name in ("default", "critical", "warning")}
    assert slack == {"/run/slack_webhook_url"}
    assert told["critical"]["pagerduty_configs"][0]["routing_key_file"] == "/run/pagerduty_routing_key"
    assert told["email-shop"]["email_configs"] == [
        {
            "to": "b@example.com, c@example.com",
            "from": "a@example.com",
            "smarthost": "mail:587",
            "auth_username": "me",
            "auth_password_file": "/run/smtp_password",
            "require_tls": False,
            "send_resolved": True,
            "headers": told["email-shop"]["email_configs"][0]["headers"],
            "html": "",
            "text": told["email-shop"]["email_configs"][0]["text"],
        }
    ]


@pytest.mark.stack
def test_a_mail_server_with_a_user_is_taken(tmp_path: Path):
    """The tool of Alertmanager knows every key that may be written."""
    notify = {"smtp_host": "mail", "smtp_user": "me", "email_from": "a@example.com", "email_to": ["b@example.com"]}
    folder = write(alertmanager.files([service(notify=notify, export={"slack_channel": "#shop"})]), tmp_path)
    done = run("amtool", "check-config", folder / "prometheus/alertmanager.yml")
    assert done.returncode == 0, done.stdout + done.stderr
    channels = [
        one["slack_configs"][0]["channel"]
        for one in yaml.safe_load((folder / "prometheus/alertmanager.yml").read_text())["receivers"][:3]
    ]
    assert channels == ["#shop", "#shop-critical", "#shop-warning"]


def test_the_routes_are_as_documented():
    """Grouping, waiting times and receivers are those that were asked for."""
    written = alertmanager.configuration(SERVICES)
    route = written["route"]
    assert written["global"] == {"resolve_timeout": "5m"}
    assert route["group_by"] == ["alertname", "cluster", "service"]
    assert [route[key] for key in ("receiver", "group_wait", "group_interval", "repeat_interval")] == [
        "default",
        "10s",
        "10s",
        "12h",
    ]
    titles = {one["name"]: one["slack_configs"][0]["title"] for one in written["receivers"] if "slack_configs" in one}
    assert "CRITICAL" in titles["critical"]
    assert ":warning:" in titles["warning"]


def test_only_alerts_that_there_are_silence_others():
    """An inhibition names alerts that are exported, and of the same service."""
    for services in (SERVICES, [service(metrics={"packs": ["result"]})], [service(metrics={"packs": []})]):
        exported = {alert.name for alert in alerts(services)}
        written = alertmanager.configuration(services)["inhibit_rules"]
        named = {
            one.split('"')[1] for rule in written[:-1] for side in ("source_matchers", "target_matchers") for one in rule[side]
        }
        assert named <= exported
        assert {tuple(rule["equal"]) for rule in written} == {("service",)}
    assert len(alertmanager.configuration(SERVICES)["inhibit_rules"]) == 6

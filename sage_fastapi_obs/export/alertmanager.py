"""The configuration of Alertmanager: routes, receivers and inhibition rules."""

from collections.abc import Collection
from typing import Any

from sage_fastapi_obs.alert_rules.exported_rule import ExportedRule
from sage_fastapi_obs.catalog.services import Services, distinct, service_name
from sage_fastapi_obs.export.all_rules import alerts
from sage_fastapi_obs.export.yaml import dumped
from sage_fastapi_obs.settings import Settings

_SECRETS = "/etc/alertmanager/secrets"
"""Where Alertmanager finds the files with secrets."""
DEMO_SINK = "http://alert-sink:9094"
_COMMENT = "In production a group_interval of 5m is calmer. Secrets are in files: nothing expands variables here."
_DEMO = "Everybody is told by way of one webhook, which only shows what comes."
_ALERT = "{{ .CommonLabels.alertname }}"
_RESOLVED = "{{ range .Alerts.Resolved }}Resolved: {{ .Annotations.summary }}\n{{ end }}"
"""One message may tell of alerts that fire and of others that are over."""
_SLACK_TEXT = (
    "{{ range .Alerts.Firing }}{{ .Annotations.summary }}\n{{ .Annotations.description }}\n"
    "{{ with .Annotations.runbook_url }}<{{ . }}|Runbook>{{ end }}"
    "{{ with .Annotations.dashboard }} <{{ . }}|Dashboard>{{ end }}\n{{ end }}" + _RESOLVED
)
_MAIL_TEXT = (
    "{{ range .Alerts.Firing }}{{ .Annotations.summary }}\n{{ .Annotations.description }}\n"
    "{{ with .Annotations.runbook_url }}Runbook: {{ . }}\n{{ end }}"
    "{{ with .Annotations.dashboard }}Dashboard: {{ . }}\n{{ end }}\n{{ end }}" + _RESOLVED
)
_PAGES = [
    {"href": f"{{{{ .CommonAnnotations.{annotation} }}}}", "text": text}
    for annotation, text in (("runbook_url", "Runbook"), ("dashboard", "Dashboard"))
]
_WATCHDOG = "watchdog"
_WATCHDOG_ROUTE = {
    "matchers": ['alertname="Watchdog"'],
    "receiver": _WATCHDOG,
    "group_wait": "0s",
    "group_interval": "1m",
    "repeat_interval": "5m",
}
"""Whoever is called by it is called all the time."""


def files(services: Services) -> dict[str, str]:
    """Return the configuration, and one for demonstrations, by their paths."""
    return {
        "prometheus/alertmanager.yml": dumped(configuration(services), comment=_COMMENT),
        "prometheus/alertmanager-demo.yml": dumped(configuration(services, is_demo=True), comment=_DEMO),
    }


def configuration(services: Services, *, is_demo: bool = False, secrets: str = _SECRETS) -> dict[str, Any]:
    """Return the configuration; `secrets`: the folder with files of secrets. Those of the settings are not written."""
    mailed = [one for one in distinct(services) if one.notify.smtp_host]
    receivers = _demo_receivers(mailed) if is_demo else _receivers(services, mailed, secrets)
    return {
        "global": {"resolve_timeout": "5m"},
        "route": {
            "receiver": "default",
            "group_by": ["alertname", "cluster", "service"],
            "group_wait": "10s",
            "group_interval": "10s",
            "repeat_interval": "12h",
            "routes": [_WATCHDOG_ROUTE, *map(_mail_route, mailed), _route("critical"), _route("warning")],
        },
        "receivers": [{"name": name, **channels} for name, channels in receivers.items()],
        "inhibit_rules": _inhibitions(alerts(services)),
    }


def _route(severity: str) -> dict[str, Any]:
    return {"matchers": [f'severity="{severity}"'], "receiver": severity}


def _mail_route(service: Settings) -> dict[str, Any]:
    """Send what is critical by mail as well."""
    name = service_name(service)
    return {"matchers": [f'service="{name}"', 'severity="critical"'], "receiver": _mail_name(service), "continue": True}


def _mail_name(service: Settings) -> str:
    return f"email-{service_name(service)}"


def _inhibitions(exported: Collection[ExportedRule]) -> list[dict[str, Any]]:
    names = {alert.name for alert in exported}
    inhibitions = {alert.name: alert.inhibits for alert in exported if alert.inhibits in names}
    found = [
        {"source_matchers": [f'alertname="{alert}"'], "target_matchers": [f'alertname="{less}"'], "equal": ["service"]}
        for alert, less in inhibitions.items()
    ]
    down = {"source_matchers": ['alertname=~".+Down"'], "target_matchers": ['severity="warning"'], "equal": ["service"]}
    return [*found, down]


def _demo_receivers(mailed: Services) -> dict[str, dict[str, Any]]:
    names = ("default", "critical", "warning", _WATCHDOG, *map(_mail_name, mailed))
    return {name: {"webhook_configs": [{"url": f"{DEMO_SINK}/{name}", "send_resolved": True}]} for name in names}


def _receivers(services: Services, mailed: Services, secrets: str) -> dict[str, dict[str, Any]]:
    first = services[0].export
    titles = {
        "default": ("", f"{{{{ .CommonLabels.service }}}}: {_ALERT}"),
        "critical": ("-critical", f":rotating_light: CRITICAL: {_ALERT}"),
        "warning": ("-warning", f":warning: {_ALERT}"),
    }
    receivers: dict[str, dict[str, Any]] = {
        receiver: {
            "slack_configs": [
                {
                    "api_url_file": f"{secrets}/slack_webhook_url",
                    "channel": f"{first.slack_channel}{suffix}",
                    "title": _by_state(title, f":white_check_mark: RESOLVED: {_ALERT}"),
                    "text": _SLACK_TEXT,
                    "send_resolved": True,
                }
            ]
        }
        for receiver, (suffix, title) in titles.items()
    }
    receivers["critical"]["pagerduty_configs"] = [
        {
            "routing_key_file": f"{secrets}/pagerduty_routing_key",
            "description": f"{_ALERT} {{{{ .CommonLabels.service }}}}",
            "links": _PAGES,
        }
    ]
    called = {"webhook_configs": [{"url": first.watchdog_url, "send_resolved": False}]} if first.watchdog_url else {}
    return receivers | {_WATCHDOG: called} | {_mail_name(one): _mail(one, secrets) for one in mailed}


def _by_state(firing: str, resolved: str) -> str:
    return f'{{{{ if eq .Status "firing" }}}}{firing}{{{{ else }}}}{resolved}{{{{ end }}}}'


def _mail(service: Settings, secrets: str) -> dict[str, Any]:
    given = service.notify
    user = {"auth_username": given.smtp_user} if given.smtp_user else {}
    password = {"auth_password_file": f"{secrets}/smtp_password"} if given.smtp_user else {}
    sender = {
        "from": given.email_from,
        "smarthost": f"{given.smtp_host}:{given.smtp_port}",
        **user,
        **password,
        "require_tls": given.smtp_security == "starttls",
        "send_resolved": True,
    }
    subject = f"{_by_state('[FIRING]', '[RESOLVED]')} {service_name(service)}: {_ALERT}"
    # Without HTML, which Alertmanager would fill with a table of labels.
    texts = {"headers": {"Subject": subject}, "html": "", "text": _MAIL_TEXT}
    return {"email_configs": [{"to": ", ".join(given.email_to), **sender, **texts}]}

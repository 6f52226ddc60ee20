"""What may be an attack: logins, rate limits and suspicious events."""

from sage_fastapi_obs.catalog.services import Services
from sage_fastapi_obs.dashboards import panels
from sage_fastapi_obs.dashboards.layout import Dashboard, Panel, Row, logs, numbers
from sage_fastapi_obs.dashboards.panels import PanelBuilder

__all__ = ["dashboards"]

panel = PanelBuilder()
ask = panel.ask
REFUSED = '{service=~"$service"} | json | status = 401 or status = 403 or status = 429'

WRONG = (
    panels.firing(6),
    panels.stat(
        "Failed logins in 5 minutes", ask.increase("auth_login_failed_total", window="5m"), warn=50, bad=200, width=6
    ).about("All reasons together."),
    panels.stat(
        "Suspicious events in 5 minutes", ask.increase("security_events_total", window="5m"), warn=1, bad=20, width=6
    ).about("All kinds together."),
    panels.stat("Requests refused: 401 and 403", ask.rate("http_requests_total", status="=~401|403"), "reqps", width=6).about(
        "Per second."
    ),
)
WHERE = (
    panel.rate("Failed Login Attempts", "auth_login_failed_total", ["reason"], unit="cps", stacked=True).about(
        "unknown_user in numbers: somebody tries a list. bad_password: somebody tries one account."
    ),
    Panel(
        "API Rate Limit Violations",
        numbers((f"topk(20, {ask.rate('rate_limit_exceeded_total', 'client_ip')})", "{{client_ip}}")),
        unit="reqps",
    ).about("By the client's network, the 20 with the most. Addresses are personal, and are not recorded."),
    panel.increase("Suspicious Activities", "security_events_total", ["event_type"], window="5m", stacked=True).about(
        "Events in 5 minutes."
    ),
    panel.rate(
        "Requests refused, by route",
        "http_requests_total",
        ["route", "status"],
        where={"status": "=~401|403|429"},
        unit="reqps",
        width=12,
        stacked=True,
    ).about("401: not known, 403: not allowed, 429: too often."),
    panel.rate(
        "Requests that match no route", "http_requests_total", ["service"], where={"route": "unmatched"}, unit="reqps", width=12
    ).about("Scanners ask for pages that are not there."),
)
LINES = Panel("Requests refused", logs(REFUSED), kind="logs", width=24, height=10).about(
    "The raw path and the client are in the line."
)


def dashboards(_services: Services) -> tuple[Dashboard, ...]:
    """Return the dashboard."""
    rows = (Row("What is wrong", WRONG), Row("Where", WHERE), Row("Why: lines", (LINES,)))
    about = "Logins that fail, clients beyond their limits, and events that may be an attack."
    return (Dashboard("security", "Security", about, rows, panels.choices("auth_login_failed_total"), ("security",)),)

"""What may be an attack."""

from sage_fastapi_obs.export.grafana.boards import shared
from sage_fastapi_obs.export.grafana.layout import Board, Panel, Row, limits, logs, numbers
from sage_fastapi_obs.export.grafana.promql import Queries

__all__ = ["security_board"]

ASK = Queries(shared.SCOPE)
REFUSED = '{service=~"$service"} | json | status = 401 or status = 403 or status = 429'


def security_board() -> Board:
    """Show logins, rate limits and suspicious events."""
    return Board(
        "security",
        "Security",
        "Logins that fail, clients beyond their limits, and events that may be an attack.",
        (
            Row(
                "What is wrong",
                (
                    shared.firing(6),
                    shared.stat(
                        "Failed logins in 5 minutes",
                        ASK.increase("auth_login_failed_total", window="5m"),
                        "All reasons together.",
                        steps=limits(50, 200),
                        width=6,
                    ),
                    shared.stat(
                        "Suspicious events in 5 minutes",
                        ASK.increase("security_events_total", window="5m"),
                        "All kinds together.",
                        steps=limits(1, 20),
                        width=6,
                    ),
                    shared.stat(
                        "Requests refused: 401 and 403",
                        ASK.rate("http_requests_total", status="=~401|403"),
                        "Per second.",
                        "reqps",
                        width=6,
                    ),
                ),
            ),
            Row(
                "Where",
                (
                    Panel(
                        "Failed Login Attempts",
                        numbers((ASK.rate("auth_login_failed_total", "reason"), "{{reason}}")),
                        "unknown_user in numbers: somebody tries a list. bad_password: somebody tries one account.",
                        unit="cps",
                        stacked=True,
                    ),
                    Panel(
                        "API Rate Limit Violations",
                        numbers((f"topk(20, {ASK.rate('rate_limit_exceeded_total', 'client_ip')})", "{{client_ip}}")),
                        "By the client's network, the 20 with the most. Addresses are personal, and are not recorded.",
                        unit="reqps",
                    ),
                    Panel(
                        "Suspicious Activities",
                        numbers((ASK.increase("security_events_total", "event_type", window="5m"), "{{event_type}}")),
                        "Events in 5 minutes.",
                        stacked=True,
                    ),
                    Panel(
                        "Requests refused, by route",
                        numbers(
                            (ASK.rate("http_requests_total", "route", "status", status="=~401|403|429"), "{{route}} {{status}}")
                        ),
                        "401: not known, 403: not allowed, 429: too often.",
                        unit="reqps",
                        width=12,
                        stacked=True,
                    ),
                    Panel(
                        "Requests that match no route",
                        numbers((ASK.rate("http_requests_total", "service", route="unmatched"), "{{service}}")),
                        "Scanners ask for pages that are not there.",
                        unit="reqps",
                        width=12,
                    ),
                ),
            ),
            Row(
                "Why: lines",
                (
                    Panel(
                        "Requests refused",
                        logs(REFUSED),
                        "The raw path and the client are in the line.",
                        "logs",
                        width=24,
                        height=10,
                    ),
                ),
            ),
        ),
        shared.choices("auth_login_failed_total"),
        ("security",),
    )

"""AI textbooks: the system, and its business."""

from sage_fastapi_obs.export.grafana.boards import shared
from sage_fastapi_obs.export.grafana.boards.service import red
from sage_fastapi_obs.export.grafana.layout import Board, Panel, Row, Variable, limits, numbers
from sage_fastapi_obs.export.grafana.promql import Queries
from sage_fastapi_obs.settings import SlaSettings

__all__ = ["business_board", "system_board"]

SCOPE = 'job=~"$job", instance=~"$instance"'
ASK = Queries(SCOPE)
NODE_CPU = 'node_cpu_seconds_total{mode="idle"}'
TAGS = ("textbook",)


def system_board(sla: SlaSettings, jobs: str) -> Board:
    """Show whether the services of the textbooks are well; `jobs`: a regex of their names."""
    return Board(
        "textbook-system-overview",
        "AI Textbook - System Overview",
        "The services of the AI textbooks: which are up, how much they do, how many requests fail, and how long they take.",
        (
            Row(
                "What is wrong",
                (
                    shared.firing(6),
                    shared.stat(
                        "Service Health",
                        f"sum(up{{{SCOPE}}})",
                        "Instances that answered the last scrape.",
                        width=6,
                    ),
                    shared.up(SCOPE, 6),
                    shared.stat("Active users", ASK.value("active_users"), "As the application tells it.", width=6),
                    *red(ASK, sla, "service"),
                ),
            ),
            Row("Where", (shared.slowest(ASK), _host())),
            shared.runtime_row(ASK),
        ),
        _choices("http_requests_total", jobs),
        TAGS,
    )


def business_board(jobs: str) -> Board:
    """Show what the textbooks are used for; `jobs`: a regex of their names."""
    tokens = ASK.increase("ai_tokens_used_total", window="1h")
    return Board(
        "textbook-business",
        "AI Textbook - Business Metrics",
        "Who learns, with what, and what it costs in tokens.",
        (
            Row(
                "Now",
                (
                    shared.stat("Active Users", ASK.value("active_users"), "As the application tells it.", width=6),
                    shared.stat(
                        "Textbooks Created Today",
                        ASK.increase("textbooks_created_total", window="1d"),
                        "In the last 24 hours. NoTextbooksCreated fires after about three hours without.",
                        width=6,
                    ),
                    shared.stat(
                        "Tokens in an hour",
                        tokens,
                        "HighAITokenUsage fires from a million.",
                        steps=limits(800_000, 1_000_000),
                        width=6,
                    ),
                    shared.firing(6),
                ),
            ),
            Row(
                "Over time",
                (
                    Panel(
                        "Learning Sessions",
                        numbers((f"topk(20, {ASK.value('active_learning_sessions', 'textbook_id')})", "{{textbook_id}}")),
                        "Open sessions by textbook, the 20 with the most.",
                        width=12,
                        stacked=True,
                    ),
                    Panel(
                        "AI Token Usage",
                        numbers((ASK.rate("ai_tokens_used_total", "model"), "{{model}}")),
                        "Tokens per second by model.",
                        unit="cps",
                        width=12,
                    ),
                    Panel(
                        "Tokens by component",
                        numbers((ASK.rate("ai_tokens_used_total", "component"), "{{component}}")),
                        "Which part of the application uses them.",
                        unit="cps",
                        width=12,
                    ),
                    Panel(
                        "Textbooks created",
                        numbers(
                            (
                                ASK.increase("textbooks_created_total", "grade_level", "subject", window="1h"),
                                "{{grade_level}} {{subject}}",
                            )
                        ),
                        "In an hour, by grade and subject.",
                        width=12,
                        stacked=True,
                    ),
                ),
            ),
        ),
        _choices("textbooks_created_total", jobs),
        TAGS,
    )


def _choices(series: str, jobs: str) -> tuple[Variable, ...]:
    return (
        Variable("job", series, f"/^({jobs})$/", jobs),
        Variable("instance", f'{series}{{job=~"$job"}}'),
    )


def _host() -> Panel:
    busy = f"1 - avg by (instance) (rate({NODE_CPU}[$__rate_interval]))"
    return Panel(
        "CPU of hosts",
        numbers((busy, "{{instance}}")),
        "From node-exporter. HighCPUUsage fires from 80 % for ten minutes.",
        unit="percentunit",
        width=12,
        limits=limits(0.7, 0.8),
        most=1,
    )

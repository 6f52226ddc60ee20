"""AI textbooks: the system, and its business."""

from sage_fastapi_obs.catalog.services import Services, job, with_pack
from sage_fastapi_obs.dashboards import panels
from sage_fastapi_obs.dashboards.layout import Dashboard, Panel, Row, Variable, numbers
from sage_fastapi_obs.dashboards.panels import PanelBuilder
from sage_fastapi_obs.dashboards.promql import RANGE
from sage_fastapi_obs.dashboards.service import red

SCOPE = 'job=~"$job", instance=~"$instance"'
panel = PanelBuilder(SCOPE)
ask = panel.ask
_IDLE = 'rate(node_cpu_seconds_total{mode="idle"}[$__rate_interval])'

_HEALTH = (
    panels.firing(6),
    panels.stat("Service Health", f"sum(up{{{SCOPE}}})", width=6).about("Instances that answered the last scrape."),
    panels.up(SCOPE, 6),
    panels.stat("Active users", ask.value("active_users"), width=6).about("As the application tells it."),
)
_HOSTS = Panel(
    "CPU of hosts",
    numbers((f"1 - avg by (instance) ({_IDLE})", "{{instance}}")),
    unit="percentunit",
    width=12,
    warn=0.7,
    bad=0.8,
    max=1,
).about("From node-exporter. HighCPUUsage fires from 80 % for ten minutes.")
_NOW = (
    panels.stat("Active Users", ask.value("active_users"), width=6).about("As the application tells it."),
    panels.stat(
        "Textbooks Created Today", ask.increase("textbooks_created_total", window=RANGE), width=6, time_from="now/d"
    ).about(
        "Since midnight; Prometheus estimates what was before its first scrape. NoTextbooksCreated fires after three hours."
    ),
    panels.stat(
        "Tokens in an hour", ask.increase("ai_tokens_used_total", window="1h"), warn=800_000, bad=1_000_000, width=6
    ).about("HighAITokenUsage fires from a million."),
    panels.firing(6),
)
_OVER_TIME = (
    Panel(
        "Learning Sessions",
        numbers((f"topk(20, {ask.value('active_learning_sessions', 'textbook_id')})", "{{textbook_id}}")),
        width=12,
        stacked=True,
    ).about("Open sessions by textbook, the 20 with the most."),
    panel.rate("AI Token Usage", "ai_tokens_used_total", ["model"], unit="cps", width=12).about("Tokens per second by model."),
    panel.rate("Tokens by component", "ai_tokens_used_total", ["component"], unit="cps", width=12).about(
        "Which part of the application uses them."
    ),
    panel.increase(
        "Textbooks created", "textbooks_created_total", ["grade_level", "subject"], window="1h", width=12, stacked=True
    ).about("In an hour, by grade and subject."),
)


def dashboards(services: Services) -> tuple[Dashboard, ...]:
    """Return the dashboards: whether the services of the textbooks are well, and what the textbooks are used for."""
    found = with_pack(services, "textbook")
    jobs, tags = "|".join(map(job, found)), ("textbook",)
    return (
        Dashboard(
            "textbook-system-overview",
            "AI Textbook - System Overview",
            "The services of the AI textbooks: which are up, how much they do, how many requests fail, and how long they take.",
            (
                Row("What is wrong", (*_HEALTH, *red(panel, found[0].sla, "service"))),
                Row("Where", (panels.slowest(ask), _HOSTS)),
                panels.runtime_row(panel),
            ),
            _choices("http_requests_total", jobs),
            tags,
        ),
        Dashboard(
            "textbook-business",
            "AI Textbook - Business Metrics",
            "Who learns, with what, and what it costs in tokens.",
            (Row("Now", _NOW), Row("Over time", _OVER_TIME)),
            _choices("textbooks_created_total", jobs),
            tags,
        ),
    )


def _choices(series: str, jobs: str) -> tuple[Variable, ...]:
    return (Variable("job", series, f"/^({jobs})$/", jobs), Variable("instance", f'{series}{{job=~"$job"}}'))

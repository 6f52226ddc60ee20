"""What several dashboards have alike: their choices, the state of alerts, runtime, logs and traces."""

from sage_fastapi_obs.export.grafana.layout import BAD, FINE, WARN, Limit, Panel, Query, Row, Variable, limits, logs, numbers
from sage_fastapi_obs.export.grafana.promql import RANGE, Queries

__all__ = [
    "SCOPE",
    "choices",
    "error_lines",
    "firing",
    "latency",
    "logs_row",
    "quantiles",
    "runtime_row",
    "seconds",
    "slowest",
    "stat",
    "up",
]

SCOPE = 'job=~"$job", service=~"$service", instance=~"$instance"'
"""Series of the chosen jobs, services and instances; of all while nothing is chosen."""
LINES = '{service=~"$service"}'
ERROR_LINES = '{service=~"$service", level=~"error|critical"}'


def choices(series: str) -> tuple[Variable, ...]:
    """Let a person choose job, service and instance among those that have some series."""
    return (
        Variable("job", series),
        Variable("service", f'{series}{{job=~"$job"}}'),
        Variable("instance", f'{series}{{job=~"$job", service=~"$service"}}'),
    )


def stat(title: str, expression: str, about: str, unit: str = "short", steps: tuple[Limit, ...] = (), width: int = 4) -> Panel:
    """Show one number."""
    return Panel(title, numbers((expression, title)), about, "stat", unit, width, 4, steps)


def firing(width: int = 4) -> Panel:
    """Count the alerts that fire."""
    return stat(
        "Alerts firing",
        'count(ALERTS{alertstate="firing"}) or vector(0)',
        "Alerts that fire now, of all services; they are marked in the graphs below. Each has a runbook: see its annotation.",
        steps=(Limit(FINE), Limit(WARN, 1), Limit(BAD, 3)),
        width=width,
    )


def up(scope: str = SCOPE, width: int = 4) -> Panel:
    """Say which share of the instances Prometheus reaches."""
    return stat(
        "Instances up",
        f"sum(up{{{scope}}}) / count(up{{{scope}}})",
        "Share of instances that answered the last scrape. Below 100 %: an instance is down, or Prometheus cannot reach it.",
        "percentunit",
        (Limit(BAD), Limit(WARN, 0.5), Limit(FINE, 1)),
        width,
    )


def quantiles(ask: Queries, name: str, *by: str, **where: str) -> tuple[Query, ...]:
    """Ask for p50, p95 and p99 of a histogram."""
    legend = "".join(f"{{{{{label}}}}} " for label in by)
    return numbers(
        *((ask.quantile(share, name, *by, **where), f"{legend}p{share * 100:g}") for share in (0.5, 0.95, 0.99)),
    )


def latency(title: str, queries: tuple[Query, ...], about: str, steps: tuple[Limit, ...] = (), width: int = 8) -> Panel:
    """Draw times."""
    return Panel(title, queries, about, unit="s", width=width, limits=steps)


def seconds(milliseconds: float | None) -> float | None:
    """Turn a promise in milliseconds into what metrics are in; None where nothing is promised."""
    return None if milliseconds is None else milliseconds / 1000


def slowest(ask: Queries) -> Panel:
    """List the routes that are slowest on average over the time shown."""
    mean = ask.mean("http_request_duration_seconds", "method", "route", window=RANGE)
    p95 = ask.quantile(0.95, "http_request_duration_seconds", "method", "route", window=RANGE)
    count = ask.increase("http_requests_total", "method", "route", window=RANGE)
    return Panel(
        "Slowest routes",
        numbers((f"topk(15, {mean})", "mean"), (p95, "p95"), (count, "requests")),
        "Mean and p95 in seconds and the number of requests, over the time shown. Streams are not among them.",
        "table",
        width=12,
    )


def runtime_row(ask: Queries, *, folded: bool = True) -> Row:
    """Show what the processes use."""
    return Row(
        "Why: process and interpreter",
        (
            latency(
                "Lateness of the event loop: p95",
                numbers((ask.quantile(0.95, "python_event_loop_lag_seconds", "instance"), "{{instance}}")),
                "By how much a timer came late: something computes or waits without giving way, and all requests wait with it.",
                limits(0.05, 0.2),
            ),
            Panel(
                "CPU",
                numbers((ask.value("process_cpu_usage_ratio", "service", "instance", how="max"), "{{service}} {{instance}}")),
                "Share of the cores that a process may use.",
                unit="percentunit",
                limits=limits(0.8, 0.95),
            ),
            Panel(
                "CPU seconds per second",
                numbers((ask.rate("process_cpu_seconds_total", "service", "instance"), "{{service}} {{instance}}")),
                "1 is a whole core: what a process with one event loop can use at most, whatever the machine has.",
                limits=limits(0.7, 0.95),
            ),
            Panel(
                "Memory",
                numbers(
                    (ask.value("process_resident_memory_bytes", "instance"), "{{instance}} resident"),
                    (ask.value("process_anonymous_memory_bytes", "instance"), "{{instance}} anonymous"),
                ),
                "Anonymous memory that only ever rises is a leak; resident alone may be files in the cache.",
                unit="bytes",
            ),
            Panel(
                "Open files",
                numbers(
                    (
                        f"{ask.value('process_open_fds', 'instance')} / {ask.value('process_max_fds', 'instance')}",
                        "{{instance}}",
                    )
                ),
                "Share of the file descriptors a process may have: sockets are among them. At 100 % nothing more is accepted.",
                unit="percentunit",
                limits=limits(0.7, 0.9),
            ),
            Panel(
                "Tasks of the event loop",
                numbers((ask.value("python_asyncio_tasks", "instance"), "{{instance}}")),
                "Rises with requests in flight. Rising alone: tasks that never end.",
            ),
            Panel(
                "Threads for synchronous code",
                numbers(
                    (ask.value("python_threadpool_threads_busy", "instance"), "{{instance}} busy"),
                    (ask.value("python_threadpool_tasks_waiting", "instance"), "{{instance}} waiting"),
                    (ask.value("python_threadpool_threads_max", "instance"), "{{instance}} most"),
                ),
                "Synchronous routes and dependencies run in these. Any that wait: all threads are busy, and requests are slow "
                "without using the processor.",
            ),
            Panel(
                "Threads",
                numbers((ask.value("python_threads", "instance"), "{{instance}}")),
                "All threads of the interpreter. Rising alone: somebody starts some and does not end them.",
            ),
            latency(
                "Pauses for garbage: p95",
                numbers((ask.quantile(0.95, "python_gc_pause_seconds", "generation"), "generation {{generation}}")),
                "Nothing else runs meanwhile. Long ones of generation 2: very many objects are alive.",
                limits(0.05, 0.2),
            ),
            Panel(
                "Garbage collections",
                numbers((ask.rate("python_gc_collections_total", "generation"), "generation {{generation}}")),
                "Collections per second.",
                unit="ops",
            ),
            Panel(
                "Age of processes",
                numbers((f"time() - {ask.value('process_start_time_seconds', 'instance', how='min')}", "{{instance}}")),
                "Falls to 0 when a process starts again: a row of teeth is a crash loop.",
                unit="s",
            ),
        ),
        folded,
    )


def error_lines() -> Panel:
    """Show lines of level error and above."""
    return Panel(
        "Error lines",
        logs(f"{ERROR_LINES} | json"),
        "Open a line: its trace_id is a link to the trace, and its request_id finds all lines of the same request.",
        "logs",
        width=24,
        height=10,
    )


def _traces() -> Panel:
    """Show the last traces."""
    return Panel(
        "Last traces",
        (Query("$service", store="jaeger"),),
        "Choose one service above to see its traces. Points in latency graphs are exemplars, and lead to single traces.",
        "traces",
        width=24,
        height=10,
    )


def logs_row() -> Row:
    """Lead from numbers to single requests."""
    by_level = Panel(
        "Lines by level",
        logs(f"sum by (level) (count_over_time({LINES}[$__auto]))"),
        "A wave of warnings often comes before errors.",
        width=24,
        height=6,
        stacked=True,
    )
    return Row("Why: logs and traces", (by_level, error_lines(), _traces()))

"""Panels and rows that several dashboards have, and a builder for those that show one metric."""

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeAlias

from sage_fastapi_obs.catalog import Metric
from sage_fastapi_obs.dashboards.layout import BAD, FINE, WARN, Panel, Query, Row, Threshold, Variable, logs, numbers
from sage_fastapi_obs.dashboards.promql import FIRING, RANGE, WINDOW, Queries

SCOPE = 'job=~"$job", service=~"$service", instance=~"$instance"'
"""Series of the chosen jobs, services and instances; of all while nothing is chosen."""
_LINES = '{service=~"$service"}'
_ERROR_LINES = '{service=~"$service", level=~"error|critical"}'
By: TypeAlias = Sequence[str]
Where: TypeAlias = Mapping[str, str]
_NO_LABELS: Where = MappingProxyType({})


class PanelBuilder:
    """Builds panels that show one metric within a scope, a line for each value of some labels.

    All methods take a title, the metric and labels to split by; `where`: what labels must be;
    `legend`: by default the labels; all else is a field of `Panel`.
    """

    def __init__(self, scope: str = SCOPE, own: Iterable[Metric] = ()) -> None:
        self.ask = Queries(scope, own)
        """Writes the queries of other panels."""

    def rate(self, title: str, metric: str, by: By = (), *, legend: str = "", where: Where = _NO_LABELS, **look: Any) -> Panel:
        """Show how fast a counter rises, per second."""
        return _panel(title, by, legend, self.ask.rate(metric, *by, **where), **{"unit": "ops", **look})

    def increase(self, title: str, metric: str, by: By = (), *, window: str = WINDOW, legend: str = "", **look: Any) -> Panel:
        """Show how far a counter has risen."""
        return _panel(title, by, legend, self.ask.increase(metric, *by, window=window), **look)

    def gauge(self, title: str, metric: str, by: By = (), *, legend: str = "", how: str = "sum", **look: Any) -> Panel:
        """Show what a gauge says."""
        return _panel(title, by, legend, self.ask.value(metric, *by, how=how), **look)

    def share(self, title: str, metric: str, by: By = (), *, where: Where, legend: str = "", **look: Any) -> Panel:
        """Show which share of a counter's rise is of some labels."""
        return _panel(title, by, legend, self.ask.share(metric, *by, **where), **{"unit": "percentunit", **look})

    def p95(self, title: str, metric: str, by: By = (), *, legend: str = "", q: float = 0.95, **look: Any) -> Panel:
        """Show the p95 of a histogram, or another quantile."""
        return _panel(title, by, legend, self.ask.quantile(q, metric, *by), **{"unit": "s", **look})

    def quantiles(self, title: str, metric: str, by: By = (), *, where: Where = _NO_LABELS, **look: Any) -> Panel:
        """Show p50, p95 and p99 of a histogram."""
        legend = "".join(f"{{{{{label}}}}} " for label in by)
        asked = [(self.ask.quantile(q, metric, *by, **where), f"{legend}p{q * 100:g}") for q in (0.5, 0.95, 0.99)]
        return Panel(title, numbers(*asked), **{"unit": "s", **look})


def _panel(title: str, by: Iterable[str], legend: str, expression: str, **look: Any) -> Panel:
    return Panel(title, numbers((expression, legend or legend_of(by))), **look)


def legend_of(labels: Iterable[str]) -> str:
    """Name the lines of a panel by some labels."""
    return " ".join(f"{{{{{label}}}}}" for label in labels)


def choices(series: str) -> tuple[Variable, ...]:
    """Let a person choose job, service and instance among those that have some series."""
    return (
        Variable("job", series),
        Variable("service", f'{series}{{job=~"$job"}}'),
        Variable("instance", f'{series}{{job=~"$job", service=~"$service"}}'),
    )


def stat(title: str, expression: str, unit: str = "short", *, width: int = 4, **look: Any) -> Panel:
    """Show one number."""
    return Panel(title, numbers((expression, title)), kind="stat", unit=unit, width=width, height=4, **look)


def firing(width: int = 4) -> Panel:
    """Count the alerts that fire."""
    return stat(
        "Alerts firing",
        f"count({FIRING}) or vector(0)",
        thresholds=(Threshold(FINE), Threshold(WARN, 1), Threshold(BAD, 3)),
        width=width,
    ).about(
        "Alerts that fire now, of all services; they are marked in the graphs below. Each has a runbook: see its annotation."
    )


def up(scope: str = SCOPE, width: int = 4) -> Panel:
    """Say which share of the instances Prometheus reaches."""
    return stat(
        "Instances up",
        f"sum(up{{{scope}}}) / count(up{{{scope}}})",
        "percentunit",
        thresholds=(Threshold(BAD), Threshold(WARN, 0.5), Threshold(FINE, 1)),
        width=width,
    ).about(
        "Share of instances that answered the last scrape. Below 100 %: an instance is down, or Prometheus cannot reach it."
    )


def seconds(milliseconds: float | None) -> float | None:
    """Turn a promise in milliseconds into what metrics are in; None where nothing is promised."""
    return None if milliseconds is None else milliseconds / 1000


def slowest(ask: Queries) -> Panel:
    """List the routes that are slowest on average over the time shown."""
    mean = ask.mean("http_request_duration_seconds", "method", "route", window=RANGE)
    p95 = ask.quantile(0.95, "http_request_duration_seconds", "method", "route", window=RANGE)
    count = ask.increase("http_requests_total", "method", "route", window=RANGE)
    return Panel(
        "Slowest routes", numbers((f"topk(15, {mean})", "mean"), (p95, "p95"), (count, "requests")), kind="table", width=12
    ).about("Mean and p95 in seconds and the number of requests, over the time shown. Streams are not among them.")


def runtime_row(panel: PanelBuilder, *, collapsed: bool = True) -> Row:
    """Show what the processes use."""
    ask = panel.ask
    files = f"{ask.value('process_open_fds', 'instance')} / {ask.value('process_max_fds', 'instance')}"
    panels = (
        panel.p95("Lateness of the event loop: p95", "python_event_loop_lag_seconds", ["instance"], warn=0.05, bad=0.2).about(
            "By how much a timer came late: something computes or waits without giving way, and all requests wait with it."
        ),
        panel.gauge(
            "CPU", "process_cpu_usage_ratio", ["service", "instance"], how="max", unit="percentunit", warn=0.8, bad=0.95
        ).about("Share of the cores that a process may use."),
        panel.rate(
            "CPU seconds per second", "process_cpu_seconds_total", ["service", "instance"], unit="short", warn=0.7, bad=0.95
        ).about("1 is a whole core: what a process with one event loop can use at most, whatever the machine has."),
        Panel(
            "Memory",
            numbers(
                (ask.value("process_resident_memory_bytes", "instance"), "{{instance}} resident"),
                (ask.value("process_anonymous_memory_bytes", "instance"), "{{instance}} anonymous"),
            ),
            unit="bytes",
        ).about("Anonymous memory that only ever rises is a leak; resident alone may be files in the cache."),
        Panel("Open files", numbers((files, "{{instance}}")), unit="percentunit", warn=0.7, bad=0.9).about(
            "Share of the file descriptors a process may have: sockets are among them. At 100 % nothing more is accepted."
        ),
        panel.gauge("Tasks of the event loop", "python_asyncio_tasks", ["instance"]).about(
            "Rises with requests in flight. Rising alone: tasks that never end."
        ),
        Panel(
            "Threads for synchronous code",
            numbers(
                (ask.value("python_threadpool_threads_busy", "instance"), "{{instance}} busy"),
                (ask.value("python_threadpool_tasks_waiting", "instance"), "{{instance}} waiting"),
                (ask.value("python_threadpool_threads_max", "instance"), "{{instance}} most"),
            ),
        ).about(
            "Synchronous routes and dependencies run in these. Any that wait: all threads are busy, and requests are slow "
            "without using the processor."
        ),
        panel.gauge("Threads", "python_threads", ["instance"]).about(
            "All threads of the interpreter. Rising alone: somebody starts some and does not end them."
        ),
        panel.p95(
            "Pauses for garbage: p95",
            "python_gc_pause_seconds",
            ["generation"],
            legend="generation {{generation}}",
            warn=0.05,
            bad=0.2,
        ).about("Nothing else runs meanwhile. Long ones of generation 2: very many objects are alive."),
        panel.rate(
            "Garbage collections", "python_gc_collections_total", ["generation"], legend="generation {{generation}}"
        ).about("Collections per second."),
        Panel(
            "Age of processes",
            numbers((f"time() - {ask.value('process_start_time_seconds', 'instance', how='min')}", "{{instance}}")),
            unit="s",
        ).about("Falls to 0 when a process starts again: a row of teeth is a crash loop."),
    )
    return Row("Why: process and interpreter", panels, collapsed)


def error_lines() -> Panel:
    """Show lines of level error and above."""
    return Panel("Error lines", logs(f"{_ERROR_LINES} | json"), kind="logs", width=24, height=10).about(
        "Open a line: its trace_id is a link to the trace, and its request_id finds all lines of the same request."
    )


def _traces() -> Panel:
    """Show the last traces."""
    return Panel("Last traces", (Query("$service", store="jaeger"),), kind="traces", width=24, height=10).about(
        "Choose one service above to see its traces. Points in latency graphs are exemplars, and lead to single traces."
    )


def logs_row() -> Row:
    """Lead from numbers to single requests."""
    by_level = Panel(
        "Lines by level", logs(f"sum by (level) (count_over_time({_LINES}[$__auto]))"), width=24, height=6, stacked=True
    ).about("A wave of warnings often comes before errors.")
    return Row("Why: logs and traces", (by_level, error_lines(), _traces()))

"""Queries of dashboards and documents, and what they name."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser

from sage_fastapi_obs.catalog import CATALOG, Metric

ROOT = Path(__file__).parents[2]
WORDS = {"$__rate_interval": "5m", "$__range": "1h", "$__tags": 'service="any"'}
OF_TARGETS = {"job", "instance", "service", "le", "__name__"}
"""Labels that Prometheus adds, and those of buckets."""
NOT_OURS = {
    "up": set(),
    "ALERTS": {"alertname", "alertstate", "severity"},
    "node_cpu_seconds_total": {"mode", "cpu"},
    **{f"node_filesystem_{what}_bytes": {"mountpoint", "device", "fstype"} for what in ("avail", "size")},
    "prometheus_config_last_reload_successful": set(),
    "prometheus_rule_evaluation_failures_total": {"rule_group"},
    "prometheus_notifications_dropped_total": set(),
    "prometheus_tsdb_compactions_failed_total": set(),
    "alertmanager_notifications_failed_total": {"integration"},
    **{f"fluentbit_output_{what}_total": {"name"} for what in ("dropped_records", "proc_records", "retries")},
    "scrape_samples_post_metric_relabeling": set(),
    "": set(),
}
"""Series of the programs that watch and of the host, with labels that are used."""
RECORDED = re.compile(r"service:http_\w+:\w+")
"""Series that our own rules record; that they exist is tested with the rules."""
KNOWN = {metric.name: metric for metric in CATALOG}


def asked(boards: dict[str, Any]) -> Iterator[str]:
    """Yield the PromQL of all panels, annotations and choices."""
    for board in boards.values():
        for row in board["panels"]:
            for panel in (row, *row.get("panels", ())):
                yield from (target["expr"] for target in panel.get("targets", ()) if is_prometheus(target))
        yield from (annotation["expr"] for annotation in board["annotations"]["list"])
        for variable in board["templating"]["list"]:
            if variable["type"] == "query":
                yield re.fullmatch(r"label_values\((.*), \w+\)", variable["query"])[1]


def is_prometheus(target: dict[str, Any]) -> bool:
    """Whether a query is for Prometheus."""
    return bool(target["datasource"]["type"] == "prometheus")


def fenced(page: Path, language: str) -> list[str]:
    """List the queries in a document's blocks of a language; empty lines are between them."""
    blocks = re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    return [query for block in blocks for query in block.strip().split("\n\n")]


def named(expression: str) -> list[str]:
    """Say which names, labels and values of a query do not exist; raises ValueError where it is no PromQL."""
    for word, value in WORDS.items():
        expression = expression.replace(word, value)
    wrong: list[str] = []
    _Walk(wrong).visit(promql_parser.parse(expression))
    return wrong


class _Walk:
    """Goes through a query, and remembers what is in its groupings until it knows their metrics."""

    def __init__(self, wrong: list[str]) -> None:
        self._wrong = wrong

    def visit(self, part: Any) -> set[str]:
        """Look at a part; return the labels that what is in it can have."""
        match type(part).__name__:
            case "VectorSelector":
                return self._selected(part)
            case "MatrixSelector":
                return self._selected(part.vector_selector)
            case "AggregateExpr":
                inner = self.visit(part.expr)
                if part.modifier is not None:
                    self._known(inner, part.modifier.labels, "by")
                return inner
            case "BinaryExpr":
                return self.visit(part.lhs) | self.visit(part.rhs)
            case "Call":
                return set().union(*map(self.visit, part.args), set())
            case "NumberLiteral" | "StringLiteral":
                return set()
            case _:
                return self.visit(part.expr)

    def _selected(self, selector: Any) -> set[str]:
        name = selector.name or ""
        if RECORDED.fullmatch(name):
            return OF_TARGETS
        metric = KNOWN.get(name) or KNOWN.get(re.sub(r"_(bucket|sum|count)$", "", name))
        if metric is None and name not in NOT_OURS:
            self._wrong.append(f"no metric {name}")
            return OF_TARGETS
        labels = OF_TARGETS | (set(metric.labels) if metric else NOT_OURS[name])
        matchers = selector.matchers.matchers
        self._known(labels, [each.name for each in matchers], name)
        if metric:
            self._wrong += [f"{each.name}={each.value} is no value of {name}" for each in matchers if _impossible(metric, each)]
        return labels

    def _known(self, labels: set[str], wanted: list[str], where: str) -> None:
        self._wrong += [f"{where}: no label {label}" for label in wanted if label not in labels]


def _impossible(metric: Metric, matcher: Any) -> bool:
    allowed = metric.labels.get(matcher.name, ())
    exact = str(matcher.op).endswith(("Equal", "NotEqual"))
    return bool(allowed) and exact and matcher.value not in allowed

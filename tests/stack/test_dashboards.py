"""Every panel of every dashboard has data: each query is put to a real Prometheus that scrapes a busy service."""

import json
import math
import re
from typing import Any

import httpx
import pytest
from running import DEMO, ROOT
from servers import query

from sage_fastapi_obs.dashboards.layout import Dashboard, Panel, Variable
from sage_fastapi_obs.dashboards.promql import Queries
from sage_fastapi_obs.export.grafana import dashboards
from sage_fastapi_obs.operations.own_metrics import declare_counter, declare_gauge, declare_histogram

pytestmark = pytest.mark.stack

WORDS = {"$__rate_interval": "30s", "$__range": "1m", "$job": ".*", "$service": ".*", "$instance": ".*"}
"""What Grafana puts in the place of its own words and of the variables, with nothing chosen."""
ALL = dashboards(DEMO)
OLD = ("Age of processes", "Session lifetime", "sage_session_lifetime_seconds")
"""Times that are not of requests."""
MAY_BE_NEGATIVE = ("Error budget left", "Memory by operation")
"""A budget that is overdrawn; memory that was given back."""


def substituted(expression: str) -> str:
    """Write an expression as Grafana sends it."""
    for word, value in WORDS.items():
        expression = expression.replace(word, value)
    assert "$" not in expression
    return expression


@pytest.mark.parametrize("board", ALL, ids=lambda board: board.name)
def test_every_panel_has_sensible_data(stored: str, board: Dashboard):
    """Each query has an answer, its numbers can be what the panel says they are, and its legend names labels they have."""
    found = {
        f"{panel.title}: {each.text}": wrong
        for panel in board.panels
        for each in panel.queries
        if each.store == "prometheus" and (wrong := complaint(panel, each.legend, query(stored, substituted(each.text))))
    }
    assert found == {}


def complaint(panel: Panel, legend: str, result: list[dict[str, Any]]) -> str:
    """Say what cannot be true about an answer, if anything."""
    values = [float(each["value"][1]) for each in result]
    if not values:
        return "no data"
    if not all(map(math.isfinite, values)):
        return f"not all are numbers: {values}"
    if panel.title not in MAY_BE_NEGATIVE and min(values) < 0:
        return f"{min(values)} is below 0"
    most = 1 if panel.unit == "percentunit" else 60 if panel.unit == "s" and panel.title not in OLD else math.inf
    if max(values) > most:
        return f"{max(values)} is too much for {panel.unit}"
    missing = [label for label in re.findall(r"\{\{(\w+)\}\}", legend) if not all(each["metric"].get(label) for each in result)]
    if missing:
        return f"the legend's {missing} are not in {result[0]['metric']}"
    return "" if "{{" in legend or panel.kind == "table" or len(result) == 1 else f"{len(result)} series with one name"


@pytest.mark.parametrize("title", ["p95 now", "Error share now"])
def test_what_cannot_be_true_is_noticed(title: str):
    """The check above can fail: nothing, no number, too much, and names that say nothing are found."""
    panel = next(panel for panel in ALL[1].panels if panel.title == title)
    for values in ([], ["NaN"], ["-1"], ["61"], ["0.1", "0.2"]):
        assert complaint(panel, title, [{"metric": {}, "value": [0, value]} for value in values])
    assert complaint(panel, "{{route}}", [{"metric": {"service": "a"}, "value": [0, "0.1"]}])
    assert complaint(panel, title, [{"metric": {}, "value": [0, "0.1"]}]) == ""


def test_what_never_happens_has_a_share_of_nothing(stored: str):
    """A share is 0 where nothing of its labels was ever counted, and absent where nothing at all was."""
    ask = Queries("")
    (never,) = query(stored, substituted(ask.share("http_requests_total", status="599")))
    assert float(never["value"][1]) == 0
    by_chain = query(stored, substituted(ask.share("sage_did_resolutions_total", "chain", status="failure")))
    assert len(by_chain) == 2
    silent = Queries('job="nobody"').share("http_requests_total", "service", status="=~5..")
    assert query(stored, substituted(silent)) == []
    kinds = query(stored, substituted(ask.quantile(0.95, "pg_query_duration_seconds", "operation")))
    assert [each["metric"]["operation"] for each in kinds] == ["select"]


def test_a_service_in_which_nothing_has_failed_yet_shows_so(stored: str):
    """Where no operation ever failed and there is no breaker, there are zeros, and not panels without data."""
    board = next(board for board in ALL if board.name == "result-pattern")
    shown = {panel.title: panel.queries[0].text.replace("$job", "nobody") for panel in board.panels if panel.kind == "stat"}
    for title in ("Failures in 5 minutes", "Breakers open"):
        assert [each["value"][1] for each in query(stored, substituted(shown[title]))] == ["0"]
    only_good = shown["SLA: availability, 1 h"].replace("nobody", ".*").replace("result_failure_total", "result_never_total")
    assert [each["value"][1] for each in query(stored, substituted(only_good))] == ["1"]


def test_every_choice_has_values(stored: str):
    """Each variable of each dashboard offers at least one value."""
    assert [(board.name, each.label) for board in ALL for each in board.variables if not values_of(stored, each)] == []


def values_of(address: str, variable: Variable) -> list[str]:
    """Ask for a label's values as Grafana does, and keep those that its regex lets through."""
    params = {"match[]": substituted(variable.series)}
    answer = httpx.get(f"{address}/api/v1/label/{variable.label}/values", params=params).raise_for_status()
    keep = re.compile(variable.regex.strip("/"))
    return [value for value in answer.json()["data"] if keep.search(value)]


def test_the_annotation_of_firing_alerts_has_data(stored: str):
    """What marks the graphs of each dashboard finds the alert that fires."""
    drawn = json.loads((ROOT / "grafana/dashboards/service.json").read_text())
    (annotation,) = drawn["annotations"]["list"]
    found = query(stored, annotation["expr"])
    assert [each["metric"]["alertname"] for each in found] == ["SomethingIsWrong"]


def test_a_pack_of_ones_own_has_panels_with_expressions_that_prometheus_takes(stored: str):
    """Metrics that an application declares get a row, by type: rates, values, quantiles."""
    own = (
        declare_counter("shop_orders_total", "Orders taken.", {"region": ("eu", "us")}).metric,
        declare_gauge("shop_baskets_open", "Baskets that are open.").metric,
        declare_histogram("shop_value_bytes", "Value.", ["kind"], buckets=(1, 10)).metric,
    )
    board = next(board for board in dashboards(DEMO, {"shop": own}) if board.name == "service")
    panels = board.rows[-1].panels
    assert [panel.title for panel in panels] == [metric.name for metric in own]
    for panel in panels:
        for each in panel.queries:
            assert query(stored, substituted(each.text)) == []

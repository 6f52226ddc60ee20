"""Every panel of every dashboard has data: each query is put to a real Prometheus that scrapes a busy service."""

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from demo import SERVICES
from servers import free_port, need, prometheus, query, running, serving, until

from sage_fastapi_obs.domain.declared import declare_counter, declare_gauge, declare_histogram
from sage_fastapi_obs.export.grafana import boards
from sage_fastapi_obs.export.grafana.layout import Board, Panel, Variable

pytestmark = pytest.mark.stack

WORDS = {"$__rate_interval": "30s", "$__range": "1m", "$job": ".*", "$service": ".*", "$instance": ".*"}
"""What Grafana puts in the place of its own words and of the variables, with nothing chosen."""
JOBS = ("sage-backend", "ai-textbook-core", "customer-id", "rfs-demo")
CONFIG = """
global: {scrape_interval: 1s, evaluation_interval: 1s}
rule_files: [rules.yml]
scrape_configs:
%s
"""
RULES = """
groups:
  - name: always
    rules: [{alert: SomethingIsWrong, expr: "up{job='sage-backend'} == 1", labels: {severity: warning}}]
"""
ALL = boards(SERVICES)
QUERIES = [
    pytest.param(panel, query.text, query.legend, id=f"{board.name}-{panel.title}-{number}")
    for board in ALL
    for panel in board.panels
    for number, query in enumerate(panel.queries)
    if query.store == "prometheus"
]
MAY_BE_NEGATIVE = ("Error budget left", "Memory by operation")
"""A budget that is overdrawn; memory that was given back."""
MAY_PASS_ONE = MAY_BE_NEGATIVE


def job(name: str, port: int) -> str:
    """Write a scrape of one service as the demo's configuration has it."""
    target = f'[{{targets: ["127.0.0.1:{port}"], labels: {{service: {name}}}}}]'
    return f"  - {{job_name: {name}, static_configs: {target}}}"


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Have a service scraped under the names of all services of the demo, and a host; yield Prometheus' address."""
    folder = tmp_path_factory.mktemp("dashboards")
    host = free_port()
    exporter = need("prometheus-node-exporter", "apt-get install prometheus-node-exporter")
    flags = [f"--web.listen-address=127.0.0.1:{host}", "--collector.disable-defaults", "--collector.cpu"]
    with serving("everything:create_app", folder, PYTHONPATH=f"{Path(__file__).parent}:{Path.cwd()}") as port:
        (folder / "rules.yml").write_text(RULES)
        config = folder / "prometheus.yml"
        config.write_text(CONFIG % "\n".join([*(job(name, port) for name in JOBS), job("node-exporter", host)]))
        with running([exporter, *flags], folder / "host.log"), prometheus(config, folder) as address:
            # Rates need several scrapes, and events of all kinds in between.
            busy = "count(count_over_time(up[1m]) > 12) == 5"
            until(lambda: query(address, busy), "scrapes")
            until(lambda: query(address, 'ALERTS{alertstate="firing"}'), "alert")
            yield address


def substituted(expression: str) -> str:
    """Write an expression as Grafana sends it."""
    for word, value in WORDS.items():
        expression = expression.replace(word, value)
    assert "$" not in expression
    return expression


@pytest.mark.parametrize(("panel", "expression", "legend"), QUERIES)
def test_a_panel_has_sensible_data(stored: str, panel: Panel, expression: str, legend: str):
    """A query has an answer, its numbers can be what the panel says they are, and its legend names labels they have."""
    result = query(stored, substituted(expression))
    assert result
    values = [float(each["value"][1]) for each in result]
    assert all(math.isfinite(value) for value in values), values
    if panel.title not in MAY_BE_NEGATIVE:
        assert min(values) >= 0
    if panel.unit == "percentunit" and panel.title not in MAY_PASS_ONE:
        assert max(values) <= 1
    if panel.unit == "s" and "Age" not in panel.title and "lifetime" not in panel.title:
        assert max(values) < 60
    for label in re.findall(r"\{\{(\w+)\}\}", legend):
        assert all(each["metric"].get(label) for each in result), f"{label} is not in {result[0]['metric']}"
    if not legend:
        assert len(result) == 1


@pytest.mark.parametrize("board", ALL, ids=lambda board: board.name)
def test_a_choice_has_values(stored: str, board: Board):
    """Each variable of a dashboard offers at least one value, also after those before it have been chosen."""
    for variable in board.variables:
        assert values_of(stored, variable)


def values_of(address: str, variable: Variable) -> list[str]:
    """Ask for a label's values as Grafana does, and keep those that its regex lets through."""
    params = {"match[]": substituted(variable.series)}
    answer = httpx.get(f"{address}/api/v1/label/{variable.label}/values", params=params).raise_for_status()
    keep = re.compile(variable.regex.strip("/"))
    return [value for value in answer.json()["data"] if keep.search(value)]


def test_the_annotation_of_firing_alerts_has_data(stored: str):
    """What marks the graphs of each dashboard finds the alert that fires."""
    drawn = json.loads((Path(__file__).parents[2] / "grafana/dashboards/service.json").read_text())
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
    board = next(board for board in boards(SERVICES, {"shop": own}) if board.name == "service")
    panels = board.rows[-1].panels
    assert [panel.title for panel in panels] == [metric.name for metric in own]
    for panel in panels:
        for each in panel.queries:
            assert query(stored, substituted(each.text)) == []

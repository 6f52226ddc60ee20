"""Dashboards, rules and configurations are found in whatever a team keeps them in; what cannot be read is said."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from sage_fastapi_obs import Settings
from sage_fastapi_obs.contract.comparison import compare
from sage_fastapi_obs.contract.own_uses import own_uses
from sage_fastapi_obs.contract.telemetry_contract import Contract, ContractError, MetricTerms, Use
from sage_fastapi_obs.contract.use_files import uses_in
from sage_fastapi_obs.export import grafana

PANEL = {"type": "stat", "title": "Orders", "targets": [{"refId": "A", "expr": "sum(orders_total)"}]}
BOARD = {"title": "Shop", "panels": [PANEL]}
FOUND = ("dashboard", "Shop", "Orders", "promql", "sum(orders_total)")


def read(folder: Path, **files: Any) -> list[tuple[str, ...]]:
    """Write files, as what their names end in, and read the folder; each use without its file."""
    for name, content in files.items():
        stem, _, ending = name.rpartition("_")
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / f"{stem}.{ending}").write_text(text)
    found = uses_in([folder])
    assert found.unread == []
    return [(use.kind, use.name, use.part, use.language, use.text) for use in found.uses]


def config_map(**data: Any) -> dict[str, Any]:
    return {"kind": "ConfigMap", "data": {name.replace("_", "."): json.dumps(one) for name, one in data.items()}}


@pytest.mark.parametrize(
    "content",
    [
        BOARD,
        {"dashboard": BOARD, "meta": {}},
        {"apiVersion": "dashboard.grafana.app/v1beta1", "kind": "Dashboard", "spec": BOARD},
        {"title": "Shop", "rows": [{"panels": [PANEL]}]},
        config_map(shop_json=BOARD),
        {"kind": "ConfigMapList", "items": [config_map(shop_json=BOARD)]},
    ],
    ids=["file", "api", "object", "old rows", "config map", "list"],
)
def test_a_dashboard_is_found_in_its_envelope(content: dict[str, Any], tmp_path: Path) -> None:
    """As saved, as the API gives it, as an object of Kubernetes, with the rows of old, and in ConfigMaps."""
    assert read(tmp_path, shop_yaml=yaml.safe_dump(content)) == [FOUND]
    assert read(tmp_path, shop_yaml="", shop_json=content) == [FOUND]


def test_library_panels_are_found_by_their_uid(tmp_path: Path) -> None:
    """A panel that stands in a file of its own counts for the dashboard that shows it, under its own title."""
    board = {"title": "Shop", "panels": [{"type": "stat", "title": "Here", "libraryPanel": {"uid": "one"}}]}
    assert read(tmp_path, board_json=board, library_json={"result": {"uid": "one", "model": PANEL}}) == [FOUND]


@pytest.mark.parametrize(
    "source",
    [
        {"type": "loki", "uid": "x"},
        {"uid": "$lines"},
        "${DS_LINES}",
        "Loki of the shop",
    ],
    ids=["type", "variable", "input", "name"],
)
def test_the_language_is_that_of_the_data_source(source: Any, tmp_path: Path) -> None:
    """However a dashboard names where it asks, which is said on the panel, the query is read in that language."""
    board = {
        "title": "Shop",
        "__inputs": [{"name": "DS_LINES", "pluginId": "loki"}],
        "templating": {"list": [{"type": "datasource", "name": "lines", "query": "loki"}]},
        "panels": [{**PANEL, "datasource": source}],
    }
    assert [language for *_, language, _ in read(tmp_path, board_json=board)] == ["logql"]


def test_what_is_no_query_of_telemetry_is_left_out(tmp_path: Path) -> None:
    """SQL, expressions of Grafana's own and what there is to choose are not taken for queries."""
    targets = [{"datasource": {"type": "__expr__", "uid": "__expr__"}, "type": "math", "expression": "$A * 2", "query": "$A"}]
    board = {
        "title": "Shop",
        "variables": [{"kind": "CustomVariable", "spec": {"name": "x", "query": "a,b"}}],
        "templating": {"list": [{"type": "custom", "name": "y", "query": "a,b"}]},
        "panels": [
            {**PANEL, "targets": targets},
            {**PANEL, "datasource": {"type": "mysql"}, "targets": [{"query": "SELECT orders_total"}]},
        ],
    }
    assert read(tmp_path, board_json=board, shop_json=BOARD) == [FOUND]


def test_variables_are_filled_in(tmp_path: Path) -> None:
    """Those with listed values give each of them, those of Grafana a time; those in quotes stay, being any value."""
    listed = [
        {"type": "custom", "name": "metric", "query": "A : a_total,b_total"},
        {"type": "constant", "name": "by", "query": "route"},
    ]
    query = 'sum by ([[by]]) (rate(${metric:raw}{x=~"$x"}[$__rate_interval])) > $limit'
    panel = {**PANEL, "targets": [{"expr": query}]}
    texts = [text for *_, text in read(tmp_path, a_json={**BOARD, "panels": [panel], "templating": {"list": listed}})]
    limit = "grafana__variable"
    assert texts == [f'sum by (route) (rate({name}_total{{x=~"$x"}}[5m])) > {limit}' for name in "ab"]


def test_rules_of_all_kinds_are_found(tmp_path: Path) -> None:
    """Rule files, objects of the operator, rules of Loki and of Grafana, each with the labels that their texts show."""
    alert = {"alert": "A", "expr": "a_total", "annotations": {"summary": "{{ $labels.route }}"}}
    logs = {"alert": "L", "expr": 'sum(rate({a="b"} | json [5m]))'}
    own = {"title": "G", "data": [{"refId": "A", "model": {"expr": "g_total"}}]}
    one_of = {"alert": "O", "expr": 'a_total{route=~"/orders/{order_id}|/carts"}'}
    group = {
        "groups": [
            {"name": "x", "rules": [alert, {"record": "r:x", "expr": "a_total"}, logs, one_of, own, {"broken": 1}, 5]},
            7,
        ]
    }
    kinds = read(tmp_path, rules_yml=yaml.safe_dump(group))
    assert [(kind, name, language) for kind, name, _, language, _ in kinds] == [
        ("alert", "A", "promql"),
        ("recording rule", "r:x", "promql"),
        ("alert", "L", "logql"),
        ("alert", "O", "promql"),
        ("alert", "G", "promql"),
    ]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"kind": "PrometheusRule", "spec": group}))
    assert [use.shown for use in uses_in([tmp_path]).uses] == [("route",), (), (), (), ()]


def test_configurations_name_alerts_and_fields(tmp_path: Path) -> None:
    """Alertmanager's routes name alerts, and links of data sources name fields."""
    routes = {"route": {"routes": [{"matchers": ['alertname="NobodyOrders"']}]}, "receivers": []}
    sources = {"datasources": [{"name": "Loki", "jsonData": {"derivedFields": [{"matcherRegex": '"trace_id":"(\\w+)"'}]}}]}
    found = read(tmp_path, alertmanager_yml=yaml.safe_dump(routes), sources_yml=yaml.safe_dump(sources))
    assert [one[:2] for one in found] == [("configuration of", "Alertmanager"), *[("data source", "Loki")] * 2]
    assert "NobodyOrders" in found[0][-1]


def test_files_of_the_export_ask_what_the_contract_says(tmp_path: Path) -> None:
    """The dashboards that Grafana loads from files have the queries that a contract has without them."""
    service = Settings(service={"name": "shop"}, metrics={"packs": ["http", "runtime", "security", "sage"]})
    for path, text in grafana.files([service]).items():
        if path.startswith("grafana/dashboards/"):
            (tmp_path / Path(path).name).write_text(text)
    own, files = (*own_uses(service, {}),), uses_in([tmp_path]).uses
    asked = {_query(use) for use in own if use.kind == "dashboard" and use.language != "traceql"}
    assert len(asked) > 100
    assert {_query(use) for use in files if use.language != "traceql" and not use.part.startswith("annotation")} == asked
    # And what is in both is named once, with its file.
    old = Contract(1, "shop", {"http_requests_total": MetricTerms("counter")}, used_by=own)
    (gone,) = compare(old, replace(old, metrics={}), files).changes
    named = [(one.name, one.part, one.file) for one in gone.affected if one.kind == "dashboard"]
    assert ("Service", "Request rate", str(tmp_path / "service.json")) in named
    assert "" not in {file for *_, file in named}


def _query(use: Use) -> tuple[str, ...]:
    return use.name, use.part, use.language, use.text


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("cut.json", b'{"panels": ['),
        ("nested.json", b'{"panels": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
        ("wide.json", json.dumps({"panels": [[[[0] * 10] * 100] * 100] * 10}).encode()),
        ("deep.json", b'{"panels": ' + b'{"a": ' * 500 + b"1" + b"}" * 501),
        ("binary.yml", b"\xff\xfe\x00groups"),
        ("tabs.yml", b"groups:\n\t- name"),
        ("helm.yaml", b"{{- if .Values.rules }}\ngroups: {{ .Values.groups }}\n"),
        ("texts.yml", b"groups: [{rules: [{alert: A, expr: a, annotations: [x]}]}]"),
        ("number.yml", b"groups: [{rules: 5}]"),
        ("elements.json", b'{"panels": [], "__elements": 5}'),
        ("circle.yml", b"receivers: []\nroute: &a {x: *a}"),
        (
            "bomb.yaml",
            b"panels:\n- &a0 [x, x]\n" + b"".join(b"- &a%d [*a%d, *a%d]\n" % (n, n - 1, n - 1) for n in range(1, 40)),
        ),
    ],
)
def test_what_cannot_be_read_is_said(name: str, content: bytes, tmp_path: Path) -> None:
    """A broken, hostile or foreign file is named with the reason, and the others are read."""
    (tmp_path / name).write_bytes(content)
    (tmp_path / "shop.json").write_text(json.dumps(BOARD))
    found = uses_in([tmp_path])
    assert [use.text for use in found.uses] == ["sum(orders_total)"]
    (said,) = found.unread
    assert said.startswith(f"{tmp_path / name}: ")
    assert len(said.splitlines()) == 1


def test_a_path_without_anything_is_an_error(tmp_path: Path) -> None:
    """A mistyped path, an empty folder or a file of another kind must not pass for dashboards that need nothing."""
    with pytest.raises(ContractError, match="there is no"):
        uses_in([tmp_path / "nowhere"])
    with pytest.raises(ContractError, match="has no dashboard"):
        uses_in([tmp_path])
    (tmp_path / "cut.json").write_text("{")
    with pytest.raises(ContractError, match=r"has no dashboard, rule or runbook: .*cut\.json: Expecting"):
        uses_in([tmp_path / "cut.json"])


def test_hidden_and_foreign_folders_are_left_out(tmp_path: Path) -> None:
    """Packages of others and version control hold no dashboards of the team; a file that is named is read wherever it is."""
    for name in (".git", "node_modules", "boards"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "shop.json").write_text(json.dumps(BOARD))
    assert [use.file for use in uses_in([tmp_path]).uses] == [str(tmp_path / "boards" / "shop.json")]
    assert len(uses_in([tmp_path / ".git" / "shop.json"]).uses) == 1

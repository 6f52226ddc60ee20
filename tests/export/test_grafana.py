"""Dashboards: made for what services record, laid out without gaps, and speaking only of metrics that exist."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from demo import ROOT, SERVICES

from queries import asked, named
from sage_fastapi_obs import Settings, SettingsError, declare_counter, declare_gauge, declare_histogram
from sage_fastapi_obs.catalog import CATALOG, PACKS
from sage_fastapi_obs.dashboards.promql import Queries
from sage_fastapi_obs.errors import DeclarationError
from sage_fastapi_obs.export import grafana

FILES = grafana.files(SERVICES)
BOARDS = {Path(path).stem: json.loads(text) for path, text in FILES.items() if path.startswith("grafana/dashboards/")}
PROVISIONED = yaml.safe_load(FILES["grafana/provisioning/datasources/stack.yml"].replace("$$", "$"))["datasources"]


class Shop:
    """A pack of an application."""

    orders = declare_counter("shop_orders_total", "Orders taken.", {"region": ("eu", "us")})
    open = declare_gauge("shop_baskets_open", "Baskets that are open.")
    value = declare_histogram("shop_order_value_bytes", "Size of orders.", ["kind"], buckets=(1, 10))


def panels(board: dict[str, Any]) -> list[dict[str, Any]]:
    """List the panels of a dashboard, those of folded rows too."""
    return [panel for row in board["panels"] for panel in (row, *row.get("panels", ()))]


def test_the_files_of_the_demo_are_what_is_exported():
    """Nobody has written on the files, or in the code they are made by, since they were exported."""
    for path, text in FILES.items():
        assert (ROOT / path).read_text() == text, f"{path}: run `make export`"
    assert {path.stem for path in (ROOT / "grafana/dashboards").iterdir()} == set(BOARDS)


def test_all_dashboards_are_there():
    """The demo has nine dashboards of its systems, and one for any service."""
    systems = {"sage-overview", "sage-detailed", "sage-debugging", "textbook-system-overview", "textbook-business", "security"}
    assert set(BOARDS) == systems | {"customer-id-monitoring", "result-pattern", "unified", "service"}


@pytest.mark.parametrize("name", BOARDS)
def test_a_dashboard_can_be_read(name: str):
    """Its uid is its file's name, its panels are numbered, lie on the grid side by side, and each says what it means."""
    board = BOARDS[name]
    assert board["uid"] == name
    numbered = [panel["id"] for panel in panels(board)]
    assert numbered == list(range(1, len(numbered) + 1))
    for row in (board["panels"], *(row.get("panels", []) for row in board["panels"])):
        taken: set[tuple[int, int]] = set()
        for panel in row:
            at = panel["gridPos"]
            cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
            assert not cells & taken
            assert at["x"] + at["w"] <= 24
            taken |= cells
    shown = [panel for panel in panels(board) if panel["type"] != "row"]
    assert all(len(panel["description"]) > 10 and panel["targets"] for panel in shown)
    titles = [panel["title"] for panel in shown]
    assert len(titles) == len(set(titles))
    assert board["panels"][0]["type"] == "row"
    assert board["annotations"]["list"][0]["name"] == "Firing alerts"
    assert board["links"][0]["tags"][0] in board["tags"]


@pytest.mark.parametrize("name", BOARDS)
def test_a_dashboard_has_every_variable_that_it_uses(name: str):
    """No query, source or choice asks for a variable that is not there, or not there yet."""
    board = BOARDS[name]
    known: set[str] = set()
    for variable in board["templating"]["list"]:
        assert used(json.dumps([variable.get("query"), variable.get("datasource")])) <= known
        known.add(variable["name"])
    assert used(json.dumps([board["panels"], board["annotations"]])) <= known
    assert known <= used(json.dumps(board)), "a variable that nothing uses"


def used(text: str) -> set[str]:
    """Find names of variables, without those that Grafana brings."""
    return {name for name in re.findall(r"\$\{?(\w+)", text) if not name.startswith("__")}


def test_queries_speak_of_metrics_that_exist():
    """Names and labels in all queries are in the catalog, with the values that closed labels have."""
    for expression in asked(BOARDS):
        assert named(expression) == [], expression


def test_every_metric_of_a_pack_is_on_a_dashboard():
    """What a service records can be seen: the metrics of all packs are in some panel."""
    shown = "\n".join(asked(BOARDS))
    hidden = {"python_info", "process_virtual_memory_bytes", "python_traced_memory_bytes", "python_gc_objects_collected_total"}
    hidden.add("python_gc_objects_uncollectable_total")
    assert {metric.name for metric in CATALOG if metric.name not in shown} <= hidden


@pytest.mark.parametrize("pack", [pack for pack in PACKS if pack != "runtime"])
def test_each_pack_alone_has_panels(pack: str):
    """A service with one pack gets dashboards with it, which speak of no metric that it has not."""
    boards = grafana.dashboards([Settings(metrics={"packs": ["http", "runtime", pack]})])
    mine = {metric.name for metric in PACKS[pack]}
    queries = [query.text for board in boards for panel in board.panels for query in panel.queries]
    assert any(name in text for name in mine for text in queries)


def test_a_service_without_metrics_has_no_dashboards():
    """Where metrics are switched off there is nothing to show, and the others' dashboards are as they were."""
    silent = Settings(metrics={"enabled": False, "packs": ["http", "sage"]})
    assert grafana.dashboards([silent]) == ()
    assert grafana.dashboards([silent, *SERVICES]) == grafana.dashboards(SERVICES)


def test_a_pack_of_ones_own_is_a_row():
    """Counters become rates, gauges stay, histograms become quantiles, with the units that their names have."""
    service = next(board for board in grafana.dashboards(SERVICES, own()) if board.name == "service")
    row = service.rows[-1]
    assert row.title == "Why: Shop"
    by_title = {panel.title: panel for panel in row.panels}
    assert "sum by (region) (rate(shop_orders_total{" in by_title["shop_orders_total"].queries[0].text
    assert by_title["shop_baskets_open"].queries[0].text.startswith("sum (shop_baskets_open{")
    assert "sum by (kind, le)" in by_title["shop_order_value_bytes"].queries[1].text
    assert by_title["shop_order_value_bytes"].unit == "bytes"


def own() -> dict[str, Any]:
    """Return the pack above as dashboards take it."""
    return {"Shop": [Shop.orders.metric, Shop.open.metric, Shop.value.metric]}


def test_settings_name_packs_of_ones_own(monkeypatch: pytest.MonkeyPatch):
    """`export.packs` finds a class by module and name; what is not there is refused with what to change."""
    monkeypatch.setitem(sys.modules, "shop_metrics", sys.modules[__name__])
    written = grafana.files([Settings(export={"packs": ["shop_metrics:Shop"]})])
    assert "shop_orders_total" in written["grafana/dashboards/service.json"]
    for wrong in ("shop_metrics:Nothing", "nowhere:Shop", "shop_metrics", "sage_fastapi_obs:Settings"):
        with pytest.raises(SettingsError, match=re.escape(wrong)):
            grafana.files([Settings(export={"packs": [wrong]})])


def test_promises_are_lines():
    """What a service promises is drawn where it is kept or broken, and nothing is where nothing is promised."""
    board = drawn(sla={"availability": 99.5, "response_time_p95_ms": 300, "error_rate": 2})
    assert steps(board, "p95 now") == [None, 0.2, 0.3]
    assert steps(board, "Error share now") == [None, 0.01, 0.02]
    assert steps(board, "Availability") == [None, 0.995]
    assert "/ 0.005" in panel(board, "Error budget left")["targets"][0]["expr"]
    none = drawn(sla=dict.fromkeys(["availability", "error_rate", "response_time_p95_ms", "response_time_mean_ms"]))
    assert steps(none, "p95 now") == [None]
    assert "Availability" not in {each["title"] for each in panels(none)}
    assert "Availability" not in {each["title"] for each in panels(drawn(sla={"availability": 100}))}


def drawn(**sections: Any) -> dict[str, Any]:
    """Draw the dashboard of any service for some settings."""
    return json.loads(grafana.files([Settings(**sections)])["grafana/dashboards/service.json"])


def panel(board: dict[str, Any], title: str) -> dict[str, Any]:
    """Find a panel."""
    return next(each for each in panels(board) if each["title"] == title)


def steps(board: dict[str, Any], title: str) -> list[float | None]:
    """List from which values on a panel changes its colour."""
    return [step["value"] for step in panel(board, title)["fieldConfig"]["defaults"]["thresholds"]["steps"]]


def test_the_jobs_of_textbooks_are_those_of_the_settings():
    """The dashboards of textbooks offer jobs that the settings name, and no others."""
    (job, _instance) = BOARDS["textbook-business"]["templating"]["list"][1:]
    assert (job["regex"], job["allValue"]) == ("/^(.*ai-textbook.*)$/", ".*ai-textbook.*")


def test_one_finds_the_way_from_an_exemplar_to_a_trace_to_its_lines():
    """Data sources lead to each other by uids that exist, and by the names that our lines and exemplars have."""
    by_uid = {source["uid"]: source["jsonData"] for source in PROVISIONED}
    (exemplar,) = by_uid["prometheus"]["exemplarTraceIdDestinations"]
    assert (exemplar["name"], exemplar["datasourceUid"]) == ("trace_id", "jaeger")
    (field,) = by_uid["loki"]["derivedFields"]
    line = '{"message":"request completed","trace_id":"4bf92f3577b34da6a3ce929d0e0e4736","status":200}'
    assert re.search(field["matcherRegex"], line)[1] == "4bf92f3577b34da6a3ce929d0e0e4736"
    assert field["datasourceUid"] == "jaeger"
    assert by_uid["jaeger"]["tracesToLogsV2"]["datasourceUid"] == "loki"
    targets = re.findall(r'"(?:datasourceUid)": "(\w+)"', json.dumps(PROVISIONED))
    assert set(targets) <= set(by_uid)


def test_an_unknown_metric_or_label_cannot_be_asked_for():
    """A name that the catalog does not have is refused where the query is written."""
    ask = Queries("")
    with pytest.raises(DeclarationError, match="no metric htp_requests_total"):
        ask.rate("htp_requests_total")
    with pytest.raises(DeclarationError, match="http_requests_total has no label path"):
        ask.rate("http_requests_total", "path")
    with pytest.raises(DeclarationError, match="no metric http_requests_total_bucket"):
        ask.quantile(0.5, "http_requests_total")
    assert ask.rate("http_requests_total", "service", status="=~5..") == (
        'sum by (service) (rate(http_requests_total{status=~"5.."}[$__rate_interval]))'
    )


def test_without_the_sdk_one_is_told_what_to_install():
    """Everything else can be exported without Grafana's SDK; dashboards say what they need."""
    code = (
        "import sys; sys.modules['grafana_foundation_sdk'] = None\n"
        "from sage_fastapi_obs import Settings, SettingsError\n"
        "from sage_fastapi_obs.export import grafana\n"
        "try: grafana.files([Settings()])\n"
        "except SettingsError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "dashboards need Grafana's SDK: pip install 'sage_fastapi_obs[grafana]'\n"


def test_what_is_said_of_today_is_of_today():
    """A panel about today begins at midnight, and its query covers all that it shows."""
    today = [panel for board in BOARDS.values() for panel in panels(board) if "Today" in panel.get("title", "")]
    assert [panel["title"] for panel in today] == ["Textbooks Created Today"]
    assert {panel["timeFrom"] for panel in today} == {"now/d"}
    assert all("[$__range]" in target["expr"] for panel in today for target in panel["targets"])


def test_the_sign_of_life_is_no_alert_to_look_at():
    """The watchdog always fires: neither the count of alerts nor the marks in graphs have it."""
    watched = [query for query in asked(BOARDS) if "ALERTS" in query]
    assert watched
    assert [query for query in watched if 'alertname!="Watchdog"' not in query] == []

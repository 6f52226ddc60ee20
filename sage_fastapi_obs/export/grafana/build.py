"""Dashboards as JSON, in the words of Grafana's own SDK."""

import json
from typing import Any

from grafana_foundation_sdk.builders import common as commons
from grafana_foundation_sdk.builders import dashboard as dashboards
from grafana_foundation_sdk.builders import logs, loki, prometheus, stat, statetimeline, table, timeseries
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.variants import Dataquery
from grafana_foundation_sdk.models import common, dashboard
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from sage_fastapi_obs.dashboards.layout import FINE, Dashboard, Panel, Query, Row, Threshold, Variable
from sage_fastapi_obs.dashboards.promql import FIRING

_TAG = "sage-fastapi-obs"
"""What dashboards that link to each other have in common."""
_WIDTH = 24
_KINDS: dict[str, Any] = {
    "timeseries": timeseries.Panel,
    "stat": stat.Panel,
    "states": statetimeline.Panel,
    "table": table.Panel,
    "logs": logs.Panel,
    "traces": table.Panel,
}
_STORES = {
    "prometheus": common.DataSourceRef(type_val="prometheus", uid="${datasource}"),
    "loki": common.DataSourceRef(type_val="loki", uid="${logs}"),
    "jaeger": common.DataSourceRef(type_val="jaeger", uid="${traces}"),
}
_SOURCES = {"datasource": ("prometheus", "Metrics"), "logs": ("loki", "Logs"), "traces": ("jaeger", "Traces")}
_USED_BY = {"prometheus": "datasource", "loki": "logs", "jaeger": "traces"}


def dashboard_json(board: Dashboard) -> str:
    """Write one dashboard as a file for Grafana's provisioning."""
    built = (
        dashboards.Dashboard(board.title)
        .uid(board.name)
        .description(board.about)
        .tags([_TAG, *board.tags])
        .time("now-1h", "now")
        .refresh("30s")
        .timezone("browser")
        .tooltip(dashboard.DashboardCursorSync.CROSSHAIR)
        .variables([*_sources(board), *map(_variable, board.variables)])
        .annotation(_firing_alerts())
        .link(_other_boards())
    )
    below = 0
    for row in board.rows:
        below = _add(built, row, below)
    drawn = json.loads(json.dumps(built.build(), cls=JSONEncoder))
    return json.dumps(_numbered(drawn), indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def _add(built: dashboards.Dashboard, row: Row, top: int) -> int:
    """Lay a row out below what is there; return where the next one begins."""
    header = dashboards.Row(row.title).grid_pos(dashboard.GridPos(h=1, w=_WIDTH, x=0, y=top))
    panels, below = _placed(row.panels, top + 1)
    if row.collapsed:
        for panel in panels:
            header.with_panel(panel)
        built.with_row(header)
        return top + 1
    built.with_row(header)
    for panel in panels:
        built.with_panel(panel)
    return below


def _placed(panels: tuple[Panel, ...], top: int) -> tuple[list[Any], int]:
    """Set panels side by side, as many as fit; return them and where the next row begins."""
    placed, left, tallest = [], 0, 0
    for panel in panels:
        if left + panel.width > _WIDTH:
            left, top, tallest = 0, top + tallest, 0
        placed.append(_panel(panel).grid_pos(dashboard.GridPos(h=panel.height, w=panel.width, x=left, y=top)))
        left, tallest = left + panel.width, max(tallest, panel.height)
    return placed, top + tallest


def _panel(panel: Panel) -> Any:
    built = _KINDS[panel.kind]().title(panel.title).description(panel.description)
    built.datasource(_STORES[panel.queries[0].store])
    if panel.time_from:
        built.time_from(panel.time_from)
    for number, query in enumerate(panel.queries):
        built.with_target(_target(panel, query, chr(ord("A") + number)))
    if panel.kind == "logs":
        return built.show_time(True).wrap_log_message(True).enable_log_details(True).sort_order(common.LogsSortOrder.DESCENDING)
    if panel.kind == "traces":
        return built
    built.unit(panel.unit).thresholds(_thresholds(panel.colors or (Threshold(FINE),)))
    if panel.mappings:
        texts = {value: dashboard.ValueMappingResult(text=text, color=color) for value, (text, color) in panel.mappings.items()}
        built.mappings([dashboard.ValueMap(options=texts)])
    if panel.max is not None:
        built.max(panel.max)
    return _FINISHED[panel.kind](built, panel)


def _lines(built: Any, panel: Panel) -> Any:
    built.min(0).fill_opacity(25 if panel.stacked else 8).show_points(common.VisibilityMode.AUTO).line_width(1)
    built.legend(
        commons.VizLegendOptions()
        .show_legend(True)
        .placement(common.LegendPlacement.BOTTOM)
        .display_mode(common.LegendDisplayMode.TABLE)
        .calcs(["mean", "lastNotNull"])
    )
    built.tooltip(commons.VizTooltipOptions().mode(common.TooltipDisplayMode.MULTI).sort(common.SortOrder.DESCENDING))
    if panel.stacked:
        built.stacking(commons.StackingConfig().mode(common.StackingMode.NORMAL).group("A"))
    if panel.colors:
        built.thresholds_style(commons.GraphThresholdsStyleConfig().mode(common.GraphThresholdsStyleMode.DASHED))
    return built


def _one_number(built: Any, panel: Panel) -> Any:
    built.reduce_options(commons.ReduceDataOptions().calcs(["lastNotNull"]))
    built.graph_mode(common.BigValueGraphMode.NONE if panel.mappings else common.BigValueGraphMode.AREA)
    return built.color_mode(common.BigValueColorMode.BACKGROUND if panel.colors else common.BigValueColorMode.VALUE)


def _states(built: Any, _panel: Panel) -> Any:
    return built.merge_values(True).show_value(common.VisibilityMode.AUTO).fill_opacity(70)


def _rows(built: Any, panel: Panel) -> Any:
    """Join the answers to several queries by their labels: a line for each set of labels, a column for each query."""
    built.with_transformation(dashboard.DataTransformerConfig(id_val="merge", options={}))
    renamed = {f"Value #{chr(ord('A') + number)}": query.legend for number, query in enumerate(panel.queries)}
    organized = {"excludeByName": {"Time": True}, "renameByName": renamed}
    return built.with_transformation(dashboard.DataTransformerConfig(id_val="organize", options=organized))


_FINISHED = {"timeseries": _lines, "stat": _one_number, "states": _states, "table": _rows}


class _JaegerSearch(Dataquery):
    """A search for traces of one service; the SDK has no builder of it."""

    def __init__(self, service: str, ref_id: str) -> None:
        self._fields = {"queryType": "search", "service": service, "limit": 20, "refId": ref_id}

    def to_json(self) -> dict[str, object]:
        return self._fields | {"datasource": _STORES["jaeger"].to_json()}


class _Built(Builder[Dataquery]):
    def __init__(self, query: Dataquery) -> None:
        self._query = query

    def build(self) -> Dataquery:
        return self._query


def _target(panel: Panel, query: Query, ref_id: str) -> Any:
    if query.store == "jaeger":
        return _Built(_JaegerSearch(query.text, ref_id))
    if query.store == "loki":
        return loki.Dataquery().expr(query.text).ref_id(ref_id).max_lines(200).datasource(_STORES["loki"])
    asked = prometheus.Dataquery().expr(query.text).ref_id(ref_id).legend_format(query.legend or "__auto")
    asked.datasource(_STORES["prometheus"])
    if panel.kind == "table":
        return asked.instant().format(PromQueryFormat.TABLE)
    if panel.kind == "timeseries" and "_bucket" in query.text:
        asked.exemplar(True)
    return asked.range()


def _thresholds(thresholds: tuple[Threshold, ...]) -> Any:
    steps = [dashboard.Threshold(value=step.value, color=step.color) for step in thresholds]
    return dashboards.ThresholdsConfig().mode(dashboard.ThresholdsMode.ABSOLUTE).steps(steps)


def _sources(board: Dashboard) -> list[Any]:
    """Ask for the stores that the board's panels use."""
    used = {"datasource", *(_USED_BY[query.store] for panel in board.panels for query in panel.queries)}
    return [
        dashboards.DatasourceVariable(name).label(label).type(kind) for name, (kind, label) in _SOURCES.items() if name in used
    ]


def _variable(variable: Variable) -> Any:
    everything = dashboard.VariableOption(selected=True, text="All", value="$__all")
    built = (
        dashboards.QueryVariable(variable.label)
        .label(variable.label.capitalize())
        .datasource(_STORES["prometheus"])
        .query(f"label_values({variable.series}, {variable.label})")
        .refresh(dashboard.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(dashboard.VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .all_value(variable.all_value)
        .current(everything)
    )
    return built.regex(variable.regex) if variable.regex else built


def _firing_alerts() -> Any:
    return (
        dashboards.AnnotationQuery()
        .name("Firing alerts")
        .datasource(_STORES["prometheus"])
        .enable(True)
        .hide(False)
        .icon_color("red")
        .expr(f"max by (alertname, severity, service) ({FIRING})")
        .title_format("{{alertname}}")
        .text_format("{{severity}} {{service}}")
        .tag_keys("severity")
        .step("60s")
    )


def _other_boards() -> Any:
    return (
        dashboards.DashboardLink("Dashboards")
        .type(dashboard.DashboardLinkType.DASHBOARDS)
        .tags([_TAG])
        .as_dropdown(True)
        .include_vars(True)
        .keep_time(True)
    )


def _numbered(drawn: dict[str, Any]) -> dict[str, Any]:
    """Give each panel the number by which alerts and links find it: its place."""
    flat = (each for row in drawn["panels"] for each in (row, *row.get("panels", ())))
    for number, panel in enumerate(flat, start=1):
        panel["id"] = number
    return drawn

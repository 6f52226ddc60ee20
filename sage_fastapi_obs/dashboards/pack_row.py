"""A row for any pack: panels made from what its metrics say about themselves."""

from sage_fastapi_obs.catalog import Metric
from sage_fastapi_obs.dashboards.layout import Panel, Row, numbers
from sage_fastapi_obs.dashboards.panels import PanelBuilder, legend_of

__all__ = ["pack_row"]

MOST_LABELS = 2
"""Labels by which a panel splits: more is a tangle."""
UNITS = {"seconds": "s", "bytes": "bytes", "ratio": "percentunit"}


def pack_row(title: str, metrics: tuple[Metric, ...]) -> Row:
    """Show each metric of a pack: counters as rates, gauges as they are, histograms as quantiles."""
    panel = PanelBuilder(own=metrics)
    return Row(title, tuple(_panel(panel, metric) for metric in metrics), collapsed=True)


def _panel(panel: PanelBuilder, metric: Metric) -> Panel:
    name, by = metric.name, tuple(metric.labels)[:MOST_LABELS]
    legend = legend_of(by) or name
    unit = UNITS.get(metric.unit or name.rpartition("_")[2], "short")
    if metric.type == "counter":
        return panel.rate(name, name, by, legend=legend, unit="cps").about(metric.help)
    if metric.type == "gauge":
        # Shares are not added up.
        return panel.gauge(name, name, by, legend=legend, how="avg" if unit == "percentunit" else "sum", unit=unit).about(
            metric.help
        )
    asked = [(panel.ask.quantile(q, name, *by), f"{legend} p{q * 100:g}") for q in (0.5, 0.95)]
    return Panel(name, numbers(*asked), unit=unit).about(metric.help)

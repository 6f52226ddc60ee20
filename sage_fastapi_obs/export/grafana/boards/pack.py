"""Any pack: panels made from what its metrics say about themselves."""

from sage_fastapi_obs.catalog import Metric
from sage_fastapi_obs.export.grafana.layout import Panel, Row, numbers
from sage_fastapi_obs.export.grafana.promql import Queries

__all__ = ["pack_row"]

MOST_LABELS = 2
"""Labels by which a panel splits: more is a tangle."""
UNITS = {"seconds": "s", "bytes": "bytes", "ratio": "percentunit"}


def pack_row(title: str, metrics: tuple[Metric, ...], scope: str) -> Row:
    """Draw each metric of a pack: counters as rates, gauges as they are, histograms as quantiles."""
    ask = Queries(scope, own=metrics)
    return Row(title, tuple(_panel(ask, metric) for metric in metrics), folded=True)


def _panel(ask: Queries, metric: Metric) -> Panel:
    by = tuple(metric.labels)[:MOST_LABELS]
    legend = " ".join(f"{{{{{label}}}}}" for label in by) or metric.name
    if metric.type == "counter":
        queries, unit = numbers((ask.rate(metric.name, *by), legend)), "cps"
    elif metric.type == "gauge":
        # Shares are not added up.
        how = "avg" if _unit(metric) == "percentunit" else "sum"
        queries, unit = numbers((ask.value(metric.name, *by, how=how), legend)), _unit(metric)
    else:
        asked = [(ask.quantile(share, metric.name, *by), f"{legend} p{share * 100:g}") for share in (0.5, 0.95)]
        queries, unit = numbers(*asked), _unit(metric)
    return Panel(metric.name, queries, metric.help, unit=unit)


def _unit(metric: Metric) -> str:
    word = metric.unit or metric.name.rpartition("_")[2]
    return UNITS.get(word, "short")

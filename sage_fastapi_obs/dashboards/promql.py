"""PromQL over metrics that exist: a name or a label that the catalog does not have is refused."""

from collections.abc import Iterable, Mapping

from sage_fastapi_obs.alerting.expressions import escaped
from sage_fastapi_obs.alerting.label_matchers import operator_of
from sage_fastapi_obs.catalog import CATALOG, Metric
from sage_fastapi_obs.errors import DeclarationError

WINDOW = "$__rate_interval"
"""Grafana's name for the shortest window that still has enough samples."""
RANGE = "$__range"
"""Grafana's name for all of the time that is shown."""
FIRING = 'ALERTS{alertstate="firing", alertname!="Watchdog"}'
"""Alerts that fire, without the sign of life, which always does."""
_OF_HISTOGRAMS = ("_bucket", "_sum", "_count")


class Queries:
    """Writes expressions within a scope: matchers that each of their series has, such as `job=~"$job"`.

    Labels to look at are keywords whose value is what the label must be: `status="=~5.."`, `operation="encrypt"`.
    Groups in which nothing has happened are left out of shares, means and quantiles.
    """

    def __init__(self, scope: str, own: Iterable[Metric] = ()) -> None:
        self._scope = scope
        self._own = {metric.name: metric for metric in own}

    def value(self, name: str, *by: str, how: str = "sum", **where: str) -> str:
        """Write what a gauge says."""
        return f"{how}{_grouped(by)} ({self._selected(name, by, where)})"

    def rate(self, name: str, *by: str, window: str = WINDOW, **where: str) -> str:
        """Write how fast a counter rises, per second."""
        return f"sum{_grouped(by)} (rate({self._selected(name, by, where)}[{window}]))"

    def increase(self, name: str, *by: str, window: str = WINDOW, **where: str) -> str:
        """Write how far a counter has risen."""
        return f"sum{_grouped(by)} (increase({self._selected(name, by, where)}[{window}]))"

    def share(self, name: str, *by: str, window: str = WINDOW, **where: str) -> str:
        """Write which share of a counter's rise is of some labels, 0 to 1; 0, not nothing, where there is none of them."""
        whole = self.rate(name, *by, window=window)
        return f"({self.rate(name, *by, window=window, **where)} or {whole} * 0) / {_some(whole, by)}"

    def quantile(self, share: float, name: str, *by: str, window: str = WINDOW, **where: str) -> str:
        """Write a quantile of a histogram."""
        rates = self._selected(f"{name}_bucket", by, where)
        quantile = f"histogram_quantile({share:g}, sum by ({', '.join([*by, 'le'])}) (rate({rates}[{window}])))"
        return f"{quantile} >= 0" if by else quantile

    def mean(self, name: str, *by: str, window: str = WINDOW, **where: str) -> str:
        """Write the mean of a histogram."""
        count = self.rate(f"{name}_count", *by, window=window, **where)
        return f"{self.rate(f'{name}_sum', *by, window=window, **where)} / {_some(count, by)}"

    def _selected(self, series: str, by: Iterable[str], where: Mapping[str, str]) -> str:
        self._check(series, {*by, *where})
        matchers = [*([self._scope] if self._scope else []), *(_matched(*pair) for pair in where.items())]
        return f"{series}{{{', '.join(matchers)}}}" if matchers else series

    def _check(self, series: str, labels: set[str]) -> None:
        metric = self._metric(series) or self._histogram(series)
        if metric is None:
            raise DeclarationError(f"no metric {series} in the catalog")
        if unknown := labels - metric.labels.keys() - {"service", "job", "instance"}:
            raise DeclarationError(f"{metric.name} has no label {', '.join(sorted(unknown))}")

    def _metric(self, name: str) -> Metric | None:
        return self._own.get(name) or CATALOG.get(name)

    def _histogram(self, series: str) -> Metric | None:
        name = next((series.removesuffix(suffix) for suffix in _OF_HISTOGRAMS if series.endswith(suffix)), "")
        metric = self._metric(name)
        return metric if metric is not None and metric.type == "histogram" else None


def _some(count: str, by: tuple[str, ...]) -> str:
    """Leave groups out in which nothing has happened: 0 / 0 is a name in the legend without a line."""
    return f"({count} > 0)" if by else count


def _grouped(by: Iterable[str]) -> str:
    labels = ", ".join(by)
    return f" by ({labels})" if labels else ""


def _matched(label: str, matcher_text: str) -> str:
    operator, text = operator_of(matcher_text)
    return f'{label}{operator}"{escaped(text)}"'

"""Metrics by their older names: read from the metrics themselves at each scrape, so that nothing is counted twice."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import compress
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric as Family
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar, Sample
from prometheus_client.utils import floatToGoString

from sage_fastapi_obs.catalog import CATALOG, Alias, Metric
from sage_fastapi_obs.metrics.exposition.incremental import TextOnly, VersionedChild, VersionedFamily
from sage_fastapi_obs.metrics.exposition.prometheus_internals import collector_of, versioned


class Aliases(Collector):
    """Collects the metrics of a registry by their older names, those of some groups."""

    def __init__(self, registry: CollectorRegistry, groups: Iterable[str]) -> None:
        self._registry = registry
        self._groups = wanted = frozenset(groups)
        self._aliased = [_AliasedMetric(one, alias) for one in CATALOG for alias in one.aliases if alias.group in wanted]

    def of(self, registry: CollectorRegistry) -> "Aliases":
        """Return a collector of the same groups for another registry."""
        return Aliases(registry, self._groups)

    def describe(self) -> Iterator[Family]:
        """Yield all families, also those of packs that are not switched on yet, without samples."""
        families = (aliased.family() for aliased in self._aliased)
        return (family for family in families if not isinstance(family, TextOnly))

    def collect(self) -> Iterator[Family]:
        """Yield the family of every alias whose metric is registered now, with its samples."""
        for family, children in self.versioned():
            family.samples = [sample for _, _, samples in children for sample in samples()]
            yield family

    def versioned(self) -> Iterator[VersionedFamily]:
        """Yield the same, with what a scrape may remember of it."""
        for aliased in self._aliased:
            try:
                children = _children_of(aliased.metric, collector_of(self._registry, aliased.metric.name))
            except Exception:  # noqa: S112 - the page asks that collector itself, too, and counts its failure
                continue
            if children is not None:
                yield aliased.family(), aliased.children(children)


@dataclass(frozen=True, slots=True)
class _AliasedMetric:
    metric: Metric
    alias: Alias

    def family(self) -> Family:
        kind = self.alias.type or self.metric.type
        name = self.alias.name.removesuffix("_total") if kind == "counter" else self.alias.name
        unit = self.metric.unit if name.endswith(f"_{self.metric.unit}") else ""
        # OpenMetrics calls a counter by its name without the suffix.
        family = TextOnly if self.metric.name == f"{name}_total" and kind != "counter" else Family
        return family(name, f"Older name of {self.metric.name}: {self.metric.help}", kind, unit)

    def children(self, children: Iterable[VersionedChild]) -> Iterator[VersionedChild]:
        """Translate the children that the older name has; those that become alike are added up."""
        labels, alias = [*self.metric.labels], self.alias
        only = [(labels.index(label), allowed) for label, allowed in alias.only.items()]
        kept = [label not in alias.without for label in labels]
        alike: dict[tuple[str, ...], list[VersionedChild]] = {}
        for child in children:
            # The values of the labels, in their order.
            values: Any = child[0]
            if all(values[at] in allowed for at, allowed in only):
                alike.setdefault(tuple(compress(values, kept)), []).append(child)
        for key, same in alike.items():
            yield key, tuple([version for _, version, _ in same]), partial(self._samples, [samples for _, _, samples in same])

    def _samples(self, several: Sequence[Callable[[], Iterable[Sample]]]) -> list[Sample]:
        read = [sample for samples in several for sample in samples() if not sample.name.endswith("_created")]
        translated = [self._translate(sample) for sample in read]
        if len(several) == 1:
            return translated
        sums: dict[tuple[object, ...], Sample] = {}
        for sample in translated:
            key = (sample.name, *sample.labels.items())
            before = sums.get(key)
            sums[key] = sample if before is None else before._replace(value=before.value + sample.value)
        return [*sums.values()]

    def _translate(self, sample: Sample) -> Sample:
        alias, factor = self.alias, self.alias.factor
        suffix = sample.name[len(self.metric.name) :]
        labels = {
            label: alias.values.get(label, {}).get(value, value)
            for label, value in sample.labels.items()
            if label not in alias.without
        }
        if factor != 1 and "le" in labels:
            labels["le"] = _scaled_bound(labels["le"], factor)
        # What is counted has no unit.
        value = sample.value if suffix in ("_bucket", "_count") else sample.value * factor
        exemplar = sample.exemplar
        if exemplar is not None and factor != 1:
            exemplar = Exemplar(exemplar.labels, exemplar.value * factor, exemplar.timestamp)
        return Sample(alias.name + suffix, labels, value, sample.timestamp, exemplar)


def _scaled_bound(bound: str, factor: float) -> str:
    """Scale a bound so that it is written as if it had been chosen in that unit."""
    scaled: str = floatToGoString(float(f"{float(bound) * factor:.12g}"))  # type: ignore[no-untyped-call]
    return scaled


def _children_of(metric: Metric, collector: Collector | None) -> Iterable[VersionedChild] | None:
    """Read the children of one metric; None where its pack is off, or its collector has none of it now."""
    if collector is None:
        return None
    name = metric.name.removesuffix("_total") if metric.type == "counter" else metric.name
    read = versioned(collector)
    if read is not None:
        return next((children for family, children in read() if family.name == name), None)
    samples = next((family.samples for family in collector.collect() if family.name == name), None)
    if samples is None:
        return None
    by_labels: dict[tuple[str, ...], list[Sample]] = {}
    for sample in samples:
        by_labels.setdefault(tuple(sample.labels.get(label, "") for label in metric.labels), []).append(sample)
    # With versions that are new each time.
    return [(key, object(), partial(list, same)) for key, same in by_labels.items()]

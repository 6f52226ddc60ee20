"""Metrics by their older names: read from the metrics themselves at each scrape, so that nothing is counted twice."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric as Family
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar, Sample
from prometheus_client.utils import floatToGoString

from sage_fastapi_obs.catalog import CATALOG, Alias, Metric
from sage_fastapi_obs.metrics.exposition.incremental import TextOnly, VersionedChild, VersionedFamily
from sage_fastapi_obs.metrics.exposition.prometheus_internals import collector_of, versioned

__all__ = ["Aliases"]


class Aliases(Collector):
    """Shows the metrics of a registry by their older names, those of some groups."""

    def __init__(self, registry: CollectorRegistry, groups: Iterable[str]) -> None:
        self._registry = registry
        wanted = frozenset(groups)
        self._older = [_Older(metric, alias) for metric in CATALOG for alias in metric.aliases if alias.group in wanted]

    def describe(self) -> Iterator[Family]:
        """Yield all families, also those of packs that are not switched on yet, without samples."""
        families = (older.family() for older in self._older)
        return (family for family in families if not isinstance(family, TextOnly))

    def collect(self) -> Iterator[Family]:
        """Yield those families of which there is the metric, with their samples."""
        for family, children in self.versioned():
            family.samples = [sample for _, _, samples in children for sample in samples()]
            yield family

    def versioned(self) -> Iterator[VersionedFamily]:
        """Yield the same, with what a scrape may remember of it."""
        for older in self._older:
            collector = collector_of(self._registry, older.metric.name)
            if collector is None:
                continue
            try:
                children = _children_of(collector, older.metric)
            except Exception:  # noqa: S112 - the page asks that collector itself, too, and counts its failure
                continue
            if children is not None:
                yield older.family(), older.children(children)


@dataclass(frozen=True, slots=True)
class _Older:
    """One metric by one of its older names."""

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
        known = [child for child in children if self._has(child[0])]
        if not self.alias.without:
            yield from ((key, version, partial(self._mapped, samples)) for key, version, samples in known)
            return
        alike: dict[tuple[object, ...], list[VersionedChild]] = {}
        for child in known:
            alike.setdefault(self._kept(child[0]), []).append(child)
        for key, same in alike.items():
            yield key, tuple(version for _, version, _ in same), partial(self._added_up, [samples for _, _, samples in same])

    def _has(self, key: Any) -> bool:
        """Tell whether the older name has a label set; the key of a child has its values in the order of the labels."""
        return all(value in self.alias.only.get(label, (value,)) for label, value in zip(self.metric.labels, key, strict=False))

    def _kept(self, key: Any) -> tuple[object, ...]:
        return tuple(value for label, value in zip(self.metric.labels, key, strict=True) if label not in self.alias.without)

    def _mapped(self, samples: Callable[[], Iterable[Sample]]) -> list[Sample]:
        return [self._sample(sample) for sample in samples() if not sample.name.endswith("_created")]

    def _added_up(self, several: Sequence[Callable[[], Iterable[Sample]]]) -> list[Sample]:
        sums: dict[tuple[str, tuple[tuple[str, str], ...]], Sample] = {}
        for sample in (sample for samples in several for sample in self._mapped(samples)):
            key = (sample.name, tuple(sample.labels.items()))
            before = sums.get(key)
            sums[key] = sample if before is None else before._replace(value=before.value + sample.value)
        return [*sums.values()]

    def _sample(self, sample: Sample) -> Sample:
        alias, factor = self.alias, self.alias.factor
        suffix = sample.name[len(self.metric.name) :]
        labels = {
            label: alias.values.get(label, {}).get(value, value)
            for label, value in sample.labels.items()
            if label not in alias.without
        }
        if factor != 1 and "le" in labels:
            labels["le"] = _scaled(labels["le"], factor)
        # What is counted has no unit.
        value = sample.value if suffix in ("_bucket", "_count") else sample.value * factor
        exemplar = sample.exemplar
        if exemplar is not None and factor != 1:
            exemplar = Exemplar(exemplar.labels, exemplar.value * factor, exemplar.timestamp)
        return Sample(alias.name + suffix, labels, value, sample.timestamp, exemplar)


def _scaled(bound: str, factor: float) -> str:
    """Scale a bound so that it is written as if it had been chosen in that unit."""
    scaled: str = floatToGoString(float(f"{float(bound) * factor:.12g}"))  # type: ignore[no-untyped-call]
    return scaled


def _children_of(collector: Collector, metric: Metric) -> Iterable[VersionedChild] | None:
    """Read the children of one metric; None where its collector does not tell it today."""
    family_name = metric.name.removesuffix("_total") if metric.type == "counter" else metric.name
    read = versioned(collector)
    if read is not None:
        return next((children for family, children in read() if family.name == family_name), None)
    family = next((family for family in collector.collect() if family.name == family_name), None)
    if family is None:
        return None
    children: dict[tuple[str, ...], list[Sample]] = {}
    for sample in family.samples:
        children.setdefault(tuple(sample.labels.get(label, "") for label in metric.labels), []).append(sample)
    # Each is new each time.
    return [(key, object(), partial(list, samples)) for key, samples in children.items()]

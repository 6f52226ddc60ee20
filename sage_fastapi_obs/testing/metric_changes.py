"""How the samples of registries change while a request is served."""

from collections.abc import Iterable, Mapping
from typing import TypeAlias

from prometheus_client import CollectorRegistry

Series: TypeAlias = tuple[str, tuple[tuple[str, str], ...]]
"""Name of a sample, and its labels in their order by name."""
_OF_THE_PROCESS = ("process_", "python_")
"""Beginnings of the names of metrics that change by themselves."""


def samples_of(registry: CollectorRegistry) -> dict[Series, float]:
    """Read all samples that requests may change."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in registry.collect()
        if not family.name.startswith(_OF_THE_PROCESS)
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


class MetricWatch:
    """The samples of some registries before, so that changes can be told."""

    def __init__(self) -> None:
        self._before: list[tuple[CollectorRegistry, dict[Series, float]]] = []

    def meet(self, registries: Iterable[CollectorRegistry]) -> None:
        """Watch registries from now on."""
        for registry in registries:
            if not any(registry is known for known, _ in self._before):
                self._before.append((registry, samples_of(registry)))

    def changes(self) -> dict[Series, float]:
        """Return by how much samples have changed; a series that was not there began at 0."""
        changed: dict[Series, float] = {}
        for registry, before in self._before:
            for series, value in samples_of(registry).items():
                if change := value - before.get(series, 0.0):
                    changed[series] = changed.get(series, 0.0) + change
        return changed


def total(changes: Mapping[Series, float], name: str, labels: Mapping[str, str]) -> float:
    """Add up the changes of a sample's series that have these labels."""
    wanted = labels.items()
    return sum(change for (sample, found), change in changes.items() if sample == name and wanted <= dict(found).items())

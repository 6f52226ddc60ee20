"""All metrics: those of each pack, and those that need none. A pack is loaded when its metrics are first used."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from functools import cache, cached_property
from itertools import chain

from sage_fastapi_obs.catalog.internal import (
    ALERT_METRICS,
    EXCLUDED_METRIC,
    LOG_METRICS,
    OPERATION_METRICS,
    PUSH_METRICS,
    SELF_METRICS,
    SPAN_METRICS,
    STORE_METRIC,
    WORKER_METRICS,
)
from sage_fastapi_obs.catalog.metric import Alias, Metric
from sage_fastapi_obs.pack_folders import pack_module, pack_names

ALWAYS = (
    *SELF_METRICS,
    *LOG_METRICS,
    *SPAN_METRICS,
    *PUSH_METRICS,
    STORE_METRIC,
    EXCLUDED_METRIC,
    *WORKER_METRICS,
    *ALERT_METRICS,
    *OPERATION_METRICS,
)
"""Metrics that need no pack."""


@cache
def _metrics_of(pack: str) -> tuple[Metric, ...]:
    module = pack_module(pack, "metrics")
    declared: tuple[Metric, ...] = () if module is None else module.METRICS
    # `sage-core` has metrics that are the pack `sage`'s.
    return tuple(metric if metric.pack else replace(metric, pack=pack) for metric in declared)


class _Packs(Mapping[str, tuple[Metric, ...]]):
    def __getitem__(self, pack: str) -> tuple[Metric, ...]:
        if pack not in self:
            raise KeyError(pack)
        return _metrics_of(pack)

    def __contains__(self, pack: object) -> bool:
        return pack in pack_names()

    def __iter__(self) -> Iterator[str]:
        return iter(pack_names())

    def __len__(self) -> int:
        return len(pack_names())


PACKS = _Packs()
"""Metrics that are switched on together, by the name that `metrics.packs` knows."""


class _Catalog(Collection[Metric]):
    @cached_property
    def _by_name(self) -> dict[str, Metric]:
        return {metric.name: metric for metric in (*chain.from_iterable(PACKS.values()), *ALWAYS)}

    @cached_property
    def by_alias(self) -> dict[str, tuple[Metric, Alias]]:
        """Metrics by their older names, with what is different about these."""
        return {alias.name: (metric, alias) for metric in self for alias in metric.aliases}

    def get(self, name: str) -> Metric | None:
        """Return the metric of a name."""
        return self._by_name.get(name)

    def __contains__(self, metric: object) -> bool:
        return metric in self._by_name.values()

    def __iter__(self) -> Iterator[Metric]:
        return iter(self._by_name.values())

    def __len__(self) -> int:
        return len(self._by_name)


CATALOG = _Catalog()
"""All of them."""

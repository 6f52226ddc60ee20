"""The text of a registry as the client library writes it, family by family."""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from sage_fastapi_obs.internal_errors import InternalErrors, component_of
from sage_fastapi_obs.metrics.exposition.incremental import TextOnly
from sage_fastapi_obs.metrics.exposition.prometheus_internals import collectors

__all__ = ["Encode", "LibraryEncoder", "LibraryExposition", "target_info", "without_created"]

Encode: TypeAlias = Callable[[Any], bytes]
"""An encoder of the client library: takes anything with `collect()`."""
_HAVE_CREATED = frozenset({"counter", "histogram", "summary"})


class LibraryExposition:
    """Writes one registry in one format, all of it or the samples of some names."""

    def __init__(
        self, encode: Encode, registry: CollectorRegistry, errors: InternalErrors, names: frozenset[str] = frozenset()
    ) -> None:
        self._encoder = LibraryEncoder(encode)
        self._registry = registry
        self._errors = errors
        self._names = names

    def pieces(self, pause: Callable[[], object]) -> Iterator[bytes]:
        """Write the page, one family after the other."""
        for collector in self._collectors():
            try:
                for family in collector.collect():
                    yield self._text(family)
                    pause()
            except Exception as error:
                self._errors.count(component_of(collector), error)
        yield self._encoder.trailer

    def _collectors(self) -> Iterable[Collector]:
        """List the collectors that may have samples of the names; a registry that does not list them is asked as a whole."""
        found = collectors(self._registry, self._names)
        if found is None:
            return [self._registry.restricted_registry(self._names) if self._names else self._registry]
        return target_info(self._registry) + found

    def _text(self, family: Metric) -> bytes:
        samples = without_created(family, family.samples)
        if self._names:
            samples = [sample for sample in samples if sample.name in self._names]
            # As the library's restricted registry does: without the unit.
            family = Metric(family.name, family.documentation, family.type)
        if (self._names and not samples) or self._encoder.leaves_out(family):
            return b""
        return self._encoder.family(family, samples)


class LibraryEncoder:
    """Writes families in one format, by the library."""

    def __init__(self, encode: Encode) -> None:
        self._encode = encode
        self.trailer = encode(_Families())
        """The end of a page."""
        self.is_openmetrics = bool(self.trailer)

    def leaves_out(self, family: Metric) -> bool:
        """Tell whether the format has no place for a family."""
        return self.is_openmetrics and isinstance(family, TextOnly)

    def family(self, family: Metric, samples: Iterable[Sample]) -> bytes:
        """Write samples of a family below its header."""
        bare = copy.copy(family)
        bare.samples = list(samples)
        try:
            return self._written(bare)
        except UnicodeEncodeError:
            bare.documentation = _encodable(bare.documentation)
            bare.samples = list(map(_encodable_sample, bare.samples))
            return self._written(bare)
        except Exception as error:
            # The library adds the family, of any size, to what it raises, and the error is written to stderr.
            error.args = tuple(arg for arg in error.args if not isinstance(arg, Metric))
            raise

    def _written(self, family: Metric) -> bytes:
        return self._encode(_Families(family)).removesuffix(self.trailer)


def target_info(registry: CollectorRegistry) -> list[Collector]:
    """Return a collector of the target info of a registry, if it has any."""
    info = registry.get_target_info()
    if not info:
        return []
    family = Metric("target", "Target metadata", "info")
    family.add_sample("target_info", info, 1)
    return [_Families(family)]


def without_created(family: Metric, samples: Iterable[Sample]) -> Iterable[Sample]:
    """Leave out `_created`, which the library can only switch off for the whole process."""
    if family.type not in _HAVE_CREATED:
        return samples
    return [sample for sample in samples if not sample.name.endswith("_created")]


class _Families:
    """Some families, as a collector."""

    def __init__(self, *families: Metric) -> None:
        self._families = families

    def collect(self) -> Sequence[Metric]:
        return self._families


def _encodable(text: str) -> str:
    """Put `?` in place of what UTF-8 does not have: one such label would cost its whole family."""
    return text.encode("utf-8", "replace").decode()


def _encodable_sample(sample: Sample) -> Sample:
    exemplar = sample.exemplar and sample.exemplar._replace(labels=_encodable_labels(sample.exemplar.labels))
    return sample._replace(labels=_encodable_labels(sample.labels), exemplar=exemplar)


def _encodable_labels(labels: Mapping[str, str]) -> dict[str, str]:
    return {name: _encodable(value) for name, value in labels.items()}

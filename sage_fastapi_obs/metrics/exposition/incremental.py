"""What a collector may offer besides `collect()`, so that a scrape writes only what has changed since the last one."""

from collections.abc import Callable, Hashable, Iterable
from typing import Protocol, TypeAlias, runtime_checkable

from prometheus_client.core import Metric
from prometheus_client.samples import Sample

VersionedChild: TypeAlias = tuple[Hashable, object, Callable[[], Iterable[Sample]]]
"""`(key, version, samples)`: one label set of a family.

`key` identifies the label set within the family. `version` is compared with `==` to that of the scrape before, and must differ
whenever the samples do; it is kept, so make it small and immutable (a count of changes, a tuple of raw values). `samples`
returns the samples of all its series, and is called only when the version has changed. Equal is not always the same: `0.0 ==
-0.0`, so put a value that may be `-0.0` into the version by its `repr`; an exemplar belongs in it, too.
"""

VersionedFamily: TypeAlias = tuple[Metric, Iterable[VersionedChild]]
"""`(family, children)`: name, documentation, type and unit as `collect()` would give them, without samples."""


@runtime_checkable
class VersionedCollector(Protocol):
    """A collector whose text is written again only for children that have changed.

    `versioned()` and `collect()` give the same: the same families in the same order, and the samples of each child in the
    order of the children. A collector without `versioned()` is written from `collect()` at every scrape. Both are called in a
    thread, while the application counts.
    """

    def versioned(self) -> Iterable[VersionedFamily]:
        """Yield every family with its children."""
        ...


class TextOnly(Metric):
    """A family that OpenMetrics has no place for: there, one of its name exists with another type."""

"""What a collector may offer besides `collect()`, so that a scrape writes only what has changed since the last one."""

from collections.abc import Callable, Hashable, Iterable
from typing import Protocol, TypeAlias, runtime_checkable

from prometheus_client.core import Metric
from prometheus_client.samples import Sample

__all__ = ["StampedChild", "StampedCollector", "StampedFamily"]

StampedChild: TypeAlias = tuple[Hashable, object, Callable[[], Iterable[Sample]]]
"""`(key, stamp, samples)`: one label set of a family.

`key` identifies the label set within the family. `stamp` is compared with `==` to that of the scrape before, and must differ
whenever the samples do; it is kept, so make it small and immutable (a count of changes, a tuple of raw values). `samples`
returns the samples of all its series, and is called only when the stamp has changed. Equal is not always the same: `0.0 ==
-0.0`, so put a value that may be `-0.0` into the stamp by its `repr`; an exemplar belongs in it, too.
"""

StampedFamily: TypeAlias = tuple[Metric, Iterable[StampedChild]]
"""`(family, children)`: name, documentation, type and unit as `collect()` would give them, without samples."""


@runtime_checkable
class StampedCollector(Protocol):
    """A collector whose text is written anew only for children that have changed.

    `stamped()` and `collect()` tell the same: the same families in the same order, and the samples of each child in the
    order of the children. A collector without `stamped()` is written from `collect()` at every scrape. Both are called in a
    thread, while the application counts.
    """

    def stamped(self) -> Iterable[StampedFamily]:
        """Yield every family with its children."""
        ...

"""How a registry becomes the text of a page: the client library's way, or the fast one where it is possible."""

from collections.abc import Callable, Iterator
from typing import Protocol, TypeAlias

from prometheus_client import CollectorRegistry

from sage_fastapi_obs.internal_errors import InternalErrors
from sage_fastapi_obs.metrics.exposition.fast_exposition import FastExposition
from sage_fastapi_obs.metrics.exposition.library_exposition import Encode, LibraryExposition
from sage_fastapi_obs.metrics.exposition.prometheus_internals import collectors

__all__ = ["Exposition", "exposition_of"]

Pause: TypeAlias = Callable[[], object]
"""Called after each small portion of work."""


class Exposition(Protocol):
    """Writes one registry in one format, without `_created` samples: those double the series."""

    def pieces(self, pause: Pause) -> Iterator[bytes]:
        """Write the page, in at least one piece.

        A collector that raises is counted by the name of its class, and the page goes on with the next one.
        """
        ...


def exposition_of(
    encode: Encode, registry: CollectorRegistry, errors: InternalErrors, names: frozenset[str] = frozenset()
) -> Exposition:
    """Return what writes a registry; `names`: of the samples that are wanted, all if empty.

    Anybody can ask for some names, so that nothing is remembered for it.
    """
    if names or collectors(registry) is None:
        return LibraryExposition(encode, registry, errors, names)
    return FastExposition(encode, registry, errors)

"""Slots in a folder of the test: the real files, and workers that are told when they die."""

from pathlib import Path

from prometheus_client import CollectorRegistry

from sage_fastapi_obs.internal_errors import InternalErrors
from sage_fastapi_obs.workers.blocks import Blocks
from sage_fastapi_obs.workers.mapped_file import MappedFile
from sage_fastapi_obs.workers.merged_registry import MergedRegistry
from sage_fastapi_obs.workers.saved_numbers import SavedNumbers

BYTES = 65_536


class TestSlot:
    """A slot as `MergedRegistry` needs it."""

    __test__ = False

    def __init__(self, path: Path, number: int) -> None:
        self.number = number
        self.path = path
        self.alive = False
        self.blocks = Blocks(MappedFile(path, writable=True, size=BYTES), 64, 0)

    def is_alive(self) -> bool:
        return self.alive


class TestWorker:
    """A worker that owns a slot, with a registry of its own."""

    __test__ = False

    def __init__(self, slot: TestSlot, registry: CollectorRegistry | None = None, **options) -> None:
        # As another process would, it finds what is in the file.
        self.slot = slot
        self.registry = CollectorRegistry() if registry is None else registry
        self.errors = InternalErrors()
        slot.alive = True
        self.saved = SavedNumbers(
            self.registry,
            slot.blocks.again(),
            self.errors,
            **{"interval_seconds": 60.0, "wall_clock": lambda: 1_000_000.0, **options},
        )

    def save(self, *, for_page: bool = True) -> None:
        self.saved.save(for_page=for_page)

    def die(self) -> None:
        self.slot.alive = False


class Group:
    """Some slots, and what they say together."""

    def __init__(self, folder: Path, workers: int = 2, wall_clock=lambda: 1_000_000.0) -> None:
        self.slots = [TestSlot(folder / f"{number}.slot", number) for number in range(workers)]
        self.errors = InternalErrors()
        self.merged = MergedRegistry(lambda: self.slots, self.errors, interval_seconds=60.0, wall_clock=wall_clock)

    def values(self) -> dict[tuple[str, frozenset], float]:
        """Read all numbers, by name and labels."""
        self.merged.refresh()
        return numbers(self.merged.registry)


def numbers(registry: CollectorRegistry) -> dict[tuple[str, frozenset], float]:
    """Return all samples of a registry but those of creation, by name and labels; none stands there twice."""
    found = {}
    for family in registry.collect():
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            if not sample.name.endswith("_created"):
                assert key not in found
                found[key] = sample.value
    return found

"""The numbers of all workers as a registry: the blocks of all slots are read, and only those that have changed since."""

from abc import ABC, abstractmethod
from array import array
from collections.abc import Callable, Iterable, Sequence
from itertools import chain, compress, repeat
from operator import ne
from threading import RLock

from prometheus_client import CollectorRegistry

from sage_fastapi_obs.internal_errors import InternalErrors
from sage_fastapi_obs.legacy.aliases import Aliases
from sage_fastapi_obs.metrics.exposition.prometheus_internals import collectors
from sage_fastapi_obs.processes import hold_at_fork
from sage_fastapi_obs.threads import Slices
from sage_fastapi_obs.workers.blocks import Block
from sage_fastapi_obs.workers.definitions import Definition, exemplar_of, key_of, read_description
from sage_fastapi_obs.workers.merged_families import MergedChild, MergedFamily, merged_family
from sage_fastapi_obs.workers.recent_extremes import slice_at
from sage_fastapi_obs.workers.slot import Slot

_NO_VALUES = array("d")


class MergedRegistry:
    """Two registries, for pages and for what only the windows show; `refresh` brings them up to date.

    There is one reader of the windows: what it gets are the extremes since it last asked.
    """

    component = "MergedRegistry"

    def __init__(
        self,
        slots: Callable[[], Iterable[Slot]],
        errors: InternalErrors,
        *,
        interval_seconds: float,
        wall_clock: Callable[[], float],
    ) -> None:
        """`slots`: lists the slots of all workers, also of those that have gone. The rest is as for `SavedNumbers`."""
        self.registry, self.unexported = CollectorRegistry(), CollectorRegistry()
        self._slots, self._errors = slots, errors
        self._now_slice = lambda: slice_at(wall_clock(), interval_seconds)
        self._sources: dict[Slot, _SlotReader] = {}
        self._families: dict[Definition, MergedFamily] = {}
        self._shown: set[MergedFamily] = set()
        self._refused: set[MergedFamily] = set()
        self._refreshing = RLock()
        hold_at_fork(self._refreshing, rank=1)

    def show_as(self, registry: CollectorRegistry) -> None:
        """Show what is not saved, as the registry of one worker does: older names, and what it says of its target."""
        for collector in collectors(registry) or ():
            if isinstance(collector, Aliases):
                self.registry.register(collector.of(self.registry))
        if isinstance(registry, CollectorRegistry):
            self.registry.set_target_info(registry.get_target_info())

    def refresh(self, pause: Callable[[], object] | None = None) -> None:
        """Read what workers have saved since the last time.

        `pause` is called after each small portion of work; by default it lets the event loop run now and then.
        """
        pause = pause or Slices().rest_if_due
        with self._refreshing:
            self._find_sources()
            for source in self._sources.values():
                try:
                    source.read(pause)
                except Exception as error:
                    # The others are read all the same.
                    self._errors.count(self.component, error)
                pause()
            for family in self._families.values():
                family.merge_changed(pause)
            self._choose()

    def family(self, definition: Definition) -> MergedFamily:
        """Return the family of a definition, made when first asked for."""
        found = self._families.get(definition.identity)
        if found is None:
            found = self._families[definition.identity] = merged_family(definition, self._now_slice)
        return found

    def _find_sources(self) -> None:
        slots = [*self._slots()]
        for slot in self._sources.keys() - set(slots):
            self._sources.pop(slot).forget()
        for slot in slots:
            if slot not in self._sources:
                self._sources[slot] = _SlotReader(slot, self.family)

    def _choose(self) -> None:
        """Show one family of each name: that which most of the living have, and of those the newest."""
        best: dict[str, tuple[tuple[int, float], MergedFamily]] = {}
        living = [source for source in self._sources.values() if source.is_alive]
        for family in self._families.values():
            declared = [found for source in living if (found := source.declared.get(family)) is not None]
            if not declared and not family.children:
                continue
            newest = max(declared, default=(0.0, family.definition))
            family.definition = newest[1]
            rank = len(declared), newest[0]
            known = best.get(family.definition.name)
            if known is None or known[0] < rank:
                best[family.definition.name] = rank, family
        self._show([family for _, family in best.values()])
        self._count_refused(living)

    def _show(self, families: list[MergedFamily]) -> None:
        for family in self._shown.difference(families):
            self._registry_of(family).unregister(family)
            self._shown.discard(family)
        for family in families:
            if family not in self._shown:
                try:
                    self._registry_of(family).register(family)
                except ValueError:
                    # Another family has samples of its names.
                    continue
                self._shown.add(family)

    def _count_refused(self, living: "list[_SlotReader]") -> None:
        refused = {family for source in living for family in source.declared} - self._shown
        for family in refused - self._refused:
            error = ValueError(f"{family.definition.name} is another metric in other workers: it is shown as most have it")
            self._errors.count(self.component, error)
        self._refused = refused

    def _registry_of(self, family: MergedFamily) -> CollectorRegistry:
        return self.registry if family.definition.on_page else self.unexported


class _SlotReader:
    """The blocks of one slot, as far as they have been read."""

    def __init__(self, slot: Slot, family_of: Callable[[Definition], MergedFamily]) -> None:
        self.slot = slot
        self.is_alive = False
        """Whether it was, when it was last read."""
        self.declared: dict[MergedFamily, tuple[float, Definition]] = {}
        """What its owner has, each since when."""
        self._family_of = family_of
        # Whoever else reads the slot has a place of its own in it.
        self._blocks = slot.blocks.again()
        self._places: dict[int, MergedFamily] = {}
        self._entries: list[_ReadDefinition | _ReadChild | _ReadExemplar | None] = []
        self._versions: Sequence[int] = ()

    def read(self, pause: Callable[[], object]) -> None:
        """Read what has changed; raises `OSError` for a damaged slot."""
        self._note_life()
        for block in self._blocks.new():
            self._entries.append(self._entry_of(block))
            pause()
        versions = self._blocks.versions()
        if versions == self._versions:
            return
        for entry in compress(self._entries, map(ne, versions, chain(self._versions, repeat(-1)))):
            if entry is not None:
                entry.read()
            pause()
        self._versions = versions

    def forget(self) -> None:
        """Take away all that it has said."""
        for entry in self._entries:
            if isinstance(entry, _ReadChild | _ReadExemplar):
                entry.leave()

    def _note_life(self) -> None:
        is_alive = self.slot.is_alive()
        if is_alive == self.is_alive:
            return
        self.is_alive = is_alive
        for entry in self._entries:
            if isinstance(entry, _ReadChild):
                entry.note_life()

    def _entry_of(self, block: Block) -> "_ReadDefinition | _ReadChild | _ReadExemplar | None":
        match read_description(block.description):
            case Definition() as definition:
                family = self._places[block.place] = self._family_of(definition)
                return _ReadDefinition(self, block, definition, family)
            case (place, words, is_exemplar) if place in self._places:
                return (_ReadExemplar if is_exemplar else _ReadChild)(self, block, words, self._places[place])
        # Of another version of this package.
        return None


class _ReadDefinition:
    __slots__ = ("_block", "_definition", "_family", "_source")

    def __init__(self, source: _SlotReader, block: Block, definition: Definition, family: MergedFamily) -> None:
        self._source, self._block, self._definition, self._family = source, block, definition, family

    def read(self) -> None:
        (at,) = self._block.read()
        if at:
            self._source.declared[self._family] = at, self._definition
        elif self._source.declared.get(self._family, (0.0, None))[1] == self._definition:
            del self._source.declared[self._family]


class _ReadBlock(ABC):
    """A block with label values."""

    __slots__ = ("_block", "_child", "_family", "_source", "_values", "_words")

    def __init__(self, source: _SlotReader, block: Block, words: int, family: MergedFamily) -> None:
        self._source, self._block, self._words, self._family = source, block, words, family
        self._values = _NO_VALUES
        self._child: MergedChild | None = None

    def read(self) -> None:
        """Read the block, which may be that of other label values by now."""
        values = self._block.read()
        text = values[1 : 1 + self._words]
        if not values[0] or text != self._values[1 : 1 + self._words]:
            self.leave()
        self._values = values
        if not values[0]:
            return
        if self._child is None:
            self._child = self._family.child(key_of(text), self._source.slot.number)
        self._put(self._child)
        self._family.changed.add(self._child)

    def leave(self) -> None:
        """Take away what it has said."""
        if self._child is not None:
            self._remove(self._child)
            self._family.changed.add(self._child)
        self._child = None

    @abstractmethod
    def _put(self, child: MergedChild) -> None:
        """Say of a child what the block says now."""

    @abstractmethod
    def _remove(self, child: MergedChild) -> None:
        """Say nothing of it any more."""


class _ReadChild(_ReadBlock):
    """A `ChildPart` of a child."""

    __slots__ = ()

    @property
    def at(self) -> float:
        return self._values[0]

    @property
    def numbers(self) -> "array[float]":
        return self._values[1 + self._words : 1 + self._words + self._family.width]

    @property
    def others(self) -> "array[float]":
        return self._values[1 + self._words + self._family.width :]

    @property
    def is_shown(self) -> bool:
        return self._family.adds or self._source.is_alive

    def note_life(self) -> None:
        """Show or hide a gauge."""
        if self._child is not None and not self._family.adds:
            self._family.changed.add(self._child)

    def _put(self, child: MergedChild) -> None:
        child.parts.add(self)

    def _remove(self, child: MergedChild) -> None:
        child.parts.discard(self)


class _ReadExemplar(_ReadBlock):
    """The exemplar of one number of a child."""

    __slots__ = ()

    def _put(self, child: MergedChild) -> None:
        child.exemplars[self._place()][self] = exemplar_of(self._values[2 + self._words :])

    def _remove(self, child: MergedChild) -> None:
        child.exemplars[self._place()].pop(self, None)

    def _place(self) -> int:
        return int(self._values[1 + self._words])

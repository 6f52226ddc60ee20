"""The families that a worker saves in its slot: it goes on with the numbers that the owner before has left there."""

from array import array
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from itertools import repeat
from operator import add, sub

from prometheus_client.samples import Exemplar

from sage_fastapi_obs.workers.blocks import Block, Blocks
from sage_fastapi_obs.workers.definitions import (
    EXEMPLAR_WORDS,
    Definition,
    Key,
    definition_text,
    exemplar_words,
    key_of,
    key_words,
    read_description,
)


class _SavedChild:
    """The block of one child, and what is added to the numbers of this owner."""

    __slots__ = ("base", "block", "others", "state", "words")

    def __init__(self, block: Block, words: "array[float]", base: Sequence[float], others: Sequence[float]) -> None:
        self.block, self.words, self.base = block, words, base
        self.others = others
        """What follows the numbers."""
        self.state: object = None
        """What this owner has written last."""


class SavedFamily:
    """The children of one family in the own slot."""

    def __init__(self, blocks: Blocks, definition: Definition, block: Block, is_counted: Callable[[], bool]) -> None:
        """`is_counted`: tells whether the numbers of a child that is new are in a slot already."""
        self.definition = definition
        self._blocks, self._block = blocks, block
        self._children: dict[Key, _SavedChild] = {}
        self._exemplars: defaultdict[Key, dict[int, Block]] = defaultdict(dict)
        """By place among the numbers of a child."""
        self._own: set[Key] = set()
        """Children that this owner has."""
        self._is_counted = is_counted
        self._spare: defaultdict[bytes, list[Block]] = defaultdict(list)
        """Blocks of children and exemplars that have gone, by description."""

    def declare(self, at: float) -> None:
        """Say that this owner has the family; 0: no more."""
        self._block.write(array("d", [at]))

    def inherit(self, block: Block, words: int, *, is_exemplar: bool) -> None:
        """Go on with a block of the owner before."""
        values = block.read()
        text = values[1 : 1 + words]
        if not values[0] or not self.definition.adds:
            self._let_go(block)
        elif is_exemplar:
            self._exemplars[key_of(text)][int(values[1 + words])] = block
        else:
            end = 1 + words + self.definition.width
            self._children[key_of(text)] = _SavedChild(block, text, values[1 + words : end], values[end:])

    def write(
        self, key: Key, numbers: Sequence[float], at: float, others: Sequence[float] = (), set_at: float | None = None
    ) -> Block:
        """Save the numbers of a child, unless they are as before; raises `OSError` where there is no room.

        `set_at`: when they were set, where that is known, else they were `at` this time.
        """
        child = self._children.get(key)
        state = numbers, others, set_at
        if child is None:
            child = self._children[key] = self._new(key, len(numbers), others)
        if key not in self._own and self.definition.adds and self._is_counted():
            child.base = [*map(sub, child.base or repeat(0.0), numbers)]
        if child.state != state:
            total = [*map(add, numbers, child.base)] if child.base else numbers
            child.block.write(array("d", [at if set_at is None else set_at, *child.words, *total, *others]))
            child.state, child.others = state, others
        self._own.add(key)
        return child.block

    def others(self, key: Key) -> Sequence[float]:
        """Return what was saved last besides the numbers of a child."""
        child = self._children.get(key)
        return () if child is None else child.others

    def write_exemplar(self, key: Key, place: int, exemplar: Exemplar, at: float) -> None:
        """Save the exemplar of one of the numbers of a child, unless it is too long."""
        text = exemplar_words(exemplar)
        if text is None:
            return
        words = key_words(key)
        block = self._exemplars[key].get(place)
        if block is None:
            block = self._exemplars[key][place] = self._block_for(len(words), len(words) + 2 + EXEMPLAR_WORDS, "1")
        block.write(array("d", [at, *words, place, *text]))

    def keep_only(self, keys: Collection[Key]) -> None:
        """Let go of children that this owner had, and has no more."""
        for key in self._own.difference(keys):
            self._own.discard(key)
            self._let_go(self._children.pop(key).block)
            for block in self._exemplars.pop(key, {}).values():
                self._let_go(block)

    def _new(self, key: Key, width: int, others: Sequence[float]) -> _SavedChild:
        words = key_words(key)
        return _SavedChild(self._block_for(len(words), 1 + len(words) + width + len(others)), words, (), others)

    def _block_for(self, words: int, width: int, *marks: str) -> Block:
        description = f"[{','.join((str(self._block.place), str(words), *marks))}]".encode()
        spare = self._spare[description]
        return spare.pop() if spare else self._blocks.append(description, [0.0] * width)

    def _let_go(self, block: Block) -> None:
        # Only the time: the label values are those of nobody then.
        block.write(array("d", bytes(8 * block.width)))
        self._spare[block.description].append(block)


class SavedFamilies:
    """All families of the own slot."""

    def __init__(self, blocks: Blocks) -> None:
        """Take over what is there: counters go on, gauges begin anew. Raises `OSError` for a damaged slot."""
        self._blocks = blocks
        self.is_counted = False
        """Whether the numbers that are saved now are in a slot already, so that only what is counted from now on is added."""
        self._families: dict[Definition, SavedFamily] = {}
        places: dict[int, SavedFamily] = {}
        for block in blocks.again().new():
            match read_description(block.description):
                case Definition() as definition:
                    places[block.place] = self._families[definition] = self._family(definition, block)
                    places[block.place].declare(0.0)
                case (family, words, is_exemplar) if family in places:
                    places[family].inherit(block, words, is_exemplar=is_exemplar)

    def declare(self, definition: Definition, at: float) -> SavedFamily:
        """Return the family of a definition, which this owner has from now on."""
        family = self._families.get(definition)
        if family is None:
            block = self._blocks.append(definition_text(definition), [0.0])
            family = self._families[definition] = self._family(definition, block)
        family.declare(at)
        return family

    def _family(self, definition: Definition, block: Block) -> SavedFamily:
        return SavedFamily(self._blocks, definition, block, lambda: self.is_counted)

"""Random ids made many at a time: each costs a fraction of one made alone, and no system call."""

import os
import random
from collections.abc import Callable
from typing import Generic, TypeVar

__all__ = ["RandomPool"]

BATCH = 256
Value = TypeVar("Value")


class RandomPool(Generic[Value]):
    """Values made in advance, of random hex digits. A forked child never uses a value that its parent had prepared.

    Make one only at the import of a module: the hook that empties it in a forked child stays for good.
    """

    def __init__(self, digits: int, make: Callable[[str], Value]) -> None:
        """`make(digits)` makes a value of so many random digits."""
        self._digits = digits
        self._make = make
        self._random = random.Random()  # noqa: S311 - these values name things and keep no secret
        """Not the shared generator: the application may seed that, and expects its numbers from it."""
        self._values: list[Value] = []
        self.pop = self._values.pop
        """Take a value; raises `IndexError` when `refill_and_take` has to be called. Our own method would be a call more."""
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forked)

    def refill_and_take(self) -> Value:
        """Make more values, and take one."""
        digits = self._random.randbytes(BATCH * self._digits // 2).hex()
        made = [self._make(digits[start : start + self._digits]) for start in range(0, len(digits), self._digits)]
        value = made.pop()
        self._values.extend(made)
        return value

    def _forked(self) -> None:
        self._random.seed()
        self._values.clear()

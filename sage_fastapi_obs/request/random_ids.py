"""Random values made many at a time: each then costs a fraction of one made alone, and no system call."""

import os
import random
from collections.abc import Callable
from typing import Generic, TypeVar

__all__ = ["RandomPool"]

BATCH = 256
Value = TypeVar("Value")


class RandomPool(Generic[Value]):
    """Values to come, made of random hex digits; of those of a process before it has forked, none is used in its child.

    For modules to make when they are imported: a forked child prepares every one anew, for good.
    """

    def __init__(self, digits: int, make: Callable[[str], Value]) -> None:
        """`make(digits)` makes a value of so many random digits."""
        self._digits = digits
        self._make = make
        self._random = random.Random()  # noqa: S311 - these values name things and keep no secret
        """A generator of our own: the application may seed the shared one, and expects its numbers from it."""
        self._values: list[Value] = []
        self.pop = self._values.pop
        """Take a value; raises `IndexError` when it is time for `more`. Not a method of ours, which would cost a call."""
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forked)

    def more(self) -> Value:
        """Make more values, and take one."""
        digits = self._random.randbytes(BATCH * self._digits // 2).hex()
        made = [self._make(digits[start : start + self._digits]) for start in range(0, len(digits), self._digits)]
        value = made.pop()
        self._values.extend(made)
        return value

    def _forked(self) -> None:
        self._random.seed()
        self._values.clear()

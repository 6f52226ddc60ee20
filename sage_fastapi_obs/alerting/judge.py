"""Who judges the rules: a process by itself, or one of the workers of a group."""

from typing import Protocol
from uuid import uuid4


class Judge(Protocol):
    """This process's share in it."""

    @property
    def run(self) -> str:
        """Name of the counters that the rules are about: another, once they have begun again at 0."""
        ...

    @property
    def is_leader(self) -> bool:
        """Whether rules are judged here now."""
        ...

    def publish(self, found: bytes) -> bool:
        """Show others what was found; return whether rules were still judged here afterwards. Raises `OSError`."""
        ...

    def published(self) -> bytes | None:
        """Return what was published last, by whomever: the same object until there is something new."""
        ...


class SingleJudge:
    """A process that nobody shares the rules with."""

    is_leader = True

    def __init__(self) -> None:
        self.run = uuid4().hex

    def publish(self, _: bytes) -> bool:
        """Show nobody."""
        return True

    def published(self) -> None:
        """Return nothing."""


class NoJudge(SingleJudge):
    """A process that judges no rules and calls nobody: its app is only looked at."""

    is_leader = False

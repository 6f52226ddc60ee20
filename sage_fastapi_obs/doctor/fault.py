"""What is wrong, and what to do about it."""

from typing import Literal, NamedTuple, TypeAlias, get_args

CheckName: TypeAlias = Literal[
    "not-watched",
    "route-without-template",
    "base-http-middleware",
    "middleware-order",
    "two-server-spans",
    "logging-twice",
    "sentry-loguru",
    "public-pages",
    "unredacted-field",
    "worker-mode",
    "preset",
    "exporter-unreachable",
    "label-growth",
    "loop-blocking",
    "request-cost",
    "failing-request",
]
CHECKS: tuple[CheckName, ...] = get_args(CheckName)


class Fault(NamedTuple):
    """One thing that is wrong."""

    check: CheckName
    what: str
    """One sentence without its full stop: what was seen, and where."""
    fix: str
    """What to change."""
    is_note: bool = False
    """Whether it may well be meant."""

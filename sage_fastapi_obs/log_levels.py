"""The levels of log lines: their names, numbers and spellings, and what other systems call them."""

from typing import Literal, NamedTuple, TypeAlias, get_args

__all__ = ["LEVELS", "LEVEL_DETAILS", "Level", "LevelName", "level_name", "usual_level"]

LevelName: TypeAlias = Literal["trace", "debug", "info", "warn", "error", "critical"]


class Level(NamedTuple):
    """What one level is elsewhere."""

    number: int
    """In `logging` and loguru."""
    loguru: str
    otlp: int
    """Severity number of OpenTelemetry."""
    colour: str
    """Terminal colour of lines for people."""


LEVEL_DETAILS: dict[str, Level] = {
    "trace": Level(5, "TRACE", 1, "2"),
    "debug": Level(10, "DEBUG", 5, "2"),
    "info": Level(20, "INFO", 9, "32"),
    "warn": Level(30, "WARNING", 13, "33"),
    "error": Level(40, "ERROR", 17, "31"),
    "critical": Level(50, "CRITICAL", 21, "1;31"),
}
"""By name, the least severe first."""
assert tuple(LEVEL_DETAILS) == get_args(LevelName)
LEVELS = {name: level.number for name, level in LEVEL_DETAILS.items()}
_SPELLINGS = {"warning": "warn", "fatal": "critical"}


def usual_level(level: object) -> object:
    """Return the name of a level that is spelt in another way: in capitals, `warning`, `fatal`."""
    return _SPELLINGS.get(level.lower(), level.lower()) if isinstance(level, str) else level


def level_name(number: int) -> str:
    """Name the level of a line by its number: TRACE (5) is debug, SUCCESS (25) is info, WARNING is warn."""
    return next(name for name, severity in reversed(LEVELS.items()) if number >= severity or name == "debug")

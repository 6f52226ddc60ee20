"""Lines as an observed app writes them: those of our writers, and what apps without one hand to `logging` and loguru."""

import logging
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from loguru import logger as loguru_logger

from sage_fastapi_obs.log_levels import level_name
from sage_fastapi_obs.logs.access_line import ACCESS_LOGGER, DURATION
from sage_fastapi_obs.logs.line_format import Line

if TYPE_CHECKING:
    import loguru

_OF_EVERY_RECORD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}
_FORMATTER = logging.Formatter("%(message)s")


@dataclass(slots=True)
class LogLine:
    """One line that was written."""

    level: str
    """`debug`, `info`, `warn`, `error` or `critical`."""
    message: str
    logger: str | None
    fields: dict[str, Any] = field(default_factory=dict)
    """All others by name, also those that stand in `data`."""
    text: str = ""
    """All that was written, as it was written; of an app without our writer: message, fields and exception."""

    @property
    def is_access_line(self) -> bool:
        """Whether it is our line about a whole request."""
        return self.logger == ACCESS_LOGGER and DURATION in self.fields

    def has(self, wanted: Mapping[str, Any]) -> bool:
        """Tell whether it has these values: of `level`, `message`, `logger`, or of a field."""
        found = {**self.fields, "level": self.level, "message": self.message, "logger": self.logger}
        return all(name in found and found[name] == value for name, value in wanted.items())


Take = Callable[[LogLine], None]


def written_line(line: Line, encoded: bytes) -> LogLine:
    """Read a line of one of our writers; `encoded`: its bytes, as they are written."""
    rest = {name: value for name, value in line.items() if name not in ("level", "message", "logger", "data")}
    data = line.get("data")
    fields = {**(data if isinstance(data, dict) else {}), **rest}
    return LogLine(line["level"], line["message"], line.get("logger"), fields, encoded.decode("utf-8", "replace").rstrip("\n"))


class LogCapture(logging.Handler):
    """Captures what is logged, from the root logger and as a sink of loguru.

    Applications hand lines of one to the other, as loguru's recipes for `logging` and for pytest's `caplog` do: what is taken
    of such a line the second time is added to what was taken first.
    """

    def __init__(self, took: Take, place: Callable[[], object]) -> None:
        super().__init__(logging.NOTSET)
        self._took, self._place = took, place
        self._last = threading.local()
        logging.root.addHandler(self)
        self._sink = loguru_logger.add(self._take, level=0, format="{message}", catch=False, backtrace=False, diagnose=False)

    def stop(self) -> None:
        """Capture no more."""
        logging.root.removeHandler(self)
        with suppress(ValueError):
            # The application has removed all sinks.
            loguru_logger.remove(self._sink)

    def emit(self, record: logging.LogRecord) -> None:
        """Take a record."""
        extra = {name: value for name, value in vars(record).items() if name not in _OF_EVERY_RECORD}
        if isinstance(of_loguru := extra.get("extra"), dict):
            extra = of_loguru
        try:
            text = _FORMATTER.format(record)
            message = record.getMessage()
        except Exception:
            self.handleError(record)
            return
        self._note("logging", LogLine(level_name(record.levelno), message, record.name, extra, f"{text} {extra}"))

    def _take(self, message: "loguru.Message") -> None:
        record = message.record
        level, extra = level_name(record["level"].no), dict(record["extra"])
        # What loguru has formatted ends with the exception.
        self._note("loguru", LogLine(level, record["message"], record["name"], extra, f"{message}{extra}"))

    def _note(self, source: str, line: LogLine) -> None:
        place = self._place()
        before, self._last.taken = getattr(self._last, "taken", None), (source, line, place)
        if before is not None and before[0] != source and before[2] is place and _is_same(before[1], line):
            self._last.taken = None
            before[1].fields.update(line.fields)
            before[1].text += f"\n{line.text}"
        else:
            self._took(line)


def _is_same(one: LogLine, other: LogLine) -> bool:
    return (one.level, one.message) == (other.level, other.message)

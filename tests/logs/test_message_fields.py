"""What a call of a logger may say: texts, dicts, and what fits no text; each is one line, and nothing reaches the caller."""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from loguru import logger
from support import Watched

from sage_fastapi_obs import create_logger
from sage_fastapi_obs.logs.message_fields import read, text_and_fields

library = logging.getLogger("library")


class Shy:
    """Has no text."""

    def __str__(self) -> str:
        raise LookupError("no text")

    __repr__ = __str__


class ShyMapping(Mapping[str, Any]):
    """Has no items, though it says so."""

    def __getitem__(self, _: str) -> Any:
        raise LookupError("no item")

    def __iter__(self) -> Iterator[str]:
        raise LookupError("no items")

    def __len__(self) -> int:
        return 1


@pytest.fixture
def started(watch: Any) -> Watched:
    """Give a watched observability that has been started."""
    watched: Watched = watch()
    watched.obs.start()
    return watched


@contextmanager
def alone() -> Iterator[None]:
    """Take the test runner's handlers away, which raise for records that cannot be formatted."""
    root = logging.getLogger()
    others = [handler for handler in root.handlers if not type(handler).__module__.startswith("sage")]
    for handler in others:
        root.removeHandler(handler)
    yield
    for handler in others:
        root.addHandler(handler)


def last(watched: Watched) -> dict[str, Any]:
    line: dict[str, Any] = watched.lines[-1]
    return line


LOGGERS: dict[str, Callable[[Any], None]] = {
    "logging": library.info,
    "ours": create_logger("library").info,
    "loguru": logger.info,
}


@pytest.mark.parametrize("how", LOGGERS)
async def test_a_dict_is_fields(how: str, started: Watched) -> None:
    """Its values are hidden by their names, known ones have their place, and its text is the message."""
    LOGGERS[how]({"event": "paid", "order": 7, "password": "hunter2", "session_id": "s-1", "basket": {"token": "t", "n": 2}})
    line = last(started)
    assert (line["message"], line["session_id"]) == ("paid", "s-1")
    assert line["data"] == {"order": 7, "password": "REDACTED", "basket": {"token": "REDACTED", "n": 2}}
    LOGGERS[how]({"message": "sold", "request_id": "forged", 8: "a key"})
    assert (last(started)["message"], last(started)["data"]) == ("sold", {"8": "a key"})
    LOGGERS[how]({})
    assert (last(started)["message"], "data" in last(started)) == ("", False)


async def test_a_dict_and_extra_and_an_exception(started: Watched) -> None:
    """What is passed beside a dict counts too; arguments make a text of it, as ever; a text that looks like one stays."""
    try:
        raise LookupError("gone")
    except LookupError:
        library.exception({"event": "failed", "order": 7}, extra={"n": 1})
    assert (last(started)["error"]["message"], last(started)["data"]) == ("gone", {"order": 7, "n": 1})
    library.info("user %s", {"password": "hunter2"})
    assert last(started)["message"] == "user {'password': 'REDACTED'}"
    logger.info("{'order': 7}")
    assert (last(started)["message"], "data" in last(started)) == ("{'order': 7}", False)
    logger.info("{order}", order={"n": 1})
    assert last(started)["message"] == "{'n': 1}"


@pytest.mark.parametrize("renders", [True, False])
async def test_structlog_beside_us(renders: bool, started: Watched) -> None:
    """Fields, the exception and the text of structlog's events, whichever of its ways to `logging` is used."""
    to_logging = structlog.stdlib.render_to_log_kwargs if renders else structlog.stdlib.ProcessorFormatter.wrap_for_formatter
    log = structlog.wrap_logger(
        logging.getLogger("st"),
        wrapper_class=structlog.stdlib.BoundLogger,
        processors=[
            structlog.stdlib.add_logger_name,
            structlog.stdlib.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            to_logging,
        ],
    )
    log.info("structured", order=7, password="hunter2")
    line = last(started)
    assert (line["message"], line["logger"], line["level"]) == ("structured", "st", "info")
    assert {"order": 7, "password": "REDACTED"}.items() <= line["data"].items()
    try:
        raise LookupError("gone")
    except LookupError:
        log.exception("failed", order=8)
    line = last(started)
    assert (line["message"], line["error"]["message"], line["data"]["order"]) == ("failed", "gone", 8)
    if not renders:
        assert line["data"] == {"order": 8}


@pytest.mark.parametrize(
    ("message", "args", "text"),
    [
        ("%d items", ("many",), "%d items"),
        ("%s and %s", (1,), "%s and %s"),
        ("no place", (1,), "no place"),
        ("%(name)s", ({"other": 1},), "%(name)s"),
        ("%", (1,), "%"),
        ("%s", (Shy(),), "%s"),
        ({"event": "paid"}, (1,), "paid"),
        (Shy(), (1,), "<unprintable: LookupError>"),
    ],
)
async def test_arguments_that_do_not_fit_are_a_line(
    message: Any, args: tuple[Any, ...], text: str, started: Watched, capsys: pytest.CaptureFixture[str]
) -> None:
    """The line has the message as it was given, its arguments, and what is wrong with them."""
    with alone():
        library.warning(message, *args)
    line = last(started)
    assert (line["message"], line["level"], line["logger"]) == (text, "warn", "library")
    assert line["data"]["args"]
    assert line["data"]["format_error"].partition(":")[0] in ("TypeError", "KeyError", "ValueError", "LookupError")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("shy", [Shy(), ShyMapping()])
@pytest.mark.parametrize("how", ["logging", "ours"])
async def test_what_has_no_text_is_a_line(how: str, shy: Any, started: Watched) -> None:
    """Nothing that an object raises when it is looked at passes into who logs it."""
    with alone():
        LOGGERS[how](shy)
        library.info("said", extra={"shy": shy})
        library.info("failed", exc_info=(ValueError, ValueError(shy), None))
    unprintable, said, failed = started.lines[-3:]
    assert (unprintable["message"], said["message"]) == ("<unprintable: LookupError>", "said")
    assert (failed["message"], failed["error"]["type"]) == ("failed", "ValueError")


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.builds(Shy) | st.builds(ShyMapping),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.integers(), inner, max_size=3),
    max_leaves=6,
)


@given(anything, st.lists(anything, max_size=2))
def test_any_record_can_be_read(message: Any, args: list[Any]) -> None:
    """Whatever a record was made of, it has a text and fields."""
    record = logging.makeLogRecord({"name": "library", "msg": message, "args": tuple(args)})
    text, fields, error = read(record)
    assert (isinstance(text, str), isinstance(fields, dict), error) == (True, True, None)
    assert isinstance(text_and_fields(message)[0], str)

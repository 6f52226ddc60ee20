"""Python's warnings: a line each, and whoever records them goes on recording."""

import logging
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
from support import Watched


@pytest.fixture(autouse=True)
def always() -> Iterator[None]:
    """Let every warning come through, and put the hook back."""
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        yield


def warned(watched: Watched) -> list[str]:
    return [
        line["message"].rsplit("Warning: ", 1)[1].splitlines()[0] for line in watched.lines if line["logger"] == "py.warnings"
    ]


def texts(recorded: list[warnings.WarningMessage]) -> list[str]:
    return [str(one.message) for one in recorded]


async def test_who_records_around_a_start_records_on(watch: Any, caplog: pytest.LogCaptureFixture) -> None:
    """`catch_warnings` and `pytest.warns` have each warning once, before the start, after it and after the end; so do we."""
    watched = watch()
    with warnings.catch_warnings(record=True) as outer, warnings.catch_warnings(record=True) as recorded:
        warnings.warn("before", stacklevel=1)
        watched.obs.start()
        warnings.warn("after", stacklevel=1)
        with pytest.warns(UserWarning, match="inner"):
            warnings.warn("inner", stacklevel=1)
        await watched.obs.close()
        warnings.warn("closed", stacklevel=1)
        assert texts(recorded) == ["before", "after", "closed"]
    assert texts(outer) == []
    assert warned(watched) == ["after"]
    # Other handlers of `logging` get what they would get without us.
    assert not caplog.records


async def test_nobody_records(watch: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody records, a warning is a line and no longer on standard error, until the end."""
    monkeypatch.setattr(warnings, "_showwarnmsg_impl", original_print())
    watched = watch()
    before = warnings.showwarning
    watched.obs.start()
    warnings.warn("after", stacklevel=1)
    warnings.showwarning("to a file", UserWarning, "file", 1, file=sys.stdout)
    assert capsys.readouterr() == ("file:1: UserWarning: to a file\n", "")
    await watched.obs.close()
    warnings.warn("closed", stacklevel=1)
    assert "UserWarning: closed" in capsys.readouterr().err
    assert warned(watched) == ["after"]
    assert warnings.showwarning is before


def original_print() -> Any:
    """Find what prints warnings where nobody records, as the test runner does."""
    scope = warnings.__dict__ if sys.version_info < (3, 14) else sys.modules["_py_warnings"].__dict__

    def show(message: Any) -> None:
        (message.file or sys.stderr).write(scope["_formatwarnmsg"](message))

    return show


async def test_a_hook_of_the_applications_own_is_still_called(watch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A function that somebody has put in place gets every warning, and one that is put in place later takes over."""
    got: list[str] = []
    monkeypatch.setattr(warnings, "showwarning", lambda message, *_: got.append(str(message)))
    watched = watch()
    watched.obs.start()
    warnings.warn("first", stacklevel=1)
    monkeypatch.setattr(warnings, "showwarning", lambda message, *_: got.append(f"later {message}"))
    warnings.warn("second", stacklevel=1)
    await watched.obs.close()
    assert (got, warned(watched)) == (["first", "later second"], ["first"])


async def test_a_hook_that_comes_back_is_silent(watch: Any) -> None:
    """Closed inside `catch_warnings`, which puts our hook back at its end, it only hands on."""
    watched = watch()
    with warnings.catch_warnings(record=True) as recorded:
        watched.obs.start()
        with warnings.catch_warnings():
            await watched.obs.close()
        warnings.warn("closed", stacklevel=1)
        assert texts(recorded) == ["closed"]
    assert warned(watched) == []


@pytest.mark.parametrize("when", ["before", "after"])
async def test_an_application_that_has_them_logged(when: str, watch: Any, caplog: pytest.LogCaptureFixture) -> None:
    """`logging.captureWarnings` before or after the start leaves one line, and one record for other handlers."""
    watched = watch()
    try:
        if when == "before":
            logging.captureWarnings(True)
        watched.obs.start()
        if when == "after":
            logging.captureWarnings(True)
        warnings.warn("said", stacklevel=1)
    finally:
        logging.captureWarnings(False)
    await watched.obs.close()
    assert warned(watched) == ["said"]
    assert [record.name for record in caplog.records] == ["py.warnings"]

"""The level of lines, changed for a while while the process runs."""

import logging
import os
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from hypothesis import given, settings, strategies
from loguru import logger
from support import PATIENCE_SECONDS, client, times, until

from sage_fastapi_obs.log_levels import LEVELS
from sage_fastapi_obs.logs import level_changes as module
from sage_fastapi_obs.logs.level_changes import Change, Levels, TooManyChangesError

NAMES = strategies.sampled_from([None, "a", "a.b", "a.b.c", "ab", "b"])
ASKED = strategies.sampled_from([None, *LEVELS])


class Clock:
    """Seconds, moved by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def build() -> Iterator[Callable[..., tuple[Levels, Clock, list[Change]]]]:
    """Build levels with a clock of their own, and let no timer outlive the test."""
    made: list[Levels] = []

    def levels(configured: str = "info") -> tuple[Levels, Clock, list[Change]]:
        clock, ended = Clock(), []
        made.append(Levels(configured, lambda: None, ended.append, clock))
        return made[-1], clock, ended

    yield levels
    for one in made:
        one.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "sage-obs-levels" and thread.is_alive()] or wait()


def wait() -> bool:
    """Give cancelled timers a moment to end."""
    return until(lambda: not any(thread.name == "sage-obs-levels" for thread in threading.enumerate()))


def test_without_changes_the_configured_level_holds(build: Any) -> None:
    """For every logger, and for lines without one."""
    levels, _, _ = build("warn")
    assert [levels.severity_of(name) for name in (None, "", "a", "a.b")] == [30] * 4
    assert (levels.lowest, levels.level_of("a"), levels.changes) == (30, "warn", [])


def test_the_longest_name_decides(build: Any) -> None:
    """A name means itself and what is below it, not what begins with the same letters."""
    levels, _, _ = build()
    levels.change("a", "error", 10)
    levels.change("a.b", "debug", 10)
    levels.change(None, "warn", 10)
    found = {name: levels.level_of(name) for name in ("a", "a.b", "a.b.c", "a.bc", "ab", "x", "", None)}
    assert found == {
        "a": "error",
        "a.b": "debug",
        "a.b.c": "debug",
        "a.bc": "error",
        "ab": "warn",
        "x": "warn",
        "": "warn",
        None: "warn",
    }
    assert levels.lowest == LEVELS["debug"]


def test_changes_end_by_themselves(build: Any) -> None:
    """Each at its own time, logged once; a later change of the same name replaces the earlier and its end."""
    levels, clock, ended = build()
    levels.change(None, "debug", 10)
    levels.change("a", "error", 20)
    levels.change(None, "trace", 30)
    assert [(change.logger, change.level, left) for change, left in levels.changes] == [(None, "trace", 30), ("a", "error", 20)]
    clock.now += 10
    levels.expire()
    assert (ended, levels.level_of(None)) == ([], "trace")
    clock.now += 10
    levels.expire()
    assert [change.logger for change in ended] == ["a"]
    assert (levels.level_of("a"), levels.level_of(None)) == ("trace", "trace")
    clock.now += 10
    levels.expire()
    assert [(change.logger, change.level) for change in ended] == [("a", "error"), (None, "trace")]
    assert (levels.severity_of("a"), levels.lowest, levels.changes) == (20, 20, [])


def test_a_level_is_given_back_early(build: Any) -> None:
    """None takes a change away, which then does not end a second time; where there is none, nothing happens."""
    levels, clock, ended = build()
    levels.change("a", "debug", 10)
    levels.change("a", None, 10)
    levels.change("b", None, 10)
    clock.now += 100
    levels.expire()
    assert (levels.severity_of("a"), levels.lowest, ended) == (20, 20, [])


def test_changes_are_limited(build: Any) -> None:
    """The limit is for names; one that has a level already may have another."""
    levels, _, _ = build()
    for number in range(module.MOST_CHANGES):
        levels.change(f"logger{number}", "debug", 10)
    with pytest.raises(TooManyChangesError, match="give some back first"):
        levels.change("one.more", "debug", 10)
    levels.change("logger0", "error", 10)
    assert levels.level_of("logger0") == "error"
    assert levels.level_of("one.more") == "info"


def test_made_up_names_do_not_add_up(build: Any) -> None:
    """However many loggers there are, few are remembered."""
    levels, _, _ = build()
    levels.change("a", "debug", 10)
    for number in range(3 * module.MOST_NAMES):
        assert levels.severity_of(f"a.{number}") == LEVELS["debug"]
    assert len(levels.known_loggers) <= module.MOST_NAMES


def test_a_forked_child_has_the_configured_levels() -> None:
    """Nothing would end a change there."""
    levels = Levels("info", lambda: None, lambda _: None)
    levels.change("a", "debug", 60)
    with levels.lock, warnings.catch_warnings(action="ignore"):
        if not (pid := os.fork()):
            is_given_back = levels.level_of("a") == "info"
            levels.change("a", "error", 60)
            os._exit(0 if is_given_back and levels.level_of("a") == "error" else 1)
    assert (os.waitpid(pid, 0)[1], levels.level_of("a")) == (0, "debug")
    levels.close()
    assert wait()


def test_the_timer_ends_a_change() -> None:
    """Without anybody asking, on time; another in force goes on."""
    over = threading.Event()
    levels = Levels("info", lambda: None, lambda _: over.set())
    levels.change("b", "debug", 60)
    levels.change("a", "debug", 0.05)
    assert over.wait(PATIENCE_SECONDS)
    assert (levels.level_of("a"), levels.level_of("b")) == ("info", "debug")
    levels.close()
    assert levels.changes == []
    assert wait()


@given(strategies.lists(strategies.tuples(NAMES, ASKED, strategies.integers(1, 5)), max_size=12), strategies.data())
@settings(deadline=None, max_examples=times(50))
def test_any_changes(changes: list[Any], data: Any) -> None:
    """Whatever is changed and whenever: the level of a name is that of its longest prefix that is still changed."""
    clock = Clock()
    levels = Levels("info", lambda: None, lambda _: None, clock)
    model: dict[str | None, tuple[str, float]] = {}
    try:
        for name, level, seconds in changes:
            levels.change(name, level, seconds)
            model.pop(name, None)
            if level is not None:
                model[name] = (level, clock.now + seconds)
            clock.now += data.draw(strategies.integers(0, 3))
            levels.expire()
            model = {name: change for name, change in model.items() if change[1] > clock.now}
            for asked in (None, "a", "a.b", "a.b.c", "a.b.c.d", "ab", "b.a"):
                parts = (asked or "").split(".")
                chain = [".".join(parts[:size]) for size in range(len(parts), 0, -1)]
                expected = next((model[one][0] for one in [*chain, None] if one in model), "info")
                assert levels.level_of(asked) == expected
            general = LEVELS[model[None][0]] if None in model else LEVELS["info"]
            assert levels.lowest == min([general, *(LEVELS[level] for name, (level, _) in model.items() if name)])
    finally:
        levels.close()


def test_threads_read_while_levels_change() -> None:
    """A reader sees the level before or after a change, and after the last one nothing old is remembered."""
    levels = Levels("info", lambda: None, lambda _: None)
    stop = threading.Event()
    seen: set[int] = set()

    def read() -> None:
        while not stop.is_set():
            seen.update((levels.severity_of("a.b"), levels.severity_of("a.b.c")))

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for number in range(300):
        levels.change("a", ("debug", "error")[number % 2], 60)
        levels.change("a", None, 60)
    stop.set()
    for reader in readers:
        reader.join()
    assert seen <= {10, 20, 40}
    assert [levels.severity_of(name) for name in ("a", "a.b", "a.b.c")] == [20] * 3
    levels.close()


def talking(watched: Any) -> FastAPI:
    """Build an app that says the same through loguru and through two loggers of the standard library."""
    app = FastAPI()
    watched.obs.install(app)

    @app.get("/")
    async def read() -> None:
        for name in ("tests.one", "tests.one.part", "tests.two"):
            logging.getLogger(name).debug(name)
            logging.getLogger(name).info(name)
        logger.debug("loguru")
        logger.info("loguru")

    return app


async def heard(watched: Any, app: FastAPI) -> list[str]:
    """Ask once; return what was said about it, but for what the client says."""
    before = len(watched.lines)
    async with client(app) as http:
        await http.get("/")
    return [
        f"{line['message']} {line['level']}"
        for line in watched.lines[before:]
        if line["logger"] not in ("httpx", "sage_fastapi_obs")
    ]


QUIET = ["tests.one info", "tests.one.part info", "tests.two info", "loguru info", "request completed info"]


async def test_a_change_for_all(watch: Any) -> None:
    """Loguru's lines and the access line follow; libraries' debug lines stay back, as with the setting."""
    watched = watch(logging={"level": "info"})
    app = talking(watched)
    assert await heard(watched, app) == QUIET
    watched.obs.set_level("debug", seconds=60)
    assert await heard(watched, app) == [*QUIET[:3], "loguru debug", *QUIET[3:]]
    watched.obs.set_level("error", seconds=60)
    assert await heard(watched, app) == []
    watched.obs.set_level(None, seconds=60)
    assert await heard(watched, app) == QUIET


async def test_a_change_for_a_name(watch: Any) -> None:
    """Loggers of the standard library are opened as far as needed, loguru's modules too, and all is as before in the end."""
    watched = watch(logging={"level": "info"})
    app = talking(watched)
    await heard(watched, app)
    watched.obs.set_level("debug", "tests.one", seconds=60)
    opened = ["tests.one debug", "tests.one info", "tests.one.part debug", "tests.one.part info"]
    assert await heard(watched, app) == [*opened, *QUIET[2:]]
    watched.obs.set_level("error", "tests.one.part", seconds=60)
    assert await heard(watched, app) == [*opened[:2], *QUIET[2:]]
    # Other handlers go on hearing what they heard.
    assert logging.getLogger("tests.one.part").level == logging.NOTSET
    watched.obs.set_level("debug", __name__, seconds=60)
    assert await heard(watched, app) == [*opened[:2], "tests.two info", "loguru debug", *QUIET[3:]]
    watched.obs.set_level("warn", "sage_fastapi_obs.access", seconds=60)
    assert (await heard(watched, app))[-1] == "loguru info"
    for name in ("tests.one", "tests.one.part", __name__, "sage_fastapi_obs.access"):
        watched.obs.set_level(None, name, seconds=60)
    assert await heard(watched, app) == QUIET
    assert logging.getLogger("tests.one").level == logging.NOTSET


async def test_closing_gives_the_levels_back(watch: Any) -> None:
    """Also those of the standard library; one that somebody else has set meanwhile stays."""
    watched = watch(logging={"level": "error"})
    found = logging.getLogger().level
    watched.obs.start()
    watched.obs.set_level("debug", "tests.one", seconds=60)
    watched.obs.set_level("debug", "tests.two", seconds=60)
    watched.obs.set_level("info", seconds=60)
    assert logging.getLogger().getEffectiveLevel() == logging.INFO
    assert logging.getLogger("tests.one").level == logging.DEBUG
    logging.getLogger("tests.two").setLevel(logging.CRITICAL)
    await watched.obs.close()
    assert logging.getLogger("tests.one").level == logging.NOTSET
    assert logging.getLogger("tests.two").level == logging.CRITICAL
    logging.getLogger("tests.two").setLevel(logging.NOTSET)
    assert logging.getLogger().level == found
    assert wait()


async def test_two_observabilities_change_one_logger(watch: Any) -> None:
    """The lower level is set as long as one of them wants it; each writes by its own level."""
    first, second = watch(logging={"level": "info"}), watch(logging={"level": "info"})
    apps = [talking(first), talking(second)]
    first.obs.start()
    second.obs.start()
    first.obs.set_level("trace", "tests.one", seconds=60)
    second.obs.set_level("debug", "tests.one", seconds=60)
    assert logging.getLogger("tests.one").level == LEVELS["trace"]
    first.obs.set_level(None, "tests.one", seconds=60)
    assert "tests.one debug" not in await heard(first, apps[0])
    assert "tests.one debug" in await heard(second, apps[1])
    await second.obs.close()
    assert logging.getLogger("tests.one").level == logging.NOTSET
    await first.obs.close()


async def test_the_root_logger_follows_the_lowest_of_several(watch: Any) -> None:
    """And goes back up when that one leaves."""
    root = logging.getLogger()
    found = root.level
    root.setLevel(logging.WARNING)
    first, second = watch(logging={"level": "error"}), watch(logging={"level": "info"})
    first.obs.start()
    levels = [root.level]
    second.obs.start()
    levels.append(root.level)
    await second.obs.close()
    levels.append(root.level)
    await first.obs.close()
    levels.append(root.level)
    root.setLevel(found)
    assert levels == [logging.ERROR, logging.INFO, logging.ERROR, logging.WARNING]


@pytest.mark.parametrize("others", [False, True], ids=["alone", "with a sink of the user's"])
@pytest.mark.parametrize("configured", ["debug", "error"])
async def test_a_change_and_its_end_are_a_line_each(configured: str, others: bool, watch: Any) -> None:
    """Whatever the level before and after."""
    watched = watch(logging={"level": configured})
    watched.obs.start()
    sink = logger.add(lambda _: None, level="INFO") if others else None
    logs = watched.obs.logs
    clock = logs.levels.clock = Clock()
    logs.change_level(None, "critical", 60)
    clock.now += 60
    logs.levels.expire()
    logs.change_level("tests.one", "trace", 60)
    logs.change_level("tests.one", None, 60)
    if sink is not None:
        logger.remove(sink)
    said = [(line["message"], line["data"]) for line in watched.lines if line["message"].startswith("log level")]
    assert said == [
        ("log level changed", {"changed_logger": None, "from": configured, "to": "critical", "seconds": 60}),
        ("log level given back", {"changed_logger": None, "from": "critical", "to": configured}),
        ("log level changed", {"changed_logger": "tests.one", "from": configured, "to": "trace", "seconds": 60}),
        ("log level changed", {"changed_logger": "tests.one", "from": "trace", "to": configured}),
    ]
    await watched.obs.close()


async def test_a_trace_of_one_logger_is_no_debug_of_another(watch: Any) -> None:
    """Trace lines are shown as debug, and come only where trace was asked for."""
    watched = watch(logging={"level": "debug"})
    watched.obs.start()
    watched.obs.set_level("trace", "elsewhere", seconds=60)
    logger.trace("here")
    watched.obs.set_level("trace", __name__, seconds=60)
    logger.trace("there")
    await watched.obs.close()
    assert [line["message"] for line in watched.lines if line["logger"] == __name__] == ["there"]


async def test_a_level_is_set_by_any_usual_spelling(watch: Any) -> None:
    """`WARNING` is `warn`, None is the configured level, and what is no level is refused."""
    watched = watch(logging={"level": "info"})
    async with watched.obs:
        watched.obs.set_level("WARNING")
        assert watched.obs.logs.levels.level_of(None) == "warn"
        with pytest.raises(ValueError, match="'verbose' is no level: there are trace, debug"):
            watched.obs.set_level("verbose")
        watched.obs.set_level(None)
        assert watched.obs.logs.levels.level_of(None) == "info"

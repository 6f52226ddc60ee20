"""The loggers that application code holds: names, fields, ids, exceptions, events, and that they never raise."""

import asyncio
import io
import json
import logging
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import loguru
import pytest
from fastapi import FastAPI, Request, WebSocket
from hypothesis import given, settings
from hypothesis import strategies as st
from loguru import logger
from support import PATIENCE_SECONDS, Watched, client, drive, http_scope

from sage_fastapi_obs import (
    BoundLogger,
    CorrelationContext,
    ObservabilityMiddleware,
    ObsLogger,
    RequestLogger,
    Settings,
    configure_logging,
    create_logger,
)
from sage_fastapi_obs.logs import application_fields
from sage_fastapi_obs.logs.line_format import TOP_LEVEL
from sage_fastapi_obs.privacy.redaction import BUILT_IN

FAULTS = "observability_internal_errors_total"
METHODS = ["debug", "info", "warn", "warning", "error", "critical", "exception", "event"]
PARAMETER_NAMES = ["message", "level", "exception", "depth", "self", "name", "fields", "request", "logger", "extra", "args"]


def said(watched: Watched, message: str = "said") -> list[dict[str, Any]]:
    return [line for line in watched.lines if line["message"] == message]


@pytest.fixture
def started(watch: Any) -> Watched:
    """Give a watched observability that has been started."""
    watched: Watched = watch()
    watched.obs.start()
    return watched


@pytest.mark.parametrize(
    ("method", "level"),
    [
        *(("debug", "debug"), ("info", "info"), ("warn", "warn"), ("warning", "warn")),
        *(("error", "error"), ("critical", "critical"), ("exception", "error"), ("event", "info")),
    ],
)
def test_a_named_logger_writes_its_level_and_name(method: str, level: str, started: Watched) -> None:
    """A method writes its level, under the logger's name; known fields go to the top, the others into `data`."""
    getattr(create_logger("TextbookService"), method)("said", page_count=12, session_id="s-1", operation="sign")
    (line,) = said(started)
    assert (line["level"], line["logger"]) == (level, "TextbookService")
    assert (line["session_id"], line["operation"], line["data"]) == ("s-1", "sign", {"page_count": 12})


def test_without_a_name_it_is_the_modules(started: Watched) -> None:
    """A logger without a name writes under that of the calling module, from every method."""
    for method in METHODS:
        getattr(ObsLogger(), method)("said")
        getattr(BoundLogger(None), method)("said")
    assert {line["logger"] for line in said(started)} == {__name__}
    assert len(said(started)) == 2 * len(METHODS)


def test_each_with_returns_another(started: Watched) -> None:
    """Fields add up from logger to logger, the later ones stronger, and the logger they were added to stays as it was."""
    plain = create_logger("a")
    one = plain.with_fields({"x": 1, "y": 1})
    two = one.with_fields({"y": 2}, z=2)
    three = two.with_context(session_id="s-1", client_did=None)
    for log in (plain, one, two, three):
        log.info("said", z=3) if log is three else log.info("said")
    lines = said(started)
    assert [line.get("data") for line in lines] == [None, {"x": 1, "y": 1}, {"x": 1, "y": 2, "z": 2}, {"x": 1, "y": 2, "z": 3}]
    assert ["session_id" in line for line in lines] == [False, False, False, True]
    assert not any("client_did" in line for line in lines)
    assert len({id(log) for log in (plain, one, two, three)}) == 4
    assert {type(log) for log in (plain, one, two, three)} == {ObsLogger}


def test_a_logger_cannot_be_changed() -> None:
    """There is no attribute to set, and what was given may change afterwards without a change of the logger's."""
    fields = {"x": 1}
    log = create_logger("a").with_fields(fields)
    fields["x"] = 2
    assert log._fields == {"x": 1}
    with pytest.raises(AttributeError):
        log.other = 1


@pytest.mark.parametrize("name", PARAMETER_NAMES)
def test_names_of_parameters_are_fields_too(name: str, started: Watched) -> None:
    """A field may be called like a parameter of the logging machinery, per call, bound or passed as a mapping."""
    log = create_logger("a")
    log.info("said", **{name: "v"})
    log.error("said", **{name: "v"})
    log.with_fields({name: "v"}).info("said")
    if name != "fields":
        log.with_fields(**{name: "v"}).info("said")
    if name != "request":
        log.with_context(**{name: "v"}).info("said")
    if name != "level":
        log.event("said", **{name: "v"})
    assert all(line["data"] == {name: "v"} for line in said(started))
    assert all(line["logger"] == "a" for line in said(started))
    assert len(said(started)) == 6 - (name in ("fields", "request", "level"))


async def test_names_of_parameters_can_be_bound_to_a_request(watch: Any) -> None:
    """The same for what is bound to the request."""
    watched = watch()
    app = FastAPI()
    watched.obs.install(app)

    @app.get("/")
    def read(log: RequestLogger) -> None:
        for name in PARAMETER_NAMES:
            assert log.bind(**{name: name}) is log
        log.info("said")

    async with client(app) as http:
        assert (await http.get("/")).status_code == 200
    bound = {name: name for name in PARAMETER_NAMES}
    assert said(watched)[0]["data"] == watched.access[0]["data"] == bound


def test_an_exception_given_is_described(started: Watched) -> None:
    """`exc` adds type, message and stack; True means the one that is handled, and what is no exception is a field."""
    log = create_logger("a")
    try:
        raise LookupError("nothing there")
    except LookupError as error:
        log.error("said", exc=error, x=1)
        log.critical("said", exc=error, x=1)
        log.error("said", exc=True, x=1)
        log.exception("said", x=1)
        log.error("said", exc=(type(error), error, None), x=1)
    assert len(said(started)) == 5
    for line in said(started):
        assert (line["error"]["type"], line["error"]["message"], line["data"]) == ("LookupError", "nothing there", {"x": 1})
        assert "in test_an_exception_given_is_described" in line["error"]["stack_trace"]
    log.error("odd", exc="a text", x=1)
    log.error("odd", exc=None)
    log.error("odd", exc=False)
    log.exception("odd")  # noqa: LOG004 - nothing is handled here
    assert [line.get("data") for line in said(started, "odd")] == [{"exc": "a text", "x": 1}, None, None, None]
    assert not any("error" in line for line in said(started, "odd"))


NAMES = ["exc", "exc_info", "error", "err"]


@pytest.mark.parametrize("method", ["debug", "info", "warning", "error", "critical", "exception", "event"])
@pytest.mark.parametrize("name", [None, *NAMES])
def test_an_exception_is_one_by_whatever_name(name: str | None, method: str, started: Watched) -> None:
    """Second or by a usual name, at every level, in the call, the logger or a dict: the line has it, and no field has."""
    log, error = create_logger("a"), LookupError("nothing there")
    if name is not None:
        getattr(log, method)("said", **{name: error}, x=1)
        getattr(log.with_fields({name: error}), method)("said", x=1)
        getattr(log, method)({"event": "said", name: error, "x": 1})
    elif method in ("error", "critical"):
        getattr(log, method)("said", error, x=1)
    for line in said(started):
        assert (line["error"]["type"], line["error"]["message"]) == ("LookupError", "nothing there")
        assert {key: value for key, value in line["data"].items() if key != "event_id"} == {"x": 1}
    assert len(said(started)) == (3 if name else int(method in ("error", "critical")))


def test_a_second_exception_is_a_field(started: Watched) -> None:
    """A call may name two: the first by the order of their names is the line's, and nothing is lost."""
    create_logger("a").error("said", LookupError("one"), error=ValueError("two"), err="text")
    (line,) = said(started)
    assert (line["error"]["message"], line["data"]) == ("one", {"error": "ValueError: two", "err": "text"})


def test_what_is_no_exception_stays_a_field(started: Watched) -> None:
    """Texts, numbers and flags under these names are data; `exc` and `exc_info` may also be a switch, as in `logging`."""
    log = create_logger("a")
    log.error("said", error="declined", err=True, exc="text")
    log.error("said", exc_info=False)
    log.error("said", exc_info=None, exc=True)
    try:
        raise LookupError("handled")
    except LookupError:
        log.error("said", error=True)
        log.error("handled", exc_info=True)  # noqa: G201 - this is what is tested
    assert [line.get("data") for line in said(started)] == [
        {"error": "declined", "err": True, "exc": "text"},
        None,
        None,
        {"error": True},
    ]
    assert not any("error" in line for line in said(started))
    assert said(started, "handled")[0]["error"]["message"] == "handled"


def test_an_exception_that_was_never_raised_has_the_stack_of_the_call(started: Watched) -> None:
    """It shows who told of it, and no frame of the logging; one that was raised keeps its own stack, and so do causes."""
    error = LookupError("nothing there")
    raised = ValueError("raised")
    error.__cause__ = TimeoutError("cause")

    def tell() -> None:
        create_logger("a").error("said", error)
        create_logger("a").info("said", error=error)
        logger.opt(exception=error).error("said")
        logging.getLogger("other").error("said", exc_info=error)

    tell()
    try:
        raise raised
    except ValueError:
        pass
    create_logger("a").error("raised", raised)
    stacks = [line["error"]["stack_trace"] for line in said(started)]
    assert len(stacks) == 4
    for stack in stacks:
        rows = stack.splitlines()
        assert rows[0] == "TimeoutError: cause"
        assert "Traceback (most recent call last):" in rows
        assert rows[-1] == "LookupError: nothing there"
        assert [row for row in rows if row.lstrip().startswith("File")][-1].endswith("in tell")
        assert "sage_fastapi_obs/logs" not in stack
        assert "loguru" not in "".join(row for row in rows if "File" in row)
    (line,) = said(started, "raised")
    assert line["error"]["stack_trace"].count("File") == 1
    assert error.__traceback__ is None


def test_an_event_has_an_id(started: Watched) -> None:
    """An event has an id of its own unless it is given one, and the level asked for; an unknown level is a field."""
    log = create_logger("identify")
    log.event("said", customer_id="cust123", location="Table 3", confidence=0.95)
    log.event("said", event_id="evt-1", level="WARNING")
    log.event("said", level="error")
    log.event("said", level="loud")
    log.event("said", level=None)
    lines = said(started)
    assert lines[0]["data"] == {"customer_id": "cust123", "location": "Table 3", "confidence": 0.95}
    uuid4 = r"evt-[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
    assert all(re.fullmatch(uuid4, line["event_id"]) for line in (lines[0], *lines[2:]))
    assert len({line["event_id"] for line in lines}) == 5
    assert lines[1]["event_id"] == "evt-1"
    assert [line["level"] for line in lines] == ["info", "warn", "error", "info", "info"]
    assert [line.get("data") for line in lines[3:]] == [{"level": "loud"}, {"level": None}]


def test_the_names_of_fields_are_those_of_lines(started: Watched) -> None:
    """Every constant names a field that has a place of its own."""
    names = [value for name, value in vars(application_fields).items() if name.startswith("FIELD_")]
    assert len(names) == 10
    assert set(names) <= set(TOP_LEVEL)
    create_logger("a").with_context(**dict.fromkeys(names, "v")).info("said")
    assert all(said(started)[0][name] == "v" for name in names)


class Unprintable:
    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


class Hostile(dict):
    def items(self) -> Any:
        raise RuntimeError("no items")

    def __iter__(self) -> Any:
        raise RuntimeError("no iteration")


circular: dict[str, Any] = {}
circular["self"] = circular
deep: list[Any] = []
for _ in range(5_000):
    deep = [deep]
ODD = [Unprintable(), Hostile(a=1), circular, deep, object(), b"\xff", {(1, 2): None}, float("nan"), 2**200, "\ud800\n", int]


@pytest.mark.parametrize("odd", ODD, ids=lambda odd: type(odd).__name__)
@pytest.mark.parametrize("method", METHODS)
def test_nothing_it_is_given_makes_it_raise(method: str, odd: Any, started: Watched) -> None:
    """Any message, field, exception or context is taken, each line is written, and later ones are right."""
    log = create_logger("a")
    made = len(started.lines)
    getattr(log, method)(odd)
    getattr(log, method)("odd", value=odd)
    getattr(log.with_fields(odd), method)("odd")
    getattr(log.with_fields({"value": odd}), method)("odd")
    getattr(log.with_context(odd), method)("odd")
    getattr(log.with_context(session_id=odd), method)("odd")
    log.error("odd", exc=odd)
    log.event("odd", event_id=odd, level=odd)
    assert len(started.lines) == made + 8
    log.info("said", x=1)
    assert said(started)[0]["data"] == {"x": 1}
    assert started.value(FAULTS, component="Logs") is None


@settings(deadline=None)
@given(
    message=st.text() | st.integers() | st.none(),
    fields=st.dictionaries(
        st.text().filter(BUILT_IN.is_plain_name), st.none() | st.text() | st.binary() | st.floats() | st.lists(st.integers())
    ),
)
def test_any_message_and_fields_are_one_line(message: Any, fields: dict[str, Any], tmp_path_factory: Any) -> None:
    """Whatever the text and the fields, there is one line with that text and those names, which hide no secret."""
    watched = Watched(tmp_path_factory.mktemp("lines"))
    watched.obs.start()
    try:
        create_logger("a").info(message, **fields)
        create_logger("a").with_fields(fields).info(message)
    finally:
        watched.obs.logs.close()
    first, second = [line for line in watched.lines if line.get("logger") == "a"]
    known = set(TOP_LEVEL) & set(fields)
    for line in (first, second):
        assert set(line.get("data", {})) | known == {name.encode("utf-8", "replace").decode() for name in fields}
    assert first["message"] == second["message"]


def test_a_failure_is_counted(started: Watched) -> None:
    """What goes wrong while writing does not reach the application, and is counted."""

    def broken(_: Any) -> None:
        raise RuntimeError("sink")

    sink_id = logger.add(broken, catch=False)
    create_logger("a").info("said")
    create_logger("a").with_context(object())
    create_logger("a").with_fields(7)
    logger.remove(sink_id)
    assert started.value(FAULTS, component="ObsLogger") == 3


def test_a_failure_without_an_observability_is_nobodys() -> None:
    """With nothing started there is nobody to count, and still nothing is raised."""

    def broken(_: Any) -> None:
        raise RuntimeError("sink")

    sink_id = logger.add(broken, catch=False)
    create_logger("a").info("said")
    logger.remove(sink_id)


def test_an_interrupt_is_not_held_back(started: Watched) -> None:
    """What ends the process passes."""

    def interrupted(_: Any) -> None:
        raise KeyboardInterrupt

    sink_id = logger.add(interrupted, catch=False)
    with pytest.raises(KeyboardInterrupt):
        create_logger("a").info("said")
    logger.remove(sink_id)


@pytest.mark.parametrize("message", ["{0.__class__}", "{", "{x}", "%s", "<red>x</red>", "\\<", "{x.__init__.__globals__}"])
@pytest.mark.parametrize("method", METHODS)
def test_a_message_is_text(method: str, message: str, started: Watched) -> None:
    """Braces, percents and markup stay what they are, with and without fields, and in the fields."""
    getattr(create_logger("a"), method)(message, x=message)
    getattr(create_logger(message), method)(message)
    first, second = said(started, message)
    assert (first["data"]["x"], second["logger"]) == (message, message)


async def test_a_request_is_found_wherever_the_logger_is_used(watch: Any) -> None:
    """`with_context(request)` takes the ids along, into a bare thread too; without it the ids are those of the moment."""
    watched = watch()
    log = create_logger("worker")
    app = FastAPI()
    watched.obs.install(app)

    def in_thread(ours: ObsLogger) -> None:
        thread = threading.Thread(target=ours.info, args=("said",))
        thread.start()
        thread.join()

    @app.get("/")
    async def read(request: Request) -> None:
        log.info("said")
        in_thread(log)
        in_thread(log.with_context(request, operation="sign"))
        in_thread(log.with_context(request=request).with_fields(x=1))

    @app.websocket("/ws")
    async def talk(socket: WebSocket) -> None:
        await socket.accept()
        in_thread(log.with_context(socket))
        await socket.close()

    async with client(app) as http:
        await http.get("/", headers={"X-Request-ID": "r-1"})
    scope = http_scope("/ws", type="websocket", subprotocols=[], headers=[(b"x-request-id", b"r-2")])
    await drive(app, scope, [{"type": "websocket.connect"}])
    assert [line.get("request_id") for line in said(watched)] == ["r-1", None, "r-1", "r-1", "r-2"]
    assert [line.get("trace_id") for line in said(watched)][2] == watched.access[0]["trace_id"]
    assert (said(watched)[2]["operation"], said(watched)[3]["data"]) == ("sign", {"x": 1})
    assert {line["logger"] for line in said(watched)} == {"worker"}


async def test_ids_given_are_stronger_than_those_of_the_moment(watch: Any) -> None:
    """Ids of `with_context` replace the request's and the block's; fields by those names do not."""
    watched = watch()
    app = FastAPI()
    watched.obs.install(app)

    @app.get("/")
    async def read() -> None:
        log = create_logger("a")
        with CorrelationContext("block"):
            log.with_context(request_id="r-own", correlation_id="c-own", trace_id="t-own").info("said")
            log.with_fields(request_id="forged", correlation_id="forged").info("said", trace_id="forged")

    async with client(app) as http:
        await http.get("/", headers={"X-Request-ID": "r-1", "X-Correlation-ID": "c-1"})
    first, second = said(watched)
    assert (first["request_id"], first["correlation_id"], first["trace_id"]) == ("r-own", "c-own", "t-own")
    assert (second["request_id"], second["correlation_id"]) == ("r-1", "block")
    assert second["trace_id"] == watched.access[0]["trace_id"]


async def test_a_trace_can_be_kept_to(watch: Any) -> None:
    """`with_trace` names the span of that moment for good; without a span it is the same logger."""
    watched = watch()
    log = create_logger("a")
    assert log.with_trace() is log
    tracer = watched.provider.get_tracer("app")
    kept: list[ObsLogger] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        with tracer.start_as_current_span("inner"):
            kept.append(log.with_trace())
        kept[0].info("said")
        log.info("said")
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    await drive(ObservabilityMiddleware(app, observability=watched.obs), http_scope())
    kept[0].info("said")
    inside, plain, later = said(watched)
    inner = next(span.context for span in watched.spans if span.name == "inner")
    for line in (inside, later):
        named = (f"{inner.trace_id:032x}", f"{inner.span_id:016x}", "01")
        assert (line["trace_id"], line["span_id"], line["trace_flags"]) == named
    assert plain["span_id"] == watched.access[0]["span_id"] != inside["span_id"]


async def test_a_request_logger_can_do_what_every_logger_can(watch: Any) -> None:
    """Fields of `with_fields` stay on the lines of that logger, and those of `bind` are the request's."""
    watched = watch()
    app = FastAPI()
    watched.obs.install(app)

    @app.get("/")
    async def read(log: RequestLogger) -> None:
        mine = log.with_fields(own=1)
        assert isinstance(mine, BoundLogger)
        mine.bind(bound=1).info("said")
        log.info("said")
        mine.event("said", event_id="evt-1")
        log.with_context(session_id="s-1", correlation_id="c-own").info("with ids")

    async with client(app) as http:
        await http.get("/", headers={"X-Request-ID": "r-1"})
    assert [line["data"] for line in said(watched)] == [{"bound": 1, "own": 1}, {"bound": 1}, {"bound": 1, "own": 1}]
    assert watched.access[0]["data"] == {"bound": 1}
    (with_ids,) = said(watched, "with ids")
    assert (with_ids["session_id"], with_ids["correlation_id"], with_ids["logger"]) == ("s-1", "c-own", __name__)
    assert {line["request_id"] for line in said(watched)} == {"r-1"}


def test_one_logger_serves_many_threads(started: Watched) -> None:
    """Loggers are shared and derived from by many threads at once, and no field strays."""
    shared = create_logger("a").with_fields(shared=1)

    def work(number: int) -> None:
        for _ in range(50):
            shared.with_fields(number=number).info("said", again=number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = said(started)
    assert len(lines) == 300
    assert all(line["data"] == {"shared": 1, "number": line["data"]["again"], "again": line["data"]["again"]} for line in lines)


def test_without_an_observability_it_is_loguru(capsys: pytest.CaptureFixture[str]) -> None:
    """With nothing started, lines go where loguru's go, with their fields, and the application's sinks see them."""
    got: list[Any] = []
    sink_id = logger.add(lambda message: got.append(message.record))
    create_logger("a").with_fields(x=1).with_context(session_id="s-1").info("said", y=2)
    logger.remove(sink_id)
    assert (got[0]["name"], got[0]["extra"]) == ("a", {"x": 1, "y": 2, "session_id": "s-1"})


def test_a_process_without_an_app(tmp_path: Path) -> None:
    """`configure_logging` gives a script the same lines; a second call replaces the first, and all can be given back."""
    before = (dict(loguru.logger._core.handlers), sys.excepthook)
    paths = [tmp_path / name for name in ("first", "second")]
    for path in paths:
        give_back = configure_logging(Settings(logging={"output": str(path)}, service={"name": path.name}))
        with CorrelationContext("job"):
            create_logger("a").info("said")
            create_logger("a").with_fields(7).debug("below the level")
    give_back()
    create_logger("a").info("after")
    first, second = ([json.loads(line) for line in path.read_text().splitlines()] for path in paths)
    assert [(line["service"], line["correlation_id"]) for line in (*first, *second)] == [("first", "job"), ("second", "job")]
    assert len(loguru.logger._core.handlers) == len(before[0])
    assert sys.excepthook is before[1]


def test_a_process_without_an_app_hides_what_its_settings_say(tmp_path: Path) -> None:
    """The same names as in an app, also in messages."""
    path = tmp_path / "lines"
    give_back = configure_logging(Settings(logging={"output": str(path), "redact": ["iban"]}))
    create_logger("a").info("iban=DE89", iban="DE89")
    give_back()
    assert "DE89" not in path.read_text()
    assert path.read_text().count("REDACTED") == 2


def test_logging_that_is_off_stays_off(tmp_path: Path) -> None:
    """With logging disabled `configure_logging` takes nothing over."""
    before = dict(loguru.logger._core.handlers)
    for sections in ({"enabled": False}, {"logging": {"enabled": False, "output": str(tmp_path / "lines")}}):
        configure_logging(Settings(**sections))()
        assert loguru.logger._core.handlers == before
    assert not (tmp_path / "lines").exists()


async def test_an_app_beside_it_keeps_its_own_lines(watch: Any, tmp_path: Path) -> None:
    """With both, a request's lines go to its observability, and all others to who came first."""
    path = tmp_path / "script"
    give_back = configure_logging(Settings(logging={"output": str(path)}))
    watched = watch()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        create_logger("a").info("inside")
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    await drive(ObservabilityMiddleware(app, observability=watched.obs), http_scope())
    await asyncio.to_thread(create_logger("a").info, "outside")
    give_back()
    assert (len(said(watched, "inside")), len(said(watched, "outside"))) == (1, 0)
    assert [json.loads(line)["message"] for line in path.read_text().splitlines()] == ["outside"]


SCRIPT = """
import logging
from sage_fastapi_obs import configure_logging, create_logger
configure_logging()
create_logger("job").info("said", x=1)
logging.getLogger("library").info("stdlib")
"""


def test_a_script_needs_no_more_than_one_call() -> None:
    """By default lines go to standard output, and the process ends as usual."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", SCRIPT], capture_output=True, text=True, check=True, timeout=PATIENCE_SECONDS
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(line["logger"], line["message"]) for line in lines] == [("job", "said"), ("library", "stdlib")]
    assert done.stderr == ""


def test_a_terminal_is_not_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A replaced standard output gets the lines too."""
    out = io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    give_back = configure_logging()
    create_logger("a").info("said")
    give_back()
    assert json.loads(out.getvalue())["message"] == "said"

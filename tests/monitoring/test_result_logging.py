"""What is logged of results, under the names of the RFS interface."""

import inspect

import anyio
import httpx
import pytest
from fastapi import FastAPI
from opentelemetry.trace import SpanKind, StatusCode
from support import client

from sage_fastapi_obs import SettingsError, active, monitoring
from sage_fastapi_obs.monitoring import metrics, notifiers, result_logging
from sage_fastapi_obs.monitoring.metrics import reset_monitoring
from sage_fastapi_obs.monitoring.result_logging import (
    CorrelationContext,
    Failure,
    LogLevel,
    Result,
    Success,
    configure_result_logging,
    correlation_hook,
    create_logging_mono,
    get_correlation_id,
    log_result_operation,
    query_logs_by_correlation_id,
    with_correlation_id,
)


@pytest.fixture
def fresh():
    """Forget afterwards what was configured for the whole process."""
    yield
    reset_monitoring()


async def test_what_is_configured_holds_for_the_process(watch, fresh):
    """Level, stacks and performance data, for functions that were decorated before; resetting goes back."""
    watched = watch()
    watched.obs.start()

    @log_result_operation("work")
    async def work() -> Result[int, str]:
        raise ValueError("wrong")

    async def lines() -> list[dict]:
        before = len(watched.lines)
        with pytest.raises(ValueError, match="wrong"):
            await work()
        return watched.lines[before:]

    configure_result_logging(level=LogLevel.ERROR, include_stack_trace=False, include_performance_data=False)
    (line,) = await lines()
    assert line["error"] == {"type": "ValueError", "message": "wrong"}
    assert "performance" not in line
    reset_monitoring()
    started, failed = await lines()
    assert started["message"] == "Operation started"
    assert failed["error"].keys() == {"type", "message", "stack_trace"}
    assert "performance" in failed


async def test_the_correlation_header_can_be_chosen(watch, fresh):
    """In and out of the app, and on to other services, also when it runs already; the usual one leaves the settings alone."""
    watched = watch(http={"correlation_header": "X-Trace-Name"})
    app = FastAPI()
    watched.obs.install(app)
    sent = []

    @app.get("/")
    async def read() -> dict:
        def answer(request: httpx.Request) -> httpx.Response:
            sent.append(request.headers)
            return httpx.Response(200)

        hooks = {"request": [correlation_hook]}
        async with httpx.AsyncClient(transport=httpx.MockTransport(answer), event_hooks=hooks) as other:
            await other.get("http://other/")
        return {"id": get_correlation_id()}

    async with watched.obs, client(app) as opened:
        for chosen, header in (("X-Correlation-ID", "x-trace-name"), ("X-Flow-ID", "x-flow-id")):
            configure_result_logging(correlation_header=chosen)
            answer = await opened.get("/", headers={header: "req_1", "x-correlation-id": "not this"})
            assert answer.json() == {"id": "req_1"}
            assert answer.headers[header] == sent[-1][header] == "req_1"
        reset_monitoring()
        assert (await opened.get("/", headers={"x-trace-name": "req_2"})).headers["x-trace-name"] == "req_2"


@pytest.mark.parametrize("header", ["", "has space", "X-Request-ID"])
def test_an_impossible_header_is_refused(fresh, header):
    """As it would be in the settings, and nothing is configured then."""
    with pytest.raises(SettingsError):
        configure_result_logging(level=LogLevel.CRITICAL, correlation_header=header)
    with pytest.raises(ValueError, match="LogLevel"):
        configure_result_logging(level="loud")


async def test_lines_are_found_by_their_correlation_id(watch):
    """With operation, message, and the error with its stack; none where nothing is kept, and where nothing watches."""
    watched = watch(monitoring={"log_buffer_size": 100})
    watched.obs.start()

    @log_result_operation("user_processing")
    async def fail() -> Result[int, str]:
        raise LookupError("no such user")

    @with_correlation_id("req_12345")
    async def run() -> None:
        with pytest.raises(LookupError):
            await fail()

    await run()
    async with CorrelationContext("req_other"):
        await create_logging_mono(lambda: refuse()).log_error("refused").to_result()
    started, failed = query_logs_by_correlation_id("req_12345")
    assert (started.operation, started.message, started.error) == ("user_processing", "Operation started", None)
    assert (failed.level, failed.error.message) == ("error", "no such user")
    assert "in fail" in failed.error.stack_trace
    (refused,) = query_logs_by_correlation_id("req_other")
    assert (refused.error.message, refused.error.stack_trace) == ("no", "")
    assert query_logs_by_correlation_id("req_12345", limit=1) == [failed]
    assert query_logs_by_correlation_id("unknown") == []


async def refuse() -> Result[int, str]:
    """Give a failure."""
    return Failure("no")


def test_without_an_observability_there_are_no_lines(monkeypatch):
    """Asking is no error."""
    monkeypatch.setattr(active, "_started", [])
    assert query_logs_by_correlation_id("req_12345") == []


async def test_an_operation_may_have_a_span(watch):
    """With its result as an attribute; a failure that is no exception fails it, too, and nothing is counted."""
    watched = watch()
    watched.obs.start()

    @log_result_operation("lookup", span=True)
    async def look_up(outcome: object) -> Result[int, object]:
        if isinstance(outcome, Exception):
            raise outcome
        if inspect.isawaitable(outcome):
            await outcome
        return Failure(outcome) if outcome else Success(1)

    async with CorrelationContext("req_1"):
        await look_up(0)
        await look_up("locked")
        with pytest.raises(LookupError):
            await look_up(LookupError("gone"))
        with anyio.move_on_after(0.01):
            await look_up(anyio.sleep_forever())
    good, bad, raised, cancelled = watched.spans
    assert {span.name for span in watched.spans} == {"lookup"}
    assert (good.kind, good.status.status_code) == (SpanKind.INTERNAL, StatusCode.UNSET)
    assert dict(good.attributes) == {"sage.correlation_id": "req_1", "result.status": "success"}
    assert (bad.status.status_code, bad.attributes["result.status"]) == (StatusCode.ERROR, "failure")
    assert bad.attributes["error.type"] == "str"
    assert (raised.status.status_code, raised.events[0].name) == (StatusCode.ERROR, "exception")
    assert (cancelled.status.status_code, cancelled.attributes["result.status"]) == (StatusCode.UNSET, "cancelled")
    assert [line["trace_id"] for line in watched.lines if line["message"] == "Operation completed"] == [
        f"{good.context.trace_id:032x}"
    ]
    assert watched.series("operations_total") == {}
    assert watched.series("result_success_total") == {}


async def test_measured_performance_is_in_the_histogram(watch):
    """`log_performance` records the duration of the chain under its name, also of one that fails."""
    watched = watch()
    watched.obs.start()
    await create_logging_mono(lambda: refuse()).log_performance("total_processing_time").to_result()
    assert watched.value("operation_duration_seconds_count", operation="total_processing_time") == 1


@pytest.mark.parametrize("module", [metrics, notifiers, result_logging])
def test_names_are_exported_everywhere(module):
    """From the modules and from the package of the interface."""
    for name in module.__all__:
        assert getattr(monitoring, name) is getattr(module, name)
    assert set(module.__all__) <= set(monitoring.__all__)

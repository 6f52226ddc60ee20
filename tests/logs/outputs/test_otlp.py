"""Lines as OpenTelemetry log records, held against the lines, with a real receiver of OTLP over HTTP."""

import asyncio
import sys
from datetime import UTC, datetime
from typing import Any

import pytest
from collectors import attributes
from loguru import logger
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from receivers import Bulk, Handler, LogCollector, serving
from support import LONG_ENOUGH, drive, http_scope, until

from sage_fastapi_obs import Observability, ObservabilityMiddleware, Settings
from sage_fastapi_obs.delivery import queued_sender as module
from sage_fastapi_obs.errors import SettingsError
from sage_fastapi_obs.log_levels import LEVEL_DETAILS

DROPPED = "observability_log_lines_dropped_total"


@pytest.fixture
def collector():
    with serving(LogCollector()) as receiver:
        yield receiver


async def app(scope: Any, receive: Any, send: Any) -> None:
    values = {"count": 3, "large": 2**63, "share": 0.5, "on": True, "none": None, "nested": {"list": [1, "zwei"]}}
    logger.bind(**values).warning("halfway")
    if scope["path"] == "/boom":
        raise ValueError("no")
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})


@pytest.mark.parametrize("form", ["json", "console"])
def test_records_do_not_depend_on_how_lines_are_written(form: str, watch: Any, collector: LogCollector) -> None:
    """Neither other names for fields nor the format for people change a record."""
    aliases = {"timestamp": "@timestamp", "message": "msg", "level": "severity", "data": "more"}
    watched = watch(logging={"otlp_endpoint": f"{collector.url}/v1/logs", "format": form, "field_aliases": aliases})
    watched.obs.start()
    asyncio.run(drive(ObservabilityMiddleware(app, observability=watched.obs), http_scope("/fine")))
    asyncio.run(watched.obs.close())
    _, said, completed = collector.records()
    assert (said.body.string_value, said.severity_text) == ("halfway", "warn")
    assert attributes(said.attributes)["nested"] == {"list": [1, "zwei"]}
    assert (completed.body.string_value, completed.severity_text) == ("request completed", "info")
    assert attributes(completed.attributes)["path"] == "/fine"


def test_records_are_the_lines(watch: Any, collector: LogCollector) -> None:
    """Time, severity, trace context, body and attributes say what the line says; the resource says whose they are."""
    service = {"name": "shop", "version": "7", "environment": "staging"}
    watched = watch(service=service, logging={"otlp_endpoint": f"{collector.url}/v1/logs"})
    watched.obs.start()
    around = ObservabilityMiddleware(app, observability=watched.obs)
    for path in ("/fine", "/boom"):
        asyncio.run(drive(around, http_scope(path)))
    asyncio.run(watched.obs.close())
    assert len(collector.records()) == len(watched.lines) == 5
    for record, line in zip(collector.records(), watched.lines, strict=True):
        at = datetime.strptime(line["timestamp"], "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC)
        assert abs(record.time_unix_nano / 1e9 - at.timestamp()) < 0.0011
        assert record.severity_text == line["level"]
        assert record.severity_number == LEVEL_DETAILS[line["level"]].otlp
        assert record.body.string_value == line["message"]
        assert record.trace_id.hex() == line.get("trace_id", "")
        assert record.span_id.hex() == line.get("span_id", "")
        assert record.flags == int(line.get("trace_flags", "0"))
        found = attributes(record.attributes)
        error = line.get("error", {})
        assert found.get("exception.message") == error.get("message")
        assert found.get("exception.stacktrace") == error.get("stack_trace")
        assert {name: found.get(name) for name in line.get("data", {})} == {
            **line.get("data", {}),
            **({"large": float(2**63)} if line["message"] == "halfway" else {}),
        }
        for name in ("request_id", "method", "route", "status", "duration_ms", "logger"):
            assert found.get(name) == line.get(name)
        assert not {"timestamp", "service", "data", "error", "message"} & set(found)
    assert any(record.trace_id for record in collector.records())
    resource = attributes(collector.requests[0].resource_logs[0].resource.attributes)
    assert (resource["service.name"], resource["service.version"]) == ("shop", "7")
    assert resource["deployment.environment.name"] == "staging"
    assert resource["service.instance.id"]
    assert watched.obs.internal_errors.counts == {}


@pytest.mark.parametrize("odd", ["not hex", "abcd", "", "\u0661" * 32, 5, 1.5, None, ["x"], {"a": 1}])
def test_what_is_no_id_is_an_attribute(odd: Any, watch: Any, collector: LogCollector) -> None:
    """A field that is only called like an id costs no line, and can be read."""
    watched = watch(logging={"otlp_endpoint": f"{collector.url}/v1/logs"})
    watched.obs.start()
    logger.bind(trace_id=odd, span_id=odd, trace_flags=odd).info("said")
    logger.bind(trace_id="ab" * 16, span_id="cd" * 8, trace_flags="01").info("said")
    asyncio.run(watched.obs.close())
    _, given, right = collector.records()
    assert (given.trace_id, given.span_id, given.flags) == (b"", b"", 0)
    found = attributes(given.attributes)
    assert {name: found[name] for name in ("trace_id", "span_id", "trace_flags")} == dict.fromkeys(
        ("trace_id", "span_id", "trace_flags"), odd
    )
    assert (right.trace_id.hex(), right.span_id.hex(), right.flags) == ("ab" * 16, "cd" * 8, 1)
    assert "trace_id" not in attributes(right.attributes)
    assert watched.series(DROPPED)[("cause", "refused"), ("output", "otlp")] == 0


def test_spans_and_records_name_one_instance(collector: LogCollector) -> None:
    """What comes from one process can be brought together."""
    endpoint = f"{collector.url}/v1/logs"
    tracing = {"exporter": "console"}
    obs = Observability(
        Settings(logging={"output": "/dev/null", "otlp_endpoint": endpoint, "shutdown_seconds": LONG_ENOUGH}, tracing=tracing)
    )
    obs.start()
    spans_are_of = obs.tracer_provider.resource.attributes["service.instance.id"]
    asyncio.run(obs.close())
    resource = attributes(collector.requests[0].resource_logs[0].resource.attributes)
    assert resource["service.instance.id"] == spans_are_of


@pytest.mark.parametrize(
    ("variable", "value"), [("OTEL_EXPORTER_OTLP_HEADERS", "x-key=a%20b"), ("OTEL_EXPORTER_OTLP_LOGS_HEADERS", "x-key=a%20b")]
)
def test_headers_come_from_the_standard_variables(
    variable: str, value: str, watch: Any, collector: LogCollector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the exporters of the SDK read them."""
    monkeypatch.setenv(variable, value)
    watched = watch(logging={"otlp_endpoint": f"{collector.url}/v1/logs"})
    watched.obs.start()
    asyncio.run(watched.obs.close())
    assert collector.headers[0]["x-key"] == "a b"


def test_refusals_and_retries_are_exact(watch: Any, collector: LogCollector, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a collector says it has rejected is counted and not sent again; one that is busy gets the batch later."""
    monkeypatch.setattr(module, "FIRST_RETRY_SECONDS", 0.01)

    def partly(handler: Handler, server: LogCollector, body: bytes) -> None:
        answer = ExportLogsServiceResponse()
        answer.partial_success.rejected_log_records = 2
        handler.answer(200, answer.SerializeToString())

    def unreadable(handler: Handler, server: LogCollector, body: bytes) -> None:
        server.requests.append(None)
        handler.answer(200, b"\xff\xff")

    collector.faults += [lambda handler, *_: handler.answer(503, retry_after="0"), partly, unreadable]
    watched = watch(logging={"otlp_endpoint": f"{collector.url}/v1/logs"})
    watched.obs.start()
    for _ in range(4):
        logger.info("said")
    assert until(lambda: watched.value(DROPPED, output="otlp", cause="refused") == 2)
    logger.info("to be believed")
    assert until(lambda: collector.requests)
    collector.requests.clear()
    logger.info("last")
    asyncio.run(watched.obs.close())
    assert [record.body.string_value for record in collector.records()] == ["last"]
    assert sum(watched.series(DROPPED).values()) == 2
    assert len(collector.headers) == 4


def test_two_servers_do_not_talk_about_each_other(watch: Any, collector: LogCollector) -> None:
    """Both get the application's lines, and neither gets lines about the other's batches."""
    with serving(Bulk()) as bulk:
        watched = watch(logging={"otlp_endpoint": f"{collector.url}/v1/logs", "elasticsearch_url": bulk.url})
        watched.obs.start()
        logger.info("said")
        asyncio.run(watched.obs.close())
        assert (
            bulk.messages() == [record.body.string_value for record in collector.records()] == ["observability started", "said"]
        )


def test_a_missing_extra_is_said_while_building(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the command that installs it."""
    monkeypatch.setitem(sys.modules, "opentelemetry.proto.collector.logs.v1", None)
    with pytest.raises(SettingsError, match=r"pip install 'sage_fastapi_obs\[otlp\]'"):
        Observability(Settings(logging={"otlp_endpoint": "http://localhost:4318/v1/logs"}))
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.common.trace_encoder", None)
    tracing = {"otlp_endpoint": "http://localhost:4318/v1/traces"}
    with pytest.raises(SettingsError, match=r"tracing.exporter 'otlp' needs: pip install 'sage_fastapi_obs\[otlp\]'"):
        Observability(Settings(tracing=tracing))
    Observability(Settings(tracing={**tracing, "enabled": False}))

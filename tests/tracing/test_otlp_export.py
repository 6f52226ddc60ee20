"""Spans on their way to a collector: none is lost without a number, and nobody waits."""

import asyncio
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult
from receivers import Handler, SpanCollector, hanging, serving
from support import PATIENCE_SECONDS, Watched, until

from sage_fastapi_obs import Observability, Settings
from sage_fastapi_obs.delivery import queued_sender as module

DROPPED = "observability_spans_dropped_total"


@pytest.fixture
def collector() -> Iterator[SpanCollector]:
    with serving(SpanCollector()) as receiver:
        yield receiver


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_RETRY_SECONDS", 0.01)
    monkeypatch.setattr(module, "LAST_RETRY_SECONDS", 0.05)
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")


def build(tmp_path: Any, url: str, **tracing: Any) -> Observability:
    return Observability(
        Settings(
            logging={"output": str(tmp_path / "lines"), "gather_seconds": 0},
            tracing={"otlp_endpoint": f"{url}/v1/traces", "shutdown_seconds": 20.0, **tracing},
            alerts={"defaults": False},
        )
    )


def end_spans(obs: Observability, *names: str) -> None:
    tracer = obs.tracer_provider.get_tracer("test")
    for name in names:
        tracer.start_span(name).end()


def dropped(obs: Observability) -> dict[str, float]:
    found = {cause: obs.registry.get_sample_value(DROPPED, {"cause": cause}) for cause in ("full", "refused", "shutdown")}
    assert None not in found.values()
    return {cause: count for cause, count in found.items() if count}


def said(tmp_path: Any) -> list[str]:
    return [row for row in (tmp_path / "lines").read_text().splitlines() if "spans" in row and "started" not in row]


def test_a_collector_that_is_away_costs_what_does_not_fit(
    tmp_path: Any, collector: SpanCollector, quick: None, monkeypatch: Any
):
    """The queue keeps the first spans and counts the others; it is said once, and so is that it is over, with the number."""
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "30")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "10")
    away = [True]

    def be_away(handler: Handler, server: SpanCollector, body: bytes) -> None:
        if away:
            server.faults.append(be_away)
            handler.answer(503, b"x" * 100_000)
        else:
            server.accept(handler, body)

    collector.faults.append(be_away)
    obs = build(tmp_path, collector.url)
    obs.start()
    end_spans(obs, "first")
    assert until(lambda: collector.headers)
    end_spans(obs, *map(str, range(100)))
    lost = dropped(obs)["full"]
    assert 60 <= lost <= 70
    away.clear()
    assert until(lambda: len(collector.spans()) == 101 - lost)
    assert until(lambda: len(said(tmp_path)) == 2)
    end_spans(obs, "last")
    asyncio.run(obs.close())
    names = [span.name for span in collector.spans()]
    assert names == ["first", *map(str, range(int(100 - lost))), "last"]
    assert max(len(request.resource_spans[0].scope_spans[0].spans) for request in collector.requests) == 10
    assert dropped(obs) == {"full": lost}
    told = said(tmp_path)
    assert "spans do not reach otlp" in told[0]
    assert "HTTP 503" in told[0]
    assert "spans reach otlp again" in told[1]
    assert f'"lost":{lost:.0f}' in told[1]


def test_a_collector_that_hangs_slows_nobody(tmp_path: Any):
    """Closing takes no longer than it may, and what did not go is counted."""
    with hanging() as url:
        obs = build(tmp_path, url, shutdown_seconds=0.3)
        obs.start()
        end_spans(obs, *map(str, range(50)))
        began = time.monotonic()
        asyncio.run(obs.close())
        assert time.monotonic() - began < 8
    assert dropped(obs) == {"shutdown": 50}


def test_refusals_are_counted(tmp_path: Any, collector: SpanCollector):
    """All of a batch that is refused, some of one that is taken in part, and one that cannot be encoded."""

    def partly(handler: Handler, server: SpanCollector, body: bytes) -> None:
        answer = ExportTraceServiceResponse()
        answer.partial_success.rejected_spans = 2
        answer.partial_success.error_message = "too old"
        handler.answer(200, answer.SerializeToString())

    collector.faults += [lambda handler, *_: handler.answer(400), partly]
    obs = build(tmp_path, collector.url)
    obs.start()
    end_spans(obs, "refused")
    assert obs.tracer_provider.force_flush()
    assert dropped(obs) == {"refused": 1}
    end_spans(obs, "a", "b", "c")
    assert obs.tracer_provider.force_flush()
    assert dropped(obs) == {"refused": 3}
    for name in ("good", 5, "better"):
        span = obs.tracer_provider.get_tracer("test").start_span("x")
        span._name = name
        span.end()
    asyncio.run(obs.close())
    assert [span.name for span in collector.spans()] == ["good", "better"]
    assert dropped(obs) == {"refused": 4}
    assert obs.internal_errors.counts == {}


def test_a_flush_waits_until_all_has_arrived(tmp_path: Any, collector: SpanCollector):
    """Also within the time for which spans wait for others; a collector that hangs is waited for as long as was asked."""
    obs = build(tmp_path, collector.url)
    obs.start()
    end_spans(obs, "one", "two")
    assert obs.tracer_provider.force_flush()
    assert [span.name for span in collector.spans()] == ["one", "two"]
    asyncio.run(obs.close())
    with hanging() as url:
        obs = build(tmp_path, url, shutdown_seconds=0.1)
        obs.start()
        end_spans(obs, "three")
        assert not obs.tracer_provider.force_flush(100)
        asyncio.run(obs.close())


class RecordOnly(Sampler):
    """Has spans recorded, for processors in this process, and not exported."""

    def should_sample(self, *_: Any, **__: Any) -> SamplingResult:
        return SamplingResult(Decision.RECORD_ONLY)

    def get_description(self) -> str:
        return "record only"


def test_what_is_not_sampled_is_not_exported(tmp_path: Any, collector: SpanCollector):
    """Though it may have been recorded."""
    obs = build(tmp_path, collector.url)
    obs.start()
    end_spans(obs, "sampled")
    obs.tracer_provider.sampler = RecordOnly()
    obs.tracer_provider.get_tracer("other").start_span("recorded").end()
    asyncio.run(obs.close())
    assert [span.name for span in collector.spans()] == ["sampled"]


def test_console_and_collector(collector: SpanCollector):
    """A list of exporters is honoured, from the environment to the collector."""
    source = """
import asyncio
from sage_fastapi_obs import Observability, Settings
obs = Observability(Settings.from_env(logging={"enabled": False}))
obs.start()
obs.tracer_provider.get_tracer("test").start_span("both").end()
asyncio.run(obs.close())
"""
    env = {
        **os.environ,
        "no_proxy": "*",
        "OTEL_TRACES_EXPORTER": "otlp,console,zipkin",
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_RESOURCE_ATTRIBUTES": "service.name=shop,service.instance.id=pod-7,team=blue",
    }
    done = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, check=True, timeout=PATIENCE_SECONDS, env=env
    )
    assert '"name": "both"' in done.stdout
    (span,) = collector.spans()
    assert span.name == "both"
    resource = {
        attribute.key: attribute.value.string_value for attribute in collector.requests[0].resource_spans[0].resource.attributes
    }
    assert (resource["service.name"], resource["service.instance.id"], resource["team"]) == ("shop", "pod-7", "blue")


def test_numbers_that_are_none_are_said(watch: Any, collector: SpanCollector, monkeypatch: pytest.MonkeyPatch):
    """Among the first lines, and what they stand for keeps its default."""
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "0")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "later")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", "zstd")
    watched: Watched = watch(tracing={"otlp_endpoint": f"{collector.url}/v1/traces"})
    watched.obs.start()
    asyncio.run(watched.obs.close())
    _, *warnings = watched.lines
    assert {line["level"] for line in warnings} == {"warn"}
    assert [line["message"].partition("=")[0] for line in warnings] == [
        "OTEL_EXPORTER_OTLP_TRACES_COMPRESSION",
        "OTEL_BSP_MAX_QUEUE_SIZE",
        "OTEL_BSP_SCHEDULE_DELAY",
    ]


def test_sending_causes_no_lines(watch: Any, collector: SpanCollector, quick: None):
    """However talkative the application has made its HTTP client: what that says about batches would never end."""
    client_loggers = [logging.getLogger(name) for name in ("httpx", "httpcore")]
    for client in client_loggers:
        client.setLevel(logging.DEBUG)
    try:
        watched: Watched = watch(tracing={"otlp_endpoint": f"{collector.url}/v1/traces"}, provider=None)
        obs = Observability(watched.obs.settings)
        obs.start()
        end_spans(obs, "one")
        assert obs.tracer_provider.force_flush()
        client_loggers[0].warning("the application's own call")
        asyncio.run(obs.close())
    finally:
        for client in client_loggers:
            client.setLevel(logging.NOTSET)
    assert [line["message"] for line in watched.lines] == ["observability started", "the application's own call"]


FORKING = """
import asyncio, os, sys
from sage_fastapi_obs import Observability, Settings
obs = Observability(Settings(logging={"enabled": False}, tracing={"otlp_endpoint": sys.argv[1], "shutdown_seconds": 20}))
obs.start()

def end(name):
    obs.tracer_provider.get_tracer("test").start_span(name).end()
    assert obs.tracer_provider.force_flush()

end("before")
children = []
for _ in range(3):
    pid = os.fork()
    if not pid:
        for _ in range(10):
            end("child")
        asyncio.run(obs.close())
        os._exit(0)
    children.append(pid)
for _ in range(10):
    end("parent")
assert all(os.waitpid(pid, 0)[1] == 0 for pid in children)
"""


def test_forked_children_have_connections_of_their_own(collector: SpanCollector):
    """Though the parent had one open when it forked: what they send at the same time is not mixed up."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKING, f"{collector.url}/v1/traces"],
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE_SECONDS,
        env={**os.environ, "no_proxy": "*"},
    )
    assert done.stderr == ""
    assert len({sent["connection"] for sent in collector.headers}) == 4
    assert sorted(span.name for span in collector.spans()) == ["before", *["child"] * 30, *["parent"] * 10]

"""A collector that is away, hangs, refuses, is slow and comes back, over HTTP and gRPC: nothing is lost without a number."""

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import grpc
import pytest
from collectors import collecting
from fastapi import FastAPI
from loguru import logger
from receivers import hanging
from servers import free_port
from support import LONG_ENOUGH, client, samples, until

from sage_fastapi_obs import Observability, Settings
from sage_fastapi_obs.delivery import queued_sender

KINDS = ["http", "grpc"]
QUEUE, BATCH = 50, 10
URL = {"http": "http://127.0.0.1:{port}/v1/{signal}", "grpc": "grpc://127.0.0.1:{port}"}
HTTP_STATUS = {"UNAVAILABLE": 503, "INVALID_ARGUMENT": 400, "INTERNAL": 500}


def answering(kind: str, code: str) -> Callable[..., Any]:
    """Return a fault that answers with a code, or what HTTP has for it."""
    if kind == "http":
        return lambda handler, *_: handler.answer(HTTP_STATUS[code])
    return lambda _, context: context.abort(getattr(grpc.StatusCode, code), code)


def waiting(kind: str, event: threading.Event) -> Callable[..., Any]:
    """Return a fault that answers nothing until an event, and then that the client is to come again."""
    answer = answering(kind, "UNAVAILABLE")

    def wait(*parts: Any) -> Any:
        event.wait()
        return answer(*parts)

    return wait


def slow(kind: str, collector: Any) -> Callable[..., Any]:
    """Return a fault that takes what comes, late."""

    def over_http(handler: Any, server: Any, body: bytes) -> None:
        time.sleep(0.05)
        server.accept(handler, body)

    def over_grpc(request: Any, _: Any) -> Any:
        time.sleep(0.05)
        signal = type(request).__name__.removeprefix("Export").removesuffix("ServiceRequest").lower()
        return collector.take({"trace": "traces"}.get(signal, signal), request)

    return over_http if kind == "http" else over_grpc


def observing(tmp_path: Any, kind: str, port: int, seconds: float = LONG_ENOUGH) -> Observability:
    url = {signal: URL[kind].format(port=port, signal=signal) for signal in ("traces", "logs", "metrics")}
    return Observability(
        Settings(
            logging={"output": str(tmp_path / "lines"), "otlp_endpoint": url["logs"], "shutdown_seconds": seconds},
            tracing={"otlp_endpoint": url["traces"], "shutdown_seconds": seconds},
            metrics={"otlp_endpoint": url["metrics"], "otlp_interval_seconds": 1.0},
            alerts={"defaults": False},
        )
    )


def dropped(obs: Observability, name: str, **labels: str) -> dict[str, float]:
    found = {
        dict(key)["cause"]: value for key, value in samples(obs.registry, name).items() if labels.items() <= dict(key).items()
    }
    return {cause: value for cause, value in found.items() if value}


def lost_spans(obs: Observability) -> dict[str, float]:
    return dropped(obs, "observability_spans_dropped_total")


def lost_lines(obs: Observability) -> dict[str, float]:
    return dropped(obs, "observability_log_lines_dropped_total", output="otlp")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "FIRST_RETRY_SECONDS": 0.01,
        "LAST_RETRY_SECONDS": 0.05,
        "QUEUE_LINES": QUEUE,
        "BATCH_LINES": BATCH,
    }.items():
        monkeypatch.setattr(queued_sender, name, value)
    monkeypatch.setattr(queued_sender, "BATCH_SECONDS", 0.02)
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", str(QUEUE))
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", str(BATCH))
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    monkeypatch.setenv("no_proxy", "*")


class Producer:
    """Ends spans and writes lines, each with a number of its own."""

    def __init__(self, obs: Observability) -> None:
        self.made = 0
        self._obs = obs

    def produce(self, count: int) -> None:
        tracer = self._obs.tracer_provider.get_tracer("test")
        for number in range(self.made, self.made + count):
            tracer.start_span(f"span {number}").end()
            logger.info(f"line {number}")
        self.made += count


@pytest.mark.parametrize("kind", KINDS)
def test_a_collector_with_bad_days(kind: str, tmp_path: Any, quick: None) -> None:
    """Requests are served meanwhile, queues stay within their bounds, what is lost is counted to the piece, and it goes on."""
    port = free_port()
    obs = observing(tmp_path, kind, port)
    app = FastAPI()
    obs.install(app)

    @app.get("/fine")
    async def fine() -> str:
        return "fine"

    async def served() -> int:
        async with client(app) as http:
            return [(await http.get("/fine")).status_code for _ in range(20)].count(200)

    obs.start()
    producer = Producer(obs)
    requests = 0
    # Nobody listens.
    producer.produce(200)
    requests += asyncio.run(served())
    for sender, _ in obs._senders._limits:
        assert len(sender._queue) <= QUEUE
        assert len(sender._sending) <= BATCH
    assert lost_spans(obs)["full"] >= 200 + requests - QUEUE - BATCH
    with collecting(kind, port=port) as collector:
        # It is there, and busy at first; then it refuses some, for good.
        collector.faults += [answering(kind, "UNAVAILABLE")] * 5
        collector.faults += [answering(kind, code) for code in ("INVALID_ARGUMENT", "INTERNAL") for _ in range(4)]
        assert until(lambda: not collector.faults)
        assert until(lambda: not any(sender._sending for sender, _ in obs._senders._limits[:2]))
        # It hangs, longer than a request may take.
        event = threading.Event()
        collector.faults += [waiting(kind, event)] * 3
        producer.produce(200)
        requests += asyncio.run(served())
        assert until(lambda: not collector.faults)
        event.set()
        assert obs.flush(LONG_ENOUGH)
        # It is slow.
        collector.faults += [slow(kind, collector)] * 6
        producer.produce(30)
        assert until(lambda: not collector.faults)
        # It is well.
        assert obs.flush(LONG_ENOUGH)
        producer.produce(30)
        requests += asyncio.run(served())
        asyncio.run(obs.close())
        spans = [span.name for _, span in collector.kept.spans()]
        lines = [record.body.string_value for _, record in collector.kept.records()]
    own_spans = [name for name in spans if name.startswith("span ")]
    own_lines = [line for line in lines if line.startswith("line ")]
    assert len(set(own_spans)) == len(own_spans)
    assert len(set(own_lines)) == len(own_lines)
    assert requests == 60
    assert len(spans) + sum(lost_spans(obs).values()) == producer.made + requests
    written = (tmp_path / "lines").read_text().splitlines()
    # What is said about sending is not sent.
    about_sending = [row for row in written if " otlp" in row]
    assert len(lines) + sum(lost_lines(obs).values()) == len(written) - len(about_sending)
    assert {f"span {number}" for number in range(producer.made - 30, producer.made)} <= set(own_spans)
    assert lost_spans(obs).keys() | lost_lines(obs).keys() == {"full", "refused"}
    assert obs.internal_errors.counts == {}


@pytest.mark.parametrize("kind", KINDS)
def test_all_wait_together_at_the_end(kind: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a collector that hangs, lines, spans and metrics have one time limit, not one each; the rest is counted."""
    monkeypatch.setenv("no_proxy", "*")
    with ExitStack() as stack:
        port = int(stack.enter_context(hanging()).rpartition(":")[2])
        obs = observing(tmp_path, kind, port, seconds=0.5)
        obs.start()
        Producer(obs).produce(20)
        began = time.monotonic()
        asyncio.run(obs.close())
        deadlines = [sender._deadline for sender, _ in obs._senders._limits]
        assert len(deadlines) == 3
        assert len(set(deadlines)) == 1
        assert deadlines[0] >= began + 0.5
    assert lost_spans(obs) == {"shutdown": 20}
    assert lost_lines(obs) == {"shutdown": 21}
    assert dropped(obs, "observability_metric_pushes_dropped_total") == {"shutdown": 1}


def test_what_is_queued_after_the_stop_goes_at_the_close(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines that are written while spans are waited for are not lost."""
    monkeypatch.setenv("no_proxy", "*")
    with collecting("http") as collector:
        obs = observing(tmp_path, "http", collector.server_port)
        obs.start()
        logger.info("first")
        obs._senders.stop()
        assert until(lambda: len(collector.kept.records()) == 2)
        logger.info("late")
        asyncio.run(obs.close())
        assert [record.body.string_value for _, record in collector.kept.records()][1:] == ["first", "late"]
    assert lost_lines(obs) == {}


def test_a_flush_does_not_wait_for_the_next_try(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The collector was away, and the next try is an hour off: a flush tries at once."""
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(queued_sender, "FIRST_RETRY_SECONDS", 3_600.0)
    monkeypatch.setattr(queued_sender, "LAST_RETRY_SECONDS", 3_600.0)
    with collecting("http") as collector:
        collector.faults += [answering("http", "UNAVAILABLE")] * 3
        obs = observing(tmp_path, "http", collector.server_port)
        obs.start()
        Producer(obs).produce(1)
        assert not obs.flush(0.0)
        assert until(lambda: not collector.faults)
        until(lambda: "metrics do not reach" in (tmp_path / "lines").read_text())
        assert obs.flush(LONG_ENOUGH)
        assert len(collector.kept.spans()) == 1
        obs.abandon()

"""What receivers may do to those who send to them, with servers that do it."""

import asyncio
import gzip
import itertools
import os
import socket
import ssl
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import httpcore
import pytest
from fastapi import FastAPI
from loguru import logger
from receivers import Bulk, Hostile, LogCollector, SpanCollector, serving
from support import PATIENCE_SECONDS, client, samples, until

from sage_fastapi_obs import Observability, Settings
from sage_fastapi_obs.alerting import notify
from sage_fastapi_obs.alerting.notify import NotDeliveredError, Notifiers
from sage_fastapi_obs.delivery import http_sender
from sage_fastapi_obs.delivery.answers import Unavailable
from sage_fastapi_obs.delivery.http_sender import Poster
from sage_fastapi_obs.health import checks
from sage_fastapi_obs.settings import NotifySettings

SHORT_SECONDS = 0.5
BOMB = gzip.compress(bytes(100_000_000))
HEAD = b"HTTP/1.1 200 OK\r\nconnection: keep-alive\r\n"
LIMIT_BYTES = 8_000_000
"""Far less than what is sent, or what it becomes, and more than anything else takes."""


def bomb() -> Iterator[bytes]:
    yield HEAD + b"content-encoding: gzip\r\ncontent-length: %d\r\n\r\n" % len(BOMB)
    yield BOMB


def endless() -> Iterator[bytes]:
    yield HEAD + b"transfer-encoding: chunked\r\n\r\n"
    yield from itertools.repeat(b"10000\r\n" + bytes(65_536) + b"\r\n")


def endless_refusal() -> Iterator[bytes]:
    yield b"HTTP/1.1 503 No\r\ntransfer-encoding: chunked\r\n\r\n"
    yield from itertools.repeat(b"10000\r\n" + bytes(65_536) + b"\r\n")


def never_done_continuing() -> Iterator[bytes]:
    yield from itertools.repeat(b"HTTP/1.1 100 Continue\r\n\r\n")


def headers_by_drops() -> Iterator[bytes]:
    yield HEAD
    yield from itertools.repeat(b"x")


def body_by_drops() -> Iterator[bytes]:
    yield HEAD + b"content-length: 1000000\r\n\r\n"
    yield from itertools.repeat(b" ")


HOSTILE = {
    "bomb": (bomb, 0.0),
    "endless": (endless, 0.0),
    "endless refusal": (endless_refusal, 0.0),
    "continue": (never_done_continuing, 0.0),
    "drops of headers": (headers_by_drops, 0.05),
    "drops of the body": (body_by_drops, 0.05),
}


def post(url: str) -> None:
    poster = Poster(url)
    try:
        assert len(poster.post(b"{}", {}, most_bytes=1000)) <= 1000
    except Unavailable:
        pass
    finally:
        poster.close()


def slack(url: str) -> None:
    notifiers = Notifiers(NotifySettings(slack_webhook_url=url), "shop", lambda *_: None)
    try:
        asyncio.run(notifiers.send_slack_alert("help"))
    except NotDeliveredError:
        pass


def check(url: str) -> None:
    try:
        asyncio.run(checks.url(url, timeout_seconds=SHORT_SECONDS)())
    except Exception:
        pass


@pytest.mark.parametrize("way", [post, slack, check])
@pytest.mark.parametrize("what", HOSTILE)
def test_an_answer_costs_neither_memory_nor_time(
    what: str, way: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """However much comes, however packed and however slowly, it is over in time and the connection is closed."""
    monkeypatch.setattr(http_sender, "REQUEST_SECONDS", SHORT_SECONDS)
    monkeypatch.setattr(notify, "TIMEOUT_SECONDS", SHORT_SECONDS)
    with serving(Hostile(*HOSTILE[what])) as server:
        tracemalloc.start()
        try:
            # In a thread, as one that is never over has to fail, too.
            thread = threading.Thread(target=way, args=(server.url,), daemon=True)
            thread.start()
            thread.join(PATIENCE_SECONDS)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert not thread.is_alive()
        assert server.left.wait(PATIENCE_SECONDS)
    assert peak < LIMIT_BYTES


def test_what_is_packed_is_read_as_far_as_it_is_of_use() -> None:
    """A server that packs its answer though it was asked not to is understood; other packings say nothing."""

    def answers(headers: bytes, body: bytes) -> bytes:
        with serving(Hostile(lambda: iter([HEAD + headers + b"content-length: %d\r\n\r\n" % len(body), body]))) as server:
            poster = Poster(server.url)
            try:
                return poster.post(b"{}", {}, most_bytes=10)
            finally:
                poster.close()

    assert answers(b"", b"0123456789abc") == b"0123456789"
    assert answers(b"content-encoding: gzip\r\n", gzip.compress(b"0123456789abc")) == b"0123456789"
    assert answers(b"content-encoding: gzip\r\n", b"no gzip") == b""
    assert answers(b"content-encoding: br\r\n", b"whatever") == b""


SENT = {
    "elasticsearch": ("logging", "elasticsearch_url", ""),
    "log records": ("logging", "otlp_endpoint", "/v1/logs"),
    "spans": ("tracing", "otlp_endpoint", "/v1/traces"),
}


def watched(what: str, url: str, **more: Any) -> Observability:
    """Build an observability that sends something somewhere."""
    section, key, path = SENT[what]
    logging = {"output": "/dev/null", "shutdown_seconds": 30.0}
    sections = {"logging": logging, "tracing": {"shutdown_seconds": 30.0}}
    sections[section][key] = f"{url}{path}"
    return Observability(Settings(**sections, monitoring={"access": "open"}, alerts={"defaults": False}, **more))


async def work(obs: Observability) -> None:
    """Write a line and end a span."""
    async with obs:
        logger.info("said")
        obs.tracer_provider.get_tracer("test").start_span("done").end()


@pytest.mark.parametrize("what", ["log records", "spans"])
def test_a_collector_that_sends_a_bomb_has_taken_the_batch(what: str) -> None:
    """Its status says so: nothing is sent again, nothing is counted as lost, and hardly any of the answer is read."""
    with serving(Hostile(bomb)) as server:
        obs = watched(what, server.url)
        tracemalloc.start()
        try:
            asyncio.run(work(obs))
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert server.left.wait(PATIENCE_SECONDS)
    assert peak < 4 * LIMIT_BYTES
    for lost in ("observability_spans_dropped_total", "observability_log_lines_dropped_total"):
        assert not any(samples(obs.registry, lost).values())


RECEIVERS = {"elasticsearch": Bulk, "log records": LogCollector, "spans": SpanCollector}
ODD = [
    ("ALL_PROXY", "socks5://127.0.0.1:9", "socksio"),
    ("HTTP_PROXY", "nonsense://127.0.0.1:9", "nonsense"),
    ("SSL_CERT_FILE", "/nowhere/ca.pem", "SSL_CERT_FILE"),
    ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/nowhere/ca.pem", "/nowhere/ca.pem"),
    ("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", __file__, "SSLError"),
]


@pytest.mark.parametrize(
    ("what", "variable", "value", "said"),
    [(what, *odd) for what in SENT for odd in ODD if what != "elasticsearch" or not odd[0].startswith("OTEL")],
)
def test_variables_that_nobody_can_use(
    what: str, variable: str, value: str, said: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They stop nothing: it is said once why nothing arrives, what is lost is counted, and it goes on when they are gone."""
    for name in ("NO_PROXY", "no_proxy", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, value)
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
    path = tmp_path / "lines.jsonl"
    section, key, place = SENT[what]
    with serving(RECEIVERS[what]()) as receiver:
        sections = {"logging": {"output": str(path), "shutdown_seconds": 0.2}, "tracing": {"shutdown_seconds": 0.2}}
        sections[section][key] = f"{receiver.url}{place}"
        obs = Observability(Settings(**sections, alerts={"defaults": False}))
        obs.start()
        logger.info("said")
        obs.tracer_provider.get_tracer("test").start_span("done").end()
        assert until(lambda: "do not reach" in path.read_text())
        asyncio.run(obs.close())
        notices = [line for line in path.read_text().splitlines() if "do not reach" in line]
        assert len(notices) == 1
        assert said in notices[0]
        lost = samples(obs.registry, "observability_spans_dropped_total") | samples(
            obs.registry, "observability_log_lines_dropped_total"
        )
        assert sum(lost.values()) >= 1
        assert obs.internal_errors.counts == {}
        assert receiver.headers == []


@pytest.mark.parametrize(("variable", "value", "said"), ODD[:3])
async def test_notifications_and_checks_by_unusable_variables(
    variable: str, value: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A notification was not delivered, a check failed; neither raises anything else."""
    for name in ("NO_PROXY", "no_proxy", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, value)
    notifiers = Notifiers(NotifySettings(slack_webhook_url="http://127.0.0.1:9/s3cret"), "shop", lambda *_: None)
    with pytest.raises(NotDeliveredError, match="Slack could not be reached") as refused:
        await notifiers.send_slack_alert("help")
    assert "s3cret" not in str(refused.value)
    obs = Observability(Settings(monitoring={"access": "open"}, logging={"enabled": False}))
    obs.health.add("other", checks.url("http://127.0.0.1:9/"))
    app = FastAPI()
    obs.install(app)
    async with client(app) as c:
        assert (await c.get("/monitoring/health/ready")).status_code == 503


def test_it_goes_on_when_a_variable_can_be_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A certificate that is there later, as a sidecar may write it, is found."""
    monkeypatch.setattr("sage_fastapi_obs.delivery.queued_sender.FIRST_RETRY_SECONDS", 0.01)
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere/ca.pem")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
    with serving(SpanCollector()) as collector:
        obs = watched("spans", collector.url)

        async def main() -> None:
            async with obs:
                obs.tracer_provider.get_tracer("test").start_span("done").end()
                os.environ.pop("SSL_CERT_FILE")
                assert await asyncio.to_thread(until, collector.spans)

        asyncio.run(main())
    assert not any(samples(obs.registry, "observability_spans_dropped_total").values())


def test_a_connection_that_is_late_before_it_is_encrypted_is_closed() -> None:
    """Whoever connects lets go of it then, without closing it."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        network = http_sender._Network()
        stream = network.connect_tcp(*listening.getsockname(), timeout=PATIENCE_SECONDS)
        network.until = 0.0
        with pytest.raises(httpcore.ReadTimeout):
            stream.start_tls(ssl.create_default_context())
        assert stream.get_extra_info("socket").fileno() == -1

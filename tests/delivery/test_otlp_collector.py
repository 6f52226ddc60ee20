"""Both signals go to a collector by the same variables, with a real one that wants to know who asks."""

import asyncio
import ssl
from pathlib import Path
from typing import Any

import pytest
from loguru import logger
from opentelemetry import trace
from receivers import LogCollector, SpanCollector, certificate, serving
from support import samples

from sage_fastapi_obs import Observability, Settings

SIGNALS = {"TRACES": ("tracing", SpanCollector), "LOGS": ("logging", LogCollector)}
LOST = ("observability_spans_dropped_total", "observability_log_lines_dropped_total")


def run(signal: str, url: str, path: Path) -> tuple[Observability, str]:
    """Send a line or a span; return what was lost, and what was said."""
    section, _ = SIGNALS[signal]
    sections = {"logging": {"output": str(path)}, "tracing": {}}
    sections[section]["otlp_endpoint"] = f"{url}/v1/{signal.lower()}"
    sections[section]["shutdown_seconds"] = 20.0
    obs = Observability(Settings(**sections, alerts={"defaults": False}))

    async def main() -> None:
        async with obs:
            logger.info("said")
            obs.tracer_provider.get_tracer("test").start_span("done").end()

    asyncio.run(main())
    return obs, path.read_text()


def received(collector: Any) -> list[str]:
    if isinstance(collector, SpanCollector):
        return [span.name for span in collector.spans()]
    return [record.body.string_value for record in collector.records()][1:]


@pytest.mark.parametrize("compression", ["gzip", "deflate", "none"])
@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("signal", SIGNALS)
def test_a_collector_that_is_who_it_says_and_wants_the_same_of_us(
    signal: str, own: bool, compression: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its certificate is checked, ours is shown, bodies are packed, and headers are there."""
    pem = certificate(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pem)
    context.load_verify_locations(pem)
    context.verify_mode = ssl.CERT_REQUIRED
    prefix = f"OTEL_EXPORTER_OTLP_{signal}" if own else "OTEL_EXPORTER_OTLP"
    for name in ("CERTIFICATE", "CLIENT_CERTIFICATE", "CLIENT_KEY"):
        monkeypatch.setenv(f"{prefix}_{name}", str(pem))
    monkeypatch.setenv(f"{prefix}_COMPRESSION", compression)
    monkeypatch.setenv(f"{prefix}_HEADERS", "x-key=a%20b")
    collector = SIGNALS[signal][1]()
    collector.socket = context.wrap_socket(collector.socket, server_side=True, do_handshake_on_connect=False)
    with serving(collector):
        obs, _ = run(signal, f"https://localhost:{collector.server_port}", tmp_path / "lines")
    assert received(collector) == (["done"] if signal == "TRACES" else ["said"])
    (headers,) = collector.headers
    assert headers["x-key"] == "a b"
    assert headers.get("content-encoding", "none") == compression
    assert not any(value for name in LOST for value in samples(obs.registry, name).values())


@pytest.mark.parametrize("signal", SIGNALS)
def test_a_collector_that_nobody_vouches_for_gets_nothing(signal: str, tmp_path: Path) -> None:
    """Nor is it silent."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate(tmp_path))
    collector = SIGNALS[signal][1]()
    collector.socket = context.wrap_socket(collector.socket, server_side=True, do_handshake_on_connect=False)
    with serving(collector):
        section, _ = SIGNALS[signal]
        sections = {"logging": {"output": str(tmp_path / "lines")}, "tracing": {}}
        sections[section] |= {"otlp_endpoint": f"https://localhost:{collector.server_port}/", "shutdown_seconds": 3.0}
        obs = Observability(Settings(**sections, alerts={"defaults": False}))

        async def main() -> None:
            async with obs:
                obs.tracer_provider.get_tracer("test").start_span("done").end()

        asyncio.run(main())
    assert collector.headers == []
    assert "do not reach otlp" in (tmp_path / "lines").read_text()
    assert sum(value for name in LOST for value in samples(obs.registry, name).values()) >= 1


def test_a_given_provider_is_not_exported_for(tmp_path: Path) -> None:
    """Its spans are the application's business, and none of them is counted."""
    with serving(SpanCollector()) as collector:
        settings = Settings(
            logging={"output": str(tmp_path / "lines")}, tracing={"otlp_endpoint": f"{collector.url}/v1/traces"}
        )
        obs = Observability(settings, tracer_provider=trace.NoOpTracerProvider())
        obs.start()
        asyncio.run(obs.close())
    assert collector.headers == []
    assert not any(samples(obs.registry, LOST[0]).values())

"""What a service says when it starts: what it runs as, and what is odd about it."""

import asyncio
import json
import socket
from pathlib import Path
from typing import Any

import pytest

from sage_fastapi_obs import Observability, Settings


def first_lines(settings: Settings) -> str:
    """Start and stop, and read what was written."""
    path = Path(settings.logging.output)

    async def main() -> None:
        async with Observability(settings):
            pass

    asyncio.run(main())
    return path.read_text()


def read(text: str) -> list[dict[str, Any]]:
    return [json.loads(row) for row in text.splitlines()]


@pytest.mark.parametrize("form", ["json", "console"])
@pytest.mark.parametrize(("environment", "preset"), [("staging", "production"), ("local", "dev")])
def test_the_first_line_names_preset_and_environment(form: str, environment: str, preset: str, tmp_path: Path) -> None:
    """For people and for machines."""
    logging = {"output": str(tmp_path / "lines"), "format": form}
    text = first_lines(Settings.from_env({"APP_ENV": environment}, logging=logging))
    first, *others = text.splitlines()
    assert others == []
    if form == "console":
        assert f"observability started preset={preset} environment={environment} " in first
    else:
        line = json.loads(first)
        assert (line["data"]["preset"], line["data"]["environment"]) == (preset, environment)
        assert line["environment"] == environment


def test_without_a_preset_none_is_named(tmp_path: Path) -> None:
    """Settings that were written down one by one have none."""
    (line,) = read(first_lines(Settings(logging={"output": str(tmp_path / "lines")})))
    assert "preset" not in line["data"]
    assert line["data"]["environment"] == "development"


def test_what_is_odd_is_said_at_once(tmp_path: Path) -> None:
    """A warning each, right after the first line, with what to change; nothing is said twice."""
    file = tmp_path / "settings.yaml"
    file.write_text("metrics: {port: 9100}\ntracing: {jaeger_endpoint: 'http://127.0.0.1:14268'}\n")
    env = {"OTEL_TRACES_EXPORTER": "zipkin", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", "OTEL_LOGS_EXPORTER": "otlp"}
    logging = {"output": str(tmp_path / "lines"), "format": "json"}
    started, *warnings = read(first_lines(Settings.from_env(env, path=file, logging=logging)))
    assert started["message"] == "observability started"
    assert {(line["level"], line["logger"]) for line in warnings} == {("warn", "sage_fastapi_obs")}
    beginnings = [
        "OTEL_TRACES_EXPORTER names 'zipkin'",
        "OTEL_EXPORTER_OTLP_PROTOCOL=grpc is not supported, so no logs are exported",
        f"{file} names no environment",
        "metrics.port is set and not used: nothing listens on 9100",
        "tracing.jaeger_endpoint is retired",
    ]
    assert len(warnings) == len(beginnings)
    for line, beginning in zip(warnings, beginnings, strict=True):
        assert line["message"].startswith(beginning)


def test_a_metrics_port_that_somebody_has_is_said(tmp_path: Path) -> None:
    """As the second worker of a service finds it; the first, and each with a free port of its own, says where it listens."""
    with socket.create_server(("0.0.0.0", 0)) as first:
        port = first.getsockname()[1]
        logging = {"output": str(tmp_path / "lines")}
        settings = Settings(logging=logging, metrics={"port": port}, monitoring={"access": "port"})
        started, warning = read(first_lines(settings))
    assert "metrics_port" not in started["data"]
    assert warning["level"] == "warn"
    assert warning["message"].startswith(f"nothing listens on metrics.port {port} for this process (Address already in use)")
    assert "set metrics.port to 0" in warning["message"]
    free = Settings(logging={"output": str(tmp_path / "free")}, metrics={"port": 0}, monitoring={"access": "port"})
    line = next(line for line in read(first_lines(free)) if line["message"] == "observability started")
    assert line["data"]["metrics_port"] > 0

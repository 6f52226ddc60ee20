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
    env = {"OTEL_TRACES_EXPORTER": "zipkin", "OTEL_METRICS_EXPORTER": "console"}
    logging = {"output": str(tmp_path / "lines"), "format": "json"}
    started, *warnings = read(first_lines(Settings.from_env(env, path=file, logging=logging)))
    assert started["message"] == "observability started"
    assert {(line["level"], line["logger"]) for line in warnings} == {("warn", "sage_fastapi_obs")}
    beginnings = [
        "OTEL_TRACES_EXPORTER names 'zipkin'",
        "OTEL_METRICS_EXPORTER names 'console'",
        f"{file} names no environment",
        "metrics.port is set and not used: nothing listens on 9100",
        "tracing.jaeger_endpoint is retired",
    ]
    assert len(warnings) == len(beginnings)
    for line, beginning in zip(warnings, beginnings, strict=True):
        assert line["message"].startswith(beginning)


def test_a_metrics_port_that_somebody_has_is_said(tmp_path: Path) -> None:
    """Somebody else has it: what to do is said; with a free port, where it listens."""
    with socket.create_server(("0.0.0.0", 0)) as first:
        port = first.getsockname()[1]
        logging = {"output": str(tmp_path / "lines")}
        settings = Settings(logging=logging, metrics={"port": port}, monitoring={"access": "port"})
        started, warning = read(first_lines(settings))
    assert "metrics_port" not in started["data"]
    assert warning["level"] == "warn"
    assert warning["message"].startswith(f"nothing listens on metrics.port {port} for this process (Address already in use)")
    assert "set metrics.port to another one" in warning["message"]
    free = Settings(logging={"output": str(tmp_path / "free")}, metrics={"port": 0}, monitoring={"access": "port"})
    line = next(line for line in read(first_lines(free)) if line["message"] == "observability started")
    assert line["data"]["metrics_port"] > 0


PRODUCTION = """
logging:
  level: info
  format: json
  output: stdout
tracing:
  enabled: true
  sample_rate: 0.1
  jaeger_endpoint: http://jaeger:14268/api/traces
metrics:
  enabled: true
  port: 9090
  path: /metrics
"""
"""The file that the design of SAGE has."""


@pytest.mark.parametrize("environment", ["production", ""])
def test_the_file_of_the_design_gives_what_it_says_or_says_why_not(environment: str, tmp_path: Path) -> None:
    """Each of its keys holds, or the first lines name it and what to write instead; and they say who may read the metrics."""
    file = tmp_path / "production.yaml"
    file.write_text(PRODUCTION)
    settings = Settings.from_env({"APP_ENV": environment}, path=file)
    held = settings.model_copy(update={"logging": settings.logging.model_copy(update={"output": str(tmp_path / "lines")})})
    started, *warnings = read(first_lines(held))
    said = " ".join(line["message"] for line in warnings)
    logging, tracing, metrics = settings.logging, settings.tracing, settings.metrics
    assert (logging.level, logging.format, logging.targets) == ("info", "json", ("stdout",))
    assert (tracing.enabled, tracing.sample_rate, started["data"]["sample_rate"]) == (True, 0.1, 0.1)
    assert (tracing.exporter, tracing.otlp_endpoint) == ("otlp", "http://jaeger:4318/v1/traces")
    assert "tracing.jaeger_endpoint is retired: name tracing.otlp_endpoint instead, on port 4318" in said
    assert (metrics.enabled, metrics.path, started["data"]["metrics"]) == (True, "/metrics", "/metrics")
    assert "metrics.port is set and not used: nothing listens on 9090" in said
    assert "set monitoring.access to 'port'" in said
    assert started["data"]["preset"] == ("production" if environment else "dev")
    assert ("names no environment, so the preset 'dev' holds" in said) is (not environment)
    readers = "nobody: set monitoring.token" if environment else "this machine"
    assert started["data"]["readers"].startswith(readers)


def test_the_file_of_the_design_opens_its_port_where_it_is_asked_to(tmp_path: Path) -> None:
    """With the one key that the warning names, metrics are on the port of the file, and nothing is odd about it."""
    file = tmp_path / "production.yaml"
    file.write_text(PRODUCTION.replace("9090", "0").replace("jaeger_endpoint: http://jaeger:14268/api/traces", ""))
    env = {"APP_ENV": "production", "SAGE_OBS_MONITORING__ACCESS": "port", "SAGE_OBS_LOGGING__OUTPUT": str(tmp_path / "lines")}
    lines = read(first_lines(Settings.from_env(env, path=file)))
    (started,) = [line for line in lines if line["message"] == "observability started"]
    assert started["data"]["metrics_port"] > 0
    assert {line["level"] for line in lines} == {"info"}

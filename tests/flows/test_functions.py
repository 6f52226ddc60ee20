"""A function that is frozen after each answer has handed over what it has by then."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from collectors import collecting

PAGE = Path(__file__).parents[2] / "docs" / "export.md"
PLATFORM = """
import json, os, signal, sys
for event in sys.stdin:
    handler(json.loads(event), None)
    os.kill(os.getpid(), signal.SIGSTOP)
"""
"""Stands for the platform: it stops the process as soon as the function has answered."""


def example() -> str:
    """Return the example of the page, with time enough for a busy machine."""
    return PAGE.read_text().partition("```python\n")[2].partition("```")[0].replace("flush(2.0)", "flush(60.0)")


@pytest.mark.parametrize("kind", ["http", "grpc"])
def test_all_is_handed_over_before_the_freeze(kind: str, tmp_path: Path) -> None:
    """Span, lines and metrics of a call have arrived when the process is stopped, each time."""
    (tmp_path / "function.py").write_text(example() + PLATFORM)
    with collecting(kind) as collector:
        port = collector.port if kind == "grpc" else collector.server_port
        env = {
            **{f"OTEL_{signal}_EXPORTER": "otlp" for signal in ("TRACES", "LOGS", "METRICS")},
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}",
            "OTEL_EXPORTER_OTLP_PROTOCOL": {"http": "http/protobuf", "grpc": "grpc"}[kind],
            "SAGE_OBS_LOGGING__OUTPUT": str(tmp_path / "lines"),
            "SAGE_OBS_LOGGING__FORMAT": "json",
            "no_proxy": "*",
        }
        process = subprocess.Popen([sys.executable, tmp_path / "function.py"], stdin=subprocess.PIPE, env={**os.environ, **env})
        try:
            for call in range(3):
                process.stdin.write(json.dumps({"path": f"/hello/{call}"}).encode() + b"\n")
                process.stdin.flush()
                os.waitid(os.P_PID, process.pid, os.WSTOPPED)
                # The page's own call comes before those of the platform.
                assert [span.name for _, span in collector.kept.spans()] == ["GET /hello/{name}"] * (call + 2)
                written = [json.loads(row)["message"] for row in (tmp_path / "lines").read_text().splitlines()]
                assert [record.body.string_value for _, record in collector.kept.records()] == written
                (point,) = collector.kept.points("http_requests_total").values()
                assert point.as_double == call + 2
                process.send_signal(signal.SIGCONT)
        finally:
            process.stdin.close()
            process.wait()
    assert process.returncode == 0

"""A version of OpenTelemetry whose private attributes have other names gives the same spans."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import opentelemetry.context
import opentelemetry.sdk.trace
import pytest
from support import PATIENCE_SECONDS

COPIED = {"sdk/trace": Path(opentelemetry.sdk.trace.__file__).parent, "context": Path(opentelemetry.context.__file__).parent}
SERVED = """
import asyncio
from fastapi import FastAPI
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from sage_fastapi_obs import Observability, Settings, operation

exporter, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
provider.add_span_processor(SimpleSpanProcessor(exporter))
obs = Observability(Settings(logging={"level": "error"}), tracer_provider=provider)
app = FastAPI()
obs.install(app)

@app.get("/items/{item}")
def read(item: int) -> str:
    with operation("work"):
        trace.get_current_span().set_attribute("own", item)
    return f"{trace.get_current_span().get_span_context().span_id:016x}"

async def request():
    scope = {"type": "http", "method": "GET", "path": "/items/7", "query_string": b"", "headers": [], "state": {}}
    sent = []
    async def receive():
        return {"type": "http.request", "body": b""}
    async def send(message):
        sent.append(message)
    await app(scope, receive, send)
    return sent

start, body = asyncio.run(request())
child, server = exporter.get_finished_spans()
assert (server.name, child.name, start["status"]) == ("GET /items/{item}", "work", 200), (server.name, child.name)
assert server.attributes["http.route"] == "/items/{item}" and server.attributes["http.response.status_code"] == 200
assert child.attributes["own"] == 7 and child.parent.span_id == server.context.span_id
assert body["body"].decode().strip('"') == f"{server.context.span_id:016x}"
assert obs.internal_errors.counts == {}, obs.internal_errors.counts
obs.close()
print("served")
"""


@pytest.mark.parametrize(
    "attribute", ["_attributes", "_span_limits", "_active_span_processor", "_on_ending", "_current_context"]
)
def test_a_renamed_attribute_costs_only_speed(attribute: str, tmp_path: Path) -> None:
    """Server span, child span and the current span are right, and nothing is counted as an internal error."""
    for name, folder in COPIED.items():
        shutil.copytree(folder, tmp_path / "opentelemetry" / name, ignore=shutil.ignore_patterns("*.pyc.*"))
    for source in tmp_path.rglob("*.py"):
        source.write_text(re.sub(rf"(?<![\w'\"]){attribute}\b(?!['\"])", f"{attribute}_renamed", source.read_text()))
    script = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{SERVED}"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=PATIENCE_SECONDS)
    assert done.stdout.endswith("served\n"), done.stderr[-2000:]

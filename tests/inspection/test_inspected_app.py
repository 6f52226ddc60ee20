"""An app that is only looked at has no effect outside of its process, whatever its code says."""

import json
import os
import subprocess
import sys
from pathlib import Path

import forked
import pytest

SHOP = """
import logging
from contextlib import asynccontextmanager
import sentry_sdk
from fastapi import FastAPI
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import ConsoleMetricExporter, PeriodicExportingMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from sage_fastapi_obs import Observability, Settings, configure_logging
from sentry_sdk.integrations.starlette import StarletteIntegration
from sentry_sdk.transport import Transport

EVENTS = []

class Exporter(SpanExporter):
    def export(self, spans):
        EVENTS.append("exported")

class Metrics(ConsoleMetricExporter):
    def export(self, *_, **__):
        EVENTS.append("measured")

class Sentry(Transport):
    def capture_envelope(self, envelope):
        EVENTS.append("reported")

integrations = [StarletteIntegration()]
sentry_sdk.init("http://key@127.0.0.1:9/1", transport=Sentry, default_integrations=False, integrations=integrations)
meters = MeterProvider([PeriodicExportingMetricReader(exporter=Metrics())])
meters.get_meter("shop").create_counter("orders").add(1)
provider = TracerProvider()
provider.add_span_processor(BatchSpanProcessor(span_exporter=Exporter()))

@asynccontextmanager
async def lifespan(app):
    EVENTS.append("started")
    yield {"from_lifespan": 1}
    EVENTS.append("stopped")

app = FastAPI(lifespan=lifespan)
settings = Settings(
    service={"name": "shop"},
    logging={"outputs": ["FOLDER/lines.jsonl", "stdout"], "otlp_endpoint": "http://127.0.0.1:9/v1/logs"},
    metrics={"otlp_endpoint": "http://127.0.0.1:9/v1/metrics", "port": 0},
    tracing={"otlp_endpoint": "http://127.0.0.1:9/v1/traces"},
    store={"path": "FOLDER/store"},
    notify={"webhook_url": "http://127.0.0.1:9/alerts"},
    monitoring={"access": "port", "interval_seconds": 1},
    alerts={"rules": [
        {"name": "Always", "metric": "http_requests_total", "condition": ">=", "threshold": 0,
         "absent": 0, "notify": ["webhook"]},
    ]},
)
configure_logging(settings)
logging.getLogger("shop").error("a line while it is imported")
obs = Observability(settings, tracer_provider=provider)
obs.install(app)

@app.get("/items/{item}")
def item(item: int):
    EVENTS.append("called")
    return item
"""
LOOK = """
import asyncio, json, sys
from sage_fastapi_obs.inspection.inspected_app import inspected_app
from sage_fastapi_obs.inspection.synthetic_requests import SYNTHETIC_REQUESTS, ask_synthetic
from sage_fastapi_obs.inspection.synthetic_routes import synthetic_routes

async def look(inspected, with_lifespan):
    async with inspected.running(with_lifespan=with_lifespan):
        with synthetic_routes(inspected.starlette) as prefix:
            answers = [(request, await ask_synthetic(inspected.app, prefix, request)) for request in SYNTHETIC_REQUESTS]
            obs = inspected.observability
            changed = obs.status.evaluate()
    return {
        "statuses": [(request.kind, answer.status, request.expected) for request, answer in answers],
        "recorded": [(answer.exchange.status, (answer.exchange.route or "").removeprefix(prefix)) for _, answer in answers],
        "lines": len(obs.logs.recent_lines),
        "port": obs.metrics_port,
        "alerts": [alert.rule.name for alert in changed],
        "routes": [found.path for found in inspected.routes],
        "endpoint": inspected.settings.tracing.otlp_endpoint,
        "state": inspected.state,
        "errors": obs.internal_errors.counts,
    }

with inspected_app("shop:app", app_dir=sys.argv[1]) as inspected:
    seen = [asyncio.run(look(inspected, with_lifespan)) for with_lifespan in (False, True)]
    import shop
    shop.provider.force_flush()
    shop.meters.force_flush()
    shop.sentry_sdk.flush()
    print(json.dumps({"seen": seen, "events": shop.EVENTS}, default=str))
"""


@pytest.fixture(scope="module")
def looked_at(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    """Look at an app without and with its lifespan."""
    folder = tmp_path_factory.mktemp("shop")
    (folder / "shop.py").write_text(SHOP.replace("FOLDER", str(folder)))
    done = forked.run(LOOK, str(folder))
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1
    return folder, json.loads(done.stdout)


def test_nothing_leaves_the_process(looked_at: tuple[Path, dict]) -> None:
    """No line, span, file, socket or alert of the app goes anywhere, and its own routes are not called."""
    folder, told = looked_at
    assert {path.name for path in folder.iterdir()} - {"__pycache__"} == {"shop.py"}
    assert told["events"] == ["started", "stopped"]
    assert [seen["port"] for seen in told["seen"]] == [None, None]
    assert [seen["alerts"] for seen in told["seen"]] == [[], []]


def test_each_way_to_end_is_recorded(looked_at: tuple[Path, dict]) -> None:
    """Each synthetic request ends as it should, and is recorded with its route."""
    for seen in looked_at[1]["seen"]:
        assert [(kind, status) for kind, status, _ in seen["statuses"]] == [(kind, due) for kind, _, due in seen["statuses"]]
        assert [tuple(recorded) for recorded in seen["recorded"]] == [
            *((200, "/ok/{item}"), (404, ""), (405, "/ok/{item}"), (422, "/number/{number}"), (500, "/raise")),
            *((200, "/stream"), (200, "/endless"), (101, "/socket"), (200, "/background")),
        ]
        assert seen["lines"] > len(seen["recorded"])
        assert seen["errors"] == {}


def test_the_app_is_left_as_it_was(looked_at: tuple[Path, dict]) -> None:
    """Routes of ours are gone again, the settings that the app has are known, and its lifespan leaves its state."""
    first, second = looked_at[1]["seen"]
    assert [path for path in first["routes"] if path.startswith(("/items", "/sage-obs", "/monitoring"))] == ["/items/{item}"]
    assert first["endpoint"] == "http://127.0.0.1:9/v1/traces"
    assert (first["state"], second["state"]) == ({}, {"from_lifespan": 1})


def test_the_client_of_prometheus_writes_no_files(tmp_path: Path) -> None:
    """Where each process keeps its numbers in a folder, those of an app that is only looked at are not among them."""
    (tmp_path / "shop.py").write_text(
        "from sage_fastapi_obs import Observability\nfrom fastapi import FastAPI\napp = FastAPI()\n"
        "Observability().install(app)\n"
    )
    numbers = tmp_path / "numbers"
    numbers.mkdir()
    look = (
        LOOK.partition("with inspected_app(")[0] + 'with inspected_app("shop:app", app_dir=sys.argv[1]) as inspected:\n'
        "    print(len(asyncio.run(look(inspected, False))))"
    )
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(numbers), "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", look, str(tmp_path)], env=environment, capture_output=True, text=True)
    assert (done.returncode, list(numbers.iterdir())) == (0, []), done.stderr

"""What importing the package costs: nothing for features that are not used."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from support import PATIENCE_SECONDS

MEASURE = """
import json, sys, time
times = [time.process_time()]
import fastapi
times.append(time.process_time())
# What the package stands on, and everybody who uses it has to import.
import loguru, opentelemetry.instrumentation.asgi, opentelemetry.sdk.trace.export, orjson, prometheus_client, pydantic_settings
times.append(time.process_time())
import sage_fastapi_obs
times.append(time.process_time())
print(json.dumps({"seconds": times, "modules": sorted(sys.modules)}))
"""
RUNS = 4
"""The first one compiles what nobody has compiled yet, the best of the others counts: other processes disturb the caches."""
MOST = 1.0
"""Of what importing FastAPI costs; it is about 0.8."""
OF_FEATURES = {
    *("aiokafka", "asyncpg", "confluent_kafka", "grpc", "psycopg", "redis", "sqlalchemy"),
    *("httpcore", "httpx", "trio", "uvicorn", "smtplib", "yaml", "mcp", "grafana_foundation_sdk"),
    *("opentelemetry.exporter", "opentelemetry.proto", "pytest"),
    *("sage_fastapi_obs.cli", "sage_fastapi_obs.clients.redis", "sage_fastapi_obs.export", "sage_fastapi_obs.monitoring"),
    *("sage_fastapi_obs.packs.sage.api", "sage_fastapi_obs.packs.sage.dashboard", "sage_fastapi_obs.testing"),
}


@pytest.fixture(scope="module")
def runs() -> list[dict[str, Any]]:
    """Import in processes of their own, with compiled files as an installation has them."""
    environment = dict(os.environ)
    environment["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[1]), environment.get("PYTHONPATH", "")])
    command = [sys.executable, "-c", MEASURE]
    return [
        json.loads(subprocess.run(command, env=environment, capture_output=True, check=True, timeout=PATIENCE_SECONDS).stdout)
        for _ in range(RUNS)
    ]


def test_the_import_costs_less_than_that_of_fastapi(runs: list[dict[str, Any]]) -> None:
    """Beyond what it stands on, in CPU time of the same process."""
    ratios = []
    for run in runs[1:]:
        start, with_fastapi, with_third_parties, with_ours = run["seconds"]
        ratios.append((with_ours - with_third_parties) / (with_fastapi - start))
    assert min(ratios) < MOST


def test_features_are_imported_when_they_are_used(runs: list[dict[str, Any]]) -> None:
    """Clients, senders, servers and exports cost nothing before somebody asks for them."""
    assert [name for name in OF_FEATURES if find_spec(name) is None] == [], "what does not exist is never imported"
    imported = set(runs[0]["modules"])
    assert imported & OF_FEATURES == set()

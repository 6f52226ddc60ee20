"""The labels of HTTP requests are one list."""

import os
import subprocess
import sys
from pathlib import Path
from shutil import copytree, ignore_patterns

import pytest

from sage_fastapi_obs.catalog import PACKS, Metric, RequestLabel
from sage_fastapi_obs.metrics.http_series import HttpRequestSeries

PACKAGE = Path(__file__).parents[2] / "sage_fastapi_obs"
LABELS = "REQUEST_LABELS = (METHOD, ROUTE, STATUS)"
TIMED = ("http_request_duration_seconds", "http_stream_duration_seconds")
USE = """
import asyncio
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from httpx import ASGITransport, AsyncClient
from prometheus_client import generate_latest
from sage_fastapi_obs import Observability, Settings

app, obs = FastAPI(), Observability(Settings(logging={"enabled": False}))
app.add_api_route("/", lambda: 1)
app.add_api_route("/stream", lambda: StreamingResponse(iter(["a", "b"])))
obs.install(app)

async def ask():
    async with AsyncClient(transport=ASGITransport(app), base_url="http://test") as client:
        for path in ("/", "/", "/stream"):
            await client.get(path)

asyncio.run(ask())
print(generate_latest(obs.registry).decode())
"""


def test_a_label_is_added_in_one_place(tmp_path: Path):
    """One more label in the list is on the page, in the families that have these labels, and all others are still there."""
    copytree(PACKAGE, tmp_path / "sage_fastapi_obs", ignore=ignore_patterns("*.pyc.*"))
    catalog = tmp_path / "sage_fastapi_obs" / "catalog" / "http.py"
    assert LABELS in catalog.read_text()
    catalog.write_text(catalog.read_text().replace(LABELS, f'{LABELS[:-1]}, RequestLabel("scheme", "kind", str.upper))'))
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", USE], capture_output=True, text=True, check=False, cwd=tmp_path, env=environment
    )
    assert done.returncode == 0, done.stderr
    labels = 'method="GET",route="/",scheme="HTTP",status="200"'
    assert f"http_requests_total{{{labels}}} 2.0" in done.stdout
    shown = {line.partition("{")[0] for line in done.stdout.splitlines() if 'scheme="HTTP"' in line}
    of_histograms = {f"{name}_{part}" for name in TIMED for part in ("bucket", "count", "sum")}
    assert shown - {f"{name}_created" for name in TIMED} == {"http_requests_total", *of_histograms}
    assert {metric.name.removesuffix("_total") for metric in PACKS["http"]} <= {
        line.split()[2].removesuffix("_total") for line in done.stdout.splitlines() if line.startswith("# TYPE")
    }


def test_labels_that_cannot_be_followed_are_refused():
    """Number and duration of requests have the same labels, and all values of those in flight are known."""
    total = Metric("a_total", "counter", "A.", {"method": ("GET",), "route": ()})
    duration = Metric("b_seconds", "histogram", "B.", {"method": ("GET",)}, "seconds", (1.0,))
    with pytest.raises(ValueError, match="b_seconds and a_total have to have the same labels"):
        HttpRequestSeries(total, duration, total, duration, duration)
    timed = Metric("b_seconds", "histogram", "B.", total.labels, "seconds", (1.0,))
    with pytest.raises(ValueError, match="all values of the labels of a_total have to be known"):
        HttpRequestSeries(total, timed, total, duration, duration)


def test_a_label_says_where_its_value_comes_from():
    """It reads an attribute, and writes it as the label has it."""

    class Exchange:
        method = "PURGE"

    assert RequestLabel("method", "method", str.lower).value_of(Exchange()) == "purge"

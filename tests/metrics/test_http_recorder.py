"""The metrics: those of the catalog, counted from what passed, on a registry per app."""

import subprocess
import sys

import pytest
from fastapi import BackgroundTasks, FastAPI, WebSocket
from fastapi.responses import StreamingResponse
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from support import client, drive, http_scope, times

from sage_fastapi_obs import DuplicateInstrumentError, Observability, Settings
from sage_fastapi_obs.catalog import ALWAYS, PACKS, Metric, build

LIBRARY = ("process_", "python_")


def build_app() -> FastAPI:
    """Build an app with one route of each kind."""
    app = FastAPI()
    app.add_api_route("/items/{item}", lambda item: item)

    @app.post("/upload")
    async def upload(body: dict[str, str]) -> dict[str, str]:
        return body

    @app.get("/stream")
    async def stream() -> StreamingResponse:
        async def chunks():
            yield b"12345"
            yield b"678"

        return StreamingResponse(chunks())

    @app.get("/boom")
    async def boom() -> None:
        raise KeyError("no")

    @app.get("/background")
    async def background(tasks: BackgroundTasks) -> None:
        def fail() -> None:
            raise LookupError("later")

        tasks.add_task(fail)

    @app.websocket("/ws/{room}")
    async def socket(websocket: WebSocket, room: str) -> None:
        await websocket.accept()
        await websocket.send_text(await websocket.receive_text())
        await websocket.close(4001)

    return app


async def driven(watched) -> None:
    """Ask for everything once."""
    app = build_app()
    watched.obs.install(app)
    async with client(app) as c:
        await c.get("/items/1")
        await c.post("/upload", json={"a": "b"})
        await c.get("/stream")
        await c.get("/boom")
        await c.get("/background")
    incoming = [{"type": "websocket.connect"}, {"type": "websocket.receive", "text": "hello"}]
    await drive(app, http_scope("/ws/tea", type="websocket"), incoming)


async def test_what_is_exported_is_what_the_catalog_declares(watch):
    """Names, types, labels, help and closed label values are the catalog's; nothing else is exported."""
    watched = watch(logging={"flight_recorder": True})
    await driven(watched)
    catalog = {metric.name: metric for metric in (*PACKS["http"], *PACKS["result"], *ALWAYS)}
    for family in watched.obs.registry.collect():
        if family.name.startswith(LIBRARY):
            continue
        name = f"{family.name}_total" if family.type == "counter" else family.name
        metric = catalog.pop(name)
        assert (family.type, family.documentation) == (metric.type, metric.help)
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == set(metric.labels)
            for label, allowed in metric.labels.items():
                assert not allowed or sample.labels[label] in allowed
        bounds = {sample.labels["le"] for sample in family.samples if "le" in sample.labels}
        assert not bounds or len(bounds) == len(metric.buckets) + 1
    assert catalog == {}


async def test_bytes_streams_errors_and_sockets_are_counted(watch):
    """Sizes are bytes that passed, streams have their own histogram, errors their class, sockets their close code."""
    watched = watch()
    await driven(watched)
    assert watched.value("http_request_size_bytes_sum", method="POST", route="/upload") == len('{"a":"b"}')
    assert watched.value("http_response_size_bytes_sum", method="GET", route="/stream") == 8
    assert watched.value("http_stream_duration_seconds_count", method="GET", route="/stream", status="200") == 1
    assert watched.value("http_stream_first_byte_seconds_count", method="GET", route="/stream") == 1
    assert watched.value("http_request_duration_seconds_count", method="GET", route="/stream", status="200") is None
    errors = {tuple(dict(key)[label] for label in ("route", "error_type")) for key in watched.series("request_errors_total")}
    assert errors == {("/boom", "KeyError"), ("/background", "LookupError")}
    assert watched.value("http_requests_total", method="GET", route="/background", status="200") == 1
    assert watched.value("http_background_duration_seconds_count", method="GET", route="/background") == 1
    assert watched.value("websocket_connections_total", route="/ws/{room}", status="101", close_code="4001") == 1
    assert watched.value("websocket_messages_total", route="/ws/{room}", direction="received") == 1
    assert watched.value("websocket_messages_total", route="/ws/{room}", direction="sent") == 1
    assert watched.value("websocket_connections_open") == 0
    assert set(watched.series("http_requests_in_flight").values()) == {0}


async def test_a_request_is_in_flight_while_it_is(watch):
    """The gauge is up inside the handler, and down after it."""
    watched = watch()
    app = FastAPI()
    app.add_api_route("/", lambda: watched.value("http_requests_in_flight", method="GET"))
    watched.obs.install(app)
    async with client(app) as c:
        assert (await c.get("/")).json() == 1
    assert watched.value("http_requests_in_flight", method="GET") == 0


async def test_exemplars_are_those_of_sampled_traces_only(watch):
    """An exemplar never leads to a trace that was not kept."""
    watched = watch(sampler=ALWAYS_OFF)
    await driven(watched)
    assert not any(sample.exemplar for metric in watched.obs.registry.collect() for sample in metric.samples)


async def test_exemplars_can_be_switched_off(watch):
    """The setting leaves them out."""
    watched = watch(metrics={"exemplars": False})
    await driven(watched)
    assert not any(sample.exemplar for metric in watched.obs.registry.collect() for sample in metric.samples)


async def test_two_apps_do_not_meet(watch):
    """Each app has a registry of its own, also when it is built twice."""
    first, second = watch(), watch()
    await driven(first)
    assert second.series("http_requests_total") == {}
    await driven(second)
    assert first.series("http_requests_total") == second.series("http_requests_total")


def test_the_package_can_be_loaded_anew():
    """A reloader that imports everything again meets no leftovers."""
    code = """
import sys
from sage_fastapi_obs import Observability
Observability()
for name in [name for name in sys.modules if name.startswith("sage_fastapi_obs")]:
    del sys.modules[name]
from sage_fastapi_obs import Observability as Again
assert Again is not Observability
assert Again().registry.get_sample_value("websocket_connections_open") == 0
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_registry_that_is_shared_by_mistake_is_refused():
    """Two observabilities on one registry would count into each other: said while building."""
    registry = CollectorRegistry()
    Observability(Settings(), registry=registry)
    with pytest.raises(DuplicateInstrumentError, match="registry of its own"):
        Observability(Settings(), registry=registry)


async def test_buckets_can_be_set(watch):
    """The duration's bounds are the setting's."""
    watched = watch(metrics={"duration_buckets": [0.5, 1]})
    await driven(watched)
    assert {dict(key)["le"] for key in watched.series("http_request_duration_seconds_bucket")} == {"0.5", "1.0", "+Inf"}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=times(50))
@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=20).map(lambda text: f'"\\\n\0# HELP {text}'))
def test_any_route_text_survives_the_exposition(route: str):
    """A template with quotes, backslashes, newlines or worse is parsed back as it was."""
    registry = CollectorRegistry()
    build((Metric("x_total", "counter", "x", {"route": ()}),), registry)["x_total"].labels(route).inc()
    families = text_string_to_metric_families(generate_latest(registry).decode())
    samples = [sample for family in families for sample in family.samples if sample.name == "x_total"]
    assert [sample.labels["route"] for sample in samples] == [route]

"""A story of two services arrives as it was: at receivers of ours, and through an independent collector."""

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import pytest
from collectors import Kept, collecting
from prometheus_client.parser import text_string_to_metric_families
from running import ROOT, lacking
from servers import Server, free_port, program, stop
from support import PATIENCE_SECONDS, SOAK, until
from websockets.sync.client import connect

from sage_fastapi_obs import Observability, Settings

pytestmark = pytest.mark.stack
HERE = Path(__file__).parent
ORDERS, MESSAGES = 20, 1_000


@contextmanager
def rotel(kind: str, target: Any) -> Iterator[str]:
    """Run the collector Rotel, which passes on to a receiver of ours; yield where it listens for a kind."""
    found = find_spec("rotel")
    if found is None or found.origin is None:
        lacking("rotel is not installed: pip install rotel")
    ports = {"http": free_port(), "grpc": free_port()}
    server = Server(
        lambda _: [
            *(str(Path(found.origin).with_name("rotel-agent")), "start", "--batch-timeout", "50ms"),
            *(word for kind, port in ports.items() for word in (f"--otlp-{kind}-endpoint", f"127.0.0.1:{port}")),
            *("--exporter", "otlp", "--otlp-exporter-protocol", "http", "--otlp-exporter-endpoint", target.url),
        ]
    )
    server.port = ports[kind]
    server.start()
    try:
        yield f"http://127.0.0.1:{ports[kind]}"
    finally:
        # It sends what it has.
        server.stop()


@contextmanager
def collector(kind: str, through: str) -> Iterator[tuple[str, Kept]]:
    """Collect directly or through Rotel; yield where, and what arrives."""
    with ExitStack() as stack:
        if through == "rotel":
            target = stack.enter_context(collecting("http"))
            yield stack.enter_context(rotel(kind, target)), target.kept
        else:
            target = stack.enter_context(collecting(kind))
            yield f"http://127.0.0.1:{target.port if kind == 'grpc' else target.server_port}", target.kept


def environment(kind: str, endpoint: str, folder: Path, name: str, **more: str) -> dict[str, str]:
    """Return the variables of a service that exports everything."""
    return {
        **{f"OTEL_{what}_EXPORTER": "otlp" for what in ("TRACES", "LOGS", "METRICS")},
        "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
        "OTEL_EXPORTER_OTLP_PROTOCOL": {"http": "http/protobuf", "grpc": "grpc"}[kind],
        "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
        "OTEL_SERVICE_NAME": name,
        "SAGE_OBS_LOGGING__OUTPUT": str(folder / f"{name}.jsonl"),
        "SAGE_OBS_LOGGING__FORMAT": "json",
        "SAGE_OBS_LOGGING__SHUTDOWN_SECONDS": "60",
        "SAGE_OBS_TRACING__SHUTDOWN_SECONDS": "60",
        "SAGE_OBS_ALERTS__DEFAULTS": "false",
        "no_proxy": "*",
        "PYTHONPATH": f"{HERE}:{ROOT}",
        **more,
    }


@contextmanager
def service(folder: Path, env: dict[str, str], *options: str) -> Iterator[str]:
    """Run the services' app; yield its address."""
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "--factory", "story:create_app", "--port", str(port), "--log-level", "warning"]
    with program([*command, *options], folder / f"{env['OTEL_SERVICE_NAME']}.log", **env):
        address = f"http://127.0.0.1:{port}"
        until(lambda: httpx.get(f"{address}/monitoring/health/live").is_success, "service")
        yield address


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(row) for row in path.read_text().splitlines()]


def shown(page: str, name: str) -> dict[tuple[tuple[str, str], ...], float]:
    """Read the samples of a name from a page of metrics."""
    return {
        tuple(sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.name == name
    }


STORIES = [("http", "rotel"), ("grpc", "directly"), *([("http", "directly"), ("grpc", "rotel")] if SOAK else [])]


@pytest.mark.soak
@pytest.mark.parametrize(("kind", "through"), STORIES)
def test_a_story_arrives_as_it_was(kind: str, through: str, tmp_path: Path) -> None:
    """Each span with its parent, each line of the files, and the numbers of the pages: no more and no less."""
    with ExitStack() as stack:
        endpoint, kept = stack.enter_context(collector(kind, through))
        with ExitStack() as services:
            stock = services.enter_context(service(tmp_path, environment(kind, endpoint, tmp_path, "stock")))
            shop = services.enter_context(service(tmp_path, environment(kind, endpoint, tmp_path, "shop", STOCK=stock)))
            with httpx.Client(base_url=shop, timeout=PATIENCE_SECONDS) as http:
                for number in range(ORDERS):
                    assert http.get(f"/orders/{number}").json()["number"] == number
                assert len(http.get("/export").text.splitlines()) == 100
            with connect(f"{shop.replace('http', 'ws')}/talk", open_timeout=PATIENCE_SECONDS) as socket:
                for number in range(MESSAGES):
                    socket.send(str(number))
                    assert socket.recv(PATIENCE_SECONDS) == str(number)
            until(lambda: len(shown(page_of(shop), "websocket_connections_open")) == 1)
            until(lambda: sum(shown(page_of(shop), "websocket_connections_open").values()) == 0)
            pages = {"shop": page_of(shop), "stock": page_of(stock)}
        if through == "rotel":
            until(lambda: len(kept.spans()) >= 6 * ORDERS + 2)
            until(lambda: len(kept.records()) >= sum(len(read_lines(tmp_path / f"{name}.jsonl")) for name in pages))
            until(lambda: kept.points("http_requests_total", None))

    check_spans(kept)
    for name in pages:
        lines = Counter(line["message"] for line in read_lines(tmp_path / f"{name}.jsonl"))
        arrived = Counter(record.body.string_value for resource, record in kept.records() if resource["service.name"] == name)
        assert arrived == lines
    check_trace_ids(kept)
    check_metrics(kept, pages)
    assert len({resource["service.instance.id"] for resource, _ in [*kept.spans(), *kept.records(), *kept.metrics()]}) == 2


def page_of(address: str) -> str:
    return httpx.get(f"{address}/metrics", timeout=PATIENCE_SECONDS).text


def check_spans(kept: Kept) -> None:
    spans = [(resource["service.name"], span) for resource, span in kept.spans()]
    by_id = {span.span_id: span for _, span in spans}
    assert len(by_id) == len(spans)
    background = [by_id[span.parent_span_id] for _, span in spans if span.name == "background"]
    assert Counter(parent.name for parent in background)["GET /orders/{number}"] == ORDERS
    # On a busy machine the end of any request may take so long that it is told of as such work.
    spans = [(service, span) for service, span in spans if span.name != "background"]
    names = Counter((service, span.name) for service, span in spans)
    assert names == {
        ("shop", "GET /orders/{number}"): ORDERS,
        ("shop", "price"): ORDERS,
        ("shop", "tax"): ORDERS,
        ("shop", "GET"): ORDERS,
        ("stock", "GET /stock/{number}"): ORDERS,
        ("shop", "GET /export"): 1,
        ("shop", "GET /talk"): 1,
    }
    above = {"price": "GET /orders/{number}", "tax": "price", "GET": "GET /orders/{number}", "GET /stock/{number}": "GET"}
    for _, span in spans:
        parent = by_id.get(span.parent_span_id)
        assert (parent and parent.name) == above.get(span.name)
        assert parent is None or parent.trace_id == span.trace_id


def check_trace_ids(kept: Kept) -> None:
    """Each line of a request has the ids of a span that is there."""
    spans = {(span.trace_id, span.span_id) for _, span in kept.spans()}
    said = [record for _, record in kept.records() if record.trace_id]
    assert {(record.trace_id, record.span_id) for record in said} <= spans
    assert Counter(record.body.string_value for record in said)["stock asked for"] == ORDERS


def check_metrics(kept: Kept, pages: dict[str, str]) -> None:
    traces = {span.trace_id for _, span in kept.spans()}
    for name, page in pages.items():
        (instance,) = {resource["service.instance.id"] for resource, _ in kept.metrics() if resource["service.name"] == name}
        counted = {labels: point.as_double for labels, point in kept.points("http_requests_total", instance).items()}
        assert counted == shown(page, "http_requests_total")
        times = kept.points("http_request_duration_seconds", instance)
        assert {labels: point.count for labels, point in times.items()} == shown(page, "http_request_duration_seconds_count")
        exemplars = [exemplar for point in times.values() for exemplar in point.exemplars]
        assert exemplars
        assert {exemplar.trace_id for exemplar in exemplars} <= traces


@pytest.mark.parametrize("kind", ["http", "grpc"])
def test_a_batch_that_the_collector_finds_too_large_arrives_in_parts(kind: str) -> None:
    """Whatever it answers then: nothing is lost, and nothing is sent for ever."""
    with collector(kind, "rotel") as (endpoint, kept):
        url = endpoint.replace("http", "grpc") if kind == "grpc" else f"{endpoint}/v1/traces"
        obs = Observability(Settings(logging={"enabled": False}, tracing={"otlp_endpoint": url, "shutdown_seconds": 60}))
        obs.start()
        tracer = obs.tracer_provider.get_tracer("test")
        for number in range(20):
            tracer.start_span(str(number), attributes={"text": "x" * 300_000}).end()
        assert obs.flush(PATIENCE_SECONDS)
        until(lambda: len(kept.spans()) == 20)
        assert not any(obs._tracing.losses.counts.values())
        obs.abandon()


SERVERS: dict[str, Callable[[int], list[str]]] = {
    "uvicorn --workers 2": lambda port: [
        *(sys.executable, "-m", "uvicorn", "--factory", "story:create_app", "--port", str(port), "--workers", "2"),
    ],
    "uvicorn --reload": lambda port: [
        *(sys.executable, "-m", "uvicorn", "--factory", "story:create_app", "--port", str(port), "--reload"),
        *("--reload-dir", str(HERE / "grafana")),
    ],
    "gunicorn --preload": lambda port: [
        *(sys.executable, "-m", "gunicorn", "preloaded:app", "--bind", f"127.0.0.1:{port}", "--workers", "2", "--preload"),
        *("--worker-class", "asgi"),
    ],
}


FORKING, *SPAWNING = reversed(SERVERS)
WORKERS = [
    # A fork shares what its parent has opened, and it is the protocols that differ in what that is.
    *(("http", FORKING), ("grpc", FORKING), *zip(("grpc", "http"), SPAWNING, strict=True)),
    *(zip(("http", "grpc"), SPAWNING, strict=True) if SOAK else ()),
]


@pytest.mark.soak
@pytest.mark.parametrize(("kind", "server"), WORKERS)
def test_each_worker_hands_over_what_it_has(kind: str, server: str, tmp_path: Path) -> None:
    """Under an id of its own, whole, at a graceful stop: spans, lines, and metrics that add up."""
    (tmp_path / "preloaded.py").write_text("from story import create_app\n\napp = create_app()\n")
    port = free_port()
    with collecting(kind) as target:
        endpoint = f"http://127.0.0.1:{target.port if kind == 'grpc' else target.server_port}"
        env = environment(kind, endpoint, tmp_path, "stock")
        env["PYTHONPATH"] += f":{tmp_path}"
        with (tmp_path / "server.log").open("w") as log:
            process = subprocess.Popen(SERVERS[server](port), env={**os.environ, **env}, stdout=log, stderr=log)
        try:
            until(lambda: httpx.get(f"http://127.0.0.1:{port}/monitoring/health/live").is_success, "service")
            workers: Counter[int] = Counter()
            wanted = 1 if "reload" in server else 2
            while len(workers) < wanted or sum(workers.values()) < 50:
                # A connection each, so that the kernel spreads them.
                answer = httpx.get(f"http://127.0.0.1:{port}/stock/1", timeout=PATIENCE_SECONDS)
                workers[answer.json()["pid"]] += 1
        finally:
            stop(process)
    kept = target.kept
    asked = sum(workers.values())
    spans = Counter(resource["service.instance.id"] for resource, span in kept.spans() if span.name == "GET /stock/{number}")
    lines = Counter(
        resource["service.instance.id"] for resource, record in kept.records() if record.body.string_value == "stock asked for"
    )
    assert sorted(spans.values()) == sorted(workers.values())
    assert spans == lines
    counted = {
        instance: sum(point.as_double for point in kept.points("http_requests_total", instance).values()) for instance in spans
    }
    assert counted == spans
    assert sum(spans.values()) == asked
    assert "Traceback" not in (tmp_path / "server.log").read_text()

"""Metrics that are pushed, held against what a scrape shows of the same registry."""

import asyncio
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
from collectors import MESSAGES, HttpCollector, attributes, collecting
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.metrics.v1.metrics_pb2 import AGGREGATION_TEMPORALITY_CUMULATIVE
from prometheus_client import CollectorRegistry, Counter, Enum, Gauge, Histogram, Info, Summary
from prometheus_client.core import Metric, SummaryMetricFamily, UnknownMetricFamily
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from support import LONG_ENOUGH, until

from sage_fastapi_obs import Observability, Settings
from sage_fastapi_obs.delivery import queued_sender
from sage_fastapi_obs.internal_errors import InternalErrors
from sage_fastapi_obs.metrics.otlp_push import _Registry
from sage_fastapi_obs.settings import ServiceSettings

TRACE, SPAN = "ab" * 16, "cd" * 8


@pytest.fixture
def collector() -> Iterator[HttpCollector]:
    with collecting("http") as collector:
        yield collector


def pushing(collector: Any, tmp_path: Any, registry: CollectorRegistry | None = None, **metrics: Any) -> Observability:
    return Observability(
        Settings(
            logging={"output": str(tmp_path / "lines"), "gather_seconds": 0},
            tracing={"shutdown_seconds": LONG_ENOUGH},
            metrics={"packs": ["http"], "otlp_endpoint": collector.endpoint("metrics"), **metrics},
            alerts={"defaults": False},
        ),
        registry=registry,
    )


def push_once(obs: Observability) -> None:
    obs.start()
    asyncio.run(obs.close())


Series = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def scraped(registry: CollectorRegistry) -> Series:
    """Read what a scrape shows, by the names of samples."""
    families = text_string_to_metric_families(generate_latest(registry).decode())
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
        if sample.name == "room_created" or not sample.name.endswith("_created")
    }


def pushed(collector: Any) -> Series:
    """Read what has arrived, as Prometheus would show it."""
    found: Series = {}
    for _, metric in collector.kept.metrics():
        data = getattr(metric, metric.WhichOneof("data"))
        for point in data.data_points:
            labels = attributes(point.attributes)
            for name, more, value in _samples(metric.WhichOneof("data"), point):
                key = (metric.name + name, tuple(sorted({**labels, **more}.items())))
                assert key not in found
                found[key] = value
    return found


def _samples(kind: str, point: Any) -> Iterator[tuple[str, dict[str, str], float]]:
    if kind in ("sum", "gauge"):
        yield "", {}, point.as_double
        return
    yield "_count", {}, point.count
    if kind == "summary":
        yield "_sum", {}, point.sum
        for value in point.quantile_values:
            yield "", {"quantile": str(value.quantile)}, value.value
        return
    if point.HasField("sum"):
        yield "_sum", {}, point.sum
    running = 0
    for bound, count in zip([*point.explicit_bounds, math.inf], point.bucket_counts, strict=True):
        running += count
        yield "_bucket", {"le": "+Inf" if bound == math.inf else str(bound)}, running
    assert running == point.count


class Families:
    """A collector of families that are made elsewhere."""

    def __init__(self, *families: Metric) -> None:
        self._families = families

    def collect(self) -> tuple[Metric, ...]:
        return self._families


def every_kind() -> CollectorRegistry:
    registry = CollectorRegistry()
    Counter("jobs", "Jobs.", ["kind"], registry=registry).labels("night").inc(3)
    Counter("created_total", "Named oddly.", registry=registry).inc()
    Gauge("room_created", "Named oddly, too.", registry=registry).set(-0.5)
    Gauge("now_count", "A function.", registry=registry).set_function(lambda: 7.0)
    durations = Histogram("job_seconds", "Time.", ["kind"], buckets=[0.1, 1.0], registry=registry)
    for seconds in (0.05, 0.5, 0.5, 30.0):
        durations.labels("night").observe(seconds)
    Histogram("below_zero", "No sum.", buckets=[-1.0, 1.0], registry=registry).observe(-3)
    Summary("size_bytes", "Sizes.", registry=registry).observe(5)
    Info("build", "Which.", registry=registry).info({"version": "7"})
    Enum("mode", "How.", states=["on", "off"], registry=registry).state("off")
    quantiles = SummaryMetricFamily("wait_sum", "Waits.", count_value=2, sum_value=1.5)
    quantiles.add_sample("wait_sum", {"quantile": "0.5"}, 0.75)
    registry.register(Families(quantiles, UnknownMetricFamily("mystery", "?", value=4)))
    return registry


def test_a_push_shows_what_a_scrape_shows(collector: HttpCollector, tmp_path: Any) -> None:
    """Each series by its name, labels and value; of every kind that there is."""
    registry = every_kind()
    push_once(pushing(collector, tmp_path, registry, enabled=True))
    ours, shown = pushed(collector), scraped(registry)
    assert ours.keys() == shown.keys()
    changing = {name for name, _ in ours if name.startswith(("observability_", "monitoring_"))}
    assert {key: ours[key] for key in ours if key[0] not in changing} == {
        key: shown[key] for key in shown if key[0] not in changing
    }
    assert ("jobs_total", (("kind", "night"),)) in ours
    assert ("build_info", (("version", "7"),)) in ours


def test_kinds_are_those_of_the_specification(collector: HttpCollector, tmp_path: Any) -> None:
    """Counters are cumulative and monotonic since the start, info and state sets are sums that are not; units are UCUM's."""
    before = time.time_ns()
    push_once(pushing(collector, tmp_path, every_kind()))
    found = {metric.name: metric for _, metric in collector.kept.metrics()}
    jobs = found["jobs_total"].sum
    assert (jobs.is_monotonic, jobs.aggregation_temporality) == (True, AGGREGATION_TEMPORALITY_CUMULATIVE)
    (point,) = jobs.data_points
    assert before <= point.start_time_unix_nano <= point.time_unix_nano <= time.time_ns()
    assert found["room_created"].gauge.data_points[0].start_time_unix_nano == 0
    for name in ("build_info", "mode"):
        assert (found[name].sum.is_monotonic, found[name].sum.aggregation_temporality) == (
            False,
            AGGREGATION_TEMPORALITY_CUMULATIVE,
        )
    times = found["job_seconds"]
    assert (times.unit, times.description, times.histogram.aggregation_temporality) == ("s", "Time.", 2)
    assert [*times.histogram.data_points[0].explicit_bounds] == [0.1, 1.0]
    assert [*times.histogram.data_points[0].bucket_counts] == [1, 2, 1]
    assert found["size_bytes"].unit == "By"
    assert not found["below_zero"].histogram.data_points[0].HasField("sum")


def test_exemplars_lead_to_their_spans(collector: HttpCollector, tmp_path: Any) -> None:
    """By the ids of trace and span, with other labels beside them; what is no id is left out."""
    registry = CollectorRegistry()
    times = Histogram("job_seconds", "Time.", buckets=[1.0], registry=registry)
    times.observe(0.5, {"trace_id": TRACE, "span_id": SPAN, "user": "7"})
    times.observe(2.0, {"trace_id": "none"})
    Counter("jobs", "Jobs.", registry=registry).inc(1, {"trace_id": TRACE, "span_id": SPAN})
    push_once(pushing(collector, tmp_path, registry))
    first, second = collector.kept.points("job_seconds")[()].exemplars
    assert (first.trace_id.hex(), first.span_id.hex(), first.as_double) == (TRACE, SPAN, 0.5)
    assert attributes(first.filtered_attributes) == {"user": "7"}
    assert abs(first.time_unix_nano - time.time_ns()) < 3_600e9
    assert (second.trace_id, second.as_double) == (b"", 2.0)
    (counted,) = collector.kept.points("jobs_total")[()].exemplars
    assert counted.trace_id.hex() == TRACE


def test_the_resource_is_that_of_spans_and_lines(collector: HttpCollector, tmp_path: Any) -> None:
    """So that what comes from one process can be brought together."""
    obs = pushing(collector, tmp_path)
    obs.start()
    instance = obs.tracer_provider.resource.attributes["service.instance.id"]
    asyncio.run(obs.close())
    assert {resource["service.instance.id"] for resource, _ in collector.kept.metrics()} == {instance}


@given(
    values=st.dictionaries(st.text(st.characters(), max_size=5), st.floats() | st.integers(0, 2**60), max_size=5),
    observed=st.lists(st.floats(-1e9, 1e9), max_size=20),
    bounds=st.lists(st.floats(-1e6, 1e6).filter(bool), min_size=1, max_size=5, unique=True).map(sorted),
)
def test_any_registry_arrives_as_it_is(values: Any, observed: Any, bounds: Any) -> None:
    """Whatever labels are called, surrogates included, and whatever is counted."""
    registry = CollectorRegistry()
    gauge = Gauge("level", "Level.", ["name"], registry=registry)
    for name, value in values.items():
        gauge.labels(name).set(value)
    times = Histogram("seen", "Seen.", buckets=bounds, registry=registry)
    for value in observed:
        times.observe(value)
    errors = InternalErrors()
    source = _Registry("http://localhost:1/v1/metrics", ServiceSettings(), registry, errors)
    requests = source._requests()
    request = MESSAGES["metrics"][0].FromString(b"".join(iter(lambda: source._next(requests), None)))
    points = {
        metric.name: getattr(metric, metric.WhichOneof("data")).data_points
        for group in request.resource_metrics
        for scope in group.scope_metrics
        for metric in scope.metrics
    }
    assert errors.counts == {}
    sent = [(attributes(point.attributes)["name"], repr(point.as_double)) for point in points.get("level", ())]
    wanted = [(name.encode("utf-8", "replace").decode(), repr(float(value))) for name, value in values.items()]
    assert sorted(sent) == sorted(wanted)
    (point,) = points["seen"]
    assert point.count == len(observed)
    assert [*point.explicit_bounds] == bounds
    below = [sum(value <= bound for value in observed) for bound in [*bounds, math.inf]]
    assert [*point.bucket_counts] == [count - less for count, less in zip(below, [0, *below], strict=False)]


def test_pushes_come_at_intervals_and_at_the_end(collector: HttpCollector, tmp_path: Any) -> None:
    """Each with the values of then; none comes before the first interval is over."""
    push_once(pushing(collector, tmp_path))
    assert len(collector.kept.requests["metrics"]) == 1
    registry = CollectorRegistry()
    jobs = Counter("jobs", "Jobs.", registry=registry)
    obs = pushing(collector, tmp_path, registry, otlp_interval_seconds=1.0)
    obs.start()
    jobs.inc()
    assert until(lambda: collector.kept.points("jobs_total")[()].as_double == 1)
    jobs.inc()
    assert until(lambda: collector.kept.points("jobs_total")[()].as_double == 2)
    jobs.inc()
    asyncio.run(obs.close())
    assert collector.kept.points("jobs_total")[()].as_double == 3
    starts = {
        metric.sum.data_points[0].start_time_unix_nano for _, metric in collector.kept.metrics() if metric.name == "jobs_total"
    }
    assert len(starts) == 1


def test_a_flush_pushes_once(collector: HttpCollector, tmp_path: Any) -> None:
    """However long the collector takes."""

    def slowly(handler: Any, server: HttpCollector, body: bytes) -> None:
        time.sleep(0.3)
        server.accept(handler, body)

    obs = pushing(collector, tmp_path)
    collector.faults += [slowly] * 3
    obs.start()
    assert obs.flush(LONG_ENOUGH)
    assert len(collector.kept.requests["metrics"]) == 1
    asyncio.run(obs.close())
    assert len(collector.kept.requests["metrics"]) == 2


def test_a_program_that_just_ends_is_seen(collector: HttpCollector, tmp_path: Any) -> None:
    """Its last values are pushed, also those of a child of multiprocessing; a forked one does not push again."""
    source = """
import multiprocessing, os, sys
from prometheus_client import Counter
from sage_fastapi_obs import Observability, Settings

def run(name):
    obs = Observability(Settings(service={"name": name}, logging={"enabled": False}, metrics={"otlp_endpoint": sys.argv[1]},
                                 tracing={"shutdown_seconds": 60}))
    Counter("jobs", "Jobs.", registry=obs.registry).inc()
    obs.start()

if __name__ == "__main__":
    child = multiprocessing.get_context("spawn").Process(target=run, args=("child",))
    child.start()
    child.join()
    run("parent")
    if not os.fork():
        sys.exit()
    os.wait()
"""
    script = tmp_path / "job.py"
    script.write_text(source)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(script), collector.endpoint("metrics")],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "no_proxy": "*"},
    )
    assert done.stderr == ""
    jobs = [resource["service.name"] for resource, metric in collector.kept.metrics() if metric.name == "jobs_total"]
    assert sorted(jobs) == ["child", "parent"]


def test_many_series_go_in_small_requests(collector: HttpCollector, tmp_path: Any) -> None:
    """As collectors take 4 MiB, and none is lost or sent twice."""
    registry = CollectorRegistry()
    rooms = Gauge("room", "Room.", ["number"], registry=registry)
    for number in range(10_000):
        rooms.labels(str(number)).set(number)
    push_once(pushing(collector, tmp_path, registry))
    assert len(collector.kept.points("room")) == 10_000
    assert sum(metric.name == "room" for _, metric in collector.kept.metrics()) == 20
    assert all(request.ByteSize() < 100_000 for request in collector.kept.requests["metrics"])


def test_a_collector_that_raises_costs_only_its_own_metrics(collector: HttpCollector, tmp_path: Any) -> None:
    """And is counted by its name."""

    class Broken:
        def collect(self) -> Any:
            yield UnknownMetricFamily("before", "?", value=1)
            raise RuntimeError

        def describe(self) -> Any:
            return ()

    registry = CollectorRegistry()
    registry.register(Broken())
    Gauge("after", "After.", registry=registry)
    obs = pushing(collector, tmp_path, registry)
    push_once(obs)
    assert {"before", "after"} <= {metric.name for _, metric in collector.kept.metrics()}
    assert obs.internal_errors.counts == {"Broken": 1}


DROPPED = "observability_metric_pushes_dropped_total"


def lost(obs: Observability) -> dict[str, float]:
    return {cause: obs.registry.get_sample_value(DROPPED, {"cause": cause}) for cause in ("refused", "shutdown")}


def test_what_is_refused_or_late_is_counted(collector: HttpCollector, tmp_path: Any) -> None:
    """By the push, once, however many of its points are refused."""
    obs = pushing(collector, tmp_path)
    assert lost(obs) == {"refused": 0, "shutdown": 0}

    def partly(handler: Any, *_: Any) -> None:
        answer = MESSAGES["metrics"][1]()
        answer.partial_success.rejected_data_points = 12
        handler.answer(200, answer.SerializeToString())

    obs.start()
    collector.faults += [partly, lambda handler, *_: handler.answer(400), lambda handler, *_: handler.answer(500)]
    for _ in range(4):
        assert obs.flush(LONG_ENOUGH)
    assert lost(obs) == {"refused": 3, "shutdown": 0}
    asyncio.run(obs.close())
    assert lost(obs) == {"refused": 3, "shutdown": 0}


def test_a_push_that_is_tried_again_has_the_values_of_then(
    collector: HttpCollector, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that nothing old waits in a queue, and nothing is lost while the collector is away."""
    monkeypatch.setattr(queued_sender, "FIRST_RETRY_SECONDS", 0.01)
    registry = CollectorRegistry()
    jobs = Counter("jobs", "Jobs.", registry=registry)
    obs = pushing(collector, tmp_path, registry)

    def away(handler: Any, *_: Any) -> None:
        jobs.inc()
        handler.answer(503)

    collector.faults += [away, away, away]
    obs.start()
    assert obs.flush(LONG_ENOUGH)
    assert [point.as_double for point in collector.kept.points("jobs_total").values()] == [3]
    asyncio.run(obs.close())
    assert sum(lost(obs).values()) == 0
    said = (tmp_path / "lines").read_text()
    assert said.count("metrics do not reach otlp") == said.count("metrics reach otlp again") == 1

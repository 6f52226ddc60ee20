"""What is saved of each kind of metric, and what any worker shows of it."""

import gc
import math
import subprocess
import sys
import threading
from itertools import pairwise
from uuid import uuid4

from prometheus_client import CollectorRegistry, Counter, Enum, Gauge, GCCollector, Histogram, Info, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.openmetrics.exposition import generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from sage_fastapi_obs.catalog import PACKS, REQUEST_METRICS, build
from sage_fastapi_obs.catalog.metric import gauge, histogram
from sage_fastapi_obs.legacy.aliases import Aliases
from sage_fastapi_obs.metrics.exposition.exposition import exposition_of
from sage_fastapi_obs.metrics.exposition.prometheus_internals import names_beginning
from sage_fastapi_obs.metrics.http_series import HttpRequestSeries
from sage_fastapi_obs.metrics.registry_reader import RegistryReader
from tests.workers.slots import Group, TestWorker, numbers

OK = ("GET", "/items/{item}", "200")
IDS = {"trace_id": "1" * 32, "span_id": "2" * 16}


def of(found: dict, name: str, **labels: str) -> float:
    """Return one number of a page."""
    return found[name, frozenset(labels.items())]


def pair(group: Group, make) -> tuple[list, list[TestWorker]]:
    """Start a worker for each slot, each with what `make` puts on its registry."""
    registries = [CollectorRegistry() for _ in group.slots]
    made = [make(registry) for registry in registries]
    return made, [TestWorker(slot, registry) for slot, registry in zip(group.slots, registries, strict=True)]


def save(workers: list[TestWorker], **options) -> None:
    for worker in workers:
        worker.save(**options)


def requests_of(registry: CollectorRegistry) -> HttpRequestSeries:
    requests = HttpRequestSeries(*REQUEST_METRICS)
    registry.register(requests)
    return requests


def test_requests_of_all_workers_are_added_up(tmp_path):
    """The families of requests are those of one process that had them all, with the newest exemplar."""
    group = Group(tmp_path)
    both, workers = pair(group, requests_of)
    alone = requests_of(single := CollectorRegistry())
    for at, requests in enumerate((*both, alone, alone)):
        number = at % 2
        source = (str(number) * 32, str(number) * 16, 1_000_000_000 * (number + 1))
        requests.with_values(*OK).pending.append((2_000, 10, 100 * number, source, None))
    save(workers)
    assert {**group.values(), **numbers(single)} == group.values()
    pages = [
        b"".join(exposition_of(generate_latest, one, group.errors).pieces(lambda: None))
        for one in (group.merged.registry, single)
    ]
    assert sorted(pages[0].splitlines()) == sorted(pages[1].splitlines())
    assert b'trace_id="' + b"1" * 32 in pages[0]
    both[1].with_values(*OK).pending.append((7_000, 0, 0, None, None))
    save(workers)
    group.merged.refresh()
    readings = {reading.name: [*reading.extremes] for reading in RegistryReader(group.merged.registry, group.errors)()}
    assert readings["http_request_duration_seconds"] == [(OK, 0.002, 0.007)]


def test_requests_are_never_lost_or_doubled_by_a_new_owner(tmp_path):
    """Whoever takes the slot goes on with the counts in it, and a reading for the windows has them all."""
    group = Group(tmp_path, 1)
    for owner in range(1, 4):
        (requests,), (worker,) = pair(group, requests_of)
        worker.save()
        series = requests.with_values(*OK)
        assert series.place > 0
        series.pending += [(1_000 * owner, 0, 5, None, None)] * 200
        requests.add_up(series)
        assert of(group.values(), "http_requests_total", method="GET", route=OK[1], status="200") == 200 * owner
        worker.die()
    readings = {reading.name: [*reading.children] for reading in RegistryReader(group.merged.registry, group.errors)()}
    assert readings["http_requests_total"] == [(OK, (600.0,))]
    assert readings["http_response_size_bytes"][0][1][0] == 3_000


def test_a_series_without_room_is_saved_when_there_is_some(tmp_path, monkeypatch):
    """A request is never broken by a full file system; the numbers are saved later."""
    group = Group(tmp_path, 1)
    (requests,), (worker,) = pair(group, requests_of)
    worker.save()

    def full(*_):
        raise OSError("no space")

    with monkeypatch.context() as patch:
        patch.setattr("sage_fastapi_obs.workers.blocks.Blocks.append", full)
        series = requests.with_values(*OK)
        series.pending.append((1_000, 0, 5, None, None))
        requests.add_up(series)
    assert (series.place, worker.errors.counts["Requests"]) == (0, 2)
    worker.save()
    assert of(group.values(), "http_requests_total", method="GET", route=OK[1], status="200") == 1


def test_the_newest_exemplar_of_each_bucket_is_shown(tmp_path):
    """Exemplars of all workers are on the page, also those of workers that have gone; one that is too long is left out."""
    group = Group(tmp_path)
    both, workers = pair(group, lambda registry: Histogram("work_seconds", "Work.", buckets=(1, 5), registry=registry))
    both[0].observe(0.5, {"trace_id": "old"})
    both[1].observe(0.6, {"trace_id": "new"})
    both[0].observe(3, {"trace_id": 'a"b'})
    both[0].observe(9, {"trace_id": "€" * 118})
    save(workers)
    workers[0].die()
    group.merged.refresh()
    found = {
        sample.labels["le"]: sample.exemplar and sample.exemplar.labels["trace_id"]
        for family in group.merged.registry.collect()
        for sample in family.samples
        if sample.name.endswith("_bucket")
    }
    assert found == {"1.0": "new", "5.0": 'a"b', "+Inf": None}


def test_extremes_are_seen_by_every_reader(tmp_path):
    """No reader takes an extreme away from another, and none sees one that is older than two intervals."""
    now = [6_000.0]
    group = Group(tmp_path, 2, lambda: now[0])
    other = Group(tmp_path, 2, lambda: now[0])
    other.slots = group.slots
    metric = histogram("work_seconds", "Work.", (1.0,), {"kind": ()})
    registries = [CollectorRegistry(), CollectorRegistry()]
    both = [build([metric], registry)["work_seconds"] for registry in registries]
    workers = [
        TestWorker(slot, registry, wall_clock=lambda: now[0]) for slot, registry in zip(group.slots, registries, strict=True)
    ]

    def read(group: Group) -> list:
        group.merged.refresh()
        return [one for reading in RegistryReader(group.merged.registry, group.errors)() for one in reading.extremes]

    for one, number in zip(both, (0.25, 4.0), strict=True):
        one.labels("a").observe(number)
    save(workers)
    assert read(group) == read(other) == [(("a",), 0.25, 4.0)]
    now[0] += 60
    both[0].labels("a").observe(0.5)
    save(workers)
    assert read(group) == [(("a",), 0.25, 4.0)]
    now[0] += 60
    both[0].labels("a").observe(2.0)
    save(workers)
    assert read(group) == [(("a",), 0.5, 2.0)]
    now[0] += 120
    assert [read(group), read(group)] == [[(("a",), 2.0, 2.0)], []]


class Queue:
    """A collector of an application."""

    def __init__(self, length: float, workers: str | None = None) -> None:
        self.length = length
        self.calls = 0
        if workers is not None:
            self.workers = workers

    def describe(self):
        return ()

    def collect(self):
        self.calls += 1
        yield GaugeMetricFamily("queue_length", "Waiting.", self.length)
        yield CounterMetricFamily("queue_items", "Items.", self.length)
        family = HistogramMetricFamily("queue_wait", "Wait.", labels=["of"])
        for of_one in ("b", "a"):
            family.add_metric([of_one], [("10.0", 1), ("2.0", 1), ("+Inf", 2)], sum_value=12)
        yield family


def test_collectors_are_shown_per_worker_or_as_they_say(tmp_path):
    """A collector of the application is shown of each worker by its slot, unless it declares how it merges."""
    group = Group(tmp_path)
    _, workers = pair(group, lambda registry: registry.register(Queue(3)))
    save(workers)
    found = group.values()
    assert of(found, "queue_length", worker="0") == of(found, "queue_items_total", worker="1") == 3
    assert len([key for key in found if key[0] == "queue_wait_bucket"]) == 12
    text = generate_latest(group.merged.registry).decode()
    lines = [line.partition(" ")[0] for line in text.splitlines() if line.startswith("queue_wait")]
    assert lines[:5] == [f'queue_wait_bucket{{le="{bound}",of="a",worker="0"}}' for bound in ("2.0", "10.0", "+Inf")] + [
        'queue_wait_count{of="a",worker="0"}',
        'queue_wait_sum{of="a",worker="0"}',
    ]


def test_the_lines_of_a_histogram_agree_whenever_a_page_is_written(tmp_path):
    """Also between two lines of it, where a worker may die."""

    class Waits:
        workers = "sum"
        seconds = (0.5,)

        def collect(self):
            family = HistogramMetricFamily("wait_seconds", "wait", labels=["of"])
            buckets = [(str(bound), sum(one <= bound for one in self.seconds)) for bound in (1.0, 2.0, 4.0)]
            family.add_metric(["a"], [*buckets, ("+Inf", len(self.seconds))], sum_value=sum(self.seconds))
            yield family

    group, waits = Group(tmp_path, 1), Waits()
    _, (worker,) = pair(group, lambda registry: registry.register(waits))
    worker.save()
    pages = []

    def look() -> None:
        group.merged.refresh()
        text = generate_latest(group.merged.registry).decode()
        (family,) = [one for one in text_string_to_metric_families(text) if one.name == "wait_seconds"]
        pages.append([sample.value for sample in family.samples if not sample.name.endswith("_sum")])

    waits.seconds = (0.5, 0.5, 3.0)
    worker.saved.save(for_page=True, pause=look)
    assert pages[0][0] > 1, "a page was written in between"
    assert pages[-1] == [2, 2, 3, 3, 3]
    assert all(earlier <= later for before, after in pairwise(pages) for earlier, later in zip(before, after, strict=True))


def test_a_histogram_without_buckets_keeps_its_count(tmp_path):
    """Some collectors show nothing else."""

    class Waits:
        workers = "sum"

        def collect(self):
            family = Metric("wait_seconds", "wait", "histogram")
            family.add_sample("wait_seconds_count", {}, 3.0)
            family.add_sample("wait_seconds_sum", {}, 4.5)
            yield family

    group = Group(tmp_path, 1)
    _, (worker,) = pair(group, lambda registry: registry.register(Waits()))
    worker.save()
    found = group.values()
    assert (of(found, "wait_seconds_count"), of(found, "wait_seconds_sum")) == (3.0, 4.5)


def test_a_collector_says_how_it_merges(tmp_path):
    """Its attribute `workers` is taken for its gauges; its counters are added up then."""
    group = Group(tmp_path)
    lengths = iter((3, 5))
    _, workers = pair(group, lambda registry: registry.register(Queue(next(lengths), "max")))
    save(workers)
    found = group.values()
    assert (of(found, "queue_length"), of(found, "queue_items_total")) == (5, 8)


def test_an_expensive_collector_is_asked_for_pages_alone(tmp_path):
    """Neither the regular save nor the windows call what may be expensive; what is cheap they do."""
    group = Group(tmp_path, 1)
    queue = Queue(3)
    _, (worker,) = pair(group, lambda registry: (registry.register(queue), GCCollector(registry)))
    worker.save(for_page=False)
    assert queue.calls == 0
    assert ("python_gc_collections_total", frozenset({("generation", "0"), ("worker", "0")})) in group.values()
    worker.save()
    assert queue.calls == 1
    names = {reading.name for reading in RegistryReader(group.merged.registry, group.errors)()}
    assert "queue_length" not in names
    assert "python_gc_collections_total" in names


def test_process_metrics_have_the_worker_and_never_fall(tmp_path):
    """Counters of a process go on when another takes its slot; its gauges go with it."""
    group = Group(tmp_path, 1)
    for _ in range(2):
        _, (worker,) = pair(group, lambda registry: (ProcessCollector(registry=registry), GCCollector(registry)))
        gc.collect()
        worker.save()
        before = group.values()
        assert of(before, "process_resident_memory_bytes", worker="0") > 0
        worker.die()
        after = group.values()
        assert not any(name == "process_resident_memory_bytes" for name, _ in after)
        assert after.items() <= before.items()
    assert of(after, "python_gc_collections_total", generation="2", worker="0") >= 2 * gc.get_stats()[2]["collections"] - 4


def test_info_and_states_are_shown_once(tmp_path):
    """What all workers say alike stands there once, with the target."""
    group = Group(tmp_path)

    def make(registry: CollectorRegistry) -> None:
        Info("build", "Version.", registry=registry).info({"version": "1.2"})
        Enum("mode", "Mode.", states=["on", "off"], registry=registry).state("off")

    _, workers = pair(group, make)
    save(workers)
    assert group.values() == {
        ("build_info", frozenset({("version", "1.2")})): 1,
        ("mode", frozenset({("mode", "on")})): 0,
        ("mode", frozenset({("mode", "off")})): 1,
    }


def test_a_gauge_by_function_is_read_at_each_save(tmp_path):
    """A function that was set later is called, and one that fails costs only its own metric."""
    group = Group(tmp_path, 1)
    (one,), (worker,) = pair(group, lambda registry: Gauge("size", "Size.", ["of"], registry=registry))
    fine = Counter("fine", "Fine.", registry=worker.registry)
    one.labels("a").set(1)
    worker.save()
    sizes = iter((5, 6, 7))
    one.labels("a").set_function(lambda: next(sizes))
    assert [worker.save() or of(group.values(), "size", of="a", worker="0") for _ in range(3)] == [5, 6, 7]
    fine.inc()
    worker.save()
    assert of(group.values(), "fine_total") == 1
    assert sum(worker.errors.counts.values()) == 1


def test_the_last_one_that_was_set_counts_even_with_the_same_number(tmp_path):
    """To set a gauge to the number that it has makes it the newest of all workers."""
    group = Group(tmp_path)
    metric = gauge("app_error_ratio", "Errors.", workers="latest")
    both, workers = pair(group, lambda registry: build([metric], registry)["app_error_ratio"])
    for worker in (0, 1, 0, 1, 1, 0):
        both[worker].set(float(worker))
        save(workers)
        assert group.values() == {("app_error_ratio", frozenset()): worker}


def test_label_values_that_come_and_go_need_no_more_room(tmp_path):
    """A gauge whose label values are always new ones takes the room of those that have gone, also after a new owner."""
    group = Group(tmp_path, 1)
    sizes = set()
    for _ in range(3):
        (sessions,), (worker,) = pair(group, lambda registry: Gauge("sessions", "Open.", ["id"], registry=registry))
        for number in range(1_500):
            sessions.labels(f"id{number}").set(1)
            worker.save()
            if number > 10:
                sessions.remove(f"id{number - 10}")
            sizes.add(group.slots[0].path.stat().st_size)
        assert len(group.values()) <= 12
    assert len(sizes) == 1


def test_two_versions_of_a_metric_do_not_break_the_page(tmp_path):
    """While a new version rolls out, the definition that most living workers have is shown, and the other one is counted."""
    group = Group(tmp_path, 3)
    bounds = iter(((1.0, 5.0), (1.0, 5.0), (2.0,)))
    all_three, workers = pair(group, lambda registry: Histogram("work", "Work.", buckets=next(bounds), registry=registry))
    for one in all_three:
        one.observe(1.5)
    save(workers)
    assert of(group.values(), "work_bucket", le="5.0") == 2
    group.values()
    assert group.errors.counts["MergedRegistry"] == 1
    for number in (0, 1):
        workers[number].die()
    assert of(group.values(), "work_bucket", le="2.0") == 1
    # The others have gone: nothing is wrong any more, and their help text may be another one.
    newer = Histogram("work", "Better.", buckets=(2.0,), registry=(registry := CollectorRegistry()))
    newer.observe(1.5)
    TestWorker(group.slots[0], registry, wall_clock=lambda: 1_000_001.0).save()
    assert of(group.values(), "work_bucket", le="2.0") == 2
    assert "# HELP work Better." in generate_latest(group.merged.registry).decode()


def test_two_metrics_that_share_the_name_of_a_sample_do_not_break_the_page(tmp_path):
    """Where one version has a counter and another a gauge of the same sample, one of them is shown."""
    group = Group(tmp_path)
    makes = iter((Counter, Gauge))
    _, workers = pair(group, lambda registry: next(makes)("jobs_total", "Jobs.", registry=registry))
    save(workers)
    assert group.values() == {("jobs_total", frozenset()): 0}
    assert group.errors.counts["MergedRegistry"] == 1


def test_what_leaves_the_registry_leaves_the_page(tmp_path):
    """A collector that is unregistered is shown no more, and may come back."""
    group = Group(tmp_path, 1)
    (one,), (worker,) = pair(group, lambda registry: Counter("jobs", "Jobs.", registry=registry))
    one.inc(3)
    worker.save()
    worker.registry.unregister(one)
    worker.save()
    assert group.values() == {}
    worker.registry.register(one)
    worker.save()
    assert of(group.values(), "jobs_total") == 3


def test_a_slot_that_is_replaced_is_read_anew(tmp_path):
    """The numbers of a file that was replaced are those of the new one alone."""
    group = Group(tmp_path, 1)
    (one,), (worker,) = pair(group, lambda registry: Counter("jobs", "Jobs.", registry=registry))
    one.inc(3)
    worker.save()
    assert of(group.values(), "jobs_total") == 3
    (tmp_path / "new").mkdir()
    group.slots = Group(tmp_path / "new", 1).slots
    (one,), (worker,) = pair(group, lambda registry: Counter("jobs", "Jobs.", registry=registry))
    one.inc(1)
    worker.save()
    assert of(group.values(), "jobs_total") == 1


def test_names_and_older_names_go_on_working(tmp_path):
    """A part of the page by names, the beginnings of names, and older names of metrics are of all workers."""
    group = Group(tmp_path)
    metric = gauge("business_active_users", "Users who are active now.")
    metrics = [metric, *PACKS["result"]]
    both, workers = pair(group, lambda registry: build(metrics, registry))
    for one in both:
        one["flux_result_success_ratio"].labels("load").set(0.5)
        one["business_active_users"].inc(2)
    save(workers)
    group.merged.refresh()
    registry = group.merged.registry
    workers[0].registry.register(Aliases(workers[0].registry, {"result"}))
    workers[0].registry.set_target_info({"service": "shop"})
    workers[0].save()
    group.merged.show_as(workers[0].registry)
    names = frozenset({"business_active_users"})
    page = b"".join(exposition_of(generate_latest, registry, group.errors, names).pieces(lambda: None)).decode()
    assert [line for line in page.splitlines() if not line.startswith("#")] == ["business_active_users 4.0"]
    assert names_beginning(registry, "business_") == ["business_active_users"]
    assert of(group.values(), "flux_result_success_rate", operation="load") == 0.5
    assert of(group.values(), "target_info", service="shop") == 1


def test_numbers_that_are_no_numbers_are_saved(tmp_path):
    """NaN and infinity are values like others."""
    group = Group(tmp_path)
    values = iter((math.nan, math.inf))
    both, workers = pair(group, lambda registry: Gauge("size", "Size.", registry=registry))
    for one in both:
        one.set(next(values))
    save(workers)
    found = group.values()
    assert math.isnan(of(found, "size", worker="0"))
    assert of(found, "size", worker="1") == math.inf


def test_what_threads_count_while_it_is_saved_and_read_is_all_there(tmp_path):
    """Numbers are saved and pages are read while threads count: none falls on the way, and at the end each is exact."""
    group = Group(tmp_path)

    def make(registry: CollectorRegistry) -> tuple[Counter, Histogram, HttpRequestSeries]:
        histogram = Histogram("work", "Work.", ["of"], buckets=(1, 2), registry=registry)
        return Counter("jobs", "Jobs.", ["of"], registry=registry), histogram, requests_of(registry)

    both, workers = pair(group, make)
    save(workers)
    done = threading.Event()

    def work(counter: Counter, histogram: Histogram, requests: HttpRequestSeries) -> None:
        for number in range(3_000):
            label = str(number % 7)
            counter.labels(label).inc()
            histogram.labels(label).observe(1.5, {"trace_id": label})
            series = requests.with_values("GET", f"/{label}", "200")
            series.pending.append((1_000, 1, 1, None, None))
            if len(series.pending) > 20:
                requests.add_up(series)

    def save_again(worker: TestWorker) -> None:
        while not done.is_set():
            worker.save()

    threads = [threading.Thread(target=work, args=each) for each in both for _ in range(2)]
    savers = [threading.Thread(target=save_again, args=[worker]) for worker in workers]
    for thread in (*threads, *savers):
        thread.start()
    before: dict = {}
    while any(thread.is_alive() for thread in threads):
        now = group.values()
        rising = {key: value for key, value in now.items() if not key[0].endswith("in_flight")}
        assert [key for key, value in before.items() if rising.get(key, -1) < value] == []
        before = rising
    done.set()
    for thread in (*threads, *savers):
        thread.join()
    save(workers)
    found = group.values()
    for name in ("jobs_total", "work_count", "work_bucket", "http_requests_total", "http_request_duration_seconds_count"):
        numbers_of = [value for (one, labels), value in found.items() if one == name and ("le", "1.0") not in labels]
        assert sum(numbers_of) == 12_000 * (2 if name == "work_bucket" else 1)
    assert not any(errors.counts for errors in (group.errors, *(worker.errors for worker in workers)))


def test_older_names_of_metrics_of_a_process_are_those_of_each_worker(tmp_path):
    """The older name has the label of the worker, too."""
    group = Group(tmp_path)
    _, workers = pair(group, lambda registry: ProcessCollector(registry=registry))
    workers[0].registry.register(Aliases(workers[0].registry, {"runtime"}))
    save(workers)
    group.merged.show_as(workers[0].registry)
    found = group.values()
    for worker in ("0", "1"):
        assert of(found, "memory_usage_bytes", worker=worker) == of(found, "process_resident_memory_bytes", worker=worker)


def test_a_process_that_takes_a_slot_again_counts_nothing_twice(tmp_path):
    """What a registry had counted when it left a slot, or when it was forked, is not added to the next slot."""
    group = Group(tmp_path)

    def make(registry: CollectorRegistry) -> tuple[Counter, HttpRequestSeries, Gauge]:
        counted = Counter("jobs", "Jobs.", registry=registry), requests_of(registry)
        return *counted, Gauge("size", "Size.", registry=registry, multiprocess_mode="sum")

    both, (first, _) = pair(group, make)
    jobs, requests, size = both[0]

    def work(number: int) -> None:
        jobs.inc(number)
        size.set(number)
        requests.with_values(*OK).pending.extend([(1_000, 0, 1, None, None)] * number)

    work(3)
    first.save()
    first.saved.close()
    first.die()
    work(100)
    for slot in group.slots:
        again = TestWorker(slot, first.registry, is_counted=True)
        work(2)
        again.save()
        again.saved.close()
        again.die()
    found = group.values()
    assert of(found, "jobs_total") == 3 + 2 + 2
    assert of(found, "http_requests_total", method="GET", route=OK[1], status="200") == 3 + 2 + 2


def test_a_slot_that_was_given_up_is_not_written_any_more(tmp_path):
    """What is counted afterwards is not seen, and disturbs nobody who has the slot then."""
    group = Group(tmp_path, 1)
    (old,), (worker,) = pair(group, requests_of)
    old.with_values(*OK).pending.append((1_000, 0, 1, None, None))
    worker.save()
    worker.saved.close()
    (new,), (successor,) = pair(group, requests_of)
    new.with_values(*OK).pending.append((1_000, 0, 1, None, None))
    successor.save()
    old.with_values(*OK).pending.append((1_000, 0, 1, None, None))
    old.add_up_all()
    worker.save()
    assert of(group.values(), "http_requests_total", method="GET", route=OK[1], status="200") == 2


FORKING = """
import os, sys, time
from sage_fastapi_obs import Observability, Settings

obs = Observability(Settings(service={"name": sys.argv[1]}, workers={"group": sys.argv[1]}, store={"enabled": False}))
obs.start()
requests = obs.numbers._http.requests
series = requests.with_values("GET", "/x", "200")

def count(number):
    series.pending.extend([(1_000, 0, 1, None, None)] * number)
    requests.add_up(series)

count(10)
child = os.fork()
if not child:
    count(300)
    obs.numbers.save()
    os._exit(0)
until = time.monotonic() + 30
while os.waitpid(child, os.WNOHANG) == (0, 0):
    if time.monotonic() > until:
        os.kill(child, 9)
    time.sleep(0.05)
registry = obs.numbers.for_page(lambda: None)
labels = {"method": "GET", "route": "/x", "status": "200"}
print(registry is not obs.registry, registry.get_sample_value("http_requests_total", labels), time.monotonic() < until)
sys.stdout.flush()
os._exit(0)
"""


def test_a_forked_child_writes_nothing_into_the_slot_of_its_parent():
    """What a child counts, which has the memory of its parent, is not among the numbers of its group, nor does it hang."""
    done = subprocess.run(
        [sys.executable, "-c", FORKING, f"forks-{uuid4().hex}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "True 10.0 True"


def test_a_fork_does_not_wait_for_a_thread_that_waits_for_it():
    """Of two locks of which one is held while the other is taken, the outer one is taken first, whichever is newer."""
    done = subprocess.run([sys.executable, "-c", NESTED], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True"] * 20


NESTED = """
import os, sys, threading, time
from sage_fastapi_obs.processes import hold_at_fork

outer, inner, done = threading.RLock(), threading.RLock(), threading.Event()
hold_at_fork(outer, rank=1)
hold_at_fork(inner)

def work():
    while not done.is_set():
        with outer:
            time.sleep(0.001)
            with inner:
                pass

threading.Thread(target=work, daemon=True).start()
for _ in range(20):
    child = os.fork()
    if not child:
        os._exit(0 if outer.acquire(timeout=300) and inner.acquire(timeout=300) else 1)
    print(os.waitpid(child, 0)[1] == 0)
    time.sleep(0.003)
done.set()
"""

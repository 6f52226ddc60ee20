"""The numbers of several workers, merged by meaning, are those that a model computes by itself, however workers come and go."""

import subprocess
from shutil import which

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, Summary
from prometheus_client.openmetrics.exposition import generate_latest

from sage_fastapi_obs.catalog import build
from sage_fastapi_obs.catalog.metric import gauge, histogram
from sage_fastapi_obs.metrics.exposition.exposition import exposition_of
from tests.workers.slots import Group, TestWorker

LABELS = ("a", 'b"\n\\', "ü")
BOUNDS = (1.0, 5.0)
MODES = ("sum", "max", "min", "all", "latest")


class Instruments:
    """All kinds of instruments on one registry."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.counter = Counter("app_events", "Events.", ["kind"], registry=registry)
        self.histogram = build([histogram("app_work_seconds", "Work.", BOUNDS, {"kind": ()})], registry)["app_work_seconds"]
        self.summary = Summary("app_size", "Sizes.", ["kind"], registry=registry)
        self.gauges = {
            mode: Gauge(f"app_{mode}", "A number.", ["kind"], registry=registry, multiprocess_mode=mode) for mode in MODES[:-1]
        }
        latest = gauge("app_latest", "A number.", {"kind": ()}, workers="latest")
        self.gauges["latest"] = build([latest], registry)["app_latest"]


class Slot:
    """What a model knows of one slot: numbers that are saved, and those of its owner."""

    def __init__(self) -> None:
        self.base: dict = {}
        self.saved: dict = {}
        self.own: dict = {}
        self.gauges: dict = {}


def add(into: dict, key: tuple, amount: float) -> None:
    into[key] = into.get(key, 0.0) + amount


class Model:
    """Adds up what it is told, without anything of what is tested."""

    def __init__(self, workers: int) -> None:
        self.slots = [Slot() for _ in range(workers)]
        self.clock = 0

    def count(self, worker: int, name: str, kind: str, changes: dict[str, float]) -> None:
        for part, amount in changes.items():
            add(self.slots[worker].own, (name, kind, part), amount)

    def set(self, worker: int, mode: str, kind: str, value: float) -> None:
        self.clock += 1
        self.slots[worker].gauges[mode, kind] = (self.clock, value)

    def remove(self, worker: int, name: str, kind: str) -> None:
        slot = self.slots[worker]
        for numbers in (slot.own, slot.base):
            for key in [key for key in numbers if key[:2] == (name, kind)]:
                del numbers[key]

    def save(self, worker: int) -> None:
        slot = self.slots[worker]
        slot.saved = dict(slot.base)
        for key, amount in slot.own.items():
            add(slot.saved, key, amount)

    def restart(self, worker: int) -> None:
        slot = self.slots[worker]
        slot.base, slot.own, slot.gauges = dict(slot.saved), {}, {}

    def values(self, alive: list[bool]) -> dict:
        found: dict = {}
        for slot in self.slots:
            for (name, kind, part), amount in slot.saved.items():
                suffix, _, bound = part.partition(" ")
                add(found, (name + suffix, frozenset({("kind", kind), *([("le", bound)] if bound else [])})), amount)
        gauges: dict = {}
        for worker, slot in enumerate(self.slots):
            for (mode, kind), value in slot.gauges.items() if alive[worker] else ():
                gauges.setdefault((mode, kind), []).append((*value, worker))
        for (mode, kind), several in gauges.items():
            labels = {("kind", kind)}
            if mode == "all":
                for _, value, worker in several:
                    found[f"app_{mode}", frozenset({*labels, ("worker", str(worker))})] = value
                continue
            values = [value for _, value, _ in several]
            merged = {"sum": sum(values), "max": max(values), "min": min(values), "latest": max(several)[1]}
            found[f"app_{mode}", frozenset(labels)] = merged[mode]
        return found


numbers = st.integers(0, 8).map(float)
kinds = st.sampled_from(LABELS)
workers = st.integers(0, 2)
actions = st.one_of(
    st.tuples(st.just("inc"), workers, kinds, numbers),
    st.tuples(st.just("observe"), workers, kinds, numbers),
    st.tuples(st.just("summary"), workers, kinds, numbers),
    st.tuples(st.sampled_from(MODES), workers, kinds, numbers),
    st.tuples(st.just("remove gauge"), workers, kinds, st.sampled_from(MODES)),
    st.tuples(st.just("remove counter"), workers, kinds, st.none()),
    st.tuples(st.sampled_from(["save", "kill", "restart", "page"]), workers, st.none(), st.none()),
)


def parts_of(value: float) -> dict[str, float]:
    """Say which lines of a histogram rise by an observation."""
    buckets = {f"_bucket {bound}": float(value <= bound) for bound in BOUNDS}
    return {**buckets, "_bucket +Inf": 1.0, "_count": 1.0, "_sum": value}


class Story:
    """Workers that do what they are told, beside the model."""

    def __init__(self, folder) -> None:
        self.group = Group(folder, 3)
        self.model = Model(3)
        self.instruments = [Instruments() for _ in range(3)]
        self.workers = [
            TestWorker(*both) for both in zip(self.group.slots, (one.registry for one in self.instruments), strict=True)
        ]
        self.exposition = exposition_of(generate_latest, self.group.merged.registry, self.group.errors)

    def do(self, action: str, worker: int, kind: str, value) -> None:
        if action == "page":
            self.page()
        elif action == "restart":
            self.restart(worker)
        elif self.group.slots[worker].alive:
            self.act(action, worker, kind, value)

    def act(self, action: str, worker: int, kind: str, value) -> None:
        own, model = self.instruments[worker], self.model
        match action:
            case "inc":
                own.counter.labels(kind).inc(value)
                model.count(worker, "app_events", kind, {"_total": value})
            case "observe":
                own.histogram.labels(kind).observe(value)
                model.count(worker, "app_work_seconds", kind, parts_of(value))
            case "summary":
                own.summary.labels(kind).observe(value)
                model.count(worker, "app_size", kind, {"_count": 1.0, "_sum": value})
            case "remove gauge":
                if (value, kind) in model.slots[worker].gauges:
                    own.gauges[value].remove(kind)
                    del model.slots[worker].gauges[value, kind]
            case "remove counter":
                if ("app_events", kind, "_total") in model.slots[worker].own:
                    # Seen before it goes: of a child that never was saved, nobody knows that it has gone.
                    self.save(worker)
                    own.counter.remove(kind)
                    model.remove(worker, "app_events", kind)
                    self.save(worker)
            case "save":
                self.save(worker)
            case "kill":
                self.workers[worker].die()
            case _:
                own.gauges[action].labels(kind).set(value)
                model.set(worker, action, kind, value)

    def save(self, worker: int) -> None:
        self.workers[worker].save()
        self.model.save(worker)

    def restart(self, worker: int) -> None:
        self.instruments[worker] = Instruments()
        self.workers[worker] = TestWorker(self.group.slots[worker], self.instruments[worker].registry)
        self.model.restart(worker)

    def page(self) -> None:
        alive = [slot.alive for slot in self.group.slots]
        for worker, is_alive in enumerate(alive):
            if is_alive:
                self.save(worker)
        assert self.group.values() == self.model.values(alive)
        self.last_page = b"".join(self.exposition.pieces(lambda: None)).decode()
        assert self.last_page.encode() == generate_latest(self.group.merged.registry)
        assert not any(errors.counts for errors in (self.group.errors, *(one.errors for one in self.workers)))


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> list[str]:
    """Play many stories; return their last pages."""
    written = []

    @settings(max_examples=100, deadline=None)
    @given(st.lists(actions, min_size=30, max_size=80))
    def play(story):
        told = Story(tmp_path_factory.mktemp("group"))
        for step in story:
            told.do(*step)
        told.page()
        written.append(told.last_page)

    play()
    return written


def test_pages_are_what_a_model_adds_up(pages):
    """Whatever workers count, set and remove, and whenever they are killed and replaced, a page has the numbers of a model."""
    assert len(pages) >= 100


def test_promtool_takes_the_pages(pages):
    """Prometheus' own tool finds nothing wrong with the pages of those stories."""
    promtool = which("promtool")
    if promtool is None:
        pytest.skip("needs promtool")
    several = [page.removesuffix("# EOF\n").replace("app_", f"app{number}_") for number, page in enumerate(pages)]
    done = subprocess.run([promtool, "check", "metrics"], input="".join(several), capture_output=True, text=True, check=False)
    assert "error" not in done.stderr.lower(), done.stderr
    # 3: it would have named something else.
    assert done.returncode in (0, 3), done.stderr

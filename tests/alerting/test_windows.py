"""Windows: what they amount to, whatever happens to clocks, series and the process; and what they cost in memory."""

import math
import random
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Enum, Gauge, Histogram, Info, Summary
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from support import PATIENCE_SECONDS
from worlds import World

from sage_fastapi_obs import SettingsError
from sage_fastapi_obs.alerting import windows as windows_module
from sage_fastapi_obs.alerting.expressions import Stat
from sage_fastapi_obs.alerting.rules import AlertCondition, AlertRule
from sage_fastapi_obs.alerting.window import LONGEST_SECONDS
from sage_fastapi_obs.alerting.window_stats import CounterStats, GaugeStats, HistogramStats, histogram_quantile, quantile_of
from sage_fastapi_obs.alerting.windows import Windows
from sage_fastapi_obs.internal_errors import InternalErrors
from sage_fastapi_obs.metrics.registry_reader import Reading, RegistryReader

DAY = 86_400.0


class Clock:
    """A monotonic clock that is moved by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def watched(registry: CollectorRegistry, **options) -> tuple[Windows, Clock]:
    """Watch a registry under a clock."""
    clock = Clock()
    return Windows(RegistryReader(registry, InternalErrors()), clock=clock, **options), clock


@given(
    bounds=st.lists(st.floats(0.001, 1e6), min_size=1, max_size=12, unique=True).map(sorted),
    counts=st.lists(st.integers(0, 10_000), min_size=13, max_size=13),
    q=st.floats(0.0, 1.0),
)
def test_quantiles_are_those_of_an_independent_formula(bounds: list[float], counts: list[int], q: float):
    """The quantile is where the line through the cumulative counts reaches its rank, in exact fractions."""
    counts = counts[: len(bounds) + 1]
    total = sum(counts)
    found = histogram_quantile(q, bounds, counts)
    if not total:
        assert found is None
        return
    rank = Fraction(q) * total
    place = next(place for place in range(len(counts)) if sum(counts[: place + 1]) >= rank)
    below, count = sum(counts[:place]), counts[place]
    if place == len(bounds):
        assert found == bounds[-1]
        return
    lower = Fraction(bounds[place - 1]) if place else Fraction(0)
    if not count:
        assert found is None
        return
    exact = lower + (Fraction(bounds[place]) - lower) * (rank - below) / count
    assert found == pytest.approx(float(exact), rel=1e-9, abs=1e-12)


def test_quantiles_at_the_edges():
    """Above the last bound it is that bound; a first bound of 0 or less is taken as it is; without bounds there is none."""
    assert histogram_quantile(0.99, [1.0], [0, 5]) == 1.0
    assert histogram_quantile(0.5, [-1.0, 1.0], [5, 0, 0]) == -1.0
    assert histogram_quantile(0.5, [], [5]) is None
    assert histogram_quantile(0.5, [1.0, 2.0, 3.0], [2, 0, 2, 0]) == 1.0
    assert histogram_quantile(0.0, [1.0, 2.0], [0, 2, 0]) is None
    assert [quantile_of(name) for name in ("p95", "p99.9", "p5", "mean", "p100", "p")] == [0.95, 0.999, 0.05, None, None, None]


def test_figures_of_each_kind():
    """Counters rise, histograms are observed, gauges are as they were at the ticks; others are no numbers."""
    registry = CollectorRegistry()
    counter = Counter("jobs", "j", ["kind"], registry=registry)
    histogram = Histogram("time_seconds", "t", buckets=(1.0, 2.0), registry=registry)
    summary = Summary("size", "s", registry=registry)
    gauge = Gauge("load", "l", ["cpu"], registry=registry)
    asked = Gauge("asked", "a", registry=registry)
    asked.set_function(lambda: 7.0)
    Info("build", "b", registry=registry).info({"a": "b"})
    Enum("mode", "m", states=["a", "b"], registry=registry)
    windows, clock = watched(registry)
    windows.sample()
    for step in (1, 2, 3):
        clock.now += 15
        counter.labels("a").inc(step)
        counter.labels("b").inc(10)
        histogram.observe(step / 2)
        summary.observe(4)
        gauge.labels("0").set(step)
        gauge.labels("1").set(-step)
        windows.sample()
    window = windows.view(30)
    assert window.counter("jobs_total", by=["kind"]) == {("a",): CounterStats(30, 5.0), ("b",): CounterStats(30, 20.0)}
    assert window.counter("jobs_total")[()].rate == pytest.approx(25 / 30)
    assert window.counter("jobs_total", {"kind": "=~a|c"})[()].statistic("increase") == 5.0
    assert window.counter("jobs_total", {"kind": "!=a"})[()].increase == 20.0
    assert window.counter("jobs_total", {"kind": "=none"}) == {}
    assert window.counter("jobs_total", {"nothing": ""}, by=["nothing"])[("",)].increase == 25.0
    assert window.counter("jobs_total", by=["kind"])[("a",)].statistic("p95") is None
    assert window.stats("jobs_total", by=["kind"], only=[("b",), ("x",)]) == {("b",): CounterStats(30, 20.0)}
    observed = window.histogram("time_seconds")[()]
    assert observed == HistogramStats(30, (1.0, 2.0), 2.5, (1.0, 1.0, 0.0))
    assert (observed.count, observed.mean, observed.min, observed.max) == (2, 1.25, None, 2.0)
    assert observed.statistic("p50") == 1.0
    assert [observed.statistic(name) for name in ("sum", "rate", "mean", "last")] == [2.5, 2 / 30, 1.25, None]
    assert window.histogram("size")[()] == HistogramStats(30, (), 8.0, (2.0,))
    assert (window.histogram("size")[()].max, window.histogram("size")[()].statistic("p95")) == (None, None)
    assert window.gauge("load")[()] == GaugeStats(30, 3.0, 0.0, 2.0, 2.5, 3.0, series=2)
    assert window.gauge("load", by=["cpu"])[("1",)] == GaugeStats(30, -3.0, -3.0, -3.0, -2.5, -2.0)
    assert window.gauge("load", by=["cpu"])[("1",)].statistic("mean") is None
    assert window.gauge("asked")[()].last == 7.0
    assert window.histogram("jobs_total") == window.counter("load") == window.gauge("size") == window.stats("unknown") == {}
    assert not {"build_info", "mode", "build"} & windows.metrics().keys()


def test_an_expression_that_is_none_is_refused():
    """Said when it is asked for."""
    registry = CollectorRegistry()
    Counter("jobs", "j", registry=registry)
    windows, _ = watched(registry)
    windows.sample()
    with pytest.raises(SettingsError, match="no regular expression"):
        windows.view(60).counter("jobs_total", {"a": "=~("})
    for seconds in (0, -1, LONGEST_SECONDS + 1, math.nan):
        with pytest.raises(SettingsError, match="window is longer than 0"):
            windows.view(seconds)


def test_what_was_before_the_first_look():
    """A registry that others have used begins at the first look; a new one at 0, so that nothing is missed."""
    for from_zero, increase in ((False, None), (True, 5.0)):
        registry = CollectorRegistry()
        counter = Counter("jobs", "j", registry=registry)
        counter.inc(5)
        windows, clock = watched(registry, from_zero=from_zero)
        assert windows.view(60).ended_at == windows.watched_seconds == windows.view(60).covered_seconds == 0
        windows.sample()
        found = windows.view(60).counter("jobs_total").get(())
        assert (None if found is None else found.increase) == increase
        clock.now += 15
        counter.inc(2)
        windows.sample()
        assert windows.view(60).counter("jobs_total")[()].increase == (increase or 0) + 2


def test_series_that_appear_late_count_from_nothing():
    """A label value that was never seen began at 0."""
    registry = CollectorRegistry()
    counter = Counter("jobs", "j", ["kind"], registry=registry)
    windows, clock = watched(registry)
    windows.sample()
    seen = []
    for kind in ("new", "newer"):
        clock.now += 15
        counter.labels(kind).inc(3)
        windows.sample()
        seen.append(windows.view(60).counter("jobs_total", by=["kind"]))
    assert seen == [{("new",): CounterStats(60, 3.0)}, {("new",): CounterStats(60, 3.0), ("newer",): CounterStats(60, 3.0)}]


def test_series_that_begin_anew_never_fall():
    """A counter that is reset, and a histogram that is cleared, have risen by all that they show."""
    registry = CollectorRegistry()
    counter = Counter("jobs", "j", registry=registry)
    histogram = Histogram("time_seconds", "t", ["kind"], buckets=(1.0,), registry=registry)
    windows, clock = watched(registry)
    windows.sample()
    for _ in range(3):
        clock.now += 15
        counter.reset()
        counter.inc(4)
        histogram.clear()
        histogram.labels("a").observe(0.5)
        windows.sample()
        clock.now += 15
        counter.inc(2)
        histogram.labels("a").observe(3)
        windows.sample()
    window = windows.view(300)
    assert window.counter("jobs_total")[()].increase == 18.0
    assert window.histogram("time_seconds")[()].counts == (3.0, 3.0)
    assert window.histogram("time_seconds")[()].sum == 10.5


def test_a_sum_may_fall():
    """Observations below 0 are no new beginning."""
    registry = CollectorRegistry()
    histogram = Histogram("balance", "b", buckets=(0.0, 1.0), registry=registry)
    windows, clock = watched(registry)
    windows.sample()
    for value in (-5.0, 2.0, -1.0):
        clock.now += 15
        histogram.observe(value)
        windows.sample()
    assert windows.view(300).histogram("balance")[()].sum == -4.0
    assert windows.view(15).histogram("balance")[()].sum == -1.0


def test_a_gauge_that_is_gone_has_no_value():
    """A removed label set is not shown with the value it had."""
    registry = CollectorRegistry()
    gauge = Gauge("users", "u", ["room"], registry=registry)
    windows, clock = watched(registry)
    for room in ("a", "b"):
        gauge.labels(room).set(5)
    windows.sample()
    clock.now += 15
    gauge.remove("a")
    windows.sample()
    assert windows.view(60).gauge("users", by=["room"]).keys() == {("b",)}


def test_another_metric_by_the_same_name_begins_anew():
    """Other bounds or labels make it another metric."""
    registry = CollectorRegistry()
    first = Histogram("time_seconds", "t", buckets=(1.0,), registry=registry)
    windows, clock = watched(registry)
    first.observe(0.5)
    windows.sample()
    registry.unregister(first)
    Histogram("time_seconds", "t", buckets=(1.0, 2.0), registry=registry).observe(1.5)
    clock.now += 15
    windows.sample()
    assert windows.view(60).histogram("time_seconds")[()].counts == (0.0, 1.0, 0.0)
    assert windows.series == 1


def test_what_was_found_of_a_metric_is_not_said_of_another_by_its_name():
    """As many series of other labels are grouped by their own values."""
    registry = CollectorRegistry()
    windows, clock = watched(registry, from_zero=True)
    found = []
    for label, value in (("kind", "a"), ("place", "b")):
        counter = Counter("jobs", "j", [label], registry=registry)
        counter.labels(value).inc()
        windows.sample()
        found.append([*windows.view(60).counter("jobs_total", by=["kind"])])
        registry.unregister(counter)
        clock.now += 15
    assert found == [[("a",)], [("",)]]


def test_a_series_that_has_gone_is_in_windows_that_began_before_only():
    """One series or the whole metric: a rate of 0 is that of a series, and not of none; what comes back is counted again."""
    registry = CollectorRegistry()
    jobs = Counter("jobs", "j", ["kind"], registry=registry)
    sizes = Histogram("size", "s", registry=registry)
    windows, clock = watched(registry)

    def pass_minutes(minutes: int, *kinds: str) -> None:
        for _ in range(minutes * 4):
            clock.now += 15
            for kind in kinds:
                jobs.labels(kind).inc()
            windows.sample()

    def rises(seconds: float) -> dict[str, float]:
        return {kind: one.increase for (kind,), one in windows.view(seconds).counter("jobs_total", by=["kind"]).items()}

    sizes.observe(1)
    windows.sample()
    pass_minutes(2, "a", "b")
    jobs.remove("b")
    registry.unregister(sizes)
    pass_minutes(1, "a")
    assert (rises(120), rises(30)) == ({"a": 8, "b": 4}, {"a": 2})
    assert (windows.view(300).histogram("size") != {}, windows.view(30).histogram("size")) == (True, {})
    pass_minutes(1, "b")
    assert (rises(60), rises(30)) == ({"a": 0, "b": 4}, {"a": 0, "b": 2})


def test_a_gauge_that_has_gone_has_no_last_value():
    """Its highest value is known as long as the window reaches back to it, as in Prometheus; a summary does not show it."""
    registry = CollectorRegistry()
    load = Gauge("load", "l", registry=registry)
    windows, clock = watched(registry)
    for value in (0, 3, 5):
        load.set(value)
        windows.sample()
        clock.now += 15
    registry.unregister(load)
    windows.sample()
    (stats,) = windows.view(60).stats("load").values()
    assert [stats.statistic(name) for name in GaugeStats.statistics] == [None, None, 3.0, 4.0, 5.0]
    assert windows.view(60).gauge("load") == windows.view(10).stats("load") == {}


class Costly(Collector):
    """A collector that asks a database each time."""

    def __init__(self) -> None:
        self.asked = 0

    def collect(self):
        self.asked += 1
        yield CounterMetricFamily("rows", "r", value=1)

    def describe(self):
        return []


class Telling(Costly):
    """One that also tells its numbers at no cost."""

    def readings(self):
        yield Reading("rows_total", "counter", (), (), [((), (1.0,))])


class Unchanged(Costly):
    """Gives only what has changed, and fails sometimes."""

    def __init__(self) -> None:
        super().__init__()
        self.children: list | None = [(("a",), (1.0,))]

    def readings(self):
        if self.children is None:
            raise OSError("away")
        yield Reading("rows_total", "counter", ("kind",), (), self.children)


def test_what_has_not_changed_has_not_gone():
    """A collector that gives only what has changed keeps the rest, also after it has failed once."""
    registry = CollectorRegistry()
    unchanged = Unchanged()
    registry.register(unchanged)
    windows, clock = watched(registry)
    for children in ([(("a",), (1.0,))], [], None, [], [], []):
        unchanged.children = children
        windows.sample()
        clock.now += 15
    assert windows.view(20).counter("rows_total", by=["kind"]) == {("a",): CounterStats(20, 0.0)}


class Broken(Telling):
    """One that fails."""

    def readings(self):
        raise OSError("gone")


def test_collectors_of_others_are_asked_only_for_what_they_tell():
    """A collector that makes samples is left to scrapes; one that raises is counted, and the others are read."""
    registry = CollectorRegistry()
    costly, telling = Costly(), Telling()
    for collector in (costly, Broken(), telling):
        registry.register(collector)
    faults = InternalErrors()
    readings = RegistryReader(registry, faults)
    assert [reading.name for reading in readings()] == ["rows_total"]
    assert costly.asked == telling.asked == 0
    assert faults.counts == {"Broken": 1}


def test_families_are_read_from_samples_where_there_is_no_other_way():
    """Histograms of any registry come apart bucket by bucket."""
    family = HistogramMetricFamily("time_seconds", "t", labels=["kind"])
    family.add_metric(["a"], [("0.5", 1), ("1.0", 3), ("+Inf", 4)], 9.0)
    family.add_metric(["b"], [("0.5", 0), ("+Inf", 4)], 9.0)

    class Own(CollectorRegistry):
        def collect(self):
            yield family
            yield CounterMetricFamily("rows", "r", value=1)

    Own.__module__ = "prometheus_client"
    found = {reading.name: reading for reading in RegistryReader(Own(), InternalErrors())()}
    assert found["time_seconds"].bounds == (0.5, 1.0)
    assert list(found["time_seconds"].children) == [(("a",), (9.0, 1, 2, 1))]
    assert list(found["rows_total"].children) == [((), (1.0,))]


def test_the_true_extremes_of_requests():
    """The slowest and the fastest request are known exactly, also after notes have been thinned out."""
    world = World()
    world.status.evaluate()
    for tick in range(1, 400):
        world.tick()
        world.request(seconds=0.02)
        world.request("/slow", seconds={100: 4.321, 350: 1.25}.get(tick, 0.5))
        world.request("/fast", seconds={100: 0.000123}.get(tick, 0.3))
        world.status.evaluate()
    view = world.status.view
    name = "http_request_duration_seconds"
    assert (view(2 * 3600).histogram(name)[()].min, view(2 * 3600).histogram(name)[()].max) == (0.000123, 4.321)
    assert view(1800).histogram(name)[()].max == 1.25
    assert view(300).histogram(name, by=["route"])[("/slow",)].max == 0.5
    assert view(60).histogram(name, {"route": "/none"}) == {}


@pytest.mark.parametrize("hours", [0.5, 3, 30])
def test_a_suspended_process_does_not_count_old_traffic_as_new(hours: float):
    """After a pause, what was counted before it is not in a short window; nothing is judged until there is something new."""
    world = World()
    world.status.evaluate()
    for _ in range(40):
        world.tick()
        world.request(status="500", times=20)
        world.status.evaluate()
    before = world.status.windows.watched_seconds
    world.request(status="500", times=7)
    world.tick(hours * 3600)
    world.status.evaluate()
    assert world.status.view(300).covered_seconds == 0
    assert world.status.view(300).counter("http_requests_total") == {}
    assert world.status.windows.watched_seconds == before + 15
    world.tick()
    world.request(times=3)
    world.status.evaluate()
    window = world.status.view(300)
    assert (window.counter("http_requests_total")[()].increase, window.covered_seconds) == (3.0, 15.0)
    assert world.status.view(6 * DAY).counter("http_requests_total")[()].increase == pytest.approx(810)


@given(st.lists(st.tuples(st.floats(-7200, 7200), st.integers(0, 5)), max_size=40))
def test_clocks_that_jump_never_make_a_rate_negative(steps: list[tuple[float, int]]):
    """Whatever the clocks do, counts never fall, and no more is counted than happened."""
    world = World()
    world.status.evaluate()
    happened = 0
    for seconds, times in steps:
        world.now += seconds
        world.wall += seconds * -3
        world.request(times=times)
        happened += times
        watched = world.status.windows.watched_seconds
        world.status.evaluate()
        assert 0 <= world.status.windows.watched_seconds - watched <= 60
        for length in (60, 300, 7200):
            for one in world.status.view(length).counter("http_requests_total").values():
                assert 0 <= one.increase <= happened + 1e-6
    assert world.internal_errors.counts == {}


@given(
    st.lists(st.tuples(st.floats(0.5, 59), st.integers(0, 5)), min_size=2, max_size=60),
    st.integers(2, 20),
    st.floats(60, 1000),
)
def test_steps_follow_each_other_and_lose_nothing(looks: list[tuple[float, int]], most: int, seconds: float):
    """However often somebody has looked, the steps have no gaps, are few, and add up to what the samples say."""
    registry = CollectorRegistry()
    counter = Counter("done", "d", registry=registry)
    windows, clock = watched(registry, wall_clock=lambda: clock.now)
    totals = {}
    for pause, count in looks:
        clock.now += pause
        counter.inc(count)
        windows.sample()
        totals[clock.now] = counter._value.get()
    steps = windows.steps(seconds, most)
    assert len(steps) <= most
    for step, following in pairwise(steps):
        assert following.ended_at - following.seconds == pytest.approx(step.ended_at)
    for step in steps:
        began, ended = (
            min(totals, key=lambda at: abs(at - wanted)) for wanted in (step.ended_at - step.seconds, step.ended_at)
        )
        assert sum(one.increase for one in step.counter("done_total").values()) == pytest.approx(totals[ended] - totals[began])
    assert not steps or steps[-1].ended_at == clock.now
    assert not steps or steps[0].ended_at - steps[0].seconds >= clock.now - seconds - 1e-6


def test_nothing_was_sampled_and_there_are_no_steps():
    """Before the second sample nothing has happened yet."""
    windows, _ = watched(CollectorRegistry())
    assert windows.steps(300, 60) == []
    windows.sample()
    assert windows.steps(300, 60) == []


def test_wall_time_is_only_shown():
    """The clock on the wall is set back an hour: windows go on as if it had not been."""
    world = World()
    for tick in range(30):
        world.tick()
        world.wall -= 3600 if tick == 15 else 0
        world.request(times=2)
        world.status.evaluate()
    assert world.status.view(300).counter("http_requests_total")[()].increase == 40.0
    assert world.status.view(300).ended_at == world.wall


def test_looking_often_takes_no_memory_and_loses_nothing():
    """A thousand looks within a second leave as many notes as one."""
    world = World()
    world.status.evaluate()
    for _ in range(20):
        world.tick()
        for look in range(50):
            world.tick(0.001)
            world.request(seconds=0.7 if look == 25 else 0.03)
            world.status.windows.sample()
    assert len(world.status.windows.ticks) < 50
    found = world.status.view(3600).histogram("http_request_duration_seconds")[()]
    assert (found.count, found.max) == (1000, 0.7)


def test_a_week_in_bounded_memory():
    """Seven days leave a few hundred notes, and all windows tell what happened within their resolution."""
    world = World()
    world.status.evaluate()
    begun = len(world.status.windows.ticks)
    for tick in range(int(7.2 * DAY / 60)):
        world.tick(60)
        world.request(times=6)
        if tick % 60 == 0:
            world.request(status="500")
        world.status.windows.sample()
    assert begun == 1
    assert len(world.status.windows.ticks) < 400
    for seconds in (300, 3600, 6 * 3600, DAY, 7 * DAY):
        assert world.status.view(seconds).counter("http_requests_total", {"status": "200"})[()].increase == pytest.approx(
            seconds / 10, rel=0.02
        )
    assert world.status.view(7 * DAY).counter("http_requests_total", {"status": "500"})[()].increase == pytest.approx(
        168, abs=2
    )


def test_ten_thousand_label_sets():
    """Their notes take kilobytes each time rather than megabytes, and groups of them are told apart."""
    registry = CollectorRegistry()
    histogram = Histogram("time_seconds", "t", ["route", "status"], registry=registry)
    children = [histogram.labels(f"/{number}", str(200 + number % 3)) for number in range(10_000)]
    windows, clock = watched(registry)
    windows.sample()
    chosen = random.Random(3)
    for _ in range(6):
        clock.now += 15
        for child in chosen.sample(children, 2_000):
            child.observe(0.2)
        windows.sample()
    assert windows.series == 10_000
    found = windows.view(60).histogram("time_seconds", by=["status"])
    assert sum(one.count for one in found.values()) == 8_000
    assert len(found) == 3
    assert max(len(tick.totals["time_seconds"]) for tick in windows.ticks) < 400_000


def test_label_sets_beyond_the_limit_are_counted(monkeypatch: pytest.MonkeyPatch):
    """What there is no room for is not watched, and that is told."""
    monkeypatch.setattr(windows_module, "MOST_SERIES", 10)
    registry = CollectorRegistry()
    counter = Counter("jobs", "j", ["kind"], registry=registry)
    windows, clock = watched(registry)
    for number in range(25):
        counter.labels(str(number)).inc()
    windows.sample()
    clock.now += 15
    counter.labels("3").inc()
    windows.sample()
    assert (windows.series, windows.left_out) == (10, 15)
    assert windows.view(60).counter("jobs_total")[()].increase == 1.0


def test_remembered_choices_are_bounded():
    """Any number of different questions leaves a bounded number of answers behind."""
    registry = CollectorRegistry()
    Counter("jobs", "j", ["kind"], registry=registry).labels("a").inc()
    windows, _ = watched(registry, from_zero=True)
    windows.sample()
    for number in range(600):
        windows.view(60).counter("jobs_total", {"kind": f"!=x{number}"})
    assert windows.selections <= windows_module.MOST_SELECTIONS


def test_metrics_of_alerts_are_collected_while_the_windows_are_sampled():
    """Sampling waits for whoever collects metrics, so collecting them must not wait for a sample."""
    world = World(alerts={"defaults": False})
    for name in ("operation_duration_seconds", "result_duration_seconds"):
        world.status.alerts.add(
            AlertRule(
                name=name,
                expression=Stat(name, "count", where={"operation": "pay"}),
                condition=AlertCondition.GREATER_THAN,
                threshold=1,
                metric_name="pay.duration_ms",
            )
        )
    world.status.evaluate()
    with ThreadPoolExecutor() as pool, world.status._sampling, world.status.windows._lock, world.status.alerts._lock:
        families = pool.submit(world.status.metrics.collect).result(PATIENCE_SECONDS)
    assert {family.name for family in families} >= {"observability_alerts_firing", "observability_rules_without_data"}

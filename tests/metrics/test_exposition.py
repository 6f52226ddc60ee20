"""The fast exposition and the library's way write, byte for byte, what the client library's encoder writes."""

import copy
import gc
import math
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from prometheus_client import CollectorRegistry, Counter, Enum, Gauge, Histogram, Info, Summary, samples, values
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeHistogramMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.samples import Exemplar, Sample, Timestamp
from support import times

from sage_fastapi_obs.internal_errors import InternalErrors
from sage_fastapi_obs.metrics.exposition import fast_encoder
from sage_fastapi_obs.metrics.exposition.exposition import exposition_of
from sage_fastapi_obs.metrics.exposition.incremental import VersionedCollector, VersionedFamily
from sage_fastapi_obs.metrics.exposition.library_exposition import LibraryExposition
from sage_fastapi_obs.metrics.exposition.prometheus_internals import versioned

OPENMETRICS = "application/openmetrics-text; version=1.0.0"
FORMATS = [
    "",
    OPENMETRICS,
    "application/openmetrics-text; version=1.0.0; escaping=allow-utf-8",
    "application/openmetrics-text; version=2.0.0; escaping=values",
    "text/plain; version=1.0.0; escaping=dots",
    "text/plain; version=1.0.0; escaping=allow-utf-8",
]
ODD = [
    "",
    "a",
    "b",
    'quo"te',
    "back\\slash",
    "new\nline",
    "# HELP x",
    "%s %d %",
    "\x00",
    "\x000\x00",
    "é€😀",
    " ",
    "a,b=c}",
    "{",
]
NUMBERS = [0.0, -0.0, 1.0, -1.0, 0.1, 1e6, 1e7, 1e16, 123456789.5, 1e-9, 1e300, math.inf, -math.inf, math.nan, 2**53]
LABELS = [(), ("a",), ("z", "a"), ("a", "lf", "z")]

odd = st.sampled_from(ODD) | st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
numbers = st.sampled_from(NUMBERS) | st.floats()
amounts = st.sampled_from([0.0, 1.0, 0.5, 1e7, math.inf]) | st.floats(0, 1e9)
exemplars = st.none() | st.dictionaries(st.sampled_from(["trace_id", "span_id"]), odd, max_size=2)


class WithoutCreated:
    """The registry as the library's encoders see it, less the samples that are left out."""

    def __init__(self, registry: Any) -> None:
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        for family in self._registry.collect():
            shown = copy.copy(family)
            if family.type in ("counter", "histogram", "summary"):
                shown.samples = [sample for sample in family.samples if not sample.name.endswith("_created")]
            yield shown


class Page:
    """One format of a registry, written by us and by the library."""

    def __init__(self, registry: CollectorRegistry, accept: str, names: tuple[str, ...] = ()) -> None:
        self.encode, _ = choose_encoder(accept)
        self.registry = registry
        self.names = names
        self.internal_errors = InternalErrors()
        self.exposition = exposition_of(self.encode, registry, self.internal_errors, frozenset(names))

    @property
    def ours(self) -> bytes:
        return b"".join(self.exposition.pieces(lambda: None))

    @property
    def slow(self) -> bytes:
        return b"".join(LibraryExposition(self.encode, self.registry, self.internal_errors).pieces(lambda: None))

    @property
    def theirs(self) -> bytes:
        registry = self.registry.restricted_registry(self.names) if self.names else self.registry
        return self.encode(WithoutCreated(registry))


class Custom:
    """A collector that tells whatever it is given."""

    def __init__(self) -> None:
        self.families: list[Metric] = []

    def collect(self) -> list[Metric]:
        return self.families


class Versioned:
    """A versioned collector of counters, whose version is a count of changes."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.children: dict[str, tuple[int, float, Exemplar | None]] = {}
        self.asked: list[str] = []

    def set(self, key: str, value: float, exemplar: dict[str, str] | None) -> None:
        version = self.children.get(key, (0,))[0]
        self.children[key] = (version + 1, value, Exemplar(exemplar, value, 1.5) if exemplar else None)

    def _family(self) -> Metric:
        return Metric(f"{self.name}_seconds", "of \\ our\nown", "counter", "seconds")

    def _samples(self, key: str) -> Iterator[Sample]:
        _, value, exemplar = self.children[key]
        self.asked.append(key)
        yield Sample(f"{self.name}_seconds_total", {"key": key}, value, None, exemplar)
        yield Sample(f"{self.name}_seconds_created", {"key": key}, 1.0)

    def collect(self) -> Iterator[Metric]:
        family = self._family()
        family.samples = [sample for key in self.children for sample in self._samples(key)]
        yield family

    def versioned(self) -> Iterator[VersionedFamily]:
        yield self._family(), [(key, self.children[key][0], partial(self._samples, key)) for key in self.children]


def families(name: str) -> st.SearchStrategy[Metric]:
    """Draw a family as somebody's collector might tell it."""

    def gauge(value: float, label: str, at: Any) -> Metric:
        family = GaugeMetricFamily(name, 'gauge \\ \n "', labels=["a"], unit="bytes")
        family.add_metric([label], value, timestamp=at)
        family.add_metric([label + "2"], value)
        return family

    def counter(value: float, label: str, at: Any) -> Metric:
        family = CounterMetricFamily(name, "counter", labels=["b", "a"], created=None)
        family.add_metric([label, "x"], value, created=5.0)
        family.samples.append(Sample(f"{name}_total", {"a": label}, value, at, Exemplar({"t": label}, value, at)))
        return family

    def histogram(value: float, label: str, at: Any) -> Metric:
        family = HistogramMetricFamily(name, "histogram")
        family.add_metric([], [("1.0", 1, Exemplar({"t": label}, value)), ("+Inf", 2.0)], value, timestamp=at)
        return family

    def summary(value: float, label: str, at: Any) -> Metric:
        family = SummaryMetricFamily(name, label, labels=["q"])
        family.add_metric([label], 1, value, timestamp=at)
        return family

    def out_of_line(value: float, label: str, at: Any) -> Metric:
        family = GaugeHistogramMetricFamily(name, "below", labels=["a"])
        family.add_metric([label], [("1.0", 1), ("+Inf", 2)], value)
        family.add_metric(["2"], [("1.0", 1), ("+Inf", 2)], value)
        return family

    def created(value: float, label: str, at: Any) -> Metric:
        family = Metric(name, "below, too", "unknown")
        family.samples = [Sample(name + suffix, {"a": label}, value) for suffix in ("_created", "", "_gsum")]
        return family

    def marked(value: float, label: str, at: Any) -> Metric:
        family = Metric(name, "names like our marks", "gauge")
        names = ["\0", "\x000\x00", "\x001\x00", "%s", "a b"]
        family.samples = [Sample(name, {one: label, "other": label}, value) for one in names]
        return family

    def bare(value: float, label: str, at: Any) -> Metric:
        return Metric(name, label, "stateset")

    makers = [gauge, counter, histogram, summary, out_of_line, created, marked, bare]
    times = st.none() | st.sampled_from([0, 1.5, Timestamp(12, 345)])
    return st.builds(lambda make, *given: make(*given), st.sampled_from(makers), numbers, odd, times)


class Pages(RuleBasedStateMachine):
    """A registry that changes in every way, and its pages in all formats."""

    @initialize(accepts=st.lists(st.sampled_from(FORMATS), min_size=1, max_size=2, unique=True))
    def begin(self, accepts: list[str]) -> None:
        self.registry = CollectorRegistry()
        self.pages = [Page(self.registry, accept) for accept in accepts]
        self.registered: dict[str, Any] = {}
        self.made = 0
        for kind in (Counter, Gauge, Summary, Histogram, Info):
            name = self._name()
            self.registered[name] = kind(name, "one of each", ["a"], registry=self.registry)

    def _name(self) -> str:
        self.made += 1
        return f"m{self.made}"

    def _one(self, data: st.DataObject, *kinds: type) -> Any:
        found = [each for each in self.registered.values() if isinstance(each, kinds)]
        return data.draw(st.sampled_from(found)) if found else None

    def _child(self, data: st.DataObject, *kinds: type) -> Any:
        instrument = self._one(data, *kinds)
        if instrument is None or not instrument._labelnames:
            return instrument
        if instrument._metrics and data.draw(st.booleans()):
            return data.draw(st.sampled_from(list(instrument._metrics.values())))
        return instrument.labels(*[data.draw(odd) for _ in instrument._labelnames])

    @rule(
        kind=st.sampled_from([Counter, Gauge, Summary, Histogram, Info, Enum]),
        labels=st.sampled_from(LABELS),
        documentation=odd,
        unit=st.sampled_from(["", "seconds"]),
        negative=st.booleans(),
        old=st.booleans(),
        data=st.data(),
    )
    def register(self, kind: Any, labels: Any, documentation: str, unit: str, negative: bool, old: bool, data: Any) -> None:
        """Register an instrument, under a new name or that of one that has left."""
        gone = [f"m{number}" for number in range(1, self.made + 1) if f"m{number}" not in self.registered]
        name = data.draw(st.sampled_from(gone)) if gone and old else self._name()
        options: dict[str, Any] = {} if kind in (Info, Enum) else {"unit": unit}
        if kind is Enum:
            options["states"] = ["off", 'o"n', ""]
        if kind is Histogram:
            options["buckets"] = [-1, 0, 1] if negative else [0.0, 0.1, 1e7]
        self.registered[name] = kind(name, documentation, labels, registry=self.registry, **options)

    @rule(drawn=st.data())
    def register_custom(self, drawn: Any) -> None:
        collector = Custom()
        name = self._name()
        collector.families = drawn.draw(st.lists(families(name), max_size=2, unique_by=lambda family: family.name))
        self.registered[name] = collector
        self.registry.register(collector)

    @rule(drawn=st.data())
    def change_custom(self, drawn: Any) -> None:
        if collector := self._one(drawn, Custom):
            collector.families = drawn.draw(st.lists(families(self._name()), max_size=1))

    @rule()
    def register_versioned(self) -> None:
        name = self._name()
        self.registered[name] = Versioned(name)
        self.registry.register(self.registered[name])

    @precondition(lambda self: self.registered)
    @rule(data=st.data())
    def unregister(self, data: Any) -> None:
        name = data.draw(st.sampled_from(sorted(self.registered)))
        self.registry.unregister(self.registered.pop(name))

    @rule(data=st.data(), amount=amounts, exemplar=exemplars)
    def count(self, data: Any, amount: float, exemplar: Any) -> None:
        if child := self._child(data, Counter):
            child.inc(amount, exemplar)

    @rule(data=st.data(), number=numbers)
    def measure(self, data: Any, number: float) -> None:
        if child := self._child(data, Gauge):
            child.set(number)

    @rule(data=st.data(), number=numbers)
    def ask(self, data: Any, number: float) -> None:
        if child := self._child(data, Gauge):
            child.set_function(lambda: number)

    @rule(data=st.data(), number=numbers)
    def summarise(self, data: Any, number: float) -> None:
        if child := self._child(data, Summary):
            child.observe(number)

    @rule(data=st.data(), number=numbers, exemplar=exemplars)
    def observe(self, data: Any, number: float, exemplar: Any) -> None:
        if child := self._child(data, Histogram):
            child.observe(number, exemplar)

    @rule(data=st.data(), told=st.dictionaries(st.sampled_from(["k", "l"]), odd))
    def inform(self, data: Any, told: Any) -> None:
        if child := self._child(data, Info):
            child.info(told)

    @rule(data=st.data(), state=st.sampled_from(["off", 'o"n', ""]))
    def switch(self, data: Any, state: str) -> None:
        if child := self._child(data, Enum):
            child.state(state)

    @rule(data=st.data(), key=odd, number=numbers, exemplar=exemplars)
    def set_versioned(self, data: Any, key: str, number: float, exemplar: Any) -> None:
        if collector := self._one(data, Versioned):
            collector.set(key, number, exemplar)

    @rule(data=st.data(), again=st.booleans())
    def remove(self, data: Any, again: bool) -> None:
        """Remove a child, and perhaps create it again."""
        instrument = self._one(data, Counter, Gauge, Summary, Histogram, Info, Enum)
        if instrument is not None and instrument._labelnames and instrument._metrics:
            labels = data.draw(st.sampled_from(sorted(instrument._metrics)))
            instrument.remove(*labels)
            if again:
                instrument.labels(*labels)

    @rule(data=st.data())
    def remove_versioned(self, data: Any) -> None:
        collector = self._one(data, Versioned)
        if collector is not None and collector.children:
            del collector.children[data.draw(st.sampled_from(sorted(collector.children)))]

    @rule(data=st.data())
    def clear(self, data: Any) -> None:
        instrument = self._one(data, Counter, Gauge, Summary, Histogram, Info, Enum)
        if instrument is not None:
            instrument.clear()

    @rule(told=st.none() | st.dictionaries(st.sampled_from(["version", "env"]), odd))
    def target(self, told: Any) -> None:
        self.registry.set_target_info(told)

    @rule(data=st.data())
    def choose(self, data: Any) -> None:
        """Ask for some names only; the library's order of collectors is then that of a set."""
        suffixes = ["", "_total", "_sum", "_bucket", "_count", "_info", "_seconds_total", "_seconds_bucket"]
        known = [name + suffix for name in sorted(self.registered) for suffix in suffixes] + ["target_info", "nothing"]
        names = tuple(data.draw(st.lists(st.sampled_from(known), min_size=1, max_size=4, unique=True)))
        page = Page(self.registry, data.draw(st.sampled_from(FORMATS)), names)
        assert sorted(blocks(page.ours)) == sorted(blocks(page.theirs))

    @invariant()
    def the_pages_are_the_librarys(self) -> None:
        for page in getattr(self, "pages", ()):
            assert page.ours == page.slow == page.theirs
            assert page.internal_errors.counts == {}


def blocks(page: bytes) -> list[bytes]:
    """Cut a page into families."""
    return page.removesuffix(b"# EOF\n").split(b"# HELP ")


TestPages = Pages.TestCase
TestPages.settings = settings(
    max_examples=times(40), stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)


def texts(page: Page) -> list[str]:
    """Return the lines of a page that are samples."""
    return [line for line in page.ours.decode().splitlines() if not line.startswith("#")]


@pytest.mark.parametrize("accept", ["", OPENMETRICS])
def test_only_what_has_changed_is_written(accept: str) -> None:
    """A versioned collector is asked for samples only where a version is new, whatever has been removed or added beside it."""
    registry = CollectorRegistry()
    collector = Versioned("v")
    registry.register(collector)
    page = Page(registry, accept)
    for key in "abc":
        collector.set(key, 1.0, None)
    asked = []
    for change in (None, "b", None, "remove", None, "a", "d"):
        if change == "remove":
            del collector.children["b"]
        elif change:
            collector.set(change, 2.0, None)
        collector.asked.clear()
        assert page.ours
        asked.append("".join(collector.asked))
    assert asked == ["abc", "b", "", "", "", "a", "d"]


def gauge_set(number: float) -> Callable[[dict[str, Any]], object]:
    return lambda made: made["g"].labels("x").set(number)


def recreated(made: dict[str, Any]) -> None:
    made["g"].remove("x")
    made["g"].labels("y")
    made["g"].labels("x").set(1.0)


def registered_anew(made: dict[str, Any]) -> None:
    made["registry"].unregister(made["g"])
    made["g"] = Gauge("g", "other", ["b"], registry=made["registry"])
    made["g"].labels("x").set(1.0)


def explained_anew(made: dict[str, Any]) -> None:
    made["registry"].unregister(made["g"])
    made["g"] = Gauge("g", "other", ["a"], registry=made["registry"])
    made["g"].labels("x").set(1.0)


CHANGES: dict[str, list[Callable[[dict[str, Any]], object]]] = {
    "the sign of zero": [gauge_set(0.0), gauge_set(-0.0), gauge_set(0.0)],
    "no number": [gauge_set(math.nan), gauge_set(1.0), gauge_set(math.nan), gauge_set(math.nan)],
    "set back": [gauge_set(1.0), gauge_set(2.0), gauge_set(1.0)],
    "nothing observed but once more": [lambda made: made["h"].labels("x").observe(0.0)] * 2,
    "an exemplar": [lambda made, trace=trace: made["c"].labels("x").inc(0, {"trace_id": trace}) for trace in ("a", "b", "a")],
    "an exemplar of a bucket": [
        lambda made, trace=trace: made["h"].labels("x").observe(0.0, {"trace_id": trace}) for trace in ("a", "b")
    ],
    "a counter that starts again": [lambda made: made["c"].labels("x").inc(), lambda made: made["c"].labels("x").reset()],
    "removed and created": [gauge_set(1.0), recreated],
    "cleared and created": [gauge_set(1.0), lambda made: made["g"].clear(), gauge_set(1.0)],
    "a function": [gauge_set(1.0)] + [lambda made, at=at: made["g"].labels("x").set_function(lambda: at) for at in (1.0, 2.0)],
    "registered anew": [gauge_set(1.0), registered_anew],
    "explained anew": [gauge_set(1.0), explained_anew],
    "below zero": [lambda made: made["n"].labels("x").observe(-1), lambda made: made["n"].labels("x").observe(1)],
    "states": [lambda made, state=state: made["e"].labels("x").state(state) for state in ("on", "off", "on")],
    "facts": [lambda made, fact=fact: made["i"].labels("x").info(fact) for fact in ({"k": "a"}, {"k": "b"}, {"l": "b"}, {})],
}


def told(*samples: Sample) -> CollectorRegistry:
    """Make a registry with one collector that tells these samples."""
    registry, collector, family = CollectorRegistry(), Custom(), Metric("g", "g", "histogram")
    family.samples = list(samples)
    collector.families = [family]
    registry.register(collector)
    return registry


@pytest.mark.parametrize("accept", FORMATS)
@pytest.mark.parametrize("name", ["\0", "\x000\x00", "\x001\x00", "%s", "%", "a b", "0", ""])
def test_names_like_our_marks(name: str, accept: str) -> None:
    """Names that look like what patterns are made of are written as they are."""
    labels = [{name: "x"}, {name: "%s", "other": "\x000\x00"}, {"a": "x", name: ""}, {"a": "y", name: "z"}]
    page = Page(told(*[Sample(metric, each, 1.0) for each in labels for metric in ("g_bucket", f"g{name}")]), accept)
    assert page.ours == page.theirs
    assert page.internal_errors.counts == {}


def test_a_sample_is_in_or_out_of_line_by_its_family() -> None:
    """The same name stands in its place in one family, and below all others in another."""
    registry = CollectorRegistry()
    for name in ("other", "x"):
        collector, family = Custom(), Metric(name, name, "unknown")
        family.samples = [Sample(each, {}, 1.0) for each in ("x_gsum", "x")]
        collector.families = [family]
        registry.register(collector)
    page = Page(registry, "")
    assert page.ours == page.theirs
    assert page.ours == page.theirs


class Several:
    """A versioned collector with any families, one child each, that never change."""

    def __init__(self, *given: Metric) -> None:
        self.families = given

    def collect(self) -> Any:
        return self.families

    def versioned(self) -> Iterator[VersionedFamily]:
        for family in self.families:
            bare = copy.copy(family)
            bare.samples = []
            yield bare, [("key", 1, partial(list, family.samples))]


def test_versioned_families_of_every_kind() -> None:
    """Families that look the same, and such as cannot be written line by line, are as the collector tells them."""
    first, second, below = Metric("g", "g", "gauge"), Metric("g", "g", "gauge"), GaugeHistogramMetricFamily("h", "h")
    first.samples, second.samples = [Sample("g", {"a": "1"}, 1)], [Sample("g", {"a": "2"}, 2)]
    below.add_metric([], [("1.0", 1), ("+Inf", 2)], 3.0)
    for collector in (Several(first, second), Several(first, below, second)):
        registry = CollectorRegistry()
        registry.register(collector)
        for accept in FORMATS:
            page = Page(registry, accept)
            assert page.ours == page.theirs
            assert page.ours == page.theirs
            assert page.internal_errors.counts == {}


@pytest.mark.parametrize("accept", FORMATS)
@pytest.mark.parametrize(
    "names", [("h_seconds_count",), ("h_seconds_bucket", "h_seconds_sum"), ("h_seconds",), ("target_info",)]
)
def test_some_names(names: tuple[str, ...], accept: str) -> None:
    """Only the samples asked for are there, and collectors that have none of them are not asked."""
    registry = CollectorRegistry(auto_describe=True, target_info={"version": "1"})
    histogram = Histogram("h", "h", ["a"], unit="seconds", registry=registry)
    histogram.labels("x").observe(1)
    asked = []
    other = Gauge("other", "other", registry=registry)
    other.set_function(lambda: asked.append(1) or 1.0)
    page = Page(registry, accept, names)
    assert page.ours == page.theirs
    assert asked == []


@pytest.mark.parametrize("version", ["1.0.0", "2.0.0"])
def test_native_histograms(version: str) -> None:
    """What has more than a number is written by the library, or left out where its format has no place for it."""
    if not hasattr(samples, "NativeHistogram"):
        pytest.skip("this version of the client library has none")
    native = samples.NativeHistogram(24, 100, 0, 0.001, 4, [samples.BucketSpan(0, 2)], None, [2, 1], None)
    with_number = Sample("g", {"a": "x"}, 1.0, None, None, native)
    with_none = Sample("g", {"a": "y"}, None, None, None, native)  # type: ignore[arg-type]
    accept = f"application/openmetrics-text; version={version}"
    page = Page(told(with_number, with_none, Sample("g", {"a": "z"}, None)), accept)  # type: ignore[arg-type]
    try:
        theirs = page.theirs
    except TypeError:
        pytest.skip("this version of the client library cannot write them")
    assert page.ours == theirs
    assert page.internal_errors.counts == {}
    assert (b"schema:0" in page.ours) == (version == "2.0.0" and b"schema:0" in theirs)


@pytest.mark.parametrize("accept", ["", OPENMETRICS])
@pytest.mark.parametrize("change", CHANGES)
def test_no_change_is_missed(change: str, accept: str) -> None:
    """After each of these, and once more without a change, the page is the library's."""
    registry = CollectorRegistry()
    made: dict[str, Any] = {
        "registry": registry,
        "g": Gauge("g", "g", ["a"], registry=registry),
        "c": Counter("c", "c", ["a"], registry=registry),
        "h": Histogram("h", "h", ["a"], buckets=[0.0, 1.0], registry=registry),
        "n": Histogram("n", "n", ["a"], buckets=[-1.0, 1.0], registry=registry),
        "e": Enum("e", "e", ["a"], states=["off", "on"], registry=registry),
        "i": Info("i", "i", ["a"], registry=registry),
    }
    page = Page(registry, accept)
    for do in CHANGES[change]:
        do(made)
        assert page.ours == page.theirs
        assert page.ours == page.theirs
    assert page.internal_errors.counts == {}


def test_the_same_sum_in_other_buckets() -> None:
    """A histogram whose count and sum are what they were, and whose buckets are not, has changed."""
    registry = CollectorRegistry()
    histogram = Histogram("h", "h", ["a"], buckets=[0.5, 1.0, 2.0], registry=registry)
    page = Page(registry, "")
    for observed in ((1.0, 1.0), (0.5, 1.5)):
        histogram.clear()
        for number in observed:
            histogram.labels("x").observe(number)
        assert page.ours == page.theirs


@pytest.mark.parametrize("meanwhile", [2.0, -1.0])
def test_a_text_is_that_of_the_state_its_version_stands_for(meanwhile: float) -> None:
    """What is set while a child is written, and set back afterwards, is in no text that is kept for the value before."""
    gauge = Gauge("g", "g", ["a"], registry=None)
    gauge.labels("x").set(1.0)
    read = versioned(gauge)
    assert read is not None
    ((_, children),) = read()
    ((key, version, write),) = children
    gauge.labels("x").set(meanwhile)
    assert [sample.value for sample in write()] == [1.0]
    gauge.labels("x").set(1.0)
    ((_, children),) = read()
    assert [(each[0], each[1]) for each in children] == [(key, version)]


def test_an_exemplar_equal_to_the_last_is_another_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exemplars that only compare equal, as of 0.0 and -0.0 at the same instant, are told apart."""
    monkeypatch.setattr("time.time", lambda: 1.0)
    registry = CollectorRegistry()
    counter = Counter("c", "c", registry=registry)
    page = Page(registry, OPENMETRICS)
    for amount in (0.0, -0.0):
        counter.inc(amount, {"trace_id": "x"})
        assert page.ours == page.theirs
    assert b"-0.0 1.0" in page.ours


def test_what_has_gone_is_forgotten() -> None:
    """Children and instruments that have gone leave nothing behind."""
    registry = CollectorRegistry()
    gauge = Gauge("g", "g", ["a"], registry=registry)
    page = Page(registry, "")
    for number in range(50):
        gauge.labels(str(number)).set(number)
    assert len(texts(page)) == 50
    for number in range(49):
        gauge.remove(str(number))
    assert (len(texts(page)), len(texts(page))) == (1, 1)
    (family,) = page.exposition._texts[gauge].families.values()
    assert list(family.entries) == [("49",)]
    left = weakref.ref(gauge)
    registry.unregister(gauge)
    del gauge, family
    assert texts(page) == []
    gc.collect()
    assert left() is None


class Broken:
    """Tells one family, and fails at the second."""

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily("whole", "whole", value=1)
        raise RuntimeError("broken on purpose")


class BrokenVersions(Versioned):
    def versioned(self) -> Iterator[VersionedFamily]:
        yield from super().versioned()
        raise RuntimeError("broken on purpose")


class BrokenSample:
    """Tells a sample that no encoder can write."""

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily("whole", "whole", value=1)
        family = GaugeMetricFamily("broken", "broken", labels=["a"])
        family.samples = [Sample("broken", {"a": 1}, 1.0)]  # type: ignore[dict-item]
        yield family


class MisplacedExemplar:
    """Has an exemplar where OpenMetrics allows none."""

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily("whole", "whole", value=1)
        family = GaugeMetricFamily("broken", "broken")
        family.samples = [Sample("broken_other", {}, 1.0, None, Exemplar({"t": "x"}, 1.0))]
        yield family


@pytest.mark.parametrize("broken", [Broken, BrokenSample, MisplacedExemplar])
def test_a_collector_that_raises_loses_only_its_own(broken: Callable[[], Any], capsys: pytest.CaptureFixture[str]) -> None:
    """What it told before stays, all others are there, and the fault has the name of its class."""
    registry = CollectorRegistry()
    Counter("before", "b", registry=registry)
    registry.register(broken())
    Counter("after", "a", registry=registry)
    page = Page(registry, OPENMETRICS)
    for scrape in (1, 2):
        assert texts(page) == ["before_total 0.0", "whole 1.0", "after_total 0.0"]
        assert page.internal_errors.counts == {broken.__name__: scrape}
    assert page.ours.endswith(b"# EOF\n")
    assert "Metric(" not in capsys.readouterr().err


def test_a_function_that_raises_loses_its_gauge() -> None:
    """The same for `Gauge.set_function`; it is counted once for each scrape."""
    registry = CollectorRegistry()
    Gauge("g", "g", registry=registry).set_function(lambda: 1 / 0)
    Gauge("h", "h", registry=registry)
    page = Page(registry, "")
    assert texts(page) == ["h 0.0"]
    assert page.internal_errors.counts == {"Gauge": 1}


def test_versions_that_fail_are_counted_and_done_without() -> None:
    """A collector whose `versioned()` raises is asked for everything, and nothing is lost."""
    registry = CollectorRegistry()
    collector = BrokenVersions("v")
    collector.set("a", 1.0, None)
    registry.register(collector)
    page = Page(registry, "")
    assert page.ours == page.theirs
    assert page.internal_errors.counts == {"BrokenVersions": 1}


class Tripled(Counter):
    """Another one, which does so in another place."""

    def _samples(self) -> Any:
        return [sample._replace(value=3 * sample.value) for sample in super()._samples()]


class Doubled(Counter):
    """An instrument of somebody's own, which tells something else than its values."""

    def _child_samples(self) -> Any:
        return [sample._replace(value=2 * sample.value) for sample in super()._child_samples()]


def test_what_is_not_as_expected_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Subclasses, replaced methods and children of another kind have the last word on their samples."""
    registry = CollectorRegistry()
    doubled = Doubled("d", "d", ["a"], registry=registry)
    replaced = Gauge("r", "r", registry=registry)
    monkeypatch.setattr(replaced, "_child_samples", lambda: [Sample("_odd", {}, 7.0)])
    collecting = Gauge("c", "c", registry=registry)
    monkeypatch.setattr(collecting, "collect", lambda: [GaugeMetricFamily("c", "c", value=8)])
    mixed = Counter("m", "m", ["a"], registry=registry)
    mixed._metrics["x",] = Doubled("m", "m", ["a"], registry=None, _labelvalues=["x"])
    mixed._metrics["y",] = Tripled("m", "m", ["a"], registry=None, _labelvalues=["y"])
    registry.register(Counter("child", "no labels", ["a"], registry=None).labels("x"))
    page = Page(registry, "")
    for _ in range(3):
        doubled.labels("x").inc()
        mixed.labels("x").inc()
        mixed.labels("y").inc()
        assert page.ours == page.theirs
    expected = {"r_odd 7.0", "c 8.0", 'm_total{a="x"} 6.0', 'm_total{a="y"} 9.0', 'd_total{a="x"} 6.0', "child_total 0.0"}
    assert set(texts(page)) == expected
    assert page.internal_errors.counts == {}


def test_a_changed_class_has_the_last_word(monkeypatch: pytest.MonkeyPatch) -> None:
    """A method that somebody has put in the place of the library's is called."""
    registry = CollectorRegistry()
    Gauge("g", "g", registry=registry)
    monkeypatch.setattr(Gauge, "_child_samples", lambda self: [Sample("_odd", {}, 7.0)])
    assert texts(Page(registry, "")) == ["g_odd 7.0"]


@pytest.mark.parametrize("kind", [Counter, Gauge, Summary, Histogram])
def test_values_shared_between_processes(kind: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Values of another class, as of the multi-process mode, are asked for each time."""
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    monkeypatch.setattr(values, "ValueClass", values.MultiProcessValue())
    registry = CollectorRegistry()
    child = kind("m", "m", ["a"], registry=registry).labels("x")
    page = Page(registry, "")
    for number in range(3):
        getattr(child, "observe" if kind in (Summary, Histogram) else "inc")(number)
        assert page.ours == page.theirs
    assert page.internal_errors.counts == {}
    for value in (getattr(child, "_value", None), getattr(child, "_sum", None)):
        if value is not None:
            value._file.close()


class Foreign:
    """A registry of another kind."""

    def __init__(self, inner: CollectorRegistry) -> None:
        self.inner = inner

    def collect(self) -> Any:
        return self.inner.collect()

    def restricted_registry(self, names: Any) -> Any:
        return self.inner.restricted_registry(names)


@pytest.mark.parametrize("names", [(), ("b_total",)])
def test_a_registry_of_another_kind(names: tuple[str, ...]) -> None:
    """A registry that is no `CollectorRegistry` is collected as it is."""
    registry = CollectorRegistry()
    Counter("a", "a", registry=registry)
    Counter("b", "b", registry=registry).inc()
    page = Page(Foreign(registry), OPENMETRICS, names)  # type: ignore[arg-type]
    assert page.ours == page.theirs
    assert texts(page)[-1] == "b_total 1.0"


def test_collectors_without_names_are_asked_for_every_name() -> None:
    """A registry that was told to support collectors which do not describe themselves finds them by name, too."""
    try:
        registry = CollectorRegistry(support_collectors_without_names=True)
    except TypeError:
        pytest.skip("this version of the client library has no such option")
    collector = Custom()
    collector.families = [GaugeMetricFamily("g", "g", value=1), GaugeMetricFamily("h", "h", value=1)]
    registry.register(collector)
    page = Page(registry, "", ("h",))
    assert page.ours == page.theirs
    assert texts(page) == ["h 1.0"]


def test_shapes_of_lines_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A collector that makes up label names does not grow what is remembered."""
    monkeypatch.setattr(fast_encoder, "MOST_PATTERNS", 3)
    registry = CollectorRegistry()
    collector = Custom()
    registry.register(collector)
    page = Page(registry, "")
    for number in range(10):
        family = Metric(f"g{number % 5}", "g", "gauge")
        family.samples = [Sample("g", {f"l{number}{place}": "x"}, 1.0) for place in range(3)]
        collector.families = [family]
        assert page.ours == page.theirs
        assert len(page.exposition._encoder._patterns) <= 3
        assert len(page.exposition._encoder._headers) <= 3


def test_long_families_are_written_in_pieces() -> None:
    """However large a family is, no piece is, and between portions of work there is a pause."""
    registry = CollectorRegistry()
    collector = Custom()
    family = Metric("g", "g", "gauge")
    family.samples = [Sample("g", {"a": str(number)}, number) for number in range(10_000)]
    collector.families = [family]
    registry.register(collector)
    counter = Counter("c", "c", ["a"], registry=registry)
    for number in range(10_000):
        counter.labels(number)
    page = Page(registry, "")
    pauses = 0

    def pause() -> None:
        nonlocal pauses
        pauses += 1

    pieces = list(page.exposition.pieces(pause))
    assert b"".join(pieces) == page.theirs
    assert max(map(len, pieces)) < 150_000
    assert len(pieces) >= 4
    assert pauses > 10_000


def test_the_protocol_is_told_apart() -> None:
    """Collectors with `versioned()` are versioned collectors, those without are not."""
    assert isinstance(Versioned("v"), VersionedCollector)
    assert not isinstance(Custom(), VersionedCollector)

"""Older names: the same samples in the older name's unit and words, and only where they were asked for."""

import random
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from support import client

from sage_fastapi_obs.catalog import CATALOG, PACKS, Alias
from sage_fastapi_obs.legacy.aliases import Aliases
from sage_fastapi_obs.metrics.exposition.incremental import VersionedCollector

OPENMETRICS = "application/openmetrics-text; version=1.0.0"
OLDER = {alias.name: (metric, alias) for metric in CATALOG for alias in metric.aliases}
WITHOUT_RUNTIME = {name for name, (metric, _) in OLDER.items() if metric.pack != "runtime"}


@pytest.fixture
def app_of(watch):
    """Build an app with all packs, some of whose metrics have been used."""

    def build(**metrics: Any) -> tuple[Any, FastAPI]:
        watched, app = watch(metrics={"packs": list(PACKS), **metrics}, logging={"enabled": False}), FastAPI()
        watched.obs.install(app)
        use(watched, random.Random(7))
        return watched, app

    return build


def use(watched: Any, dice: random.Random) -> None:
    """Use every metric that has an older name, with every value of its labels."""
    for metric in CATALOG:
        instrument = watched.obs.instruments.get(metric.name) if metric.aliases else None
        if instrument is None:
            continue
        for _ in range(20):
            child = instrument.with_values(*(dice.choice(values or ("a", "b")) for values in metric.labels.values()))
            change = {"counter": "inc", "gauge": "set", "histogram": "observe"}[metric.type]
            getattr(child, change)(dice.choice([0.001, 0.2, 3.0, 77.0]))


async def scraped(app: FastAPI, accept: str = "text/plain", path: str = "/metrics") -> str:
    async with client(app) as c:
        return (await c.get(path, headers={"Accept": accept})).text


def read(text: str, parse: Any = parse_text) -> dict[str, dict[frozenset[tuple[str, str]], float]]:
    """Read a page: values by the names and labels of samples."""
    found: dict[str, dict[frozenset[tuple[str, str]], float]] = {}
    for family in parse(text):
        for sample in family.samples:
            labels = {label: str(float(value)) if label == "le" else value for label, value in sample.labels.items()}
            found.setdefault(sample.name, {})[frozenset(labels.items())] = sample.value
    return found


def independently(page: dict[str, Any], alias: Alias, name: str, suffix: str) -> dict[frozenset[tuple[str, str]], float]:
    """Translate the samples of a metric as its alias says, in another way than the collector does."""
    translated: dict[frozenset[tuple[str, str]], float] = {}
    for labels, value in page.get(name + suffix, {}).items():
        words = dict(labels)
        if any(words.get(label) not in allowed for label, allowed in alias.only.items()):
            continue
        if "le" in words:
            words["le"] = str(round(float(words["le"]) * alias.factor, 9))
        for label, mapped in alias.values.items():
            words[label] = mapped.get(words[label], words[label])
        for label in alias.without:
            del words[label]
        scaled = value if suffix in ("_bucket", "_count") else value * alias.factor
        key = frozenset(words.items())
        translated[key] = translated.get(key, 0) + scaled
    return translated


@pytest.mark.parametrize(("accept", "parse"), [("text/plain", parse_text), (OPENMETRICS, parse_openmetrics)])
async def test_an_older_name_has_the_samples_of_the_newer(app_of, accept: str, parse: Any):
    """Labels, words, units, sums and buckets are the metric's, translated; the formats agree."""
    _, app = app_of(compat_aliases=True)
    page = read(await scraped(app, accept), parse)
    for name in sorted(WITHOUT_RUNTIME):
        metric, alias = OLDER[name]
        for suffix in ("_bucket", "_count", "_sum") if metric.type == "histogram" else ("",):
            # OpenMetrics calls the counter by this very name.
            is_hidden = name == "orders_by_category" and accept == OPENMETRICS
            expected = {} if is_hidden else independently(page, alias, metric.name, suffix)
            found = page.get(name + suffix, {})
            assert found.keys() == expected.keys(), name
            assert list(map(found.get, expected)) == pytest.approx([*expected.values()]), name
            assert expected or accept == OPENMETRICS, name


async def test_older_names_are_off_unless_asked_for(app_of):
    """By default there is none of them; a group brings its own and no other."""
    _, plain = app_of()
    assert not WITHOUT_RUNTIME & read(await scraped(plain)).keys()
    _, textbook = app_of(compat_aliases=["textbook"])
    assert WITHOUT_RUNTIME & read(await scraped(textbook)).keys() == {"active_users_total"}


async def test_older_names_change_with_the_newer(app_of):
    """The page is written anew where a metric has changed, in both formats, and in a label that is gone as well."""
    watched, app = app_of(compat_aliases=True)
    for accept, parse in (("text/plain", parse_text), (OPENMETRICS, parse_openmetrics)):
        before = read(await scraped(app, accept), parse)
        watched.obs.instruments.get("flux_result_items_total").with_values("a", "success").inc(5)
        watched.obs.instruments.get("sage_handshakes_completed_total").with_values("failure", "unknown").inc()
        after = read(await scraped(app, accept), parse)
        key = frozenset({("operation", "a")})
        assert after["flux_result_total_items"][key] == before["flux_result_total_items"][key] + 5
        assert after["flux_result_failure_items"] == before["flux_result_failure_items"]
        key = frozenset({("status", "error"), ("key_type", "unknown")})
        assert after["sage_handshakes_total"][key] == before["sage_handshakes_total"][key] + 1


async def test_a_pack_that_comes_later_brings_its_older_names(watch):
    """The collector looks for the metrics when it is asked."""
    watched, app = watch(metrics={"packs": ["http"], "compat_aliases": True}), FastAPI()
    watched.obs.install(app)
    assert "active_users_total" not in await scraped(app)
    watched.obs.enable_pack("textbook")
    watched.obs.instruments.get("active_users").with_values().set(3)
    assert "active_users_total 3.0" in (await scraped(app)).splitlines()


async def test_the_page_is_what_the_library_writes_of_the_registry(app_of):
    """The fast text and the library's own agree about older names, byte for byte where time stands still."""
    watched, app = app_of(compat_aliases=["sage", "textbook", "result"])
    for accept, generate in (("text/plain", generate_latest), (OPENMETRICS, generate_openmetrics)):
        ours = await scraped(app, accept)
        for name in WITHOUT_RUNTIME - {"orders_by_category"}:
            registry = CollectorRegistry()
            registry.register(_One(watched.obs.registry, name))
            text = generate(registry).decode().removesuffix("# EOF\n")
            assert text in ours, name


class _One:
    """One family of a registry."""

    def __init__(self, registry: CollectorRegistry, name: str) -> None:
        self._registry, self._name = registry, name

    def collect(self) -> Any:
        for family in self._registry.collect():
            if family.name == self._name or (family.type == "counter" and f"{family.name}_total" == self._name):
                family.samples = [sample for sample in family.samples if not sample.name.endswith("_created")]
                yield family


async def test_older_names_of_the_process_are_there(watch):
    """A collector that tells no children is read as a whole."""
    watched, app = watch(metrics={"compat_aliases": ["runtime"]}), FastAPI()
    watched.obs.install(app)
    page = read(await scraped(app))
    assert page["memory_usage_bytes"][frozenset()] == pytest.approx(page["process_resident_memory_bytes"][frozenset()], rel=0.2)


async def test_exemplars_go_with_their_buckets(app_of):
    """The trace behind a bucket is behind the older bucket, too, in its unit."""
    watched, app = app_of(compat_aliases=True)
    watched.obs.instruments.get("result_duration_seconds").with_values("a", "success").observe(0.3, {"trace_id": "ab"})
    lines = [line for line in (await scraped(app, OPENMETRICS)).splitlines() if '# {trace_id="ab"}' in line]
    assert {line.partition("{")[0]: line.split("} ")[2].split()[0] for line in lines} == {
        "result_duration_seconds_bucket": "0.3",
        "result_duration_ms_bucket": "300.0",
    }


async def test_a_metric_that_fails_does_not_take_the_older_names_with_it(app_of):
    """Where a collector raises, its older names are missing, and those of others are there."""
    watched, app = app_of(compat_aliases=True)

    class Failing:
        def describe(self) -> Any:
            return []

        def collect(self) -> Any:
            raise RuntimeError

    watched.obs.registry._names_to_collectors["active_users"] = Failing()
    text = await scraped(app)
    assert "active_users_total" not in text
    assert "sage_handshakes_total" in text


def test_it_is_a_versioned_collector_and_knows_foreign_registries():
    """A scrape writes only what has changed; a registry of another kind has none of our metrics."""
    aliases = Aliases(CollectorRegistry(), ["sage"])
    assert isinstance(aliases, VersionedCollector)
    assert list(aliases.collect()) == []
    assert {family.name for family in aliases.describe()} == {
        name.removesuffix("_total") for name, (_, alias) in OLDER.items() if alias.group == "sage"
    }
    assert list(Aliases(object(), ["sage"]).collect()) == []  # type: ignore[arg-type]


VIEWS = {"sessions": "sage_session", "handshakes": "sage_handshake", "crypto": "sage_crypto"}


@pytest.mark.parametrize(
    ("view", "accept", "parse"),
    [
        ("sessions", "text/plain", parse_text),
        ("handshakes", OPENMETRICS, parse_openmetrics),
        ("crypto", "text/plain", parse_text),
    ],
)
async def test_a_legacy_view_is_a_part_of_the_page(app_of, view: str, accept: str, parse: Any):
    """It has the samples whose names begin so, and no others."""
    _, app = app_of(legacy_views=True)
    whole = read(await scraped(app, accept), parse)
    part = read(await scraped(app, accept, f"/metrics/{view}"), parse)
    assert part == {name: samples for name, samples in whole.items() if name.startswith(VIEWS[view])}
    assert part


async def test_a_port_of_its_own_has_the_views_too(watch):
    """Where metrics have a port of their own, so have their parts."""
    metrics = {"packs": ["sage"], "legacy_views": True, "port": 0}
    watched = watch(metrics=metrics, monitoring={"access": "port"})
    async with watched.obs, httpx.AsyncClient(base_url=f"http://127.0.0.1:{watched.obs.metrics_port}") as c:
        whole, part = [read((await c.get(path)).text) for path in ("/metrics", "/metrics/crypto")]
    assert part.keys() == {name for name in whole if name.startswith("sage_crypto")} != set()


async def test_legacy_views_are_guarded_and_off_by_default(app_of, watch):
    """They have to be asked for, are as closed as the page, take `name[]`, and are empty without the pack."""
    _, app = app_of()
    async with client(app) as c:
        assert (await c.get("/metrics/crypto")).status_code == 404
    watched, closed = watch(metrics={"legacy_views": True}, monitoring={"access": "token"}), FastAPI()
    watched.obs.install(closed)
    async with client(closed) as c:
        assert (await c.get("/metrics/crypto")).status_code == 403
    _, app = app_of(legacy_views=True)
    async with client(app) as c:
        named = await c.get("/metrics/sessions?name[]=sage_sessions_active&name[]=active_users")
        assert read(named.text).keys() == {"sage_sessions_active"}
    watched, bare = watch(metrics={"legacy_views": True}), FastAPI()
    watched.obs.install(bare)
    assert await scraped(bare, path="/metrics/crypto") == ""
    assert not [line for line in watched.access if line["level"] != "debug"]

"""All packs on a live `/metrics`: what is there is what has been promised, and nothing else."""

import subprocess
from functools import partial
from pathlib import Path
from shutil import which
from typing import Any, NamedTuple, get_args

import anyio
import pytest
from fastapi import FastAPI
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from support import client

from sage_fastapi_obs import DuplicateInstrumentError, Settings, SettingsError
from sage_fastapi_obs.catalog import CATALOG, OVERFLOW, PACKS, REQUEST_METRICS, Alias, Metric
from sage_fastapi_obs.catalog import metric as metric_module
from sage_fastapi_obs.settings import AliasGroup

ALL = list(PACKS)
OWN_RUNTIME = {metric.name for metric in PACKS["runtime"]}


class Row(NamedTuple):
    """One promise."""

    name: str
    type: str
    labels: dict[str, set[str]]
    bounds: set[float]
    older: set[str]


def expected() -> list[Row]:
    """Read the promises."""
    lines = (Path(__file__).parent / "expected_metrics.txt").read_text().splitlines()
    sets = {name: {*map(float, bounds.split())} for name, _, bounds in (line.partition(" = ") for line in lines) if bounds}
    rows = [[cell.strip() for cell in line.split("|")] for line in lines if "|" in line and not line.startswith("#")]
    return [
        Row(name, kind, labels_of(labels), sets.get(bounds, set()), {*older.replace(",", " ").split()})
        for name, kind, labels, bounds, older in rows
    ]


def labels_of(text: str) -> dict[str, set[str]]:
    """Read labels, each with its values in brackets if all of them are known."""
    pairs = [part.strip().removesuffix(")").partition(" (") for part in text.split(",") if part.strip()]
    return {name: {*values.split()} for name, _, values in pairs}


async def page(watched: Any, accept: str = "text/plain", path: str = "/metrics") -> str:
    """Use every metric once, and read the page."""
    app = FastAPI()

    @app.get("/boom")
    async def boom() -> None:
        raise KeyError

    watched.obs.install(app)
    for metric in CATALOG:
        instrument = watched.obs.instruments.get(metric.name)
        if instrument is not None:
            instrument.with_values(*(values[0] if values else "x" for values in metric.labels.values()))
    async with client(app) as c:
        await c.get("/boom")
        return (await c.get(path, headers={"Accept": accept})).text


def families(text: str, parse: Any = parse_text) -> dict[str, Any]:
    """Parse a page; by the names of their samples, as people call metrics."""
    return {f"{family.name}_total" if family.type == "counter" else family.name: family for family in parse(text)}


@pytest.fixture
async def shown(watch):
    """Return the families of a page with all packs."""
    return families(await page(watch(metrics={"packs": ALL}, logging={"flight_recorder": True})))


async def test_metrics_are_what_was_promised(watch):
    """Type, labels, values of labels, bounds and older names of each metric are on the page, and in the catalog."""
    watched = watch(metrics={"packs": ALL, "compat_aliases": True}, logging={"enabled": False})
    shown = families(await page(watched))
    for row in expected():
        family = shown[row.name]
        assert family.type == row.type
        samples = [sample for sample in family.samples if not sample.name.endswith("_created")]
        assert {frozenset(sample.labels) - {"le"} for sample in samples} == {frozenset(row.labels)}, row
        for label, values in row.labels.items():
            assert not values or {sample.labels[label] for sample in samples} == values, row
        bounds = {float(sample.labels["le"]) for sample in samples if "le" in sample.labels}
        assert bounds == ({*row.bounds, float("inf")} if row.bounds else set()), row
        assert row.older <= {*shown, *(name.removesuffix("_total") for name in shown)}, row
        assert row.older == {alias.name for metric in CATALOG if metric.name == row.name for alias in metric.aliases}, row


async def test_nothing_is_shown_that_is_not_in_the_catalog(shown):
    """Each family of the page is declared, and each that is declared is on it, but for what this machine cannot tell."""
    declared = {metric.name: metric for metric in CATALOG}
    assert shown.keys() <= declared.keys()
    assert declared.keys() - shown.keys() <= OWN_RUNTIME
    for name, family in shown.items():
        assert name in OWN_RUNTIME or (family.type, family.documentation) == (declared[name].type, declared[name].help)


async def test_no_metric_has_a_label_of_the_scraper(shown):
    """`service`, `job` and `instance` are given by whoever scrapes, and `up` is."""
    labels = {label for family in shown.values() for sample in family.samples for label in sample.labels}
    assert not labels & {"service", "job", "instance"}
    assert "up" not in shown


async def test_what_is_known_starts_at_zero(watch):
    """The first event of a counter whose label values are all known is a rise, and not a beginning."""
    watched = watch(metrics={"packs": ALL})
    assert watched.value("sage_nonce_validations_total", status="expired") == 0
    assert watched.value("sage_handshakes_completed_total", status="failure", key_type="secp256k1") == 0
    assert watched.value("sage_blockchain_transactions_total", chain="solana", operation="revoke", status="failure") == 0
    assert watched.value("pg_queries_total", operation="delete", status="success") == 0
    assert watched.value("security_events_total", event_type="injection_attempt") == 0
    zeros = [metric for metric in CATALOG if metric.type == "counter" and all(metric.labels.values()) and metric.pack in ALL]
    for metric in zeros:
        if metric.name not in OWN_RUNTIME:
            assert watched.series(metric.name), metric.name


async def test_promtool_finds_nothing_wrong(watch):
    """Prometheus' own judge of names, help and types has no complaint about any pack."""
    promtool = which("promtool")
    if promtool is None:
        pytest.skip("needs promtool")
    text = await page(watch(metrics={"packs": ALL}))
    check = partial(subprocess.run, [promtool, "check", "metrics"], input=text, capture_output=True, text=True, check=False)
    checked = await anyio.to_thread.run_sync(check)
    # It knows neither OpenTelemetry's names nor those of the client library.
    others = ("process_", "python_", "db_client_connection_count ")
    ours = [line for line in checked.stderr.splitlines() if not line.startswith(others)]
    assert (checked.stdout, ours) == ("", [])


@pytest.mark.parametrize("packs", [[], ["sage-core"], ["security"], ["sage-core", "sage"]])
async def test_only_what_was_switched_on_is_there(watch, packs: list[str]):
    """A pack brings its own metrics, and those that need none are always there."""
    watched = watch(metrics={"packs": packs})
    wanted = {metric.name for pack in packs for metric in PACKS[pack]}
    found = {f"{f.name}_total" if f.type == "counter" else f.name for f in watched.obs.registry.collect()}
    assert found & {metric.name for metric in CATALOG if metric.pack} == wanted
    assert "operation_duration_seconds" in found
    assert "observability_internal_errors_total" in found


def test_the_core_of_sage_is_a_part_of_it():
    """The quick start's pack has handshakes, their time, and open sessions."""
    names = {metric.name for metric in PACKS["sage-core"]}
    assert names == {"sage_handshakes_completed_total", "sage_sessions_active", "sage_handshake_duration_seconds"}


async def test_a_service_without_the_http_pack_serves_and_counts_nothing_of_it(watch):
    """Switched off, requests go through, and the page tells of the rest."""
    watched = watch(metrics={"packs": ["security"]})
    app = FastAPI()
    app.add_api_route("/", lambda: 1)
    watched.obs.install(app)
    async with client(app) as c:
        assert (await c.get("/")).status_code == 200
        text = (await c.get("/metrics")).text
    assert "http_requests" not in text
    assert "security_events_total" in text
    assert [line["path"] for line in watched.access] == ["/", "/metrics"]


async def test_without_metrics_there_is_no_instrument(watch):
    """With `metrics.enabled` off nothing is built, whatever the packs, and nobody is told that a pack is missing."""
    watched = watch(metrics={"enabled": False, "packs": ALL}, sampler=ALWAYS_OFF)
    watched.obs.instruments.enable("grpc")
    watched.obs.instruments.add(PACKS["security"])
    assert watched.obs.instruments.get("security_events_total") is None
    assert watched.obs.instruments.packs == set()
    assert list(watched.obs.registry.collect()) == []
    assert watched.lines == []


async def test_a_metric_of_a_pack_that_is_off_is_said_once(watch):
    """Whoever counts into a pack that is switched off reads so in the log, once for each pack."""
    watched = watch(metrics={"packs": ["sage-core"]})
    async with watched.obs:
        for name in (
            "security_events_total",
            "auth_login_failed_total",
            "active_users",
            "sage_sessions_created_total",
            "unheard_of",
        ):
            assert watched.obs.instruments.get_or_warn(name) is None
            assert watched.obs.instruments.get_or_warn(name) is None
        assert watched.obs.instruments.get("redis_commands_total") is None
    said = [line["data"]["pack"] for line in watched.lines if "metrics dropped" in line["message"]]
    assert said == ["security", "textbook"]


def test_settings_and_catalog_know_the_same_words():
    """Packs and groups of older names can be set by the names they have."""
    assert {*Settings(metrics={"packs": list(PACKS)}).metrics.packs} == PACKS.keys()
    assert {alias.group for metric in CATALOG for alias in metric.aliases} == {*get_args(AliasGroup)}
    with pytest.raises(SettingsError, match=r"metrics\.packs"):
        Settings(metrics={"packs": ["sages"]})


def test_packs_and_groups_come_from_the_environment():
    """Lists are separated by commas; older names may be all, none or some."""
    env = {"SAGE_OBS_METRICS__PACKS": "http,sage", "SAGE_OBS_METRICS__COMPAT_ALIASES": "sage,runtime"}
    metrics = Settings.from_env(env).metrics
    assert metrics.packs == ("http", "sage")
    assert metrics.alias_groups == ("sage", "runtime")
    assert Settings.from_env({"SAGE_OBS_METRICS__COMPAT_ALIASES": "true"}).metrics.alias_groups == get_args(AliasGroup)
    assert Settings.from_env({"SAGE_OBS_METRICS__COMPAT_ALIASES": "false"}).metrics.alias_groups == ()


def test_names_are_given_once():
    """No two metrics have one name, and no older name is that of a metric."""
    names = [metric.name for metric in CATALOG]
    older = [alias.name for metric in CATALOG for alias in metric.aliases]
    assert len({*names, *older}) == len(names) + len(older)


def test_every_metric_is_named_as_prometheus_wants_it():
    """Counters end in `_total`, but for the one with a name of its own; a unit is at the end; packs are known."""
    for metric in CATALOG:
        ends = metric.name.endswith("_total") or metric.name == "grpc_request_total"
        assert ends == (metric.type == "counter")
        assert metric.name.removesuffix("_total").endswith(metric.unit)
        assert bool(metric.buckets) == (metric.type == "histogram")
        assert metric.pack == "" or metric in PACKS[metric.pack]
        assert metric.help.strip() == metric.help != ""


def test_a_deprecated_metric_says_so(watch):
    """The help text begins with the word that people look for."""
    watched = watch()
    watched.obs.instruments.add((Metric("old_total", "counter", "Old.", deprecated=True),))
    family = next(family for family in watched.obs.registry.collect() if family.name == "old")
    assert family.documentation == "DEPRECATED: Old."


def test_one_name_is_one_metric(watch):
    """The same metric twice is one; another metric of that name is refused."""
    instruments = watch().obs.instruments
    instruments.add((Metric("x_total", "counter", "X."),))
    instruments.add((Metric("x_total", "counter", "X."),))
    with pytest.raises(DuplicateInstrumentError, match="x_total is declared already"):
        instruments.add((Metric("x_total", "counter", "Y."),))


def test_an_unknown_value_is_counted_as_other(watch):
    """A value that a label does not know is `other`, and its coming is counted."""
    watched = watch(metrics={"packs": ["security"]})
    for reason in ("locked", "stolen", "lost"):
        watched.obs.instruments.get("auth_login_failed_total").with_values(reason).inc()
    assert watched.value("auth_login_failed_total", reason="locked") == 1
    assert watched.value("auth_login_failed_total", reason=OVERFLOW) == 2
    assert watched.value("observability_label_overflow_total", label="reason") == 2


def test_an_open_label_has_a_limit_of_its_own(watch):
    """The first values get series; the rest is `other`, however often it comes, and nothing is remembered of it."""
    watched = watch(metrics={"packs": ["security", "textbook"], "max_label_values": 3})
    textbooks = watched.obs.instruments.get("textbooks_created_total")
    networks = watched.obs.instruments.get("rate_limit_exceeded_total")
    for number in range(150):
        textbooks.with_values("3", f"subject {number}").inc()
        networks.with_values(str(number)).inc()
    assert len(watched.series("textbooks_created_total")) == 4
    assert watched.value("textbooks_created_total", grade_level="3", subject=OVERFLOW) == 147
    assert len(watched.series("rate_limit_exceeded_total")) == 101
    assert watched.value("observability_label_overflow_total", label="subject") == 147
    assert len(textbooks._children) == 3


def test_a_gauge_by_id_forgets_and_makes_room(watch):
    """What has fallen to 0 is no longer shown, and leaves its place to another; what had no place is counted together."""
    watched = watch(metrics={"packs": ["textbook"], "max_label_values": 2})
    gauge = watched.obs.instruments.get("active_learning_sessions")
    for textbook in ("a", "b", "c", "d", "a"):
        gauge.increase(textbook)
    assert watched.series(gauge.metric.name) == {(("textbook_id", name),): n for name, n in (("a", 2), ("b", 1), (OVERFLOW, 2))}
    gauge.decrease("b", forget=True)
    gauge.increase("e")
    assert watched.series(gauge.metric.name) == {(("textbook_id", name),): n for name, n in (("a", 2), ("e", 1), (OVERFLOW, 2))}
    for textbook in ("a", "a", "c", "d", "e", "e", "nobody"):
        gauge.decrease(textbook, forget=True)
    assert watched.series(gauge.metric.name) == {}


def test_a_gauge_does_not_fall_below_zero(watch):
    """Ending more than has begun is a mistake somewhere, and not a negative number of sessions."""
    watched = watch(metrics={"packs": ["sage"]})
    gauge = watched.obs.instruments.get("sage_sessions_active")
    gauge.increase()
    gauge.decrease(by=5, forget=True)
    assert watched.value("sage_sessions_active") == 0


async def test_openmetrics_has_the_same_families(watch):
    """Both formats of the page tell of the same metrics, and the strict parser takes it."""
    watched = watch(metrics={"packs": ALL})
    accept = "application/openmetrics-text; version=1.0.0"
    strict = families(await page(watched, accept), parse_openmetrics)
    assert strict.keys() >= {row.name for row in expected()}


def test_alias_and_metric_are_plain_data():
    """Two of the same are equal, and nothing can be changed."""
    assert Alias("a", "sage") == Alias("a", "sage")
    with pytest.raises(AttributeError):
        REQUEST_METRICS[0].name = "other"
    assert metric_module.MOST_AT_ZERO >= 20

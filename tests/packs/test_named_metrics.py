"""Metrics that applications collect by name: where they go, in which units, and what is refused."""

import math
import re
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from prometheus_client.openmetrics.exposition import VALUES as ESCAPED_VALUES
from prometheus_client.openmetrics.exposition import escape_metric_name
from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette
from support import Watched, client, times

from sage_fastapi_obs import active
from sage_fastapi_obs.legacy.metric_names import escape
from sage_fastapi_obs.monitoring import (
    AlertCondition,
    MetricType,
    collect_metric,
    create_alert_rule,
    evaluate_alerts,
    get_metrics_summary,
)
from sage_fastapi_obs.monitoring import collect_flux_result_metric as collect_flux
from sage_fastapi_obs.monitoring import collect_result_metric as collect_result
from sage_fastapi_obs.operations.own_metrics import declare_histogram
from sage_fastapi_obs.packs.result import Failure, FluxResult, Success, named_metrics

COUNTER, GAUGE, HISTOGRAM = MetricType.COUNTER, MetricType.GAUGE, MetricType.HISTOGRAM
CONVERSIONS = [
    ("api_requests_total", COUNTER, {"endpoint": "/users", "method": "GET"}, "api_requests_total", 1.0),
    ("response_time_ms", HISTOGRAM, {"endpoint": "/users"}, "response_time_seconds", 0.001),
    ("active_connections", GAUGE, {}, "active_connections", 1.0),
    ("orders_by_category", COUNTER, {"category": "tea"}, "orders_by_category_total", 1.0),
    ("orders_processed_total", COUNTER, {}, "orders_processed_total", 1.0),
    ("order_value", HISTOGRAM, {}, "order_value", 1.0),
    ("revenue_total", COUNTER, {}, "revenue_total", 1.0),
    ("system.cpu_usage", GAUGE, {}, "system_cpu_usage_ratio", 0.01),
    ("system.memory_usage", GAUGE, {}, "system_memory_usage_ratio", 0.01),
    ("app.requests_per_second", GAUGE, {}, "app_requests_per_second", 1.0),
    ("app.error_rate", GAUGE, {}, "app_error_ratio", 0.01),
    ("business.active_users", GAUGE, {}, "business_active_users", 1.0),
    ("business.transactions_total", COUNTER, {}, "business_transactions_total", 1.0),
    ("result_duration_ms", HISTOGRAM, {"operation": "a", "status": "success"}, "result_duration_seconds", 0.001),
    ("heap_mb", GAUGE, {}, "heap_bytes", 1_048_576.0),
    ("sent_mb_total", COUNTER, {}, "sent_bytes_total", 1_048_576.0),
    ("disk.full_percent", GAUGE, {}, "disk_full_ratio", 0.01),
    ("disk_free_percentage", HISTOGRAM, {}, "disk_free_ratio", 0.01),
    ("waited_ms", COUNTER, {}, "waited_seconds_total", 0.001),
    ("queue/length now", GAUGE, {"queue": "mail"}, "queue_length_now", 1.0),
    ("5xx", COUNTER, {}, "_5xx_total", 1.0),
]
"""Name and type as collected; name, and value of one unit, as Prometheus gets them: written down, not computed."""


@pytest.fixture
def watched(watch) -> Watched:
    """Watch, and be what application code acts on."""
    watched = watch(metrics={"packs": ("http", "result")})
    watched.start()
    return watched


async def scraped(watched: Watched) -> dict[str, dict[tuple, float]]:
    """Read all samples of `/metrics`, by name and labels."""
    app = Starlette()
    watched.obs.install(app)
    async with client(app) as opened:
        text = (await opened.get("/metrics", headers={"accept": "text/plain"})).text
    found: dict[str, dict[tuple, float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    return found


VALUES = st.lists(st.floats(0, 1e6, allow_subnormal=False), min_size=1, max_size=5)


@settings(max_examples=times(15), suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.lists(VALUES, min_size=len(CONVERSIONS), max_size=len(CONVERSIONS)))
async def test_what_is_collected_is_scraped_in_base_units(watch, values):
    """Each name and unit is read back from `/metrics` as the table says: sums of counters, last gauges, sums and counts."""
    watched = watch()
    async with watched.obs:
        for (name, kind, labels, _, _), collected_values in zip(CONVERSIONS, values, strict=True):
            for value in collected_values:
                collect_metric(name, value, kind, labels=labels)
        found = await scraped(watched)
    for (_, kind, labels, metric, unit), collected_values in zip(CONVERSIONS, values, strict=True):
        key = tuple(sorted(labels.items()))
        if kind is HISTOGRAM:
            assert found[f"{metric}_count"][key] == len(collected_values)
            assert found[f"{metric}_sum"][key] == pytest.approx(math.fsum(collected_values) * unit)
        else:
            expected = math.fsum(collected_values) if kind is COUNTER else collected_values[-1]
            assert found[metric][key] == pytest.approx(expected * unit)


@pytest.mark.parametrize("value", [3, 3.0, Decimal(3), Fraction(3)])
def test_numbers_of_all_kinds_are_collected(watched, value):
    """Money is often a decimal."""
    collect_metric("revenue_total", value, COUNTER)
    assert watched.value("revenue_total") == 3


def test_operations_are_a_label_and_not_a_name(watched):
    """`<operation>.duration_ms` and `.memory_usage_mb` go to the metrics of operations, whatever they are collected as."""
    collect_metric("heavy.job.duration_ms", 250, HISTOGRAM)
    collect_metric("heavy.job.memory_usage_mb", -2, HISTOGRAM)
    assert watched.value("operation_duration_seconds_sum", operation="heavy.job") == 0.25
    assert watched.value("operation_memory_delta_bytes", operation="heavy.job") == -2 * 1_048_576


@pytest.mark.parametrize("value", [-1, -0.001])
def test_counters_only_rise(watched, value):
    """An amount below 0 is refused, and nothing is recorded."""
    with pytest.raises(ValueError, match="only rises"):
        collect_metric("refunds", value, COUNTER)
    assert watched.series("refunds_total") == {}


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), "5", None, True, 10**400, Decimal("sNaN"), Decimal("-1e999"), 1j]
)
def test_what_is_no_number_is_refused(watched, value):
    """One bad observation would spoil a sum for good."""
    with pytest.raises(ValueError, match="finite number"):
        collect_metric("length", value, GAUGE)
    with pytest.raises(ValueError, match="finite number"):
        collect_result("length", Success(1), value)


def test_what_is_no_number_in_the_unit_of_the_page_is_refused(watched):
    """A number that is finite in megabytes may not be in bytes."""
    for name, kind in (("sent_mb", COUNTER), ("heap_mb", GAUGE), ("length_mb", HISTOGRAM)):
        with pytest.raises(ValueError, match="finite number"):
            collect_metric(name, 1e305, kind)
        collect_metric(name, 1, kind)
    for name in ("sent_bytes_total", "heap_bytes", "length_bytes_sum"):
        assert watched.value(name) == 1_048_576


@pytest.mark.parametrize(("first", "second"), [(COUNTER, GAUGE), (GAUGE, HISTOGRAM), (HISTOGRAM, COUNTER), (GAUGE, COUNTER)])
def test_a_metric_keeps_its_type(watched, first, second):
    """Another type for the same name is refused; the first goes on."""
    collect_metric("things", 1, first)
    with pytest.raises(ValueError, match="already"):
        collect_metric("things", 1, second)
    collect_metric("things", 1, first)


@pytest.mark.parametrize(
    ("name", "kind"), [("result_success_total", GAUGE), ("order_value", COUNTER), ("active_connections", HISTOGRAM)]
)
def test_metrics_of_the_catalog_have_their_type(watched, name, kind):
    """A name that is in the catalog cannot be collected as something else."""
    with pytest.raises(ValueError, match="cannot be collected as"):
        collect_metric(name, 1, kind)


def test_a_name_that_is_taken_is_dropped_and_counted(watched, capsys):
    """What the HTTP recorder, or the application, has registered stays what it is; the message says why."""
    collect_metric("http_requests_total", 1, COUNTER)
    collect_metric("http_requests_total", 1, COUNTER)
    assert watched.series("http_requests_total") == {}
    assert watched.obs.internal_errors.counts == {"collect_metric": 1}
    assert "is not collected: http_requests_total is registered as something else" in capsys.readouterr().err


def test_labels_are_those_of_the_first_value(watched):
    """A missing one is empty, one too many is left out and counted; `service` is `component`, and none is the scraper's."""
    collect_metric("calls", 1, COUNTER, labels={"service": "users", "instance": "a", "le": "b", "not-valid": "c", "9": "d"})
    collect_metric("calls", 1, COUNTER)
    collect_metric("calls", 1, COUNTER, labels={"component": "users", "extra": "x"})
    named = {"label_instance": "", "label_le": "", "not_valid": "", "label_9": ""}
    assert watched.value("calls_total", component="users", label_instance="a", label_le="b", not_valid="c", label_9="d") == 1
    assert watched.value("calls_total", component="", **named) == 1
    assert watched.value("calls_total", component="users", **named) == 1
    assert watched.obs.internal_errors.counts == {"collect_metric": 1}


def test_names_and_values_cannot_grow_without_end(watch, monkeypatch):
    """Ids in names or in labels meet a limit; what is beyond is counted."""
    monkeypatch.setattr(named_metrics, "MOST_METRICS", 3)
    watched = watch(metrics={"max_label_values": 2})
    watched.obs.start()
    for number in range(10):
        collect_metric(f"user_{number}", 1, GAUGE)
        collect_metric("seen", 1, COUNTER, labels={"user": f"{number}"})
    assert sum(len(watched.series(f"user_{number}")) for number in range(10)) == 2
    assert watched.series("seen_total") == {(("user", "0"),): 1, (("user", "1"),): 1, (("user", "other"),): 8}
    assert watched.obs.internal_errors.counts["collect_metric"] == 8
    assert len(watched.obs.collected._targets) == 3


@pytest.mark.parametrize("metrics", [{"enabled": False}, {"packs": ()}])
def test_what_is_switched_off_stays_off(watch, metrics):
    """Without metrics, or the pack of results, nothing is recorded and nothing fails."""
    watched = watch(metrics=metrics)
    watched.obs.start()
    collect_metric("things", 1, GAUGE)
    collect_result("work", Failure("no"), 1)
    collect_flux("batch", FluxResult((Success(1),)), 1)
    assert watched.series("result_failure_total") == {}
    assert (watched.value("things") is None) == ("enabled" in metrics)
    assert watched.obs.internal_errors.counts == {}


def test_without_an_observability_nothing_is_recorded(monkeypatch):
    """Nothing is raised but for what would be refused anyway."""
    monkeypatch.setattr(active, "_started", [])
    collect_metric("things", 1, GAUGE)
    collect_result("work", Success(1), 1)
    collect_flux("batch", FluxResult(()), 1)
    with pytest.raises(ValueError, match="only rises"):
        collect_metric("things", -1, COUNTER)


def test_results_are_counted_timed_and_told_apart(watched):
    """A success, and failures by the type of their error; milliseconds become seconds."""
    collect_result("user.get", Success(1), 12.5, labels={"service": "users"})
    assert watched.value("result_failure_total", operation="user.get", component="users") == 0
    collect_result("user.get", Failure("gone"), 7.5, labels={"component": "users"})
    collect_result("user.get", Failure(KeyError("id")), -1, labels={"component": "users", "region": "eu"})
    assert watched.value("result_success_total", operation="user.get", component="users") == 1
    assert watched.value("result_failure_total", operation="user.get", component="users") == 2
    assert watched.value("result_duration_seconds_sum", operation="user.get", status="success") == 0.0125
    assert watched.value("result_duration_seconds_sum", operation="user.get", status="failure") == 0.0075
    errors = {
        error: watched.value("result_error_by_type_total", operation="user.get", error_type=error)
        for error in ("str", "KeyError")
    }
    assert errors == {"str": 1, "KeyError": 1}
    assert watched.obs.internal_errors.counts == {"collect_metric": 1}


def test_batches_are_counted_by_item(watched):
    """Items add up over batches; the ratio is that of the last."""
    collect_flux("import", FluxResult((Success(1), Failure("no"), Success(2))), 1_500)
    collect_flux("import", FluxResult((Success(1),)), 500, labels={})
    items = {
        status: watched.value("flux_result_items_total", operation="import", status=status) for status in ("success", "failure")
    }
    assert items == {"success": 3, "failure": 1}
    assert watched.value("flux_result_success_ratio", operation="import") == 1
    assert watched.value("flux_result_duration_seconds_sum", operation="import") == 2
    assert watched.value("flux_result_duration_seconds_count", operation="import") == 2


SIGNS = st.text(st.sampled_from("ab_.-/:5 é지역") | st.characters(), max_size=6)
NAMES = SIGNS.filter(lambda name: not name.endswith((".duration_ms", ".memory_usage_mb")))


def read_back(escaped: str) -> str:
    """Undo Prometheus' escape of names."""
    signs = re.findall(r"__|_[0-9a-f]+_|[A-Za-z0-9]", escaped.removeprefix("U__"))
    return "".join("_" if one == "__" else one if len(one) == 1 else chr(int(one.strip("_"), 16)) for one in signs)


@settings(max_examples=times(60), suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    st.lists(
        st.tuples(NAMES, st.sampled_from([COUNTER, GAUGE, HISTOGRAM])), min_size=2, max_size=6, unique_by=lambda one: one[0]
    )
)
@example([("A", COUNTER), (":ms", COUNTER), ("_ms", COUNTER)])
async def test_distinct_names_stay_distinct(watch, names):
    """Whatever names are collected, in any order: each has its own series and its own value in the summary."""
    watched = watch(metrics={"packs": ()})
    async with watched.obs:
        for place, (name, kind) in enumerate(names):
            collect_metric(name, 2.0**place, kind)
        found, summary = await scraped(watched), get_metrics_summary()
    collected = watched.obs.collected.names
    meant = [(collected[name], kind) for name, kind in names]
    stored = [(found[one.metric + ("_sum" if kind is HISTOGRAM else "")][()], one.scale) for one, kind in meant]
    assert [value * scale for value, scale in stored] == pytest.approx([2.0**place for place in range(len(names))])
    for place, (name, kind) in enumerate(names):
        assert kind is HISTOGRAM or summary[f"{kind.value}s"][name] == pytest.approx(2.0**place)


@given(SIGNS)
def test_an_escaped_name_is_read_back(name):
    """The escape is Prometheus' own for UTF-8 names, as its client library writes it, and loses nothing."""
    escaped = escape(name)
    assert read_back(escaped) == name
    if name and not name[0].isascii() and ":" not in name and name.isprintable():
        assert escape_metric_name(name, ESCAPED_VALUES) == escaped


@settings(max_examples=times(40), suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.lists(SIGNS, min_size=2, max_size=6, unique=True).filter(lambda names: not {"service", "component"} <= {*names}))
async def test_distinct_labels_stay_distinct(watch, labels):
    """Labels of one metric keep their values apart, whatever they are called; those that need no other name have none."""
    watched = watch(metrics={"packs": ()})
    async with watched.obs:
        collect_metric("calls", 1, COUNTER, labels={label: f"value {place}" for place, label in enumerate(labels)})
        ((series, value),) = (await scraped(watched))["calls_total"].items()
    assert value == 1
    assert sorted(shown for _, shown in series) == [f"value {place}" for place in range(len(labels))]
    assert {label for label in labels if label in ("a", "b", "ab")} <= {label for label, _ in series}


@pytest.mark.parametrize("packs", [("business",), ()])
def test_names_of_the_catalog_may_have_dots_and_no_ending(watch, packs):
    """Whether their pack is on or not; other signs make another name."""
    watched = watch(metrics={"packs": packs})
    watched.obs.start()
    for name in ("business.transactions", "business.transactions_total", "business_transactions", "business-transactions"):
        collect_metric(name, 1, COUNTER)
    assert watched.value("business_transactions_total") == 3
    assert watched.value("U__business_2d_transactions_total") == 1


def test_a_metric_that_the_application_has_declared_is_not_anothers(watched):
    """Only its own name comes to it, and then with its buckets."""
    watched.obs.enable_pack(type("Pack", (), {"sizes": declare_histogram("box_size", "Size.", buckets=(1, 10))}))
    collect_metric("box_size", 5, HISTOGRAM)
    collect_metric("box.size", 7, HISTOGRAM)
    assert watched.value("box_size_bucket", le="10.0") == watched.value("U__box_2e_size_count") == 1


def test_two_values_of_one_label_are_said(watched):
    """`service` and `component` are one label; where both are given, one is lost and counted."""
    collect_metric("calls", 1, COUNTER, labels={"service": "a", "component": "b"})
    assert len(watched.series("calls_total")) == 1
    assert watched.obs.internal_errors.counts == {"collect_metric": 1}


def test_names_in_any_script_are_counted_apart(watched):
    """Two Korean names of the same shape are two counters, two such labels are two labels, and rules know them."""
    collect_metric("주문.건수", 3, COUNTER, labels={"지역": "서울", "상점": "강남"})
    collect_metric("매출.금액", 5, COUNTER)
    collect_metric("대기_ms", 1500, HISTOGRAM)
    create_alert_rule("주문 급증", "주문.건수", AlertCondition.GREATER_THAN, 2)
    summary = get_metrics_summary()
    assert (summary["counters"]["주문.건수"], summary["counters"]["매출.금액"]) == (3, 5)
    assert watched.series("U___c8fc__bb38__2e__ac74__c218__total") == {
        (("U___c0c1__c810_", "강남"), ("U___c9c0__c5ed_", "서울")): 3
    }
    assert watched.value("U___b300__ae30___seconds_sum") == 1.5
    assert watched.obs.internal_errors.counts == {}


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("up", "U__up"),
        ("ALERTS", "U__ALERTS"),
        ("ALERTS_FOR_STATE", "U__ALERTS__FOR__STATE"),
        ("scrape_duration_ms", "U__scrape__duration__seconds"),
        ("scrape.samples_scraped", "U__scrape_2e_samples__scraped"),
        ("U__up", "U__U____up"),
        ("result-failure_total", "U__result_2d_failure_total"),
    ],
)
async def test_names_that_prometheus_gives_itself_are_not_ours(watched, name, shown):
    """They are on the page in their escaped form, which is said once; the summary has them by their names."""
    for _ in range(2):
        collect_metric(name, 3, GAUGE)
    found = await scraped(watched)
    assert found[shown][()] == pytest.approx(3 if not name.endswith("_ms") else 0.003)
    assert name not in found
    assert get_metrics_summary()["gauges"][name] == pytest.approx(3)
    assert watched.obs.internal_errors.counts == {"collect_metric": 1}


def test_a_rule_about_a_name_that_was_kept_apart_watches_its_own_metric(watched):
    """Of two names that would be written alike, each rule sees the values of its own."""
    collect_metric("queue.length", 1, GAUGE)
    collect_metric("queue_length", 9, GAUGE)
    rules = [create_alert_rule(name, name, AlertCondition.GREATER_THAN, 5) for name in ("queue.length", "queue_length")]
    assert [alert.rule.name for alert in evaluate_alerts() if alert.rule in rules] == ["queue_length"]


def test_a_name_that_is_too_long_is_dropped_and_counted(watched):
    """It is the length of the name that counts, and not that of its escape."""
    collect_metric("주" * 129, 1, GAUGE)
    collect_metric("주" * 128, 1, GAUGE)
    assert watched.obs.internal_errors.counts == {"collect_metric": 1}
    assert len(watched.obs.collected.names) == 1


def test_labels_that_are_too_long_are_left_out_and_counted(watched):
    """The others of the value are kept."""
    collect_metric("calls", 1, COUNTER, labels={"a" * 129: "1", "a" * 130: "2", "b": "3"})
    assert watched.value("calls_total", b="3") == 1
    assert watched.obs.internal_errors.counts["collect_metric"] > 0

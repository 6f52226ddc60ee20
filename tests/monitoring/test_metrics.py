"""Metrics, alerts and service levels under the names of the RFS interface."""

import asyncio
import json
import signal
import threading
from dataclasses import dataclass

import anyio
import pytest
from fastapi import FastAPI
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from receivers import Webhook, serving
from support import PATIENCE_SECONDS, client, times

from sage_fastapi_obs import Observability, Settings, SettingsError, active
from sage_fastapi_obs.alerting.sla import RESULTS
from sage_fastapi_obs.metrics import memory
from sage_fastapi_obs.monitoring import notifiers
from sage_fastapi_obs.monitoring.metrics import (
    SLA_TARGETS,
    AlertCondition,
    Failure,
    FluxResult,
    MetricType,
    Success,
    activate_circuit_breaker,
    calculate_failure_rate,
    check_sla_compliance,
    circuit_breaker_monitoring,
    collect_flux_result_metric,
    collect_metric,
    collect_result_metric,
    create_alert_rule,
    evaluate_alerts,
    find_slow_operations,
    get_dashboard_data,
    get_memory_usage,
    get_metrics_summary,
    performance_tracker,
    remove_alert_rule,
    reset_circuit_breaker,
    reset_monitoring,
    setup_default_alerts,
    start_monitoring,
    stop_monitoring,
)


class Clock:
    """Monotonic seconds that a test moves."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        self.now += 0.001
        return self.now


@pytest.fixture
def alone(monkeypatch):
    """Be a process without any `Observability`."""
    monkeypatch.setattr(active, "_started", [])
    monkeypatch.setattr(active, "_callbacks", [])
    monkeypatch.setenv("SAGE_OBS_LOGGING__ENABLED", "false")
    yield
    reset_monitoring()


@pytest.fixture
def watched(watch, alone):
    """Watch without default rules; time is moved by the test."""
    watched = watch(alerts={"defaults": False}, status_clock=Clock())
    active.register(watched.obs)
    yield watched
    watched.obs.status.notifications.wait(PATIENCE_SECONDS)


def told(callback):
    """Let what is on its way to callbacks arrive."""
    found = active.active_observability()
    assert found is not None
    assert found.status.notifications.wait(PATIENCE_SECONDS)
    return callback


def rule_names() -> list[str]:
    """Name the rules there are."""
    return [rule["name"] for rule in get_dashboard_data()["alert_rules"]]


def test_a_summary_is_in_the_units_of_its_names(watched):
    """Counters have risen by, gauges are at, and histograms are in milliseconds, by the names they were collected under."""
    for milliseconds in (20, 40, 300):
        collect_metric("response_time_ms", milliseconds, MetricType.HISTOGRAM, labels={"endpoint": f"/{milliseconds}"})
        collect_result_metric("work", Success(1), milliseconds)
    collect_metric("orders_by_category", 2, MetricType.COUNTER, labels={"category": "tea"})
    collect_metric("orders_by_category", 3, MetricType.COUNTER, labels={"category": "coffee"})
    collect_metric("system.cpu_usage", 45.5, MetricType.GAUGE)
    collect_metric("my.queue_length", 7, MetricType.GAUGE)
    collect_metric("uploaded_mb", 3, MetricType.COUNTER)
    collect_flux_result_metric("batch", FluxResult((Success(1), Failure("no"))), 120)
    summary = get_metrics_summary(time_range_minutes=60)
    assert summary["time_range_minutes"] == 60
    assert summary["counters"]["result_success_total"] == 3
    assert summary["counters"]["result_failure_total"] == 0
    assert summary["counters"]["orders_by_category"] == summary["counters"]["orders_by_category_total"] == 5
    assert summary["counters"]["uploaded_mb"] == 3
    assert summary["counters"]["uploaded_bytes_total"] == 3 * 1_048_576
    flux = {name: summary["counters"][f"flux_result_{name}_items"] for name in ("total", "success", "failure")}
    assert flux == {"total": 2, "success": 1, "failure": 1}
    assert summary["gauges"]["flux_result_success_rate"] == 0.5
    assert summary["gauges"]["system.cpu_usage"] == pytest.approx(45.5)
    assert summary["gauges"]["system_cpu_usage_ratio"] == pytest.approx(0.455)
    assert summary["gauges"]["my.queue_length"] == 7
    for name in ("response_time_ms", "result_duration_ms"):
        figures = summary["histograms"][name]
        assert (figures["count"], figures["sum"], figures["mean"]) == (3, pytest.approx(360), pytest.approx(120))
        assert 250 < figures["p95"] <= figures["p99"] <= figures["max"] == pytest.approx(300)
    assert not [name for name in summary["histograms"] if name.endswith(("_seconds", "_bytes"))]
    work = summary["operations"]["work"]
    assert (work["success"], work["failure"], work["failure_rate"], work["mean"]) == (3, 0, 0, pytest.approx(120))
    json.dumps(summary)


MAGNITUDES = st.floats(-6, 9).map(lambda power: min(1e9, 10**power))


@settings(max_examples=times(25), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(MAGNITUDES, min_size=1, max_size=60))
def test_values_of_any_magnitude_have_their_figures(watch, alone, values):
    """Minimum and maximum are true, the mean is, and a quantile is within 2.5 times the value that has this rank."""
    active.register(watch(alerts={"defaults": False}, status_clock=Clock()).obs)
    for value in values:
        collect_metric("size", value, MetricType.HISTOGRAM)
    figures = get_metrics_summary()["histograms"]["size"]
    assert (figures["count"], figures["min"], figures["max"]) == (len(values), min(values), max(values))
    assert figures["mean"] == pytest.approx(sum(values) / len(values))
    for name, q in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99)):
        exact = next(value for rank, value in enumerate(sorted(values), 1) if rank >= q * len(values))
        assert exact / 2.5 <= figures[name] * (1 + 1e-9)
        assert figures[name] <= exact * 2.5 * (1 + 1e-9)


@pytest.mark.parametrize("name", ["wait_ms", "heap_mb", "full_percent", "order_size"])
def test_fifty_equal_values_have_that_value_in_every_figure(watched, name):
    """In each unit, quantiles and extremes of equal values are that value."""
    for _ in range(50):
        collect_metric(name, 250, MetricType.HISTOGRAM)
    shown = get_metrics_summary()["histograms"]
    figures = shown.get(name) or shown["full_ratio"]
    wanted = 2.5 if name not in shown else 250
    assert [figures[one] for one in ("min", "p50", "p95", "p99", "max", "mean")] == pytest.approx([wanted] * 6)


def test_what_is_above_the_last_bound_is_not_all_the_same(watched):
    """Results have bounds up to a minute: quantiles of longer ones lie between that and the longest."""
    for seconds in (1, *[90] * 50, *[600] * 50):
        collect_result_metric("job", Success(1), seconds * 1_000)
    figures = get_metrics_summary()["histograms"]["result_duration_ms"]
    assert 60_000 < figures["p50"] < figures["p95"] < figures["p99"] < figures["max"] == 600_000


def test_the_maximum_of_a_script_is_known_to_the_app_that_takes_over(alone, watch):
    """Also when the script has looked at it before, and the app sees smaller ones."""
    start_monitoring()
    collect_metric("size", 321, MetricType.HISTOGRAM)
    get_metrics_summary()
    watch().obs.start()
    collect_metric("size", 1, MetricType.HISTOGRAM)
    figures = get_metrics_summary()["histograms"]["size"]
    assert (figures["count"], figures["min"], figures["max"]) == (2, 1, 321)


def test_the_maximum_is_that_of_the_window(watched):
    """What was the highest before a window begins does not count in it; results and operations know their maximum, too."""
    clock = watched.obs.status.windows._clock
    collect_result_metric("work", Success(1), 53_800)
    collect_metric("size", -7, MetricType.HISTOGRAM)
    get_metrics_summary()
    for _ in range(30):
        clock.now += 15
        collect_result_metric("work", Success(1), 1_234)
        collect_metric("size", 3, MetricType.HISTOGRAM)
        get_metrics_summary()
    hour, minutes = get_metrics_summary(), get_metrics_summary(time_range_minutes=5)
    assert (hour["operations"]["work"]["max"], minutes["operations"]["work"]["max"]) == (53_800, 1_234)
    assert (hour["histograms"]["size"]["min"], minutes["histograms"]["size"]["min"]) == (-7, 3)


def test_the_maximum_is_true_also_when_many_threads_observe(watched):
    """None of the extremes is lost between threads."""
    threads = [
        threading.Thread(target=lambda n=n: [collect_metric("size", n * 500 + i, MetricType.HISTOGRAM) for i in range(500)])
        for n in range(8)
    ]
    for thread in threads:
        thread.start()
    seen = []
    while any(thread.is_alive() for thread in threads):
        seen.append(get_metrics_summary()["histograms"].get("size", {}).get("max", 0))
    figures = get_metrics_summary()["histograms"]["size"]
    assert (figures["count"], figures["min"], figures["max"]) == (4_000, 0, 3_999)
    assert seen == sorted(seen)


@pytest.mark.parametrize(
    ("name", "collected", "shown"),
    [
        ("api.latency", 250, 250),
        ("queue.wait_ms", 250, 250),
        ("db_query_seconds", 0.25, 0.25),
        ("payload_bytes", 2_000, 2_000),
        ("upload_mb", 3, 3),
        ("load_percent", 42, 42),
        ("job.duration_ms", 5, 5),
        ("job.memory_usage_mb", -2, -2),
    ],
)
def test_a_histogram_is_found_by_the_name_it_was_collected_under(watched, name, collected, shown):
    """With the values that were collected; it is there once, so that a search for what is slow finds it once."""
    collect_metric(name, collected, MetricType.HISTOGRAM)
    histograms = get_metrics_summary()["histograms"]
    assert (histograms[name]["count"], histograms[name]["mean"]) == (1, pytest.approx(shown))
    of_all = "operation_duration_ms"
    assert [other for other, figures in histograms.items() if figures["count"] and other != of_all] == [name]


def test_shares_are_averaged_and_states_are_not_added(watched):
    """Three operations of which all went well are at 1, and two open breakers are open; what is a number of things is added."""
    for operation in "abc":
        collect_flux_result_metric(operation, FluxResult((Success(1),)), 1)
    for name in ("users", "orders"):
        collect_metric("circuit_breaker_status", 1, MetricType.GAUGE, {"name": name})
        collect_metric("pool.usage_percent", 40, MetricType.GAUGE, {"pool": name})
        collect_metric("connections", 40, MetricType.GAUGE, {"pool": name})
    gauges = get_metrics_summary()["gauges"]
    assert gauges["flux_result_success_rate"] == gauges["flux_result_success_ratio"] == 1
    assert (gauges["circuit_breaker_status"], gauges["connections"]) == (1, 80)
    assert (gauges["pool.usage_percent"], gauges["pool_usage_ratio"]) == (pytest.approx(40), pytest.approx(0.4))


@pytest.mark.parametrize("minutes", [0, -60, 200 * 60, 10**400, float("inf"), float("nan")])
async def test_any_length_of_time_has_a_summary(watched, minutes):
    """It may come from a client: too short is a minute, too long is a week."""
    collect_result_metric("work", Failure("no"), 9_000)
    summary = get_metrics_summary(time_range_minutes=minutes)
    assert summary["time_range_minutes"] in (1, 7 * 24 * 60)
    assert summary["counters"]["result_failure_total"] == 1
    assert [slow["operation"] for slow in find_slow_operations(time_range_minutes=minutes)] == ["work"]
    assert not (await check_sla_compliance(minutes)).unwrap()["sla_compliant"]
    assert await circuit_breaker_monitoring(window_minutes=minutes)


async def test_pages_answer_what_the_functions_return(watched):
    """A front end that changes from routes of its own to the built-in ones finds the same names and units."""
    collect_metric("api.latency", 250, MetricType.HISTOGRAM)
    collect_result_metric("work", Success(1), 20)
    collect_metric("system.cpu_usage", 45, MetricType.GAUGE)
    create_alert_rule("busy", "system.cpu_usage", AlertCondition.GREATER_THAN, 40)
    evaluate_alerts()
    app = FastAPI()
    watched.obs.install(app)
    async with client(app) as opened:
        pages = [(await opened.get(f"/monitoring/{page}")).json() for page in ("metrics?hours=2", "dashboard")]
    own = [json.loads(json.dumps(found)) for found in (get_metrics_summary(time_range_minutes=120), get_dashboard_data())]
    live = ("observability_", "process_", "python_")
    volatile = {"timestamp", "total_metrics", "monitoring_active"}

    def lasting(found):
        if isinstance(found, dict):
            kept = {key: value for key, value in found.items() if key not in volatile and not key.startswith(live)}
            return {key: lasting(value) for key, value in kept.items()}
        return found

    assert [lasting(page) for page in pages] == [lasting(found) for found in own]
    assert pages[0]["histograms"]["api.latency"]["mean"] == 250


@pytest.mark.parametrize("start", [False, True])
def test_a_fresh_process_has_a_summary(alone, start):
    """What snippets read is there before anything has happened, also without an `Observability`: zeros, and no errors."""
    if start:
        start_monitoring()
    summary = get_metrics_summary()
    assert summary["counters"]["result_success_total"] == summary["counters"]["result_failure_total"] == 0
    for name in ("result_duration_ms", "flux_result_duration_ms"):
        figures = summary["histograms"][name]
        assert figures == dict.fromkeys(("count", "sum", "min", "max", "mean", "p50", "p95", "p99"), 0)
    assert calculate_failure_rate(summary) == 0
    dashboard = get_dashboard_data()
    assert dashboard.keys() == {"metrics_summary", "active_alerts", "alert_rules", "system_status"}
    assert dashboard["system_status"]["monitoring_active"] is start
    assert dashboard["active_alerts"] == []
    assert find_slow_operations() == []
    assert evaluate_alerts() == []


def test_what_snippets_read_is_there_without_the_pack(watch, alone):
    """A service that has switched the metrics of results off has a summary all the same."""
    active.register(watch(metrics={"packs": ("http",)}).obs)
    summary = get_metrics_summary()
    assert summary["counters"]["result_failure_total"] == 0
    assert summary["histograms"]["result_duration_ms"]["p95"] == 0


def test_the_default_time_range_is_an_hour(watched):
    """What happened before is not in it."""
    collect_result_metric("work", Failure("no"), 1)
    get_metrics_summary()
    watched.obs.status.windows._clock.now += 61 * 60
    assert get_metrics_summary()["counters"]["result_failure_total"] == 0
    assert get_metrics_summary(time_range_minutes=120)["counters"]["result_failure_total"] == 1


@pytest.mark.parametrize(
    ("metric", "condition", "threshold", "make"),
    [
        ("result_failure_total", AlertCondition.GREATER_THAN, 2, lambda: [collect_result_metric("a", Failure(1), 1)] * 3),
        ("result_duration_ms", AlertCondition.GREATER_OR_EQUAL, 5_000, lambda: collect_result_metric("a", Success(1), 9_000)),
        ("system.cpu_usage", AlertCondition.GREATER_THAN, 90, lambda: collect_metric("system.cpu_usage", 95, MetricType.GAUGE)),
        ("free", AlertCondition.LESS_THAN, 10, lambda: collect_metric("free", 5, MetricType.GAUGE)),
        ("emails", AlertCondition.EQUAL, 12, lambda: collect_metric("emails", 4, MetricType.COUNTER)),
        ("job.duration_ms", AlertCondition.NOT_EQUAL, 1, lambda: collect_metric("job.duration_ms", 5, MetricType.HISTOGRAM)),
    ],
)
def test_a_rule_fires_once_and_tells_its_callback(watched, metric, condition, threshold, make):
    """Values are compared in the unit of the metric's name; the callback hears of it once, with all it needs."""
    heard = []
    evaluate_alerts()
    rule = create_alert_rule("rule", metric, condition, threshold, heard.append, severity="critical")
    assert rule.name == "rule"
    assert evaluate_alerts() == []
    for _ in range(3):
        make()
    evaluate_alerts()
    evaluate_alerts()
    (alert,) = told(heard)
    assert alert["name"] == "rule"
    assert (alert["metric_name"], alert["condition"], alert["threshold"]) == (metric, condition.name, threshold)
    assert alert["severity"] == "critical"
    assert alert["timestamp"].endswith("Z")
    assert condition.holds(alert["current_value"], threshold)
    (active,) = get_dashboard_data()["active_alerts"]
    assert (active["name"], active["metric_name"], active["current_value"]) == ("rule", metric, alert["current_value"])


def test_rules_show_on_the_page_of_metrics_whether_they_fire(watched):
    """1 while a rule fires, 0 while it does not, and once it is gone, by itself or with all that were added."""

    def active() -> float | None:
        return watched.obs.registry.get_sample_value("monitoring_alert_active", {"name": "rule"})

    create_alert_rule("rule", "level", AlertCondition.GREATER_THAN, 3)
    seen = []
    for level in (1, 5):
        collect_metric("level", level, MetricType.GAUGE)
        evaluate_alerts()
        seen.append(active())
    assert remove_alert_rule("rule")
    assert [*seen, active()] == [0, 1, 0]
    create_alert_rule("rule", "level", AlertCondition.GREATER_THAN, 3)
    evaluate_alerts()
    assert active() == 1
    reset_monitoring()
    assert active() == 0


def test_a_statistic_and_a_window_may_be_chosen(watched):
    """Instead of the usual figure, another; longer ago than the window is over."""
    collect_metric("latency_ms", 10, MetricType.HISTOGRAM)
    create_alert_rule("count", "latency_ms", AlertCondition.GREATER_THAN, 0, statistic="count", window_minutes=1)
    (alert,) = evaluate_alerts()
    assert (alert.state, alert.value) == ("firing", 1)
    changed = []
    for _ in range(8):
        watched.obs.status.windows._clock.now += 15
        changed += evaluate_alerts()
    assert [alert.state for alert in changed] == ["resolved"]


def test_callbacks_may_be_of_any_kind(watched):
    """Functions, coroutine functions, and lambdas that return a coroutine; one that fails harms nobody."""
    heard, done = [], threading.Event()

    async def later(alert: dict) -> None:
        await asyncio.sleep(0)
        heard.append(alert["name"])

    def fail(alert: dict) -> None:
        done.set()
        raise RuntimeError("no network")

    watched.obs.status.notifications.retry_seconds = 0.01
    collect_metric("level", 5, MetricType.GAUGE)
    for name, callback in (("coroutine", later), ("lambda", lambda alert: later(alert)), ("failing", fail), ("none", None)):
        create_alert_rule(name, "level", AlertCondition.GREATER_THAN, 1, callback)
    evaluate_alerts()
    assert sorted(told(heard)) == ["coroutine", "lambda"]
    assert done.is_set()
    assert watched.obs.internal_errors.counts == {"AlertCallback": 1}


@pytest.mark.parametrize(
    ("metric", "problem"),
    [
        ("result_failure_totl", "there is no metric result_failure_totl; the nearest name is result_failure_total"),
        ("api.latenci", "there is no metric api_latenci; the nearest name is api.latency"),
        (
            "h.duration_ms",
            'there is no metric operation_duration_seconds{operation="h"}; the nearest name is big.duration_ms',
        ),
        ("api.latency", None),
        ("big.duration_ms", None),
        ("orders_by_category", None),
        ("result_duration_ms", None),
        ("flux_result_failure_items", None),
    ],
)
async def test_a_name_that_nobody_collects_is_said(watched, metric, problem):
    """With the name that may be meant; a name that somebody collects is fine in each of its spellings."""
    collect_metric("api.latency", 250, MetricType.HISTOGRAM)
    collect_metric("orders_by_category", 1, MetricType.COUNTER)
    async with performance_tracker("big"):
        pass
    evaluate_alerts()
    create_alert_rule("rule", metric, AlertCondition.GREATER_THAN, 1)
    (shown,) = get_dashboard_data()["alert_rules"]
    assert shown["problem"] == problem
    assert watched.obs.registry.get_sample_value("observability_rules_without_data") == (problem is not None)


def test_a_new_rule_says_how_often_it_would_have_fired(watched):
    """From what the windows still hold."""
    for level in (1, 5, 1, 5, 1):
        watched.obs.status.windows._clock.now += 15
        collect_metric("level", level, MetricType.GAUGE)
        evaluate_alerts()
    create_alert_rule("rule", "level", AlertCondition.GREATER_THAN, 3)
    assert [rule["past_firings"] for rule in get_dashboard_data()["alert_rules"]] == [2]


def test_the_default_rules_do_not_take_the_place_of_ones_own(watched):
    """A rule that was made before keeps its threshold and its callback; one that is made later takes the place."""
    create_alert_rule("high_error_rate", "result_failure_total", AlertCondition.GREATER_THAN, 5, told)
    setup_default_alerts()
    create_alert_rule("slow_api_response", "result_duration_ms", AlertCondition.GREATER_THAN, 7, told)
    setup_default_alerts()
    thresholds = {rule["name"]: (rule["threshold"], rule["callback"]) for rule in get_dashboard_data()["alert_rules"]}
    assert thresholds["high_error_rate"] == (5, ["told"])
    assert thresholds["slow_api_response"] == (7, ["told"])
    assert thresholds["critical_system_failure"][0] == 100


@pytest.mark.parametrize(
    "metric", ["result_failure_total", "flux_result_success_rate", "active_connections", "big.memory_usage_mb"]
)
def test_a_statistic_that_a_metric_has_not_is_refused(watched, metric):
    """Where the rule is made, for metrics that are known by then."""
    collect_metric("active_connections", 1, MetricType.GAUGE)
    evaluate_alerts()
    with pytest.raises(SettingsError, match="which has no p95: use"):
        create_alert_rule("rule", metric, AlertCondition.GREATER_THAN, 1, statistic="p95")


@dataclass(frozen=True)
class Recorder:
    """A callback with a field that has no hash, so that it has none, although its class defines one."""

    heard: list[str]

    def __call__(self, alert: dict) -> None:
        """Keep the name."""
        self.heard.append(alert["name"])


def test_a_callback_needs_no_hash(watched):
    """It is known by its identity then; two that are equal are two."""
    first, second = Recorder([]), Recorder([])
    collect_metric("level", 5, MetricType.GAUGE)
    for name, callback in (("a", first), ("b", second), ("c", first)):
        create_alert_rule(name, "level", AlertCondition.GREATER_THAN, 1, callback)
    evaluate_alerts()
    assert told([first.heard, second.heard]) == [["a", "c"], ["b"]]
    assert watched.obs.internal_errors.counts == {}


def test_a_rule_of_the_same_name_takes_the_place(watched):
    """There is one rule of a name; it can be removed, once."""
    create_alert_rule("rule", "a", AlertCondition.GREATER_THAN, 1)
    create_alert_rule("rule", "b", AlertCondition.LESS_THAN, 2)
    (rule,) = get_dashboard_data()["alert_rules"]
    assert (rule["metric_name"], rule["condition"], rule["threshold"], rule["window_minutes"]) == ("b", "LESS_THAN", 2, 5)
    assert remove_alert_rule("rule")
    assert not remove_alert_rule("rule")
    assert rule_names() == []


def test_callbacks_are_shown_by_name(watched):
    """A dashboard is data, which has no place for functions."""
    create_alert_rule("rule", "a", AlertCondition.GREATER_THAN, 1, callback=told)
    dashboard = json.loads(json.dumps(get_dashboard_data()))
    assert dashboard["alert_rules"][0]["callback"] == ["told"]


@pytest.mark.parametrize(
    "wrong",
    [{"severity": "bad"}, {"statistic": "p200x"}, {"window_minutes": 0}, {"cooldown_seconds": -1}, {"condition": "about"}],
)
def test_impossible_rules_are_refused(watched, wrong):
    """Where they are written, and not when they are judged."""
    with pytest.raises(ValueError):
        create_alert_rule(**{"name": "rule", "metric_name": "a", "condition": AlertCondition.EQUAL, "threshold": 1, **wrong})
    with pytest.raises(SettingsError):
        create_alert_rule("", "a", AlertCondition.EQUAL, 1)


def test_default_rules_can_be_added(watched):
    """Those of the package, in place of the same names."""
    setup_default_alerts()
    setup_default_alerts()
    names = rule_names()
    assert {"high_error_rate", "slow_api_response", "critical_system_failure"} <= set(names)
    assert len(set(names)) == len(names)


def test_a_reset_removes_the_default_rules_that_were_added(watched):
    """Those of the function, not those of the settings."""
    setup_default_alerts()
    reset_monitoring()
    assert rule_names() == []


def test_a_reset_leaves_the_default_rules_of_the_settings(alone, watch):
    """They were there before anybody added them."""
    active.register(watch(alerts={"defaults": True}).obs)
    before = rule_names()
    setup_default_alerts()
    reset_monitoring()
    assert rule_names() == before != []


async def test_rules_wait_for_the_app(alone):
    """A module that is imported before the app starts may make rules; each app that starts has them."""
    create_alert_rule("early", "a", AlertCondition.GREATER_THAN, 1)
    create_alert_rule("removed", "a", AlertCondition.GREATER_THAN, 1)
    assert remove_alert_rule("removed")
    for _ in range(2):
        obs = Observability(Settings.from_env())
        async with obs:
            assert [name for name in rule_names() if name in ("early", "removed")] == ["early"]
    reset_monitoring()
    assert "early" not in [rule.name for rule in obs.status.alerts.rules]


def test_default_rules_wait_for_the_app(alone, watch):
    """They are added to one that was told to have none."""
    setup_default_alerts()
    watched = watch(alerts={"defaults": False})
    active.register(watched.obs)
    assert "high_error_rate" in rule_names()


def test_a_script_has_a_monitoring_of_its_own(alone):
    """Without an app, starting makes one; starting again changes nothing; after stopping nothing runs and nothing is kept."""
    others = set(threading.enumerate())
    start_monitoring(interval_seconds=60)
    own = active.active_observability()
    start_monitoring()
    assert active.active_observability() is own
    assert own.status.interval_seconds == 60
    collect_result_metric("work", Success(1), 5)
    assert get_metrics_summary()["counters"]["result_success_total"] == 1
    assert get_dashboard_data()["system_status"]["total_metrics"] > 0
    stop_monitoring()
    stop_monitoring()
    assert active.active_observability() is None
    assert not [thread for thread in set(threading.enumerate()) - others if thread.name.startswith("sage-obs")]
    with pytest.raises(SettingsError):
        start_monitoring(interval_seconds=0)


def test_a_script_has_its_signal_back(alone):
    """However often monitoring is started and stopped, SIGTERM is handled by whom it was handled by before."""
    before = signal.signal(signal.SIGTERM, theirs := (lambda *_: None))
    try:
        for _ in range(2):
            start_monitoring()
            assert signal.getsignal(signal.SIGTERM) is not theirs
            stop_monitoring()
            assert signal.getsignal(signal.SIGTERM) is theirs
    finally:
        signal.signal(signal.SIGTERM, before)


async def test_an_app_takes_over_from_the_script(alone):
    """What was started before the app steps back, and its rules go on in the app's."""
    start_monitoring()
    own = active.active_observability()
    create_alert_rule("early", "a", AlertCondition.GREATER_THAN, 1)
    obs = Observability(Settings.from_env())
    async with obs:
        assert active.active_observability() is obs
        assert not own.status.is_active
        assert "early" in rule_names()
        collect_metric("a", 5, MetricType.GAUGE)
        assert obs.registry.get_sample_value("a") == 5
    assert active.active_observability() is None


def test_default_rules_of_a_script_go_on_in_the_app(alone, watch, monkeypatch):
    """They are built anew, so that they notify by the settings of the app."""
    monkeypatch.setenv("SAGE_OBS_ALERTS__DEFAULTS", "false")
    start_monitoring()
    setup_default_alerts()
    active.register(watch(alerts={"defaults": False}).obs)
    assert "high_error_rate" in rule_names()


def test_the_monitoring_of_an_app_can_be_stopped_and_started(watched):
    """The thread of an app's own is what is meant while there is an app."""
    assert not get_dashboard_data()["system_status"]["monitoring_active"]
    start_monitoring()
    start_monitoring()
    assert get_dashboard_data()["system_status"]["monitoring_active"]
    stop_monitoring()
    assert not get_dashboard_data()["system_status"]["monitoring_active"]


async def test_performance_is_tracked_also_of_what_fails(watched):
    """A block is an operation with its duration, and the change of memory; what it raises comes out."""
    async with performance_tracker("big"):
        # Larger than what the C library keeps for itself once it is freed.
        kept = bytearray(64_000_000)
    with pytest.raises(LookupError):
        async with performance_tracker("big"):
            del kept
            raise LookupError
    summary = get_metrics_summary()
    assert summary["histograms"]["big.duration_ms"]["count"] == 2
    memory = summary["histograms"]["big.memory_usage_mb"]
    assert memory["count"] == 2
    assert memory["min"] < 0 < memory["max"]
    assert summary["gauges"]["big.memory_usage_mb"] < 0
    assert watched.value("operations_total", operation="big", status="failure") == 1
    assert 5 < get_memory_usage() < 100_000


def test_memory_is_0_where_the_system_does_not_tell(monkeypatch, tmp_path):
    """There is no `/proc` everywhere."""
    monkeypatch.setattr(memory, "STATM", tmp_path / "statm")
    assert get_memory_usage() == 0


async def test_service_levels_are_checked(watched, monkeypatch):
    """All targets are held against the operations of the last hour; violations are named, and told."""
    sent = []

    async def send(violations) -> None:
        sent.append(violations)

    monkeypatch.setattr(notifiers, "send_sla_violation_alert", send)
    quiet = (await check_sla_compliance()).value
    assert (quiet["sla_compliant"], quiet["violations"], sent) == (True, [], [])
    for _ in range(9):
        collect_result_metric("work", Success(1), 2_000)
    collect_result_metric("work", Failure("no"), 2_000)
    found = (await check_sla_compliance(targets=SLA_TARGETS)).value
    assert not found["sla_compliant"]
    assert [violation.split()[0] for violation in found["violations"]] == ["availability", "error_rate", "response_time_p95_ms"]
    assert found["actual"]["error_rate"] == pytest.approx(10)
    assert sent == [found["violations"]]
    easy = (await check_sla_compliance(targets={"error_rate": 50, "response_time_p95": 60_000})).value
    assert easy["sla_compliant"]


async def test_service_levels_and_summaries_have_the_same_figures(watched):
    """No percentile is above the longest run; the rule estimates it from the buckets, as Prometheus does."""
    for _ in range(10):
        collect_result_metric("work", Success(1), 6_500)
    actual, summary = (await check_sla_compliance()).value["actual"], get_metrics_summary()["histograms"]["result_duration_ms"]
    assert actual["response_time_p95_ms"] == summary["p95"] == summary["max"] == actual["max_response_ms"] == 6_500
    estimated = watched.obs.status.sla.compliance(60, RESULTS, as_prometheus=True).actual["response_time_p95_ms"]
    assert estimated > 6_500


async def test_a_notifier_that_fails_does_not_fail_the_check(watched, monkeypatch):
    """Its failure is counted."""

    async def fail(_: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(notifiers, "send_sla_violation_alert", fail)
    collect_result_metric("work", Failure("no"), 1)
    assert not (await check_sla_compliance()).value["sla_compliant"]
    assert watched.obs.internal_errors.counts == {"check_sla_compliance": 1}


async def test_without_an_observability_service_levels_are_unknown(alone):
    """That is a Failure, not a promise kept."""
    assert (await check_sla_compliance()).is_failure()
    assert not await circuit_breaker_monitoring()


def breaker(watched, name: str) -> float | None:
    """Read how a circuit breaker is shown."""
    return watched.obs.registry.get_sample_value("circuit_breaker_status", {"name": name})


async def test_the_circuit_breaker_opens_when_most_fails(watched):
    """More than half of five minutes: the gauge is 1, and one rule tells the incident team, however often it opens."""
    evaluate_alerts()
    for _ in range(2):
        collect_result_metric("work", Success(1), 1)
        collect_result_metric("work", Failure("no"), 1)
    assert calculate_failure_rate(get_metrics_summary()) == 50
    assert not await circuit_breaker_monitoring()
    assert breaker(watched, "user_service") is None
    collect_result_metric("work", Failure("no"), 1)
    assert await circuit_breaker_monitoring()
    assert await circuit_breaker_monitoring()
    assert breaker(watched, "user_service") == 1
    assert rule_names() == ["circuit_breaker_activated"]
    assert [alert.state for alert in evaluate_alerts()] == ["firing"]
    await reset_circuit_breaker("user_service")
    assert breaker(watched, "user_service") == 0
    assert [alert.state for alert in evaluate_alerts()] == ["resolved"]
    await activate_circuit_breaker("other")
    assert breaker(watched, "other") == 1


@pytest.mark.parametrize("guide", [True, False])
async def test_each_circuit_breaker_that_opens_is_told_by_its_name(watch, alone, guide):
    """A second one too, with the package's rule or the guide's own; each closes by itself, and the states are not added up."""
    with serving(Webhook()) as hook:
        settings = {"pagerduty_routing_key": "k" * 32, "pagerduty_url": hook.url}
        obs = watch(notify=settings, alerts={"defaults": not guide}, status_clock=Clock()).obs
        active.register(obs)
        if guide:
            create_alert_rule(
                "circuit_breaker_activated", "circuit_breaker_status", AlertCondition.EQUAL, 1.0, notifiers.notify_incident_team
            )
        for name in ("users", "orders"):
            await activate_circuit_breaker(name)
            evaluate_alerts()
        collect_metric("circuit_breaker_status", 2, MetricType.GAUGE, labels={"name": "half open"})
        firing = {alert["labels"]["name"] for alert in get_dashboard_data()["active_alerts"]}
        await reset_circuit_breaker("users")
        resolved = [alert.labels["name"] for alert in evaluate_alerts()]
        assert await asyncio.to_thread(obs.status.notifications.wait, PATIENCE_SECONDS)
    assert (firing, resolved) == ({"users", "orders"}, ["users"])
    events = [(told["event_action"], told["payload"]["custom_details"]["labels"]["name"]) for told in hook.told]
    assert events == [("trigger", "users"), ("trigger", "orders"), *([] if guide else [("resolve", "users")])]
    assert guide or "the circuit breaker orders is open" in hook.told[1]["payload"]["summary"]
    assert len({told["dedup_key"] for told in hook.told}) == 2


async def test_a_circuit_breaker_without_any_rule_brings_one(watched):
    """It notifies of the end, too; a rule of that name which is there already stays as it is."""
    await activate_circuit_breaker("users")
    (rule,) = watched.obs.status.alerts.rules
    assert (rule.name, rule.expression.by, rule.callbacks) == ("circuit_breaker_activated", ("name",), rule.resolved_callbacks)
    mine = create_alert_rule("circuit_breaker_activated", "circuit_breaker_status", AlertCondition.EQUAL, 1.0, print)
    await activate_circuit_breaker("orders")
    assert watched.obs.status.alerts.rules == [mine]


def test_a_thousand_fast_runs_do_not_hide_a_slow_operation(watched):
    """The rule of the package, and the guide's own, are by operation, and name it; a worst ratio is found among good ones."""
    setup_default_alerts()
    create_alert_rule("mine", "result_duration_ms", AlertCondition.GREATER_THAN, 5_000)
    create_alert_rule("poor batch", "flux_result_success_rate", AlertCondition.LESS_THAN, 0.5)
    evaluate_alerts()
    for _ in range(1_000):
        collect_result_metric("fast", Success(1), 10)
    for _ in range(20):
        collect_result_metric("slow", Success(1), 20_000)
    collect_flux_result_metric("good", FluxResult((Success(1),)), 1)
    collect_flux_result_metric("bad", FluxResult((Success(1), Failure(1), Failure(2))), 1)
    firing = {(alert.rule.name, alert.labels["operation"]) for alert in evaluate_alerts() if "operation" in alert.labels}
    assert firing == {("slow_api_response", "slow"), ("mine", "slow"), ("poor batch", "bad")}


@pytest.mark.parametrize("kind", ["async", "sync", "lambda", "task"])
async def test_what_a_handler_passes_on_keeps_the_identity_of_its_alert(watch, alone, kind):
    """The guide's handler names only metric, value, threshold and time: on call, two alerts are two, as severe as they are."""

    async def handle(alert: dict) -> None:
        known = {name: alert[name] for name in ("current_value", "threshold", "timestamp")}
        await notifiers.escalate_to_oncall({"metric": alert["metric_name"], **known})

    async def in_a_task(alert: dict) -> None:
        await asyncio.create_task(handle(alert))

    handlers = {
        "async": handle,
        "sync": lambda alert: asyncio.run(handle(alert)),
        "lambda": lambda a: handle(a),
        "task": in_a_task,
    }
    with serving(Webhook()) as hook:
        settings = {"pagerduty_routing_key": "k" * 32, "pagerduty_url": hook.url}
        obs = watch(notify=settings, alerts={"defaults": False}).obs
        async with obs:
            evaluate_alerts()
            for name, metric, severity in (("failures", "failure_total", "critical"), ("slow", "duration_ms", "warning")):
                create_alert_rule(name, f"result_{metric}", AlertCondition.GREATER_THAN, 1, handlers[kind], severity=severity)
            for _ in range(5):
                collect_result_metric("x", Failure(1), 9_000)
            evaluate_alerts()
            assert await asyncio.to_thread(obs.status.notifications.wait, PATIENCE_SECONDS)
    told = sorted(hook.told, key=lambda one: one["dedup_key"])
    assert [one["payload"]["severity"] for one in told] == ["critical", "warning"]
    assert [one["payload"]["custom_details"]["name"] for one in told] == ["failures", "slow"]
    assert len({one["dedup_key"] for one in told}) == 2
    assert all(one["payload"]["custom_details"]["since"] for one in told)


async def test_a_message_about_something_else_has_its_own_identity(watch, alone):
    """Inside a handler as well: another metric, or another name, is another incident."""

    async def handle(alert: dict) -> None:
        alert.clear()
        for message in ({"metric": "disk_bytes"}, {"name": "backup"}, {"current_value": 1}):
            await notifiers.create_incident_ticket(message)

    with serving(Webhook()) as hook:
        obs = watch(notify={"webhook_url": hook.url}, alerts={"defaults": False}).obs
        async with obs:
            create_alert_rule("load", "load", AlertCondition.GREATER_THAN, 1, handle, severity="critical")
            collect_metric("load", 3, MetricType.GAUGE)
            evaluate_alerts()
            evaluate_alerts()
            assert await asyncio.to_thread(obs.status.notifications.wait, PATIENCE_SECONDS)
            await notifiers.create_incident_ticket({"metric": "disk_bytes"})
    labels = [told["alerts"][0]["labels"] for told in hook.told]
    assert [one["alertname"] for one in labels] == ["disk_bytes", "backup", "load", "disk_bytes"]
    assert [one.get("severity") for one in labels] == [None, None, "critical", None]


def test_slow_operations_are_found(watched):
    """By their 95th percentile in milliseconds, the slowest first."""
    for operation, milliseconds in (("fast", 10), ("slow", 8_000), ("slower", 20_000)):
        for _ in range(3):
            collect_result_metric(operation, Success(1), milliseconds)
    found = find_slow_operations(threshold_ms=5_000)
    assert [slow["operation"] for slow in found] == ["slower", "slow"]
    assert found[0].keys() == {"operation", "p95", "max", "count"}
    assert found[1]["p95"] > 5_000
    assert len(find_slow_operations(threshold_ms=1)) == 3


@pytest.mark.parametrize("name", notifiers.__all__)
@pytest.mark.parametrize("app", [True, False])
async def test_notifiers_take_what_snippets_give_them(watch, alone, name, app):
    """An alert, another dictionary, a text or a list of texts; what is not configured is logged."""
    if app:
        watched = watch()
        watched.obs.start()
    for alert in ({"name": "rule", "severity": "warning"}, {"metric": "m", "current_value": 2}, "text", ["one", "two"]):
        await getattr(notifiers, name)(alert)
    if app:
        said = [line["message"] for line in watched.lines if "not configured" in line["message"]]
        assert len(said) in (4, 8)
        assert any("one; two" in message for message in said)


async def test_a_dictionary_of_ones_own_reaches_the_webhook(watch, alone):
    """One that is no alert has a name and its metric there."""
    with serving(Webhook()) as hook:
        active.register(watch(notify={"webhook_url": hook.url}).obs)
        await notifiers.create_incident_ticket({"metric": "result_failure_total", "current_value": 101})
        await notifiers.create_incident_ticket(["one", "two"])
    first, second = (told["alerts"][0] for told in hook.told)
    assert (first["labels"]["alertname"], first["value"]) == ("result_failure_total", 101)
    assert second["annotations"] == {"summary": "one; two"}


def test_stopping_inside_a_loop_does_not_hang(alone):
    """The loop of the caller waits, and whatever closes needs none."""

    async def run() -> None:
        start_monitoring()
        stop_monitoring()

    for backend in ("asyncio", "trio"):
        anyio.run(run, backend=backend)
        assert active.active_observability() is None

"""What scripts, job workers and forked children record and judge, and what an application takes over from before its start."""

import asyncio
import json
import threading

import forked
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from receivers import Webhook, serving
from support import PATIENCE_SECONDS, no_threads

from sage_fastapi_obs import Observability, Settings, active
from sage_fastapi_obs.alerting.expressions import Stat
from sage_fastapi_obs.alerting.rules import AlertRule
from sage_fastapi_obs.monitoring import process_state
from sage_fastapi_obs.monitoring.metrics import (
    AlertCondition,
    Failure,
    MetricType,
    Success,
    collect_metric,
    collect_result_metric,
    create_alert_rule,
    evaluate_alerts,
    get_metrics_summary,
    performance_tracker,
    reset_monitoring,
    start_monitoring,
    stop_monitoring,
)

MORE = AlertCondition.GREATER_THAN
SCRIPT = """
import asyncio, multiprocessing, os, sys, threading, time, warnings
# Python 3.12 warns of any fork beside threads.
warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
from sage_fastapi_obs.monitoring import *
from sage_fastapi_obs.monitoring import notifiers


def heard(alert):
    print(alert["name"], alert["state"], int(alert["current_value"]), flush=True)


def fail(times):
    for _ in range(times):
        collect_result_metric("work", Failure("no"), 1)


def job():
    start_monitoring(300)
    evaluate_alerts()
    create_alert_rule("failures", "result_failure_total", AlertCondition.GREATER_THAN, 2, heard)
    fail(3)


def fork(work):
    child = multiprocessing.get_context("fork").Process(target=work)
    child.start()
    child.join()


def report_nothing():
    collect_result_metric("work", Failure("no"), 1)
    fail(2)
"""


@pytest.fixture
def alone(monkeypatch):
    """Be a process without any `Observability`."""
    monkeypatch.setattr(active, "_started", [])
    monkeypatch.setattr(active, "_callbacks", [])
    monkeypatch.setenv("SAGE_OBS_LOGGING__ENABLED", "false")
    yield
    reset_monitoring()


def script(source: str, **env: str) -> list[str]:
    """Run a script that watches itself; return what it printed, line by line."""
    environment = {"SAGE_OBS_ALERTS__DEFAULTS": "false", "SAGE_OBS_LOGGING__LEVEL": "error", **env}
    done = forked.run(SCRIPT + source, **environment)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout.splitlines()


def samples(obs: Observability, names: set[str]) -> dict[tuple[object, ...], float]:
    """Read the series of some metrics from the registry."""
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in obs.registry.collect()
        if family.name in names
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


collected = st.tuples(
    st.sampled_from([("jobs_total", MetricType.COUNTER), ("depth", MetricType.GAUGE), ("wait_ms", MetricType.HISTOGRAM)]),
    st.floats(0, 1e6),
    st.sampled_from(["a", "b", "\u00e9"]),
)


@given(before=st.lists(collected), after=st.lists(collected))
def test_an_application_goes_on_from_what_was_collected_before_its_start(before, after):
    """The registry of the application has the same series as one that has seen everything, and summaries know the names."""

    def collect(values) -> None:
        for (name, kind), value, label in values:
            collect_metric(name, value, kind, {"queue": label})
            collect_result_metric(label, Success(1) if value > 10 else Failure("no"), value)

    names = {"jobs", "depth", "wait_seconds", "result_success", "result_failure", "result_duration_seconds"}
    found = []
    with pytest.MonkeyPatch.context() as patch:
        for in_one in (True, False):
            patch.setattr(active, "_started", [])
            patch.setattr(active, "_callbacks", [])
            patch.setenv("SAGE_OBS_LOGGING__ENABLED", "false")
            obs = Observability(Settings(logging={"enabled": False}))
            (obs.start if in_one else start_monitoring)()
            collect(before)
            if not in_one:
                obs.start()
            collect(after)
            summary = get_metrics_summary()
            named = {name: summary["counters"].get(name, summary["gauges"].get(name)) for name, _ in collected_names(before)}
            histograms = {name: summary["histograms"].get(name) for name in ("wait_ms", "result_duration_ms")}
            found.append((samples(obs, names), named, histograms))
            obs.abandon()
            reset_monitoring()
    (expected, expected_names, expected_histograms), (got, got_names, got_histograms) = found
    for name, figures in expected_histograms.items():
        assert got_histograms[name] == (figures and pytest.approx(figures))
    assert got == pytest.approx(expected)
    assert got_names == pytest.approx(expected_names)


def collected_names(values) -> set[tuple[str, MetricType]]:
    """Return what has one figure in a summary."""
    return {what for what, _, _ in values if what[1] is not MetricType.HISTOGRAM}


def test_names_written_alike_are_kept_apart_across_the_start(alone):
    """What the script called one name, and the application another, stay two metrics."""
    start_monitoring()
    collect_metric("depth-one", 1, MetricType.GAUGE)
    obs = Observability(Settings(logging={"enabled": False}))
    obs.start()
    collect_metric("depth one", 2, MetricType.GAUGE)
    gauges = get_metrics_summary()["gauges"]
    assert (gauges["depth-one"], gauges["depth one"]) == (1, 2)
    obs.abandon()


async def test_what_a_script_recorded_is_risen_in_the_application(alone):
    """Also where the application has a registry of its own, whose first numbers are otherwise where counting begins."""
    start_monitoring()
    collect_metric("boot_total", 1, MetricType.COUNTER)
    async with performance_tracker("warm"):
        pass
    async with Observability(Settings(logging={"enabled": False}), registry=CollectorRegistry()) as obs:
        summary = get_metrics_summary()
        assert summary["counters"]["boot_total"] == 1
        assert summary["histograms"]["warm.duration_ms"]["count"] == 1
        assert obs.internal_errors.counts == {}


async def test_a_metric_that_the_application_has_otherwise_is_counted_and_left(alone):
    """Other buckets cannot take the numbers; the rest is taken over."""
    start_monitoring()
    collect_metric("a_total", 1, MetricType.COUNTER)
    collect_metric("b_total", 1, MetricType.COUNTER)
    obs = Observability(Settings(logging={"enabled": False}))
    obs.collected.collect("a", 1, MetricType.GAUGE, {})
    obs.instruments.get("a")
    own = active.active_observability()
    other = own.instruments.get("a_total").metric
    obs.instruments.add([type(other)("a_total", "gauge", "another")])
    async with obs:
        assert obs.registry.get_sample_value("b_total") == 1
        assert obs.registry.get_sample_value("a_total") == 0
    assert obs.internal_errors.counts == {"Instruments": 1}


async def test_without_metrics_nothing_is_taken_over(alone):
    """An application that has switched them off has none."""
    start_monitoring()
    collect_metric("boot_total", 1, MetricType.COUNTER)
    async with Observability(Settings(logging={"enabled": False}, metrics={"enabled": False})) as obs:
        assert obs.registry.get_sample_value("boot_total") is None
        assert obs.internal_errors.counts == {}


async def test_an_alert_that_the_script_told_of_is_not_told_again(alone, monkeypatch):
    """It goes on in the application, where it ends."""
    monkeypatch.setenv("SAGE_OBS_ALERTS__DEFAULTS", "false")
    heard: list[str] = []
    rule = AlertRule(
        name="deep",
        expression=Stat("depth"),
        condition=MORE,
        threshold=3,
        callbacks=(lambda alert: heard.append(alert["state"]),),
        resolved_callbacks=(lambda alert: heard.append(alert["state"]),),
    )
    start_monitoring(300)
    process_state.add_rule(rule)
    collect_metric("depth", 5, MetricType.GAUGE)
    evaluate_alerts()
    assert active.active_observability().status.notifications.wait(PATIENCE_SECONDS)
    async with Observability(Settings(logging={"enabled": False}, alerts={"defaults": False})) as obs:
        evaluate_alerts()
        assert [alert.rule.name for alert in obs.status.alerts.alerts("firing")] == ["deep"]
        collect_metric("depth", 1, MetricType.GAUGE)
        evaluate_alerts()
        obs.status.notifications.loop = None
        assert obs.status.notifications.wait(PATIENCE_SECONDS)
    assert heard == ["firing", "resolved"]


async def test_what_waits_for_a_callback_is_told_by_the_application(alone, monkeypatch):
    """A callback is slow when the application starts: the second alert waits behind the first, and arrives all the same."""
    monkeypatch.setenv("SAGE_OBS_ALERTS__DEFAULTS", "false")
    heard, begun, goes_on = [], threading.Event(), threading.Event()

    def slow(alert: dict) -> None:
        heard.append(alert["name"])
        begun.set()
        goes_on.wait(PATIENCE_SECONDS)

    start_monitoring(300)
    for name in ("first", "second"):
        create_alert_rule(name, "depth", MORE, 3, slow)
    collect_metric("depth", 5, MetricType.GAUGE)
    await asyncio.to_thread(evaluate_alerts)
    assert await asyncio.to_thread(begun.wait, PATIENCE_SECONDS)
    async with Observability(Settings(logging={"enabled": False}, alerts={"defaults": False})) as obs:
        goes_on.set()
        assert await asyncio.to_thread(obs.status.notifications.wait, PATIENCE_SECONDS)
        assert sorted(heard) == ["first", "second"]


def test_rules_are_judged_when_monitoring_stops(alone):
    """What came after the last evaluation is told of before the call returns, also where no thread can be started."""
    heard: list[float] = []
    for is_starved in (False, True):
        start_monitoring(300)
        evaluate_alerts()
        create_alert_rule("failures", "result_failure_total", MORE, 2, lambda alert: heard.append(alert["current_value"]))
        for _ in range(3):
            collect_result_metric("work", Failure("no"), 1)
        with no_threads() if is_starved else pytest.MonkeyPatch.context():
            stop_monitoring()
        reset_monitoring()
    assert heard == [3, 3]


async def test_stopping_in_a_loop_calls_async_callbacks_elsewhere(alone):
    """The loop waits for the call, so that the callback cannot run there."""
    heard: list[str] = []

    async def handler(alert: dict) -> None:
        heard.append(alert["name"])

    start_monitoring(300)
    evaluate_alerts()
    create_alert_rule("failures", "result_failure_total", MORE, 0, handler)
    collect_result_metric("work", Failure("no"), 1)
    stop_monitoring()
    assert heard == ["failures"]


@pytest.mark.parametrize(
    ("ending", "expected"),
    [
        ("job()", ["failures firing 3"]),
        ("job(); sys.exit()", ["failures firing 3"]),
        ("job(); stop_monitoring()", ["failures firing 3"]),
        ("asyncio.run(asyncio.to_thread(job))", ["failures firing 3"]),
        ("threading.Thread(target=lambda: (time.sleep(0.3), job())).start()", ["failures firing 3"]),
        ("fork(job)", ["failures firing 3"]),
        (
            "fork(job); job()",
            ["failures firing 3"] * 2,
        ),
        ("job(); stop_monitoring(); start_monitoring(300)", ["failures firing 3"]),
    ],
)
def test_rules_are_judged_when_a_process_ends(ending, expected):
    """Scripts and job workers last less than the interval, so that the last look is the only one."""
    assert script(f"if __name__ == '__main__':\n    {ending}\n") == expected


def test_the_last_alert_reaches_a_server_by_its_name():
    """A name is looked up in a thread, which a process that ends does not start."""
    with serving(Webhook()) as hook:
        script(
            "job()\ncreate_alert_rule('hook', 'result_failure_total', AlertCondition.GREATER_THAN, 2, "
            "notifiers.create_incident_ticket)",
            SAGE_OBS_NOTIFY__WEBHOOK_URL=hook.url.replace("127.0.0.1", "localhost"),
        )
    assert [told["alerts"][0]["labels"]["alertname"] for told in hook.told] == ["hook"]


def test_a_forked_child_says_once_that_nobody_sees_what_it_records():
    """Each child that records something; none that records nothing, and none that is watched itself."""
    lines = script(
        """
if __name__ == '__main__':
    start_monitoring(300)
    for work in (report_nothing, report_nothing, bool, job):
        fork(work)
    print(get_metrics_summary()["counters"]["result_failure_total"])
""",
        SAGE_OBS_LOGGING__LEVEL="warn",
        SAGE_OBS_LOGGING__FORMAT="json",
    )
    told = [json.loads(line)["message"] for line in lines if line.startswith("{")]
    assert len([message for message in told if "was forked" in message]) == 2
    assert lines[-1] == "0.0"


def test_a_child_does_not_end_the_alert_of_its_parent():
    """It begins with the parent's alerts, tells nobody of them, and tells of its own."""
    lines = script(
        """
from sage_fastapi_obs.alerting.expressions import Stat
from sage_fastapi_obs.alerting.rules import AlertRule
from sage_fastapi_obs.monitoring import process_state


def say(alert):
    print("parent" if os.getpid() == parent else "child", alert["state"], flush=True)


def look():
    evaluate_alerts()
    process_state.active_observability().status.notifications.wait(300)


parent = os.getpid()
start_monitoring(300)
process_state.add_rule(AlertRule(name="r", expression=Stat("act"), condition=AlertCondition.GREATER_THAN, threshold=0,
    cooldown_seconds=0, callbacks=(say,), resolved_callbacks=(say,)))
collect_metric("act", 1, MetricType.GAUGE)
look()
if os.fork() == 0:
    start_monitoring(300)
    for level in (1, 0, 1, 0):
        collect_metric("act", level, MetricType.GAUGE)
        look()
    os._exit(0)
os.wait()
collect_metric("act", 0, MetricType.GAUGE)
look()
""",
        SAGE_OBS_LOGGING__ENABLED="false",
    )
    assert lines == ["parent firing", "child firing", "child resolved", "parent resolved"]


async def test_async_callbacks_run_on_the_loop_that_records(alone):
    """Also where monitoring was started before there was a loop, as in a module that an application imports."""
    loops: list[object] = []

    async def handler(_alert: dict) -> None:
        loops.append(asyncio.get_running_loop())

    def begin() -> None:
        start_monitoring(300)
        evaluate_alerts()
        create_alert_rule("failures", "result_failure_total", MORE, 0, handler)

    await asyncio.to_thread(begin)
    collect_result_metric("work", Failure("no"), 1)
    await asyncio.to_thread(evaluate_alerts)
    await asyncio.to_thread(process_state.active_observability().status.notifications.wait, PATIENCE_SECONDS)
    assert loops == [asyncio.get_running_loop()]

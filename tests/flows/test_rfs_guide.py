"""The uses that the guide to RFS monitoring shows, with only the import root changed, each from its call to what it leaves."""

import asyncio
import json
import time
from dataclasses import dataclass

import pytest
from fastapi import FastAPI
from support import PATIENCE_SECONDS, client

from sage_fastapi_obs import active
from sage_fastapi_obs.monitoring.metrics import (
    AlertCondition,
    FluxResult,
    MetricType,
    MonoResult,
    Result,
    Success,
    calculate_failure_rate,
    collect_flux_result_metric,
    collect_metric,
    collect_result_metric,
    create_alert_rule,
    evaluate_alerts,
    get_dashboard_data,
    get_memory_usage,
    get_metrics_summary,
    performance_tracker,
    reset_monitoring,
    setup_default_alerts,
    start_monitoring,
)
from sage_fastapi_obs.monitoring.notifiers import (
    create_incident_ticket,
    escalate_to_oncall,
    notify_incident_team,
    send_email_alert,
    send_sla_violation_alert,
    send_slack_alert,
    send_slack_notification,
)
from sage_fastapi_obs.monitoring.result_logging import (
    CorrelationContext,
    Failure,
    LogLevel,
    configure_result_logging,
    create_logging_mono,
    get_correlation_id,
    log_result_operation,
    query_logs_by_correlation_id,
)

USERS = {"123": {"name": "Ann", "locked": False}, "7": {"name": "Bob", "locked": True}}


@pytest.fixture
def service(watch, monkeypatch):
    """Run a service that is watched, and forget afterwards what was configured for the process."""
    monkeypatch.setattr(active, "_started", [])
    watched = watch(monitoring={"log_buffer_size": 1_000, "access": "open"}, alerts={"defaults": False})
    watched.obs.start()
    yield watched
    reset_monitoring()


async def fetch_user(user_id: str) -> Result[dict, str]:
    """Find a user."""
    return Success(USERS[user_id]) if user_id in USERS else Failure("no such user")


async def validate_user(user: dict) -> Result[dict, str]:
    """Refuse those who are locked."""
    return Failure("user is locked") if user["locked"] else Success(user)


async def enrich_user_data(user: dict) -> Result[dict, str]:
    """Add what is known elsewhere."""
    return Success({**user, "orders": 3})


@log_result_operation("user_processing")
async def process_user_data(user_id: str) -> Result[dict, str]:
    """Run three steps, told of as a whole."""
    return await (
        MonoResult.from_async_result(lambda: fetch_user(user_id))
        .bind_async_result(lambda user: validate_user(user))
        .bind_async_result(lambda user: enrich_user_data(user))
        .to_result()
    )


async def test_an_operation_is_logged_and_found_by_its_correlation_id(service):
    """Configured once, decorated, called in a context: its lines are there, by id, with error and stack where it failed."""
    configure_result_logging(
        level=LogLevel.INFO, include_stack_trace=True, include_performance_data=True, correlation_header="X-Correlation-ID"
    )
    async with CorrelationContext("req_12345"):
        assert (await process_user_data("123")).is_success()
        assert get_correlation_id() == "req_12345"
        assert (await process_user_data("7")) == Failure("user is locked")
    logs = query_logs_by_correlation_id("req_12345")
    shown = [f"[{entry.timestamp}] {entry.operation}: {entry.message}" for entry in logs]
    assert [text.partition("] ")[2] for text in shown] == [
        "user_processing: Operation started",
        "user_processing: Operation completed",
        "user_processing: Operation started",
        "user_processing: Operation failed",
    ]
    assert [entry.error.message for entry in logs if entry.error] == ["user is locked"]
    first = next(line for line in service.lines if line.get("operation") == "user_processing")
    assert (
        first.items()
        >= {
            "level": "info",
            "message": "Operation started",
            "correlation_id": "req_12345",
            "context": {"user_id": "123"},
        }.items()
    )


@pytest.mark.parametrize("given", ["req 12345", "a,b", "주문", "x" * 129, "", "a\r\nb: c", "\ud800"])
async def test_no_id_and_no_range_of_a_client_fails_a_request(service, given):
    """The routes of the guide, with whatever a client sends: the lines are found by what it sent."""
    app = FastAPI()

    @app.post("/own/users")
    async def handle_request(body: dict) -> dict:
        request_id = json.loads(body["request_id"])
        async with CorrelationContext(request_id):
            await process_user_data("123")
        return {"lines": len(query_logs_by_correlation_id(request_id))}

    @app.get("/own/metrics")
    async def get_metrics(hours: int = 1) -> dict:
        return get_metrics_summary(time_range_minutes=hours * 60)

    service.obs.install(app)
    async with client(app) as opened:
        answered = await opened.post("/own/users", json={"request_id": json.dumps(given)})
        assert (answered.status_code, answered.json()["lines"]) == (200, 2 if given else 0)
        for hours in ("0", "-1", "200", "9" * 400):
            assert (await opened.get(f"/own/metrics?hours={hours}")).status_code == 200
            assert (await opened.get(f"/monitoring/metrics?hours={hours}")).status_code == 422


async def initial_processing(data: dict) -> Result[list, str]:
    """Begin."""
    return Success(sorted(data))


async def validation_step(names: list) -> Result[list, str]:
    """Refuse what is empty."""
    return Success(names) if names else Failure("nothing to do")


async def transformation_step(names: list) -> Result[str, str]:
    """Make a text of it."""
    return Success(",".join(names))


async def complex_operation(data: dict) -> Result[str, str]:
    """Run steps that are told of one by one."""
    return await (
        create_logging_mono(lambda: initial_processing(data))
        .log_step("initial_processing", "first pass done")
        .bind_async_result(lambda result: validation_step(result))
        .log_step("validation", "data is valid")
        .bind_async_result(lambda result: transformation_step(result))
        .log_step("transformation", "transformed")
        .log_performance("total_processing_time")
        .log_error("processing_failed")
        .to_result()
    )


async def test_steps_are_logged_one_by_one(service):
    """Each with its times and what came out of it; a failure says where, and the chain's time is in a histogram."""
    assert await complex_operation({"b": 1, "a": 2}) == Success("a,b")
    assert await complex_operation({}) == Failure("nothing to do")
    steps = [(line["step"], line["step_status"], line["message"]) for line in service.lines if "step" in line]
    assert steps == [
        ("initial_processing", "completed", "first pass done"),
        ("validation", "completed", "data is valid"),
        ("transformation", "completed", "transformed"),
        ("initial_processing", "completed", "first pass done"),
        ("validation", "failed", "step failed"),
    ]
    assert [line["message"] for line in service.lines if line["level"] == "error"] == ["step failed", "processing_failed"]
    assert get_metrics_summary()["histograms"]["total_processing_time.duration_ms"]["count"] == 2


async def test_metrics_are_collected_and_scraped(service):
    """A counter, a histogram and a gauge by hand, and those of results and batches, are on `/metrics` in base units."""
    app = FastAPI()
    service.obs.install(app)
    start_monitoring()
    collect_metric("api_requests_total", 1, MetricType.COUNTER, labels={"endpoint": "/users", "method": "GET"})
    collect_metric("response_time_ms", 250.5, MetricType.HISTOGRAM, labels={"endpoint": "/users"})
    collect_metric("active_connections", 45, MetricType.GAUGE)
    started = time.time()
    result = await MonoResult.from_async_result(lambda: fetch_user("123")).timeout(5.0).to_result()
    collect_result_metric("user_processing", result, (time.time() - started) * 1000)
    flux_result = await FluxResult.from_iterable_async(["123", "7", "8"], fetch_user).batch_collect(
        batch_size=10, max_concurrent=3
    )
    collect_flux_result_metric("batch_processing", flux_result, (time.time() - started) * 1000)
    async with client(app) as opened:
        text = (await opened.get("/metrics")).text
    for row in (
        'api_requests_total{endpoint="/users",method="GET"} 1.0',
        'response_time_seconds_sum{endpoint="/users"} 0.2505',
        "active_connections 45.0",
        'result_success_total{component="",operation="user_processing"} 1.0',
        'flux_result_items_total{operation="batch_processing",status="success"} 2.0',
        'flux_result_items_total{operation="batch_processing",status="failure"} 1.0',
    ):
        assert row in text


async def test_alerts_reach_their_callbacks(service):
    """Default rules and own ones; a lambda and a coroutine function are told what is wrong, and pass it on."""
    heard = []

    async def custom_alert_handler(alert_data: dict) -> None:
        alert_info = {
            "metric": alert_data["metric_name"],
            "current_value": alert_data["current_value"],
            "threshold": alert_data["threshold"],
            "timestamp": alert_data["timestamp"],
        }
        await send_email_alert(alert_info)
        await send_slack_alert(alert_info)
        await create_incident_ticket(alert_info)
        heard.append(alert_info)

    setup_default_alerts()
    rules = [
        ("high_error_rate", "result_failure_total", 50.0, lambda alert: send_slack_notification(alert)),
        ("slow_api_response", "result_duration_ms", 5000.0, lambda alert: escalate_to_oncall(alert)),
        ("critical_system_failure", "result_failure_total", 100.0, custom_alert_handler),
    ]
    for name, metric_name, threshold, callback in rules:
        create_alert_rule(
            name=name, metric_name=metric_name, condition=AlertCondition.GREATER_THAN, threshold=threshold, callback=callback
        )
    evaluate_alerts()
    for _ in range(101):
        collect_result_metric("user_processing", Failure("down"), 6_000)
    evaluate_alerts()
    assert await asyncio.to_thread(service.obs.status.notifications.wait, PATIENCE_SECONDS)
    assert [(alert["metric"], alert["current_value"], alert["threshold"]) for alert in heard] == [
        ("result_failure_total", 101, 100)
    ]
    active = {alert["name"]: alert["current_value"] for alert in get_dashboard_data()["active_alerts"]}
    assert active.keys() == {"high_error_rate", "slow_api_response", "critical_system_failure"}
    assert active["slow_api_response"] > 5_000
    assert len([line for line in service.lines if "not configured" in line["message"]]) == 5


async def test_summaries_are_printed_as_shown(service):
    """The texts of the guide can be written, in a process that has done nothing, too."""
    for count in (0, 1):
        metrics = get_metrics_summary(time_range_minutes=60)
        response_times = metrics["histograms"]["result_duration_ms"]
        said = (
            f"{metrics['counters']['result_success_total']:.0f} {metrics['counters']['result_failure_total']:.0f} "
            f"{response_times['mean']:.2f}ms {response_times['p95']:.2f}ms {response_times['max']:.2f}ms"
        )
        assert said == ["0 0 0.00ms 0.00ms 0.00ms", "1 0 7000.00ms 7000.00ms 7000.00ms"][count]
        slow = [name for name, stats in get_metrics_summary()["histograms"].items() if stats["p95"] > 5000]
        assert slow == [[], ["result_duration_ms"]][count]
        collect_result_metric("report", Success(1), 7_000)


async def test_an_app_may_serve_the_dashboard_itself(service):
    """The three routes of the guide on an app of one's own, beside those that come with the package."""
    app = FastAPI()

    @app.get("/own/health")
    async def health_check() -> dict:
        dashboard = get_dashboard_data()
        is_healthy = dashboard["system_status"]["monitoring_active"] and len(dashboard["active_alerts"]) == 0
        return {
            "status": "healthy" if is_healthy else "degraded",
            "active_alerts": len(dashboard["active_alerts"]),
            "timestamp": dashboard["system_status"]["timestamp"],
        }

    @app.get("/own/metrics")
    async def get_metrics(hours: int = 1) -> dict:
        return get_metrics_summary(time_range_minutes=hours * 60)

    @app.get("/own/dashboard")
    async def monitoring_dashboard() -> dict:
        return get_dashboard_data()

    service.obs.install(app)
    async with client(app) as opened:
        health, summary, dashboard, packaged = [
            (await opened.get(path)).json()
            for path in ("/own/health", "/own/metrics?hours=2", "/own/dashboard", "/monitoring/dashboard")
        ]
    assert (health["status"], health["active_alerts"]) == ("healthy", 0)
    assert summary["time_range_minutes"] == 120
    assert dashboard.keys() == packaged.keys()
    assert dashboard["system_status"]["total_metrics"] > 0


class UserService:
    """A service that says whose its results are."""

    service_name = "user_service"

    @log_result_operation("user_service.get_user")
    async def get_user(self, user_id: str) -> Result[dict, str]:
        """Find a user."""
        started = time.time()
        result = await fetch_user(user_id)
        collect_result_metric(
            f"{self.service_name}.get_user", result, (time.time() - started) * 1000, labels={"service": self.service_name}
        )
        return result


async def test_results_are_told_apart_by_service(service):
    """The label `service` is `component` on `/metrics`, because scrapers have their own of that name."""
    await UserService().get_user("123")
    assert service.value("result_success_total", operation="user_service.get_user", component="user_service") == 1


@dataclass
class Order:
    """What somebody wants."""

    amount: float
    category: str
    stock: int = 1


async def validate_order(order: Order) -> Result[Order, str]:
    """Refuse what costs nothing."""
    return Success(order) if order.amount > 0 else Failure("nothing to pay")


async def update_inventory(order: Order) -> Result[Order, str]:
    """Take it from the shelf."""
    return Success(order) if order.stock else Failure("sold out")


@log_result_operation("order_processing")
async def process_order(order: Order) -> Result[Order, str]:
    """Count what was sold, and nothing else."""
    result = await (
        MonoResult.from_async_result(lambda: validate_order(order)).bind_async_result(lambda o: update_inventory(o)).to_result()
    )
    if result.is_success():
        collect_metric("orders_processed_total", 1, MetricType.COUNTER)
        collect_metric("revenue_total", order.amount, MetricType.COUNTER)
        collect_metric("order_value", order.amount, MetricType.HISTOGRAM)
        collect_metric("orders_by_category", 1, MetricType.COUNTER, labels={"category": order.category})
    return result


async def test_business_is_counted_on_success_only(service):
    """Orders, revenue and categories are those of orders that went through."""
    for order in (Order(10, "tea"), Order(0, "tea"), Order(5, "coffee", stock=0), Order(2.5, "coffee")):
        await process_order(order)
    counters = get_metrics_summary()["counters"]
    assert (counters["orders_processed_total"], counters["revenue_total"], counters["orders_by_category"]) == (2, 12.5, 2)
    assert service.value("orders_by_category_total", category="coffee") == 1
    assert get_metrics_summary()["histograms"]["order_value"]["sum"] == 12.5


async def test_performance_is_tracked(service):
    """By the tracker that comes with the package, and by one that is written as the guide does."""
    async with performance_tracker("heavy_computation"):
        sum(range(1000))
    before = get_memory_usage()
    collect_metric("other.duration_ms", 12, MetricType.HISTOGRAM)
    collect_metric("other.memory_usage_mb", get_memory_usage() - before, MetricType.HISTOGRAM)
    summary = get_metrics_summary()
    for name in ("heavy_computation", "other"):
        assert summary["histograms"][f"{name}.duration_ms"]["count"] == 1
        assert summary["histograms"][f"{name}.memory_usage_mb"]["count"] == 1


def test_three_levels_are_collected(service):
    """Infrastructure, application and business by dotted names; percentages become ratios."""
    for name, value in (
        ("system.cpu_usage", 45.2),
        ("system.memory_usage", 71.0),
        ("app.requests_per_second", 120),
        ("app.error_rate", 0.5),
        ("business.active_users", 900),
    ):
        collect_metric(name, value, MetricType.GAUGE)
    collect_metric("business.transactions_total", 3, MetricType.COUNTER)
    gauges = get_metrics_summary()["gauges"]
    assert (gauges["system.cpu_usage"], gauges["app.error_rate"]) == (pytest.approx(45.2), pytest.approx(0.5))
    assert service.value("system_cpu_usage_ratio") == pytest.approx(0.452)
    assert service.value("app_error_ratio") == pytest.approx(0.005)
    assert service.value("business_transactions_total") == 3


SLA_TARGETS = {"availability": 99.9, "response_time_p95": 1000, "error_rate": 0.1}


@log_result_operation("sla_check")
async def check_sla_compliance() -> Result[dict, str]:
    """Hold the share of failures against the target, as a service may do itself."""
    metrics = get_metrics_summary(time_range_minutes=60)
    failed = metrics["counters"]["result_failure_total"]
    total = metrics["counters"]["result_success_total"] + failed
    error_rate = failed / total * 100 if total > 0 else 0
    violations = []
    if error_rate > SLA_TARGETS["error_rate"]:
        violations.append(f"Error rate {error_rate:.2f}% exceeds target {SLA_TARGETS['error_rate']}%")
    if violations:
        await send_sla_violation_alert(violations)
    return Success({"sla_compliant": len(violations) == 0})


async def test_service_levels_are_checked_by_hand(service):
    """Kept without traffic; violated by one failure of two, which is said."""
    assert await check_sla_compliance() == Success({"sla_compliant": True})
    collect_result_metric("work", Success(1), 1)
    collect_result_metric("work", Failure("no"), 1)
    assert await check_sla_compliance() == Success({"sla_compliant": False})
    assert any("Error rate 50.00% exceeds target 0.1%" in line["message"] for line in service.lines)


async def test_a_circuit_breaker_is_watched_by_hand(service):
    """Above half, the incident team hears of the gauge that says that it is open."""
    evaluate_alerts()
    collect_result_metric("work", Failure("no"), 1)
    assert calculate_failure_rate(get_metrics_summary(time_range_minutes=5)) == 100
    collect_metric("circuit_breaker_status", 1.0, MetricType.GAUGE, labels={"name": "user_service"})
    for _ in range(2):
        create_alert_rule(
            name="circuit_breaker_activated",
            metric_name="circuit_breaker_status",
            condition=AlertCondition.EQUAL,
            threshold=1.0,
            callback=lambda alert: notify_incident_team(alert),
        )
    assert [alert.rule.name for alert in evaluate_alerts()] == ["circuit_breaker_activated"]
    assert await asyncio.to_thread(service.obs.status.notifications.wait, PATIENCE_SECONDS)
    assert any("circuit_breaker_activated" in line["message"] and "not configured" in line["message"] for line in service.lines)

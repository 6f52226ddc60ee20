"""Operations that return results: outcomes, times, batches, promises, and the business behind them."""

from sage_fastapi_obs.export.grafana.boards import shared
from sage_fastapi_obs.export.grafana.layout import BAD, FINE, WARN, Board, Limit, Panel, Row, limits, numbers
from sage_fastapi_obs.export.grafana.promql import Queries
from sage_fastapi_obs.settings import SlaSettings

__all__ = ["result_board"]

ASK = Queries(shared.SCOPE)
DURATION = "result_duration_seconds"
OUTCOMES = ("result_success_total", "result_failure_total")
BREAKER = {"0": ("closed", FINE), "1": ("open", BAD), "2": ("half open", WARN)}


def result_board(sla: SlaSettings, *, business: bool) -> Board:
    """Show the operations; with what a business counts where that pack is on."""
    return Board(
        "result-pattern",
        "Result Pattern",
        "Operations that return a Result: how many fail, of what, how long they take, and whether promises are kept.",
        (
            Row("What is wrong", _standing(sla)),
            Row("Where", _operations()),
            Row("Why", _causes()),
            Row("Batches", _batches()),
            *([Row("Business", _business())] if business else []),
        ),
        shared.choices("result_success_total"),
        ("result",),
    )


def _standing(sla: SlaSettings) -> tuple[Panel, ...]:
    # Operations are known when they have run: before the first failure there is no series of failures.
    succeeded, failed = (f"({ASK.increase(name, window='1h')} or vector(0))" for name in OUTCOMES)
    availability = None if sla.availability is None else sla.availability / 100
    error_rate = None if sla.error_rate is None else sla.error_rate / 100
    whole = f"({succeeded} + {failed})"
    return (
        shared.firing(),
        shared.stat(
            "SLA: availability, 1 h",
            f"{succeeded} / {whole}",
            "Share of operations that succeeded in an hour.",
            "percentunit",
            () if availability is None else (Limit(BAD), Limit(FINE, availability)),
        ),
        shared.stat(
            "SLA: error share, 1 h",
            f"{failed} / {whole}",
            "Share of operations that failed in an hour; SlaErrorRateViolation fires from the limit.",
            "percentunit",
            limits(None, error_rate),
        ),
        shared.stat(
            "SLA: p95, 1 h",
            ASK.quantile(0.95, DURATION, window="1h"),
            "Of all operations in an hour.",
            "s",
            limits(None, shared.seconds(sla.response_time_p95_ms)),
        ),
        shared.stat(
            "Failures in 5 minutes",
            f"{ASK.increase('result_failure_total', window='5m')} or vector(0)",
            "ResultHighErrorRate fires from 50, ResultCriticalSystemFailure from 100.",
            steps=limits(50, 100),
        ),
        shared.stat(
            "Breakers open",
            f"sum({ASK.value('circuit_breaker_status', 'name', how='max')} == bool 1) or vector(0)",
            "Circuit breakers that let nothing through now.",
            steps=limits(None, 1),
        ),
    )


def _operations() -> tuple[Panel, ...]:
    return (
        Panel(
            "Success and failure by operation",
            numbers(
                (ASK.rate("result_success_total", "operation"), "{{operation}} success"),
                (ASK.rate("result_failure_total", "operation"), "{{operation}} failure"),
            ),
            "Operations per second.",
            unit="ops",
        ),
        shared.latency(
            "Duration by operation (p50, p95, p99)",
            shared.quantiles(ASK, DURATION, "operation"),
            "ResultSlowResponse fires from a p95 of 5 s.",
            limits(None, 5),
        ),
        shared.latency(
            "Duration by operation, longest",
            numbers((ASK.quantile(1, DURATION, "operation"), "{{operation}}")),
            "The upper bound of the bucket with the slowest run: not slower than this, up to the last bound of 60 s.",
        ),
    )


def _causes() -> tuple[Panel, ...]:
    return (
        Panel(
            "Errors by type",
            numbers((ASK.rate("result_error_by_type_total", "operation", "error_type"), "{{operation}} {{error_type}}")),
            "Failures per second; str is a failure that was only a text.",
            unit="ops",
            stacked=True,
        ),
        Panel(
            "Circuit breakers",
            numbers((ASK.value("circuit_breaker_status", "name", how="max"), "{{name}}")),
            "CircuitBreakerOpen fires while one is open.",
            "states",
            words=BREAKER,
        ),
        Panel(
            "Rules that are active in the process",
            numbers((ASK.value("monitoring_alert_active", "name", how="max"), "{{name}}")),
            "Rules that the service judges itself, with its own callbacks; they need no Prometheus.",
            "states",
            words={"0": ("quiet", FINE), "1": ("active", BAD)},
        ),
        Panel(
            "Memory by operation",
            numbers((ASK.value("operation_memory_delta_bytes", "operation", how="max"), "{{operation}}")),
            "Change of the process's memory during the last run; runs beside each other are counted for each other.",
            unit="bytes",
        ),
    )


def _batches() -> tuple[Panel, ...]:
    return (
        Panel(
            "Batch items",
            numbers((ASK.rate("flux_result_items_total", "operation", "status"), "{{operation}} {{status}}")),
            "Items per second.",
            unit="ops",
            stacked=True,
        ),
        Panel(
            "Success ratio of the last batch",
            numbers((ASK.value("flux_result_success_ratio", "operation", how="min"), "{{operation}}")),
            "Share of the items that succeeded.",
            unit="percentunit",
            limits=(Limit(BAD), Limit(WARN, 0.9), Limit(FINE, 0.99)),
            most=1,
        ),
        shared.latency(
            "Batch duration: p95",
            numbers((ASK.quantile(0.95, "flux_result_duration_seconds", "operation"), "{{operation}}")),
            "Whole batches.",
        ),
    )


def _business() -> tuple[Panel, ...]:
    return (
        Panel(
            "Orders by category",
            numbers((ASK.increase("orders_by_category_total", "category", window="1h"), "{{category}}")),
            "Orders in an hour.",
            stacked=True,
        ),
        Panel(
            "Orders and revenue",
            numbers(
                (ASK.increase("orders_processed_total", window="1h"), "orders in an hour"),
                (ASK.increase("revenue_total", window="1h"), "revenue in an hour"),
            ),
            "Revenue in units of the currency.",
        ),
        Panel(
            "Order value",
            shared.quantiles(ASK, "order_value"),
            "In units of the currency.",
        ),
        Panel(
            "Users and transactions",
            numbers(
                (ASK.value("business_active_users"), "active users"),
                (ASK.rate("business_transactions_total", window="5m"), "transactions per second"),
            ),
            "As the application tells it.",
        ),
    )

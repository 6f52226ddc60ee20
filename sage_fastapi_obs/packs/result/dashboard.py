"""Operations that return results: outcomes, times, batches, promises, and the business behind them."""

from sage_fastapi_obs.catalog.services import Services, with_pack
from sage_fastapi_obs.dashboards import panels
from sage_fastapi_obs.dashboards.layout import BAD, FINE, WARN, Dashboard, Panel, Row, Threshold, numbers
from sage_fastapi_obs.dashboards.panels import PanelBuilder
from sage_fastapi_obs.settings import SlaSettings

__all__ = ["dashboards"]

panel = PanelBuilder()
ask = panel.ask
DURATION = "result_duration_seconds"

OPERATIONS = (
    Panel(
        "Success and failure by operation",
        numbers(
            (ask.rate("result_success_total", "operation"), "{{operation}} success"),
            (ask.rate("result_failure_total", "operation"), "{{operation}} failure"),
        ),
        unit="ops",
    ).about("Operations per second."),
    panel.quantiles("Duration by operation (p50, p95, p99)", DURATION, ["operation"], bad=5).about(
        "ResultSlowResponse fires from a p95 of 5 s."
    ),
    panel.p95("Duration by operation, longest", DURATION, ["operation"], q=1).about(
        "The upper bound of the bucket with the slowest run: not slower than this, up to the last bound of 60 s."
    ),
)
CAUSES = (
    panel.rate("Errors by type", "result_error_by_type_total", ["operation", "error_type"], stacked=True).about(
        "Failures per second; str is a failure that was only a text."
    ),
    panel.gauge(
        "Circuit breakers",
        "circuit_breaker_status",
        ["name"],
        how="max",
        kind="states",
        mappings={"0": ("closed", FINE), "1": ("open", BAD), "2": ("half open", WARN)},
    ).about("CircuitBreakerOpen fires while one is open."),
    panel.gauge(
        "Rules that are active in the process",
        "monitoring_alert_active",
        ["name"],
        how="max",
        kind="states",
        mappings={"0": ("quiet", FINE), "1": ("active", BAD)},
    ).about("Rules that the service judges itself, with its own callbacks; they need no Prometheus."),
    panel.gauge("Memory by operation", "operation_memory_delta_bytes", ["operation"], how="max", unit="bytes").about(
        "Change of the process's memory during the last run; runs beside each other are counted for each other."
    ),
)
BATCHES = (
    panel.rate("Batch items", "flux_result_items_total", ["operation", "status"], stacked=True).about("Items per second."),
    panel.gauge(
        "Success ratio of the last batch",
        "flux_result_success_ratio",
        ["operation"],
        how="min",
        unit="percentunit",
        thresholds=(Threshold(BAD), Threshold(WARN, 0.9), Threshold(FINE, 0.99)),
        max=1,
    ).about("Share of the items that succeeded."),
    panel.p95("Batch duration: p95", "flux_result_duration_seconds", ["operation"]).about("Whole batches."),
)
BUSINESS = (
    panel.increase("Orders by category", "orders_by_category_total", ["category"], window="1h", stacked=True).about(
        "Orders in an hour."
    ),
    Panel(
        "Orders and revenue",
        numbers(
            (ask.increase("orders_processed_total", window="1h"), "orders in an hour"),
            (ask.increase("revenue_total", window="1h"), "revenue in an hour"),
        ),
    ).about("Revenue in units of the currency."),
    panel.quantiles("Order value", "order_value", unit="short").about("In units of the currency."),
    Panel(
        "Users and transactions",
        numbers(
            (ask.value("business_active_users"), "active users"),
            (ask.rate("business_transactions_total", window="5m"), "transactions per second"),
        ),
    ).about("As the application tells it."),
)


def dashboards(services: Services) -> tuple[Dashboard, ...]:
    """Return the dashboard of operations, with what a business counts where that pack is on."""
    rows = (
        Row("What is wrong", _wrong(with_pack(services, "result")[0].sla)),
        Row("Where", OPERATIONS),
        Row("Why", CAUSES),
        Row("Batches", BATCHES),
        *([Row("Business", BUSINESS)] if with_pack(services, "business") else []),
    )
    about = "Operations that return a Result: how many fail, of what, how long they take, and whether promises are kept."
    choices = panels.choices("result_success_total")
    return (Dashboard("result-pattern", "Result Pattern", about, rows, choices, ("result",)),)


def _wrong(sla: SlaSettings) -> tuple[Panel, ...]:
    # Operations are known when they have run: before the first failure there is no series of failures.
    succeeded, failed = (f"({ask.increase(f'result_{one}_total', window='1h')} or vector(0))" for one in ("success", "failure"))
    whole = f"({succeeded} + {failed})"
    return (
        panels.firing(),
        panels.stat(
            "SLA: availability, 1 h",
            f"{succeeded} / {whole}",
            "percentunit",
            thresholds=() if sla.availability is None else (Threshold(BAD), Threshold(FINE, sla.availability / 100)),
        ).about("Share of operations that succeeded in an hour."),
        panels.stat(
            "SLA: error share, 1 h",
            f"{failed} / {whole}",
            "percentunit",
            bad=None if sla.error_rate is None else sla.error_rate / 100,
        ).about("Share of operations that failed in an hour; SlaErrorRateViolation fires from the limit."),
        panels.stat(
            "SLA: p95, 1 h", ask.quantile(0.95, DURATION, window="1h"), "s", bad=panels.seconds(sla.response_time_p95_ms)
        ).about("Of all operations in an hour."),
        panels.stat(
            "Failures in 5 minutes", f"{ask.increase('result_failure_total', window='5m')} or vector(0)", warn=50, bad=100
        ).about("ResultHighErrorRate fires from 50, ResultCriticalSystemFailure from 100."),
        panels.stat(
            "Breakers open", f"sum({ask.value('circuit_breaker_status', 'name', how='max')} == bool 1) or vector(0)", bad=1
        ).about("Circuit breakers that let nothing through now."),
    )

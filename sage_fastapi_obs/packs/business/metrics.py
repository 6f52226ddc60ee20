"""What a business counts, and the gauges of its machines and applications."""

from functools import partial

from sage_fastapi_obs.catalog.metric import RESULT_BUCKETS, Alias, Metric

__all__ = ["METRICS"]

VALUE_BUCKETS = (1.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2500.0, 5000.0, 10000.0)

_alias = partial(Alias, group="result")

METRICS = (
    Metric("business_active_users", "gauge", "Users who are active now."),
    Metric("business_transactions_total", "counter", "Transactions completed."),
    Metric("orders_processed_total", "counter", "Orders processed."),
    Metric(
        "orders_by_category_total",
        "counter",
        "Orders processed, by category.",
        {"category": ()},
        aliases=(_alias("orders_by_category", type="unknown"),),
    ),
    Metric("order_value", "histogram", "Value of orders, in units of the currency.", buckets=VALUE_BUCKETS),
    Metric("revenue_total", "counter", "Revenue, in units of the currency."),
    Metric("api_requests_total", "counter", "Requests to an API.", {"endpoint": (), "method": ()}),
    Metric(
        "response_time_seconds",
        "histogram",
        "Time of responses of an API.",
        {"endpoint": ()},
        "seconds",
        RESULT_BUCKETS,
        aliases=(_alias("response_time_ms", factor=1000.0),),
    ),
    Metric("active_connections", "gauge", "Connections that are open now."),
    Metric("app_requests_per_second", "gauge", "Requests per second, as the application tells it."),
    Metric(
        "app_error_ratio",
        "gauge",
        "Share of requests that failed, 0 to 1, as the application tells it.",
        aliases=(_alias("app_error_rate", factor=100.0),),
    ),
    Metric(
        "system_cpu_usage_ratio",
        "gauge",
        "Use of the machine's processors, 0 to 1.",
        aliases=(_alias("system_cpu_usage", factor=100.0),),
    ),
    Metric(
        "system_memory_usage_ratio",
        "gauge",
        "Use of the machine's memory, 0 to 1.",
        aliases=(_alias("system_memory_usage", factor=100.0),),
    ),
)

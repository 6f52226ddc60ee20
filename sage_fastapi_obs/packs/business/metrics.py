"""What a business counts, and the gauges of its machines and applications."""

from functools import partial

from sage_fastapi_obs.catalog.metric import RESULT_BUCKETS, Alias, counter, gauge, histogram

_VALUE_BUCKETS = (1.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2500.0, 5000.0, 10000.0)

_alias = partial(Alias, group="result")

METRICS = (
    gauge("business_active_users", "Users who are active now.", workers="latest"),
    counter("business_transactions_total", "Transactions completed."),
    counter("orders_processed_total", "Orders processed."),
    counter(
        "orders_by_category_total",
        "Orders processed, by category.",
        {"category": ()},
        aliases=(_alias("orders_by_category", type="unknown"),),
    ),
    histogram("order_value", "Value of orders, in units of the currency.", _VALUE_BUCKETS),
    counter("revenue_total", "Revenue, in units of the currency."),
    counter("api_requests_total", "Requests to an API.", {"endpoint": (), "method": ()}),
    histogram(
        "response_time_seconds",
        "Time of responses of an API.",
        RESULT_BUCKETS,
        {"endpoint": ()},
        aliases=(_alias("response_time_ms", factor=1000.0),),
    ),
    gauge("active_connections", "Connections that are open now."),
    gauge("app_requests_per_second", "Requests per second, as the application tells it."),
    gauge(
        "app_error_ratio",
        "Share of requests that failed, 0 to 1, as the application tells it.",
        workers="max",
        aliases=(_alias("app_error_rate", factor=100.0),),
    ),
    gauge(
        "system_cpu_usage_ratio",
        "Use of the machine's processors, 0 to 1.",
        workers="latest",
        aliases=(_alias("system_cpu_usage", factor=100.0),),
    ),
    gauge(
        "system_memory_usage_ratio",
        "Use of the machine's memory, 0 to 1.",
        workers="latest",
        aliases=(_alias("system_memory_usage", factor=100.0),),
    ),
)

"""Calls to Redis, PostgreSQL and Kafka."""

from sage_fastapi_obs.catalog.metric import DEPENDENCY_BUCKETS, LATENCY_BUCKETS, STATUS, Metric

__all__ = ["METRICS", "PG_OPERATIONS"]

PG_OPERATIONS = ("select", "insert", "update", "delete", "other")


METRICS = (
    Metric("redis_commands_total", "counter", "Commands sent to Redis.", {"command": (), "status": STATUS}),
    Metric(
        "redis_latency_seconds",
        "histogram",
        "Time until Redis had answered a command.",
        {"command": ()},
        "seconds",
        DEPENDENCY_BUCKETS,
    ),
    Metric("pg_queries_total", "counter", "Queries sent to PostgreSQL.", {"operation": PG_OPERATIONS, "status": STATUS}),
    Metric(
        "pg_query_duration_seconds",
        "histogram",
        "Time until PostgreSQL had answered a query.",
        {"operation": PG_OPERATIONS},
        "seconds",
        DEPENDENCY_BUCKETS,
    ),
    Metric("kafka_messages_produced_total", "counter", "Messages sent to Kafka.", {"topic": (), "status": STATUS}),
    Metric(
        "kafka_produce_latency_seconds",
        "histogram",
        "Time until Kafka had acknowledged a message.",
        {"topic": ()},
        "seconds",
        DEPENDENCY_BUCKETS,
    ),
    Metric("kafka_messages_consumed_total", "counter", "Messages received from Kafka.", {"topic": ()}),
    Metric(
        "kafka_messages_processed_total",
        "counter",
        "Messages that the application has worked on.",
        {"topic": (), "status": STATUS},
    ),
    Metric(
        "kafka_process_duration_seconds",
        "histogram",
        "Time that the application worked on a message.",
        {"topic": ()},
        "seconds",
        LATENCY_BUCKETS,
    ),
    Metric(
        "dependency_calls_total",
        "counter",
        "Calls of dependencies that have no metrics of their own: other services over HTTP, and whatever is tracked by hand.",
        {"system": (), "operation": (), "status": STATUS},
    ),
    Metric(
        "dependency_call_duration_seconds",
        "histogram",
        "Time until such a dependency had answered.",
        {"system": (), "operation": ()},
        "seconds",
        DEPENDENCY_BUCKETS,
    ),
)

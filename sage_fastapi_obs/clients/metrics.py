"""Calls to Redis, PostgreSQL and Kafka, and pools of connections, which have the names of OpenTelemetry's conventions."""

from sage_fastapi_obs.catalog.metric import DEPENDENCY_BUCKETS, LATENCY_BUCKETS, STATUS, counter, gauge, histogram

_PG_OPERATIONS = ("select", "insert", "update", "delete", "other")


METRICS = (
    counter("redis_commands_total", "Commands sent to Redis.", {"command": (), "status": STATUS}),
    histogram("redis_latency_seconds", "Time until Redis had answered a command.", DEPENDENCY_BUCKETS, {"command": ()}),
    counter("pg_queries_total", "Queries sent to PostgreSQL.", {"operation": _PG_OPERATIONS, "status": STATUS}),
    histogram(
        "pg_query_duration_seconds",
        "Time until PostgreSQL had answered a query.",
        DEPENDENCY_BUCKETS,
        {"operation": _PG_OPERATIONS},
    ),
    counter("kafka_messages_produced_total", "Messages sent to Kafka.", {"topic": (), "status": STATUS}),
    histogram(
        "kafka_produce_latency_seconds", "Time until Kafka had acknowledged a message.", DEPENDENCY_BUCKETS, {"topic": ()}
    ),
    counter("kafka_messages_consumed_total", "Messages received from Kafka.", {"topic": ()}),
    counter("kafka_messages_processed_total", "Messages that the application has worked on.", {"topic": (), "status": STATUS}),
    histogram(
        "kafka_process_duration_seconds", "Time that the application worked on a message.", LATENCY_BUCKETS, {"topic": ()}
    ),
    counter(
        "dependency_calls_total",
        "Calls of dependencies that have no metrics of their own: other services over HTTP, and whatever is tracked by hand.",
        {"system": (), "operation": (), "status": STATUS},
    ),
    histogram(
        "dependency_call_duration_seconds",
        "Time until such a dependency had answered.",
        DEPENDENCY_BUCKETS,
        {"system": (), "operation": ()},
    ),
    gauge(
        "db_client_connection_count",
        "Connections of a pool.",
        {"pool": (), "state": ("used", "idle")},
    ),
    gauge("db_client_connection_max", "Most connections that a pool may have; 0 without a limit.", {"pool": ()}),
    gauge("db_client_connection_pending_requests", "Calls that wait for a connection of a pool.", {"pool": ()}),
    histogram(
        "db_client_connection_wait_time_seconds",
        "Time until a pool had given a connection.",
        DEPENDENCY_BUCKETS,
        {"pool": ()},
    ),
    histogram(
        "db_client_connection_use_time_seconds",
        "Time from when a pool gave a connection until it had that back.",
        DEPENDENCY_BUCKETS,
        {"pool": ()},
    ),
)

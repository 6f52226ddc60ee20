"""Operations that return a `Result`, and what is computed from them."""

from functools import partial

from sage_fastapi_obs.catalog.metric import RESULT_BUCKETS, STATUS, Alias, counter, gauge, histogram

_alias = partial(Alias, group="result")
_OPERATION: dict[str, tuple[str, ...]] = {"operation": ()}
_BY_CALLER: dict[str, tuple[str, ...]] = {"operation": (), "component": ()}

METRICS = (
    counter("result_success_total", "Operations that returned a success.", _BY_CALLER),
    counter("result_failure_total", "Operations that returned a failure.", _BY_CALLER),
    histogram(
        "result_duration_seconds",
        "Time of operations that returned a result.",
        RESULT_BUCKETS,
        {"operation": (), "status": STATUS},
        aliases=(_alias("result_duration_ms", factor=1000.0),),
    ),
    counter(
        "result_error_by_type_total", "Operations that returned a failure, by its type.", {"operation": (), "error_type": ()}
    ),
    counter(
        "flux_result_items_total",
        "Items of batches that were processed.",
        {"operation": (), "status": STATUS},
        aliases=(
            _alias("flux_result_total_items", without=("status",), type="unknown"),
            _alias("flux_result_success_items", only={"status": ("success",)}, without=("status",), type="unknown"),
            _alias("flux_result_failure_items", only={"status": ("failure",)}, without=("status",), type="unknown"),
        ),
    ),
    gauge(
        "flux_result_success_ratio",
        "Share of the items of the last batch that succeeded, 0 to 1.",
        _OPERATION,
        workers="latest",
        aliases=(_alias("flux_result_success_rate"),),
    ),
    histogram(
        "flux_result_duration_seconds",
        "Time of batches.",
        RESULT_BUCKETS,
        _OPERATION,
        aliases=(_alias("flux_result_duration_ms", factor=1000.0),),
    ),
    gauge("circuit_breaker_status", "Circuit breakers: 0 closed, 1 open, 2 half open.", {"name": ()}, workers="max"),
    gauge(
        "operation_memory_delta_bytes",
        "Change of the process's memory during the last run of an operation; may be negative.",
        _OPERATION,
        workers="latest",
    ),
    gauge("monitoring_alert_active", "Rules of this process: 1 while active.", {"name": ()}, workers="max"),
)
_MEBIBYTES = (0.0625, 0.25, 1.0, 4.0, 16.0, 64.0, 256.0, 1024.0)
MEMORY_CHANGES = histogram(
    "operation_memory_change_bytes",
    "Changes of the process's memory during runs of operations.",
    tuple(size * 1_048_576 for size in (*(-size for size in reversed(_MEBIBYTES)), 0.0, *_MEBIBYTES)),
    _OPERATION,
)
"""Only for summaries, not for `/metrics`: OpenMetrics has no sum of a histogram with bounds below 0."""

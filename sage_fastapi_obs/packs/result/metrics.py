"""Operations that return a `Result`, and what is computed from them."""

from functools import partial

from sage_fastapi_obs.catalog.metric import RESULT_BUCKETS, STATUS, Alias, Metric

__all__ = ["METRICS"]

_alias = partial(Alias, group="result")
_OPERATION: dict[str, tuple[str, ...]] = {"operation": ()}
_BY_CALLER: dict[str, tuple[str, ...]] = {"operation": (), "component": ()}

METRICS = (
    Metric("result_success_total", "counter", "Operations that returned a success.", _BY_CALLER),
    Metric("result_failure_total", "counter", "Operations that returned a failure.", _BY_CALLER),
    Metric(
        "result_duration_seconds",
        "histogram",
        "Time of operations that returned a result.",
        {"operation": (), "status": STATUS},
        "seconds",
        RESULT_BUCKETS,
        aliases=(_alias("result_duration_ms", factor=1000.0),),
    ),
    Metric(
        "result_error_by_type_total",
        "counter",
        "Operations that returned a failure, by its type.",
        {"operation": (), "error_type": ()},
    ),
    Metric(
        "flux_result_items_total",
        "counter",
        "Items of batches that were processed.",
        {"operation": (), "status": STATUS},
        aliases=(
            _alias("flux_result_total_items", without=("status",), type="unknown"),
            _alias("flux_result_success_items", only={"status": ("success",)}, without=("status",), type="unknown"),
            _alias("flux_result_failure_items", only={"status": ("failure",)}, without=("status",), type="unknown"),
        ),
    ),
    Metric(
        "flux_result_success_ratio",
        "gauge",
        "Share of the items of the last batch that succeeded, 0 to 1.",
        _OPERATION,
        aliases=(_alias("flux_result_success_rate"),),
    ),
    Metric(
        "flux_result_duration_seconds",
        "histogram",
        "Time of batches.",
        _OPERATION,
        "seconds",
        RESULT_BUCKETS,
        aliases=(_alias("flux_result_duration_ms", factor=1000.0),),
    ),
    Metric("circuit_breaker_status", "gauge", "Circuit breakers: 0 closed, 1 open, 2 half open.", {"name": ()}),
    Metric(
        "operation_memory_delta_bytes",
        "gauge",
        "Change of the process's memory during the last run of an operation; may be negative.",
        _OPERATION,
        "bytes",
    ),
    Metric("monitoring_alert_active", "gauge", "Rules of this process: 1 while active.", {"name": ()}),
)

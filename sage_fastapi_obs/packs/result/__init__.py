"""Outcomes as values (`Result`, `MonoResult`, `FluxResult`), with their log lines and metrics."""

from sage_fastapi_obs.packs.result.logging import LoggingMonoResult, LogLevel, create_logging_mono, log_result_operation
from sage_fastapi_obs.packs.result.named_metrics import (
    MetricType,
    collect_flux_result_metric,
    collect_metric,
    collect_result_metric,
)
from sage_fastapi_obs.packs.result.results import Failure, FluxResult, MonoResult, Result, Success

__all__ = [
    "Failure",
    "FluxResult",
    "LogLevel",
    "LoggingMonoResult",
    "MetricType",
    "MonoResult",
    "Result",
    "Success",
    "collect_flux_result_metric",
    "collect_metric",
    "collect_result_metric",
    "create_logging_mono",
    "log_result_operation",
]

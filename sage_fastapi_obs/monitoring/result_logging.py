"""What is logged of results, and the ids that lines are found by, under the names of the RFS interface."""

from sage_fastapi_obs.active import active_observability
from sage_fastapi_obs.logs.recent_lines import LogEntry
from sage_fastapi_obs.operations.correlation_context import (
    CorrelationContext,
    correlation_hook,
    get_correlation_id,
    usable_id,
    with_correlation_id,
)
from sage_fastapi_obs.packs.result.logging import (
    LoggingMonoResult,
    LogLevel,
    ResultLogOptions,
    create_logging_mono,
    log_result_operation,
    override_options,
)
from sage_fastapi_obs.packs.result.results import Failure, FluxResult, MonoResult, Result, Success
from sage_fastapi_obs.request.header_override import header_override
from sage_fastapi_obs.settings import HttpSettings, Settings

__all__ = [
    "CorrelationContext",
    "Failure",
    "FluxResult",
    "LogEntry",
    "LogLevel",
    "LoggingMonoResult",
    "MonoResult",
    "Result",
    "Success",
    "configure_result_logging",
    "correlation_hook",
    "create_logging_mono",
    "get_correlation_id",
    "log_result_operation",
    "query_logs_by_correlation_id",
    "with_correlation_id",
]

_USUAL_HEADER = HttpSettings().correlation_header


def configure_result_logging(
    level: LogLevel = LogLevel.INFO,
    include_stack_trace: bool = True,
    include_performance_data: bool = True,
    correlation_header: str = _USUAL_HEADER,
) -> None:
    """Choose, for the whole process, what lines about results say; before the app starts or while it runs.

    `level`: below it no line about results is written. `correlation_header`: carries the correlation id, in and out, instead of
    what `http.correlation_header` says; the usual one leaves that as it is. Raises `SettingsError`.
    """
    chosen = None if correlation_header == _USUAL_HEADER else correlation_header
    if chosen is not None:
        # Refused as it would be in the settings.
        Settings(http={"correlation_header": chosen})
    override_options(ResultLogOptions(LogLevel(level), include_stack_trace, include_performance_data))
    header_override.set(chosen)


def query_logs_by_correlation_id(correlation_id: str, limit: int = 1_000) -> list[LogEntry]:
    """Return the newest lines of a correlation, request or trace id that this process has kept, the oldest first.

    A text that `CorrelationContext` has replaced is found, too. Lines are kept where the settings have
    `monitoring.expose_logs` or `monitoring.log_buffer_size`.
    """
    observability = active_observability()
    return [] if observability is None else observability.query_logs_by_correlation_id(usable_id(correlation_id), limit)

"""Log lines about functions and chains that return a `Result`: one at the start, one for each step, one at the end."""

import inspect
import time
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from enum import Enum
from functools import wraps
from types import TracebackType
from typing import Any, Generic, ParamSpec, Self, TypeVar, cast

from sage_fastapi_obs.active import active_observability
from sage_fastapi_obs.log_levels import LEVELS
from sage_fastapi_obs.logs.line_format import Timestamps
from sage_fastapi_obs.logs.loggers import ObsLogger, create_logger
from sage_fastapi_obs.metrics.memory import resident_bytes
from sage_fastapi_obs.operations.count import observe
from sage_fastapi_obs.operations.operation import UNMEASURED, Operation
from sage_fastapi_obs.packs.result.results import AnyError, Failure, Result, Success, go_on, within
from sage_fastapi_obs.privacy.exception_name import class_name
from sage_fastapi_obs.privacy.exception_text import error_fields
from sage_fastapi_obs.privacy.json_values import Sanitizer
from sage_fastapi_obs.privacy.printable import printable
from sage_fastapi_obs.privacy.redaction import Redaction
from sage_fastapi_obs.request.correlation import current_correlation_id
from sage_fastapi_obs.request.exchange import Exchange, current_exchange
from sage_fastapi_obs.settings import LoggingSettings
from sage_fastapi_obs.signatures import signature_of

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
U = TypeVar("U")
E = TypeVar("E")
E_co = TypeVar("E_co", covariant=True)
F = TypeVar("F")
P = ParamSpec("P")
R = TypeVar("R")

_LONGEST_CONTEXT_BYTES = 4 * 1024
"""Of the arguments of one call."""
_timestamp = Timestamps()
_NO_OPERATION: tuple[str | None, Exchange | None] = (None, None)
_current_operation = ContextVar("sage_fastapi_obs.operation", default=_NO_OPERATION)
"""The operation that lines of steps belong to, where a chain has no name of its own; and the exchange it is of."""


class LogLevel(Enum):
    """Levels of lines, the least severe first."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warn"
    WARN = "warn"  # noqa: PIE796 - the other usual spelling
    ERROR = "error"
    CRITICAL = "critical"


@dataclass(frozen=True, slots=True)
class ResultLogOptions:
    """Options of lines about results, for the whole process."""

    level: LogLevel = LogLevel.INFO
    include_stack_trace: bool = True
    include_performance_data: bool = True


_override: ResultLogOptions | None = None


def override_options(options: ResultLogOptions | None) -> None:
    """Choose for the whole process; None goes back to what the settings say."""
    global _override  # noqa: PLW0603 - functions are decorated before there is any Observability
    _override = options


def _operation_around() -> str | None:
    """Return the operation that this code is part of; one around the exchange, or of another, is not the exchange's."""
    name, exchange = _current_operation.get()
    return name if exchange is current_exchange.get() else None


def _options() -> ResultLogOptions:
    active = active_observability()
    if _override is not None or active is None:
        return _override or ResultLogOptions()
    settings = active.settings.result
    return ResultLogOptions(LogLevel.INFO, settings.include_stack_trace, settings.include_performance_data)


def log_result_operation(
    name: str, *, log_args: bool = True, redact: tuple[str, ...] = (), span: bool = False
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorate a function, asynchronous or not, to write a line when it starts and one when it ends.

    What it returns is returned unchanged, and what it raises is logged and raised again; a Failure is logged as one.
    `log_args`: show its arguments as `context`, without those of sensitive names and those in `redact`. `span`: have a span.
    Nothing is counted: that is `collect_result_metric`'s.
    """
    name = printable(name)

    def decorate(fn: Callable[P, R]) -> Callable[P, R]:
        arguments = _Arguments(fn, redact) if log_args else None
        logger = _logger_of(fn)

        def start(args: tuple[Any, ...], kwargs: dict[str, Any]) -> _LoggedCall:
            return _LoggedCall(
                name, logger, {} if arguments is None else {"context": arguments.by_name(args, kwargs)}, span=span
            )

        @wraps(fn)
        async def awaited(*args: P.args, **kwargs: P.kwargs) -> Any:
            with start(args, kwargs) as call:
                return call.returned(await cast("Callable[P, Awaitable[Any]]", fn)(*args, **kwargs))

        @wraps(fn)
        def called(*args: P.args, **kwargs: P.kwargs) -> R:
            with start(args, kwargs) as call:
                return call.returned(fn(*args, **kwargs))

        return cast("Callable[P, R]", awaited) if inspect.iscoroutinefunction(fn) else called

    return decorate


class _Arguments:
    """Shows the arguments of a function's calls by their names, of bounded size and without secrets."""

    def __init__(self, fn: Callable[..., Any], redact: tuple[str, ...]) -> None:
        self._signature = signature_of(fn)
        self._values = Sanitizer(Redaction(LoggingSettings(redact=redact)), _LONGEST_CONTEXT_BYTES)

    def by_name(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        try:
            given = self._signature.bind(*args, **kwargs).arguments
        except TypeError:
            # The call itself is about to say so.
            return {}
        named = {name: value for name, value in given.items() if name not in ("self", "cls")}
        # A copy of everything: the function may change what it was given.
        return self._values.rebuilt_fields(named)


class _LoggedCall:
    """One call of a decorated function."""

    def __init__(self, name: str, logger: ObsLogger, fields: Mapping[str, Any], *, span: bool) -> None:
        self._name = name
        self._logger = logger
        self._fields = {"operation": name, **fields}
        self._result: object = None
        correlation = {"sage.correlation_id": current_correlation_id()}
        self._span = Operation(name, measures=UNMEASURED, attributes=correlation) if span else None
        self._outer = _NO_OPERATION

    def __enter__(self) -> Self:
        self._outer = _current_operation.get()
        _current_operation.set((self._name, current_exchange.get()))
        if self._span is not None:
            self._run = self._span.__enter__()
        _log(self._logger, LogLevel.INFO, "Operation started", self._fields)
        self._stopwatch = Stopwatch()
        return self

    def returned(self, result: R) -> R:
        """Note what the function returned."""
        self._result = result
        return result

    def __exit__(self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None) -> None:
        fields = self._fields | self._stopwatch.performance(self._name)
        failure = self._result if error is None else Failure(error)
        if not isinstance(failure, Failure):
            failure, status = None, "success"
            _log(self._logger, LogLevel.INFO, "Operation completed", fields)
        elif isinstance(error, Exception | None):
            status = "failure"
            _log(self._logger, LogLevel.ERROR, "Operation failed", fields, failure)
        else:
            status = "cancelled"
            _log(self._logger, LogLevel.WARNING, "Operation cancelled", fields)
        if self._span is not None:
            self._end(self._span, status, failure, error)
        _current_operation.set(self._outer)

    def _end(self, span: Operation, status: str, failure: Failure[Any] | None, error: BaseException | None) -> None:
        self._run.set(**{"result.status": status})
        if error is None and failure is not None:
            self._run.fail(_error_type(failure.error))
        span.__exit__(None, error, None)


def create_logging_mono(
    fn: Callable[[], Awaitable[Result[T, E]]], *, name: str | None = None
) -> "LoggingMonoResult[T, E | AnyError]":
    """Begin a chain that is logged step by step. `name`: the operation on its lines; by default that around it, if any."""
    operation = None if name is None else printable(name)
    return LoggingMonoResult(_logger_of(fn), operation, calls=(lambda _: fn(),))


class LoggingMonoResult(Generic[T_co, E_co]):
    """A chain like `MonoResult` that writes lines about its steps: when they ran, on what, and how they ended.

    A step is what comes before its `log_step`, back to the step before. Nothing runs before `to_result()`.
    """

    __slots__ = ("_calls", "_logger", "_name", "_stages")

    def __init__(
        self,
        logger: ObsLogger,
        name: str | None,
        stages: "tuple[_Stage, ...]" = (),
        calls: tuple[Callable[[Any], Awaitable[Result[Any, Any]]], ...] = (),
    ) -> None:
        self._logger = logger
        self._name = name
        self._stages = stages
        self._calls = calls
        """Calls that are not yet part of a step."""

    def bind_async_result(self, fn: Callable[[T_co], Awaitable[Result[U, F]]]) -> "LoggingMonoResult[U, E_co | F | AnyError]":
        """Go on with an asynchronous function of the value so far; skipped after a Failure."""
        return LoggingMonoResult(self._logger, self._name, self._stages, (*self._calls, fn))

    def log_step(self, step: str, message: str = "") -> Self:
        """Log what was done since the last step under a name: its times, the type and size of its value, or its error.

        `message` takes the place of "step completed".
        """
        return self._with(_LoggedStep(self._calls, step, message or "step completed"))

    def log_performance(self, name: str) -> Self:
        """Log how long the chain took so far, and record it in `operation_duration_seconds` under this name."""
        return self._with(*self._trailing(), _Performance(printable(name)))

    def log_error(self, name: str) -> Self:
        """Log the Failure, if there is one, in a line with this message."""
        return self._with(*self._trailing(), _Error(name))

    def timeout(self, seconds: float) -> "LoggingMonoResult[T_co, E_co | AnyError]":
        """Limit all before this together: past the limit it is cancelled, for a Failure with `TimeoutError`."""
        limited = within(seconds, self.to_result)
        return LoggingMonoResult(self._logger, self._name, calls=(lambda _: limited(),))

    async def to_result(self) -> Result[T_co, E_co]:
        """Run the chain."""
        run = _Run(self._logger, self._name or _operation_around())
        result: Result[Any, Any] = Success(None)
        for stage in (*self._stages, *self._trailing()):
            result = await stage(run, result)
        return result

    def _with(self, *stages: "_Stage") -> Self:
        return type(self)(self._logger, self._name, (*self._stages, *stages))

    def _trailing(self) -> "tuple[_Stage, ...]":
        return (_StepCalls(self._calls),) if self._calls else ()


class _Run:
    """One run of a chain."""

    def __init__(self, logger: ObsLogger, operation: str | None) -> None:
        self._logger = logger
        self._fields = {} if operation is None else {"operation": operation}
        self.stopwatch = Stopwatch()

    def log(self, level: LogLevel, message: str, fields: Mapping[str, Any], failure: Failure[Any] | None = None) -> None:
        """Write a line."""
        _log(self._logger, level, message, {**self._fields, **fields}, failure)


_Stage = Callable[[_Run, Result[Any, Any]], Awaitable[Result[Any, Any]]]


@dataclass(frozen=True, slots=True)
class _StepCalls:
    """Does one thing after the other."""

    fns: tuple[Callable[[Any], Awaitable[Result[Any, Any]]], ...]

    async def __call__(self, _: _Run, result: Result[Any, Any]) -> Result[Any, Any]:
        return await go_on(result, self.fns)


@dataclass(frozen=True, slots=True)
class _LoggedStep(_StepCalls):
    """Does the same, and logs it under a name."""

    name: str
    message: str

    async def __call__(self, run: _Run, result: Result[Any, Any]) -> Result[Any, Any]:
        if isinstance(result, Failure):
            run.log(LogLevel.DEBUG, "step skipped", {"step": self.name, "step_status": "skipped"})
            return result
        stopwatch = Stopwatch()
        started = {"step": self.name, "step_started_at": _timestamp(time.time())}
        run.log(LogLevel.DEBUG, "step started", {**started, "step_status": "started"})
        try:
            result = await _StepCalls.__call__(self, run, result)
        except BaseException:
            ended = self._ended(started, stopwatch, "cancelled")
            run.log(LogLevel.WARNING, "step cancelled", ended)
            raise
        if isinstance(result, Failure):
            run.log(LogLevel.ERROR, "step failed", self._ended(started, stopwatch, "failed"), result)
        else:
            run.log(LogLevel.INFO, self.message, self._ended(started, stopwatch, "completed") | _shape(result.value))
        return result

    def _ended(self, started: Mapping[str, Any], stopwatch: "Stopwatch", status: str) -> dict[str, Any]:
        times = {**started, "step_status": status, "step_finished_at": _timestamp(time.time())}
        return times | stopwatch.performance(self.name)


@dataclass(frozen=True, slots=True)
class _Performance:
    """Logs how long a run took so far."""

    name: str

    async def __call__(self, run: _Run, result: Result[Any, Any]) -> Result[Any, Any]:
        observe("operation_duration_seconds", run.stopwatch.seconds, self.name)
        if performance := run.stopwatch.performance(self.name):
            run.log(LogLevel.INFO, "performance measured", performance)
        return result


@dataclass(frozen=True, slots=True)
class _Error:
    """Logs a failure."""

    name: str

    async def __call__(self, run: _Run, result: Result[Any, Any]) -> Result[Any, Any]:
        if isinstance(result, Failure):
            run.log(LogLevel.ERROR, self.name, {}, result)
        return result


class Stopwatch:
    """Measures time, and the change of the process's memory, since it was created."""

    def __init__(self) -> None:
        self._memory = resident_bytes()
        self._started_ns = time.perf_counter_ns()

    @property
    def seconds(self) -> float:
        """How long it has been."""
        return (time.perf_counter_ns() - self._started_ns) / 1_000_000_000

    def performance(self, name: str) -> dict[str, Any]:
        """Return the field with both; nothing where the options leave it out."""
        if not _options().include_performance_data:
            return {}
        duration_ms = round(self.seconds * 1_000, 3)
        memory = resident_bytes() - self._memory
        return {"performance": {"name": name, "duration_ms": duration_ms, "memory_delta_bytes": memory}}


def _log(
    logger: ObsLogger, level: LogLevel, message: str, fields: Mapping[str, Any], failure: Failure[Any] | None = None
) -> None:
    options = _options()
    if LEVELS[level.value] < LEVELS[options.level.value]:
        return
    if failure is not None:
        error = failure.error if isinstance(failure.error, BaseException) and options.include_stack_trace else None
        fields = fields if error is not None else {**fields, "error": error_fields(failure.error)}
        logger.error(message, exc=error, **fields)
        return
    getattr(logger, level.name.lower())(message, **fields)


def _error_type(error: object) -> BaseException | str:
    return error if isinstance(error, BaseException) else class_name(error)


def _shape(value: object) -> dict[str, Any]:
    shape: dict[str, Any] = {"data_type": type(value).__qualname__}
    try:
        shape["data_size"] = len(value)  # type: ignore[arg-type]
    except Exception:  # noqa: S110 - most values have no length, and some lie about it
        pass
    return shape


def _logger_of(fn: Callable[..., Any]) -> ObsLogger:
    return create_logger(getattr(fn, "__module__", None) or "result")

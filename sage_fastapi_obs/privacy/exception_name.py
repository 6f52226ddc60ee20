"""What an exception is called in spans, lines and metrics."""


def exception_name(error: BaseException) -> str:
    """Name an exception as OpenTelemetry's `error.type` does: qualified, builtins bare."""
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"

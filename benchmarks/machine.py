"""Where and with what the figures were made."""

import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

__all__ = ["described"]

PACKAGES = (
    *("fastapi", "starlette", "pydantic", "uvicorn", "uvloop", "httptools", "orjson"),
    *("prometheus-client", "opentelemetry-sdk", "opentelemetry-instrumentation-asgi", "opentelemetry-instrumentation-fastapi"),
    *("asgi-correlation-id", "prometheus-fastapi-instrumentator", "starlette-exporter", "loguru", "structlog", "logfire"),
)


def described(packages: Sequence[str] = PACKAGES) -> dict[str, object]:
    """Describe this machine, without its name; its load is that of other processes, as long as nothing is measured yet."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": _model(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "os": _system(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "packages": {name: found for name in packages if (found := _version(name)) is not None},
    }


def _model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _system() -> str:
    try:
        return f"{platform.freedesktop_os_release()['PRETTY_NAME']}, {platform.system()} {platform.release()}"
    except OSError:
        return f"{platform.system()} {platform.release()}"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None

"""Settings that hold while an app is only looked at: whatever its code says, nothing of ours leaves the process."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pydantic import BaseModel

from sage_fastapi_obs.settings.sections import NotifySettings, Settings

_QUIET: dict[str, dict[str, Any]] = {
    "logging": {
        "output": os.devnull,
        "outputs": (),
        "rotate_bytes": None,
        "rotate_hours": None,
        "elasticsearch_url": None,
        "otlp_endpoint": None,
    },
    "tracing": {"exporter": "none", "otlp_endpoint": None, "jaeger_endpoint": None},
    "metrics": {"otlp_endpoint": None},
    # The lines are read there.
    "monitoring": {"log_buffer_size": 10_000},
    "store": {"enabled": False},
    "workers": {"enabled": False},
    "insight": {"stacks_signal": None},
    "notify": dict(NotifySettings()),
}
"""No output, no file, no socket, no signal, no receiver of alerts."""
_inspections: list[object] = []


@contextmanager
def inspection_mode() -> Iterator[None]:
    """Let everything that is built meanwhile be built with quiet settings."""
    _inspections.append(None)
    try:
        yield
    finally:
        _inspections.pop()


def in_force(settings: Settings | None) -> Settings:
    """Return what to build with: the settings given, the defaults for None, and quiet ones while an app is only looked at."""
    given = Settings() if settings is None else settings
    return _quiet(given) if _inspections and not given.is_inspected else given


def _quiet(given: Settings) -> Settings:
    changes: dict[str, BaseModel] = {
        section: getattr(given, section).model_copy(update=update) for section, update in _QUIET.items()
    }
    if given.monitoring.access == "port":
        # The pages are as closed on the application's port, and no other one is opened.
        changes["monitoring"] = changes["monitoring"].model_copy(update={"access": "token", "token": None})
    return given.with_sections(changes)

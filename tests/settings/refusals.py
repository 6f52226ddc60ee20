"""How tests read a setting, and the message of a refusal."""

from typing import Any

import pytest

from sage_fastapi_obs import Settings, SettingsError

SECRET = "hunter2-hunter2-hunter2"


def read(settings: Settings, dotted: str) -> Any:
    """Read `section.key`."""
    section, _, key = dotted.partition(".")
    return getattr(getattr(settings, section), key) if key else getattr(settings, section)


def refusal(build: Any) -> str:
    """Return the message with which a build is refused."""
    with pytest.raises(SettingsError) as caught:
        build()
    return str(caught.value)

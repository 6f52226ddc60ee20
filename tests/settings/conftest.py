"""Files that settings are read from."""

from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def yaml_file(tmp_path: Path) -> Any:
    """Write a YAML file."""

    def write(text: str) -> Path:
        path = tmp_path / "settings.yaml"
        path.write_text(text)
        return path

    return write


@pytest.fixture
def secrets_dir(tmp_path: Path) -> Any:
    """Write a folder of secrets; return the variables that name it."""

    def write(**files: str) -> dict[str, str]:
        for name, text in files.items():
            (tmp_path / name).write_text(text)
        return {"SAGE_OBS_SECRETS_DIR": str(tmp_path)}

    return write

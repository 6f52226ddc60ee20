"""The services of the demo, and programs that judge what is exported for them."""

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from servers import need

from sage_fastapi_obs import Settings

ROOT = Path(__file__).parents[2]
NAMES = ("sage-backend", "ai-textbook-core", "customer-id", "rfs-demo")
SERVICES = [Settings.from_env({}, path=ROOT / "deploy" / "services" / f"{name}.yaml") for name in NAMES]


def service(name: str = "shop", **sections: Any) -> Settings:
    """Build the settings of one service."""
    return Settings(service={"name": name}, **sections)


def write(files: dict[str, str], folder: Path) -> Path:
    """Write exported files below a folder."""
    for path, text in files.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
    return folder


def run(program: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a program that judges something."""
    command: Sequence[str] = [need(program), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def promtool(folder: Path, *tests: Path) -> subprocess.CompletedProcess[str]:
    """Run the unit tests of exported rules, by default all."""
    return run("promtool", "test", "rules", *(tests or sorted((folder / "prometheus" / "tests").glob("*.yml"))))

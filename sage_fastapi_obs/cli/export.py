"""`sage-obs export`: what Prometheus, Alertmanager and Kubernetes load, written from the settings of services."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from sage_fastapi_obs.errors import SettingsError
from sage_fastapi_obs.export.exporters import EXPORTERS
from sage_fastapi_obs.settings import Settings

__all__ = ["add_to"]

ALL = "all"
FAILED = 1


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    about = "Write rules, configuration and manifests for other systems, from the settings of your services."
    parser = commands.add_parser("export", help="write rules and configuration for other systems", description=about)
    parser.add_argument("what", choices=[*EXPORTERS, ALL], help="what to write")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder that the files are written below")
    parser.add_argument(
        "--settings",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="settings of a service, as YAML; once per service; by default those of the environment",
    )
    parser.set_defaults(run=run)


def run(given: argparse.Namespace) -> int:
    """Write the files, and say which; return the exit code."""
    try:
        for path, text in exported(given.what, _services(given.settings)).items():
            target = given.out / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8")
            print(target)
    except (SettingsError, OSError) as error:
        print(f"sage-obs export: {error}", file=sys.stderr)
        return FAILED
    return 0


def exported(what: str, services: Sequence[Settings]) -> dict[str, str]:
    """Return all files of one exporter, or of all, by their paths."""
    chosen = EXPORTERS.values() if what == ALL else [EXPORTERS[what]]
    return {path: text for exporter in chosen for path, text in exporter(services).items()}


def _services(files: Sequence[Path]) -> list[Settings]:
    """Read settings; the environment is only asked where there are no files, for it is that of one service at most."""
    return [Settings.from_env({}, path=file) for file in files] or [Settings.from_env()]

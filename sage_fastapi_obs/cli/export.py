"""`sage-obs export`: what Prometheus, Alertmanager, Grafana and Kubernetes load, written from the settings of services."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from sage_fastapi_obs.errors import SettingsError
from sage_fastapi_obs.export.exporters import EXPORTERS
from sage_fastapi_obs.settings import Settings

__all__ = ["HELP", "add_arguments", "run"]

HELP = "Write rules, configuration and manifests for other systems, from the settings of your services."
ALL = "all"
FAILED = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
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


def run(given: argparse.Namespace) -> int:
    """Write the files, and say which; return the exit code."""
    try:
        services = _services(given.settings)
        exporters = EXPORTERS.values() if given.what == ALL else [EXPORTERS[given.what]]
        files = {path: text for exporter in exporters for path, text in exporter(services).items()}
        for path, text in files.items():
            target = given.out / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8")
            print(target)
    except (SettingsError, OSError) as error:
        print(f"sage-obs export: {error}", file=sys.stderr)
        return FAILED
    return 0


def _services(files: Sequence[Path]) -> list[Settings]:
    """Read settings; the environment is only asked where there are no files, for it is that of one service at most."""
    return [Settings.from_env({}, path=file) for file in files] or [Settings.from_env()]

"""The page about the example is held against it."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from servers import free_port
from support import PATIENCE_SECONDS

from example_app.app import create_app
from example_app.traffic import SCENARIOS
from sage_fastapi_obs import Settings
from sage_fastapi_obs.catalog import CATALOG
from sage_fastapi_obs.settings import PRESETS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "example.md").read_text()
ROUTES = re.findall(r"^\| `([A-Z]+) (/[^`]*)` \| ([\d, ]+) \|(.*)\|$", PAGE, re.MULTILINE)


def test_every_route_is_on_the_page():
    """The table has the routes of the service, each once, and no other."""
    paths = create_app().openapi()["paths"]
    assert sorted((method, path) for method, path, _, _ in ROUTES) == sorted(
        (method.upper(), path) for path, methods in paths.items() for method in methods
    )


def test_what_is_to_be_watched_exists():
    """Metrics that the page names are those of the catalog; scenarios are those that can be chosen."""
    names = set(re.findall(r"`([a-z]+(?:_[a-z]+)+)`", PAGE))
    assert names - {metric.name for metric in CATALOG} == {"order_processing", "nonce_validated", "trace_id", "event_id"}
    assert re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)[: len(SCENARIOS)] == list(SCENARIOS)


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_written_out(preset):
    """The file of a preset says all that the preset does, and can be read."""
    file = ROOT / f"example_app/config/{preset}.yaml"
    written = yaml.safe_load(file.read_text())
    assert {section: {**written[section], **keys} for section, keys in PRESETS[preset].items()}.items() <= written.items()
    assert Settings.from_env({}, path=file).service.name == "example-shop"


def test_what_the_page_says_to_type_shows_something(tmp_path):
    """Each of its commands, typed beside a running demo, finds what it is after."""
    commands = PAGE.split("While it runs:")[1].split("```")[1].splitlines()[1:]
    assert len(commands) > 4
    port = free_port()
    demo = [sys.executable, "-m", "example_app", "--port", str(port), "--rate", "50", "--log", str(tmp_path / "demo.log")]
    with subprocess.Popen(demo, cwd=ROOT, stdout=subprocess.DEVNULL, env=dict(os.environ)) as running:
        try:
            for command in commands:
                typed = f"until {command.replace('8000', str(port))} | grep .; do sleep 0.2; done"
                shown = subprocess.run(
                    ["sh", "-c", typed], cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=True
                )
                assert shown.stdout.strip()
        except subprocess.TimeoutExpired as late:
            pytest.fail(f"nothing to see: {late.cmd}")
        finally:
            running.send_signal(signal.SIGINT)
    assert running.returncode == 0

"""A version of prometheus_client whose private attributes have other names serves the same pages and windows."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import prometheus_client
import pytest
from support import PATIENCE_SECONDS

LIBRARY = Path(prometheus_client.__file__).parent
SERVED = """
import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Enum, Gauge, Histogram, Info, Summary
from prometheus_client.exposition import choose_encoder
from sage_fastapi_obs.internal_errors import InternalErrors
from sage_fastapi_obs.legacy.aliases import Aliases
from sage_fastapi_obs.catalog import PACKS, build
from sage_fastapi_obs.metrics.exposition.exposition import exposition_of
from sage_fastapi_obs.metrics.exposition.prometheus_internals import gauge_value, names_beginning
from sage_fastapi_obs.metrics.registry_reader import RegistryReader

prometheus_client.disable_created_metrics()
registry, errors = CollectorRegistry(target_info={"version": "1"}), InternalErrors()
counter = Counter("c", "c", ["a"], registry=registry)
gauge = Gauge("g", "g", registry=registry)
summary = Summary("s", "s", registry=registry)
histogram = Histogram("h", "h", ["a"], buckets=[1, 2], registry=registry)
info = Info("i", "i", registry=registry)
enum = Enum("e", "e", ["a"], states=["off", "on"], registry=registry)
build(PACKS["sage"], registry)["sage_sessions_active"].set(2)
registry.register(Aliases(registry, ["sage"]))
encode, _ = choose_encoder("application/openmetrics-text; version=1.0.0")
page = exposition_of(encode, registry, errors)
for number in range(3):
    counter.labels("x").inc(number, {"trace_id": str(number)})
    gauge.set(number)
    summary.observe(number)
    histogram.labels("y").observe(number, {"trace_id": str(number)})
    info.info({"k": str(number)})
    enum.labels("z").state("on")
    assert b"".join(page.pieces(int)) == encode(registry)
    assert gauge_value(gauge) == number
named = exposition_of(encode, registry, errors, frozenset({"c_total"}))
assert b"".join(named.pieces(int)).splitlines()[2].startswith(b'c_total{a="x"} 3.0')
assert "h_bucket" in names_beginning(registry, "h_b")
assert {reading.name: [*reading.children] for reading in RegistryReader(registry, errors)()}["c_total"] == [(("x",), (3.0,))]
assert errors.counts == {}, errors.counts
print("served")
"""


@pytest.mark.parametrize(
    "attribute", ["_collector_to_names", "_names_to_collectors", "_metrics", "_child_samples", "_value", "_buckets"]
)
def test_a_renamed_attribute_costs_only_speed(attribute: str, tmp_path: Path) -> None:
    """Pages, windows and aliases are the same, and nothing is counted as an internal error."""
    shutil.copytree(LIBRARY, tmp_path / "prometheus_client", ignore=shutil.ignore_patterns("*.pyc.*"))
    for source in (tmp_path / "prometheus_client").rglob("*.py"):
        source.write_text(re.sub(rf"(?<![\w'\"]){attribute}\b(?!['\"])", f"{attribute}_renamed", source.read_text()))
    script = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{SERVED}"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=PATIENCE_SECONDS)
    assert done.stdout == "served\n", done.stderr[-2000:]

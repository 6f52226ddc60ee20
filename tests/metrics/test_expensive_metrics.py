"""Histograms that each message is observed in get the share of observations that the settings say."""

import pytest
from support import Watched

from sage_fastapi_obs.catalog import CATALOG
from sage_fastapi_obs.packs import sage

EXPENSIVE = {metric.name for metric in CATALOG if metric.is_expensive}
MANY = 2_000


def work(times: int) -> None:
    """Encrypt messages, and process them."""
    for _ in range(times):
        with sage.encryption("s", 64), sage.observe_message("text", 64):
            pass
        with sage.observe_did_resolution("solana"):
            pass


def observed(watched: Watched) -> dict[str, float]:
    """Count the observations of each histogram of SAGE."""
    families = [family for family in watched.obs.registry.collect() if family.name.startswith("sage_")]
    samples = [sample for family in families for sample in family.samples if sample.name.endswith("_count")]
    found: dict[str, float] = {}
    for sample in samples:
        name = sample.name.removesuffix("_count")
        found[name] = found.get(name, 0) + sample.value
    return found


@pytest.mark.parametrize(("rate", "least", "most"), [(1.0, MANY, MANY), (0.5, 800, 1_200), (0.0, 0, 0)])
async def test_expensive_ones_get_a_share_and_counters_all(watch, rate: float, least: float, most: float):
    """Other histograms and all counters are exact, whatever the rate."""
    watched = watch(metrics={"packs": ["sage"], "expensive_sample_rate": rate}, tracing={"enabled": False})
    async with watched.obs:
        work(MANY)
    found = observed(watched)
    assert set(found) > EXPENSIVE
    assert all(least <= found[name] <= most for name in EXPENSIVE)
    assert found["sage_did_resolution_duration_seconds"] == MANY
    assert watched.value("sage_messages_processed_total", type="text", status="success") == MANY
    assert watched.value("sage_crypto_operations_total", operation="encrypt", algorithm="chacha20") == MANY
    assert watched.obs.internal_errors.counts == {}


def test_each_of_them_is_a_histogram():
    """Nothing else may be left out: a counter that is not exact is wrong."""
    assert EXPENSIVE
    assert all(metric.type == "histogram" for metric in CATALOG if metric.is_expensive)

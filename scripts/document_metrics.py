"""Write `docs/metrics.md` from the catalog; with `--check` only say whether it is what the catalog says."""

import sys
from pathlib import Path

from sage_fastapi_obs.catalog import ALWAYS, CATALOG, PACKS
from sage_fastapi_obs.export.tables import bounds_table, metrics_table
from sage_fastapi_obs.pack_folders import pack_module

PAGE = Path(__file__).parents[1] / "docs" / "metrics.md"
OPENING = """# Metrics

The metrics of a pack are declared in `sage_fastapi_obs/packs/<pack>/metrics.py`, all others in `sage_fastapi_obs/catalog/` and
`sage_fastapi_obs/clients/`. `scripts/document_metrics.py` writes this page.

`metrics.packs` says which packs are switched on: `http`, `runtime` and `result` by default. `sage-core` is the first part of
`sage`: handshakes, their time, and open sessions. [Packs](packs.md) describes how an application records these metrics, and
how it declares its own.

If a label lists its values in brackets, any other value is counted as `other`. Open labels have at most
`metrics.max_label_values` values (routes: `metrics.max_routes`); further ones are `other`, too. Both are counted in
`observability_label_overflow_total`. A value is cut to 128 characters, ending in `…`. White space becomes a space, and `�`
replaces characters that cannot be printed. If all values are known, the series exist from the start, at 0.

`metrics.compat_aliases` adds older names beside the new ones: the same samples, in the older name's unit and words.

## Expensive metrics

Each message is observed in several histograms. Where that costs too much, `metrics.expensive_sample_rate` is the share of
observations that they get, chosen at random: set it in the file of an environment, such as 0.1 in `production.yaml` and nothing
in `dev.yaml`. Quantiles and means stay right; `_count` and `_sum` are that share of the truth, so take rates from the counters,
which are always exact. These are:
"""


def page() -> str:
    """Return the page as it should be."""
    whole = [pack for pack in PACKS if PACKS[pack][0].pack == pack]
    sections = [f"## Pack `{pack}`\n\n{about(pack)}\n\n{metrics_table(PACKS[pack])}\n" for pack in whole]
    always = f"## Always there\n\n{metrics_table(ALWAYS)}\n"
    expensive = [f"- `{metric.name}`" for metric in CATALOG if metric.is_expensive]
    return "\n".join([OPENING, *expensive, "", *sections, always, "## Bounds of histograms\n", bounds_table(CATALOG), ""])


def about(pack: str) -> str:
    """Return what a pack is about: the first line of its module of metrics."""
    documented = pack_module(pack, "metrics")
    assert documented is not None
    assert documented.__doc__ is not None
    return documented.__doc__.splitlines()[0]


if __name__ == "__main__":
    if "--check" not in sys.argv:
        PAGE.write_text(page())
    elif PAGE.read_text() != page():
        sys.exit(f"{PAGE} is not what the catalog says: run python scripts/document_metrics.py")

"""Write `docs/metrics.md` from the catalog; with `--check` only say whether it is what the catalog says."""

import sys
from pathlib import Path

from sage_fastapi_obs.catalog import ALWAYS, CATALOG, PACKS
from sage_fastapi_obs.export.tables import bounds_table, metrics_table
from sage_fastapi_obs.pack_registry import pack_module

PAGE = Path(__file__).parents[1] / "docs" / "metrics.md"
OPENING = """# Metrics

Those of a pack are declared in `sage_fastapi_obs/packs/<pack>/metrics.py`, all others in `sage_fastapi_obs/catalog/` and
`sage_fastapi_obs/clients/`; `scripts/document_metrics.py` writes this page from there.

`metrics.packs` says which packs are switched on: `http`, `runtime` and `result` by default. `sage-core` is the first part of
`sage`: handshakes, their time, and open sessions. How an application counts into packs, and declares metrics of its own, is in
[packs](packs.md).

Labels with values in brackets have no others: an unknown value is counted as `other`. Open labels take at most
`metrics.max_label_values` values (routes: `metrics.max_routes`); the rest is `other`, too. Both are counted in
`observability_label_overflow_total`. A value has at most 128 characters: of a longer one the beginning is told, with `…` at its
end. White space is a space, and `�` stands for what cannot be printed. Where all values are known, series are there from
the start, at 0.

Older names are shown besides the new ones where `metrics.compat_aliases` asks for them: the same samples, in the older name's
unit and words.
"""


def page() -> str:
    """Return the page as it should be."""
    whole = [pack for pack in PACKS if PACKS[pack][0].pack == pack]
    sections = [f"## Pack `{pack}`\n\n{about(pack)}\n\n{metrics_table(PACKS[pack])}\n" for pack in whole]
    always = f"## Always there\n\n{metrics_table(ALWAYS)}\n"
    return "\n".join([OPENING, *sections, always, "## Bounds of histograms\n", bounds_table(CATALOG), ""])


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

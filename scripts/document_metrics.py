"""Write `docs/metrics.md` from the catalog; with `--check` only say whether it is what the catalog says."""

import sys
from collections.abc import Iterator
from pathlib import Path

from sage_fastapi_obs.signals.catalog import ALWAYS, PACKS, Alias, Metric

PAGE = Path(__file__).parents[1] / "docs" / "metrics.md"
MOST_WORDS = 8
OPENING = """# Metrics

All of them are declared in `sage_fastapi_obs/signals/catalog/`; `scripts/document_metrics.py` writes this page from there.

`metrics.packs` says which packs are switched on: `http`, `runtime` and `result` by default. `sage-core` is the first part of
`sage`: handshakes, their time, and open sessions. How an application counts into packs, and declares metrics of its own, is in
[packs](packs.md).

Labels with values in brackets have no others: an unknown value is counted as `other`. Open labels take at most
`metrics.max_label_values` values (routes: `metrics.max_routes`); the rest is `other`, too. Both are counted in
`observability_label_overflow_total`. Where all values are known, series are there from the start, at 0.

Older names are shown besides the new ones where `metrics.compat_aliases` asks for them: the same samples, in the older name's
unit and words.
"""
TITLES = {
    "http": "HTTP and WebSocket: pack `http`",
    "runtime": "Process and interpreter: pack `runtime`",
    "sage": "SAGE: packs `sage` and `sage-core`",
    "textbook": "Textbooks: pack `textbook`",
    "security": "Security: pack `security`",
    "dependencies": "Redis, PostgreSQL and Kafka: pack `dependencies`",
    "grpc": "gRPC servers: pack `grpc`",
    "result": "Results and batches: pack `result`",
    "business": "Business: pack `business`",
}


def page() -> str:
    """Return the page as it should be."""
    sections = [OPENING]
    for pack, title in TITLES.items():
        sections.append(section(title, PACKS[pack]))
    sections.append(section("Always there", ALWAYS))
    return "\n".join([*sections, "## Bounds of histograms\n", *bounds()]) + "\n"


def section(title: str, metrics: tuple[Metric, ...]) -> str:
    """Write the table of some metrics, with a column for older names where there are any."""
    aliased = any(metric.aliases for metric in metrics)
    head = "| metric | type | labels | meaning |" + (" older names |" if aliased else "")
    lines = [f"## {title}\n", head, "|---" * head.count(" | ") + "|---|"]
    for metric in metrics:
        labels = ", ".join(label(*pair) for pair in metric.labels.items()) or "–"
        line = f"| `{metric.name}` | {metric.type} | {labels} | {metric.shown_help} |"
        lines.append(f"{line} {', '.join(map(older, metric.aliases))} |" if aliased else line)
    return "\n".join([*lines, ""])


def label(name: str, allowed: tuple[str, ...]) -> str:
    """Show a label with what it may be, unless that fills the page."""
    return f"`{name}` ({', '.join(allowed)})" if 0 < len(allowed) <= MOST_WORDS else f"`{name}`"


def older(alias: Alias) -> str:
    """Show an older name, with what is different about it."""
    scale = [f"× {alias.factor:g}"] if alias.factor != 1 else []
    only = [f"{name} {' and '.join(values)} only" for name, values in alias.only.items()]
    said = [f"{new} is {old}" for words in alias.values.values() for new, old in words.items()]
    different = ", ".join([*scale, *only, *said])
    return f"`{alias.name}` ({different})" if different else f"`{alias.name}`"


def bounds() -> Iterator[str]:
    """List the bounds of all histograms; those that are alike share a line."""
    yield "| upper bounds | of |\n|---|---|"
    shared: dict[tuple[float, ...], list[str]] = {}
    for metric in (*(metric for pack in TITLES for metric in PACKS[pack]), *ALWAYS):
        if metric.buckets:
            shared.setdefault(metric.buckets, []).append(f"`{metric.name}`")
    for buckets, names in shared.items():
        yield f"| {', '.join(f'{bound:.10g}' for bound in buckets)} | {', '.join(names)} |"


if __name__ == "__main__":
    if "--check" not in sys.argv:
        PAGE.write_text(page())
    elif PAGE.read_text() != page():
        sys.exit(f"{PAGE} is not what the catalog says: run python scripts/document_metrics.py")

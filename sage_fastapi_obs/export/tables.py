"""Metrics as tables of Markdown, for documents."""

from collections.abc import Iterable, Iterator

from sage_fastapi_obs.catalog import Alias, Metric

_MOST_WORDS = 8
"""Values of a label that are listed; more would fill the page."""


def metrics_table(metrics: Iterable[Metric]) -> str:
    """Write a row for each metric, with a column for older names where there are any."""
    rows = tuple(metrics)
    aliased = any(metric.aliases for metric in rows)
    columns = ["metric", "type", "labels", "meaning", *(["older names"] if aliased else [])]
    lines = [_row(columns), "|" + "---|" * len(columns)]
    for metric in rows:
        labels = ", ".join(_label(*pair) for pair in metric.labels.items()) or "–"
        older = [", ".join(map(_older, metric.aliases))] if aliased else []
        lines.append(_row([f"`{metric.name}`", metric.type, labels, metric.shown_help, *older]))
    return "\n".join(lines)


def bounds_table(metrics: Iterable[Metric]) -> str:
    """Write a row for each set of upper bounds, with the histograms that have it."""
    shared: dict[tuple[float, ...], list[str]] = {}
    for metric in metrics:
        if metric.buckets:
            shared.setdefault(metric.buckets, []).append(f"`{metric.name}`")
    rows: Iterator[str] = (
        _row([", ".join(f"{bound:.10g}" for bound in buckets), ", ".join(names)]) for buckets, names in shared.items()
    )
    return "\n".join([_row(["upper bounds", "of"]), "|---|---|", *rows])


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _label(name: str, allowed: tuple[str, ...]) -> str:
    return f"`{name}` ({', '.join(allowed)})" if 0 < len(allowed) <= _MOST_WORDS else f"`{name}`"


def _older(alias: Alias) -> str:
    """Show an older name, with what is different about it."""
    scale = [f"× {alias.factor:g}"] if alias.factor != 1 else []
    only = [f"{name} {' and '.join(values)} only" for name, values in alias.only.items()]
    said = [f"{new} is {old}" for words in alias.values.values() for new, old in words.items()]
    different = ", ".join([*scale, *only, *said])
    return f"`{alias.name}` ({different})" if different else f"`{alias.name}`"

"""The measured figures as tables, in the pages that show them; everything here is made from `results.json` alone."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.chart import chart
from benchmarks.targets import RUN_TARGETS, TARGETS, Target
from benchmarks.variants import VARIANTS

__all__ = [
    "CHART",
    "PAGE",
    "README",
    "RESULTS",
    "between",
    "figures",
    "pages",
    "sentence",
    "table_of_cost",
    "table_of_run",
    "where",
    "write",
]

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results.json"
PAGE = ROOT / "docs" / "benchmarks.md"
CHART = ROOT / "docs" / "benchmarks.svg"
README = ROOT / "README.md"
BEGIN, END = "<!-- measured -->\n", "<!-- end of measured -->\n"
Results = Mapping[str, Any]
WAYS = {
    "nothing": "no scrape",
    "ours": "ours",
    "ours_as_prometheus": "ours, OpenMetrics and gzip",
    "thread": "`generate_latest` in a thread",
    "loop": "`generate_latest` on the loop",
}
LABELS = {"route": "ours, distinct routes", "status": "ours, distinct statuses"}
KINDS = {"http": "HTTP metrics", "client": "application's metrics"}


def write(results: Results) -> None:
    """Keep results, and bring everything that shows them up to date."""
    RESULTS.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    for path, text in pages(json.loads(RESULTS.read_text())).items():
        path.write_text(text)


def pages(results: Results) -> dict[Path, str]:
    """Make the text of every file that shows results."""
    return {
        PAGE: between(PAGE.read_text(), figures(results)),
        README: between(README.read_text(), sentence(results)),
        CHART: chart(results["cost"]),
    }


def between(text: str, made: str) -> str:
    """Replace what stands between the two markers."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    assert begin, "the page has lost its first marker"
    assert end, "the page has lost its last marker"
    return f"{before}{BEGIN}{made}{END}{after}"


def sentence(results: Results) -> str:
    """Say the main ratios, first those of the case that is like most services."""
    first = f"{_sentence_of_run(results['as_run'])}\n\n" if "as_run" in results else ""
    return f"{first}{_sentence_of_minimal(results)}\n"


def _sentence_of_run(run: Results) -> str:
    cost = run["cost"]
    sent, stored, tenth = (cost[name] for name in ("100 %, OTLP", "100 %", "10 %, OTLP, no traceparent"))
    return (
        f"To a browser's request behind a gateway, kept in the store and sent by OTLP, all four signals together add "
        f"{sent['added_us']:.0f} µs of CPU: {sent['to_instrumentator']:.2f} times what prometheus-fastapi-instrumentator adds "
        f"for metrics alone, and 1/{1 / sent['to_usual']:.1f} of the usual stack of four packages that sends its spans; "
        f"not sent, {stored['to_instrumentator']:.2f} times; with one trace in ten kept, and what failed or was slow, "
        f"{tenth['to_instrumentator']:.2f} times."
    )


def _sentence_of_minimal(results: Results) -> str:
    cost, sockets = results["cost"], results["sockets"]
    ours, sampled = cost["ours-100"], cost["ours-10"]
    said = (
        f"To a bare request all four signals together add {ours['added_us']:.0f} µs of CPU at 100 % sampling: "
        f"{ours['to_instrumentator']:.2f} times what prometheus-fastapi-instrumentator adds for metrics alone, "
        f"and 1/{1 / ours['to_usual']:.1f} of the usual stack of four packages; "
        f"at 10 % it is {sampled['to_instrumentator']:.2f} times and 1/{1 / sampled['to_usual']:.1f}."
    )
    if "variants" in sockets:
        variants = sockets["variants"]
        said += (
            f" Over sockets the app keeps {variants['ours-100']['of_bare_per_second']:.0%} of its requests per second"
            f" ({variants['ours-10']['of_bare_per_second']:.0%} at 10 %); under the usual stack"
            f" {variants['usual-100']['of_bare_per_second']:.0%}."
        )
    return said


def figures(results: Results) -> str:
    """Lay everything out."""
    sections = {
        "Where": where(results["made"]),
        "Targets": _targets(results),
        "CPU of a request": table_of_cost(results["cost"]),
        "Growth": _scaling(results["scaling"]),
        "Scrape": _scrape(results["scrape"]),
        "Sockets": _sockets(results["sockets"]),
        "Memory": _memory(results["memory"]),
        **({"As people run it": table_of_run(results["as_run"])} if "as_run" in results else {}),
    }
    return "\n".join(f"### {title}\n\n{body}" for title, body in sections.items())


def _table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)], *rows]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)


def where(made: Results) -> str:
    """Say where and with what it was measured."""
    packages = ", ".join(f"{name} {version}" for name, version in made["packages"].items())
    machine = (
        f"{made['machine']}, {made['cores']} cores, load {made['load']:.1f} before the start, {made['os']}, {made['python']}"
    )
    return f"{made['date']}, {machine}; {packages}.\n"


def _targets(results: Results, targets: Iterable[Target] = TARGETS) -> str:
    def row(target: Target) -> tuple[str, ...]:
        measured, met, unit = target.measured(results), target.met(results), f" {target.unit}" if target.unit else ""
        sign = "≥" if target.at_least else "≤"
        shown = "not measured" if measured is None else f"{measured:.3g}{unit}"
        return target.says, f"{sign} {target.limit:.3g}{unit}", shown, {True: "yes", False: "**no**", None: "–"}[met]

    return _table(("", "target", "measured", "met"), map(row, targets))


def table_of_cost(cost: Results) -> str:
    """Lay out what requests gain."""

    def row(name: str, one: Results) -> tuple[str, ...]:
        ratios = (
            f"{one[ratio]:.{digits}f}" if ratio in one else "–" for ratio, digits in (("to_instrumentator", 2), ("to_usual", 3))
        )
        return VARIANTS[name].label, f"{one['added_us']:.1f}", f"{one['quiet_us']:.1f}", f"{one['to_bare']:.2f}", *ratios

    heads = ("", "added µs", "quiet µs", "of bare", "of the instrumentator", "of the usual stack")
    return _table(heads, (row(*item) for item in cost.items()))


def table_of_run(run: Results) -> str:
    """Lay out the case `as-run`; figures that were not measured are left out."""
    cost = (
        (name, f"{one['added_us']:.1f}", f"{one['quiet_us']:.1f}", _two(one, "to_instrumentator"), _two(one, "to_usual"))
        for name, one in run["cost"].items()
    )
    heads = ("added µs of CPU", "added", "quiet", "of the instrumentator", "of the usual stack, OTLP")
    parts = [
        _table(heads, cost),
        _table(("of this", "µs"), ((f"{what} adds", f"{us:.1f}") for what, us in run["adds_us"].items())),
    ]
    if "encoding" in run:
        one = run["encoding"]
        parts.append(f"A span takes {one['ours_us']:.1f} µs to encode, {one['to_sdk']:.2f} of what the SDK takes.\n")
    if "sockets" in run:
        parts.append(_sockets(run["sockets"]))
    return "\n".join((*([where(run["made"])] if "made" in run else []), _targets(run, RUN_TARGETS), *parts))


def _two(one: Results, ratio: str) -> str:
    return f"{one[ratio]:.2f}" if ratio in one else "–"


def _scaling(scaling: Results) -> str:
    def grown(kind: str, what: str) -> str:
        measured = scaling[kind]
        counts = list(next(iter(measured.values())))
        rows = [(_label(name), *(f"{by_count[count]:.1f}" for count in counts)) for name, by_count in measured.items()]
        return _table((f"added µs, {what}", *(f"{int(count):,}" for count in counts)), rows)

    return "\n".join(
        (
            grown("routes", "routes, the last one asked for"),
            grown("cold", "KiB that the endpoint of one route reads"),
            grown("chunks", "chunks of the body"),
            f"A chunk costs {scaling['per_chunk_us']:.2f} µs above the wrapper that only passes it through.\n",
            grown("values", "values of a label"),
        )
    )


def _label(name: str) -> str:
    return VARIANTS[name].label if name in VARIANTS else LABELS[name]


def _scrape(scrape: Results) -> str:
    cpu = [
        (
            f"{KINDS[kind]}, {int(series):,}",
            f"{one['lines']:,}",
            *(f"{one[figure]:.1f}" for figure in ("first_ms", "ours_ms", "generate_latest_ms")),
            f"{one['ratio']:.2f}",
        )
        for kind, by_series in scrape.items()
        for series, one in by_series.items()
    ]
    stalls = [
        (f"{KINDS[kind]}, {int(series):,}", *(f"{one['longest_stall_ms'][way]:.1f}" for way in WAYS))
        for kind, by_series in scrape.items()
        for series, one in by_series.items()
    ]
    heads = ("CPU ms of a scrape, series", "lines", "first", "1 % changed", "`generate_latest`", "ratio")
    return f"{_table(heads, cpu)}\n{_table(('longest stall ms, series', *WAYS.values()), stalls)}"


def _sockets(sockets: Results) -> str:
    if "skipped" in sockets:
        return f"Not measured: {sockets['skipped']}.\n"

    def row(key: str, one: Results) -> tuple[str, ...]:
        name, scraped = key.removesuffix(" scraped"), key.endswith(" scraped")
        label = VARIANTS[name].label if name in VARIANTS and name != "bare" else name
        times = (f"{one[figure]:.1f}" for figure in ("p50_ms", "p99_ms", "longest_ms"))
        ratios = (f"{one[figure]:.2f}" for figure in ("of_bare_p50", "of_bare_p99"))
        shown = f"{label}, {sockets['scraped_series']:,} series scraped every second" if scraped else label
        return shown, f"{one['per_second']:.0f}", f"{one['of_bare_per_second']:.0%}", *times, *ratios

    heads = ("", "requests/s", "of bare", "p50 ms", "p99 ms", "longest ms", "p50 of bare", "p99 of bare")
    return _table(heads, (row(*item) for item in sockets["variants"].items()))


def _memory(memory: Results) -> str:
    if "skipped" in memory:
        return f"Not measured: {memory['skipped']}.\n"
    return (
        f"{memory['before_mb']:.1f} MB resident after {memory['requests_before']:,} requests, "
        f"{memory['after_mb']:.1f} MB after {memory['requests_after']:,}: {memory['growth']:.3f} times as much.\n"
    )

"""Write the tables of `docs/capacity.md` from measured figures, and from assumptions that are named here.

With `--check` only say whether they are right.
"""

import json
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "capacity.md"
BENCHMARKS = ROOT / "benchmarks"
BEGIN, END = "<!-- written by scripts/document_capacity.py -->\n", "<!-- end of what is written -->\n"
STAGES = {"2027, first": 500, "2027": 1_000, "2030": 10_000, "2033": 100_000, "2036": 1_000_000, "2040": 10_000_000}
"""Users by year."""
DAY_SECONDS = 86_400
GB, GIB = 1e9, 2**30

ASSUMED = {
    "requests_per_user": (100, "requests a day", "each user; those of a restaurant work with it all day"),
    "peak": (5, "times the mean", "requests a second in the busiest hour"),
    "app_cpu_us": (5_000, "µs of CPU", "what the application itself computes for a request"),
    "utilisation": (0.5, "of a core", "an instance has one core and is full at this share: the other half is for surges"),
    "least_instances": (8, "instances", "four services, two of each"),
    "kept_traces": (0.1, "of all traces", "`tracing.sample_rate` of the production preset"),
    "scrape_seconds": (15, "s", "between two scrapes"),
    "metric_days": (30, "days", "samples in Prometheus"),
    "line_days": (30, "days", "lines in Loki or Elasticsearch"),
    "archive_days": (90, "days", "lines in S3"),
    "span_days": (7, "days", "spans in Jaeger or Tempo"),
    "churn": (3, "times the series", "in memory: those of pods that deployments have replaced in the last hours, too"),
    "prometheus_gib": (16, "GiB", "memory that one Prometheus may take for its series; queries need as much again"),
    "collector_spans": (5_000, "spans a second", "what one OpenTelemetry collector takes; a cautious guess, not measured"),
    "disk_price": (0.08, "$ a GB and month", "block storage; list price of a large provider, rounded"),
    "archive_price": (0.023, "$ a GB and month", "object storage; likewise"),
}
"""What was not measured: value, unit, meaning."""
_COST = {
    "observability_cpu_us": ("ours-otlp", "id, span sent by OTLP, line and metrics"),
    "line_cpu_us": ("ours-log", "id and line only"),
    "span_cpu_us": ("ours-span", "id and span only"),
    "metrics_cpu_us": ("ours-metrics", "metrics only"),
}
"""Figures of the benchmark, and what they are of."""


@dataclass(frozen=True)
class Load:
    """What so many users mean, calculated from figures and assumptions by their names."""

    users: int
    known: dict[str, float]

    def rows(self) -> Iterator[tuple[str, float]]:
        """Yield each quantity with its title."""
        known = self.known
        requests = self.users * known["requests_per_user"]
        peak = requests / DAY_SECONDS * known["peak"]
        instances = self.instances(peak)
        series = instances * known["series_per_instance"]
        samples = series / known["scrape_seconds"]
        lines, spans = requests * known["lines_per_request"], requests * known["spans_per_request"] * known["kept_traces"]
        metric_gb = samples * DAY_SECONDS * known["metric_days"] * known["sample_disk_bytes"] / GB
        line_gb = lines * known["line_days"] * known["line_gzip_bytes"] / GB
        archive_gb = lines * known["archive_days"] * known["line_gzip_bytes"] / GB
        span_gb = spans * known["span_days"] * known["span_bytes"] / GB
        yield "requests a day", requests
        yield "requests a second at the peak", peak
        yield "instances of one core", instances
        yield "cores for observability at the peak", peak * known["observability_cpu_us"] / 1e6
        yield "series", series
        yield "samples a second", samples
        yield "pages scraped (MB a second)", samples * known["page_bytes_per_series"] / 1e6
        yield "cores of the services to write them", samples * known["page_cpu_us"] / 1e6
        yield "cores of Prometheus to take them", samples * known["sample_cpu_us"] / 1e6
        yield "memory for them (GiB)", series * series_gib(known)
        yield "Prometheus servers", math.ceil(series * series_gib(known) / known["prometheus_gib"])
        yield "samples of 30 days (GB)", metric_gb
        yield "lines a day", lines
        yield "lines a day (GB, not compressed)", lines * known["line_bytes"] / GB
        yield "lines of 30 days (GB)", line_gb
        yield "lines of 90 days in S3 (GB)", archive_gb
        yield "spans a day", spans
        yield "spans a second at the peak", spans / DAY_SECONDS * known["peak"]
        yield "collectors", math.ceil(spans / DAY_SECONDS * known["peak"] / known["collector_spans"])
        yield "spans of 7 days (GB)", span_gb
        yield "storage ($ a month)", (metric_gb + line_gb + span_gb) * known["disk_price"] + archive_gb * known["archive_price"]

    def instances(self, peak: float) -> int:
        """Return how many instances bear so many requests a second."""
        needed = math.ceil(peak * request_seconds(self.known) / self.known["utilisation"])
        return max(int(self.known["least_instances"]), needed)


def request_seconds(known: dict[str, float]) -> float:
    """Return the CPU that one request takes, of the application and of what watches it."""
    return (known["app_cpu_us"] + known["observability_cpu_us"]) / 1e6


def series_gib(known: dict[str, float]) -> float:
    """Return the memory that a Prometheus needs for one series that is scraped."""
    return known["series_memory_bytes"] * known["churn"] / GIB


def limits(known: dict[str, float]) -> Iterator[tuple[str, float]]:
    """Yield up to how many users, or instances, one of each is enough."""
    per_user = known["requests_per_user"] / DAY_SECONDS * known["peak"]
    instances = known["prometheus_gib"] / series_gib(known) / known["series_per_instance"]
    per_core = known["utilisation"] / request_seconds(known)
    yield "users on one machine of four cores, two of them for the application", 2 * per_core / per_user
    yield "instances that one Prometheus watches", instances
    yield "users until Prometheus is sharded", instances * per_core / per_user
    spans = per_user * known["spans_per_request"] * known["kept_traces"]
    yield "users until a second collector", known["collector_spans"] / spans


def figures() -> dict[str, dict[str, object]]:
    """Return what was measured, by name: value, unit, and how."""
    results = json.loads((BENCHMARKS / "results.json").read_text())
    page = results["scrape"]["http"]["10000"]
    values = {name: results["cost"][variant]["added_us"] for name, (variant, _) in _COST.items()}
    values["page_cpu_us"] = page["ours_ms"] * 1_000 / page["lines"]
    how = {name: f"CPU that a request costs more with {what}: [benchmarks](benchmarks.md)" for name, (_, what) in _COST.items()}
    how["page_cpu_us"] = (
        "a page of 10,000 series, of which one in a hundred has changed, by lines: [scrapes](benchmarks.md#scrape)"
    )
    own = {name: {"value": float(f"{values[name]:.3g}"), "unit": "µs of CPU", "how": how[name]} for name in values}
    return own | json.loads((BENCHMARKS / "capacity.json").read_text())["figures"]


def known() -> dict[str, float]:
    """Return all values to calculate with."""
    measured = {name: float(str(one["value"])) for name, one in figures().items()}
    return measured | {name: value for name, (value, _, _) in ASSUMED.items()}


def shown(value: float) -> str:
    """Write a number with three digits."""
    rounded = float(f"{value:.3g}")
    return f"{rounded:,.0f}" if rounded >= 100 else f"{rounded:g}"


def page() -> str:
    """Return the page as it should be."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    return f"{before}{BEGIN}\n{chr(10).join(tables())}\n{END}{rest.partition(END)[2]}"


def tables() -> Iterator[str]:
    """Yield the lines of all tables."""
    made, values = json.loads((BENCHMARKS / "capacity.json").read_text())["made"], known()
    machine = ", ".join(made[part] for part in ("machine", "os", "python", "date"))
    yield f"### Measured\n\nOn {machine}; where a page is linked, as it says.\n"
    yield from ("| figure | value | unit | how |", "|---|---|---|---|")
    yield from (f"| `{name}` | {shown(values[name])} | {one['unit']} | {one['how']} |" for name, one in figures().items())
    yield from ("\n### Assumed\n", "| figure | value | unit | meaning |", "|---|---|---|---|")
    yield from (f"| `{name}` | {shown(value)} | {unit} | {meaning} |" for name, (value, unit, meaning) in ASSUMED.items())
    yield from ("\n### Calculated\n", f"| | {' | '.join(STAGES)} |", f"|---|{'---|' * len(STAGES)}")
    columns = [[("users", float(users)), *Load(users, values).rows()] for users in STAGES.values()]
    yield from (f"| {row[0][0]} | {' | '.join(shown(value) for _, value in row)} |" for row in zip(*columns, strict=True))
    yield from ("\n### One of each is enough for\n", "| | |", "|---|---|")
    yield from (f"| {title} | {shown(value)} |" for title, value in limits(values))
    yield ""


if __name__ == "__main__":
    if "--check" not in sys.argv:
        PAGE.write_text(page())
    elif PAGE.read_text() != page():
        sys.exit(f"{PAGE} is not what the figures say: run python scripts/document_capacity.py")

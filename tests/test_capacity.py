"""The page about capacity: its numbers follow from its own figures, by a calculation that is written here once more."""

import math
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/capacity.md").read_text()
FIGURES = {
    name: float(value.replace(",", "")) for name, value in re.findall(r"^\| `(\w+)` \| ([\d.,]+) \| \S", PAGE, re.MULTILINE)
}
ROWS = {
    title: [float(cell.replace(",", "")) for cell in cells.split(" | ")]
    for title, cells in re.findall(r"^\| (\w.+?) \| ([\d.,]+(?: \| [\d.,]+)*) \|$", PAGE, re.MULTILINE)
}


def test_the_page_is_what_the_figures_say():
    """Its tables are written from what was measured and assumed, and nobody has changed either since."""
    check = [sys.executable, str(ROOT / "scripts/document_capacity.py"), "--check"]
    done = subprocess.run(check, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("column", range(6), ids=[f"{users:,.0f} users" for users in ROWS["users"]])
def test_the_numbers_follow_from_the_figures(column: int):
    """Each cell of a column is calculated again from the figures that the page shows, from its number of users on."""
    given = FIGURES
    found = {title: cells[column] for title, cells in ROWS.items() if len(cells) == 6}
    a_day = found["users"] * given["requests_per_user"]
    at_peak = a_day * given["peak"] / (24 * 60 * 60)
    cpu = (given["app_cpu_us"] + given["observability_cpu_us"]) * 1e-6
    instances = max(given["least_instances"], math.ceil(at_peak * cpu / given["utilisation"]))
    series = instances * given["series_per_instance"]
    scraped = series / given["scrape_seconds"]
    memory = series * given["churn"] * given["series_memory_bytes"] / 1024**3
    metrics = scraped * 86_400 * given["metric_days"] * given["sample_disk_bytes"] * 1e-9
    lines = a_day * given["lines_per_request"]
    stored, archived = (lines * days * given["line_gzip_bytes"] * 1e-9 for days in (given["line_days"], given["archive_days"]))
    spans = a_day * given["kept_traces"] * given["spans_per_request"]
    traced = spans * given["span_days"] * given["span_bytes"] * 1e-9
    spans_at_peak = spans * given["peak"] / 86_400
    expected = {
        "users": found["users"],
        "requests a day": a_day,
        "requests a second at the peak": at_peak,
        "instances of one core": instances,
        "cores for observability at the peak": at_peak * given["observability_cpu_us"] * 1e-6,
        "series": series,
        "samples a second": scraped,
        "pages scraped (MB a second)": scraped * given["page_bytes_per_series"] * 1e-6,
        "cores of the services to write them": scraped * given["page_cpu_us"] * 1e-6,
        "cores of Prometheus to take them": scraped * given["sample_cpu_us"] * 1e-6,
        "memory for them (GiB)": memory,
        "Prometheus servers": math.ceil(memory / given["prometheus_gib"]),
        "samples of 30 days (GB)": metrics,
        "lines a day": lines,
        "lines a day (GB, not compressed)": lines * given["line_bytes"] * 1e-9,
        "lines of 30 days (GB)": stored,
        "lines of 90 days in S3 (GB)": archived,
        "spans a day": spans,
        "spans a second at the peak": spans_at_peak,
        "collectors": math.ceil(spans_at_peak / given["collector_spans"]),
        "spans of 7 days (GB)": traced,
        "storage ($ a month)": (metrics + stored + traced) * given["disk_price"] + archived * given["archive_price"],
    }
    # The page shows three digits.
    assert found == pytest.approx(expected, rel=0.006)


def test_the_limits_follow_from_the_figures():
    """At the number of users that the page names, one server of a kind is just full."""
    given, limits = FIGURES, {title: cells[0] for title, cells in ROWS.items() if len(cells) == 1}
    peak_of_user = given["requests_per_user"] * given["peak"] / 86_400
    cpu_of_user = peak_of_user * (given["app_cpu_us"] + given["observability_cpu_us"]) * 1e-6
    assert limits["users on one machine of four cores, two of them for the application"] * cpu_of_user == pytest.approx(
        2 * given["utilisation"], rel=0.01
    )
    instances = limits["instances that one Prometheus watches"]
    filled = instances * given["series_per_instance"] * given["churn"] * given["series_memory_bytes"] / 2**30
    assert filled == pytest.approx(given["prometheus_gib"], rel=0.01)
    assert limits["users until Prometheus is sharded"] * cpu_of_user / given["utilisation"] == pytest.approx(
        instances, rel=0.01
    )
    spans = limits["users until a second collector"] * peak_of_user * given["spans_per_request"] * given["kept_traces"]
    assert spans == pytest.approx(given["collector_spans"], rel=0.01)


def test_every_figure_says_how_it_was_measured_or_what_it_assumes():
    """No number of the calculation comes from nowhere."""
    explained = re.findall(r"^\| `(\w+)` \| [\d.,]+ \| [^|]+ \| [^|]{10,} \|$", PAGE, re.MULTILINE)
    assert set(explained) == set(FIGURES)
    assert len(FIGURES) >= 25

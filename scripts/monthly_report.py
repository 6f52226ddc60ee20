"""Fill the template of the monthly report with what Prometheus knows: docs/checklists/monthly-report.md."""

import argparse
import json
import sys
import urllib.error
import urllib.parse
import urllib.request
from datetime import UTC, datetime, timedelta
from pathlib import Path
from string import Template
from typing import Any

from sage_fastapi_obs import Settings
from sage_fastapi_obs.settings import SlaSettings

TEMPLATE = Path(__file__).parents[1] / "docs/checklists/monthly-report.md"
UNKNOWN = "no data"
DAY_MINUTES = 1440
STEP, STEPS_PER_MINUTE = "15s", 4
_DISKS = '{fstype!~"tmpfs|ramfs|overlay|squashfs|iso9660"}'
"""As in the alert HighDiskUsage."""


class Prometheus:
    """Answers queries as of the end of the month."""

    def __init__(self, url: str, end: datetime) -> None:
        self._url = url
        self._end = end

    def rows(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """Return labels and value of each series."""
        query = urllib.parse.urlencode({"query": expression, "time": self._end.timestamp()})
        with urllib.request.urlopen(f"{self._url}/api/v1/query?{query}", timeout=60) as answer:  # noqa: S310 - as given
            found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
        return [(each["metric"], float(each["value"][1])) for each in found]

    def number(self, expression: str) -> float | None:
        """Return the value of the only series; None where there is none, or it is not a number."""
        values = [value for _, value in self.rows(expression) if value == value]  # noqa: PLR0124 - NaN is not
        return values[0] if values else None


def main() -> None:
    """Write the report, or say what would be asked."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--prometheus", default="http://localhost:9091", metavar="URL")
    arguments.add_argument("--service", required=True, help="value of the label service")
    arguments.add_argument("--month", default=None, metavar="YYYY-MM", help="the last whole one without")
    arguments.add_argument("--until-now", action="store_true", help="the 30 days until now in place of a month")
    arguments.add_argument("--settings", type=Path, default=None, help="settings of the service, for what it promises")
    arguments.add_argument("--out", type=Path, default=None, help="file to write; standard output without")
    arguments.add_argument("--dry-run", action="store_true", help="say what would be asked, and ask nothing")
    given = arguments.parse_args()
    start, end = _last_days() if given.until_now else _month(given.month)
    expressions = queries(given.service, f"{int((end - start).total_seconds())}s")
    if given.dry_run:
        print(f"would ask {given.prometheus} as of {end:%Y-%m-%d %H:%M} for:")
        print("\n".join(f"  {name}: {expression}" for name, expression in expressions.items()))
        print(f"would write {given.out or 'standard output'} from {TEMPLATE}")
        return
    sla = (Settings.from_env({}, path=given.settings) if given.settings else Settings()).sla
    try:
        text = report(Prometheus(given.prometheus, end), expressions, given.service, start, end, sla)
    except (urllib.error.URLError, OSError) as error:
        sys.exit(f"{given.prometheus} does not answer: {error}")
    if given.out is None:
        print(text, end="")
    else:
        given.out.write_text(text)


def queries(service: str, window: str) -> dict[str, str]:
    """Return what is asked, by name."""
    of = f'{{service="{service}"}}'
    failed = f'{{service="{service}", status=~"5.."}}'
    duration = "http_request_duration_seconds"
    total = f"sum(increase(http_requests_total{of}[{window}]))"
    fired = f'ALERTS{{alertstate="firing", service="{service}"}}'
    size, free = (f"sum(max by (instance, device) (node_filesystem_{what}_bytes{_DISKS}))" for what in ("size", "avail"))
    return {
        "requests": total,
        "failed": f"sum(increase(http_requests_total{failed}[{window}])) or {total} * 0",
        # Looked at step by step, so that counting gives the time.
        "observed": f"count_over_time(max(up{of})[{window}:{STEP}])",
        "down": f"sum_over_time((max(up{of}) == bool 0)[{window}:{STEP}])",
        "mean": f"sum(increase({duration}_sum{of}[{window}])) / sum(increase({duration}_count{of}[{window}]))",
        "p95": f"histogram_quantile(0.95, sum by (le) (increase({duration}_bucket{of}[{window}])))",
        "peak": f"max_over_time(sum(rate(http_requests_total{of}[1h]))[{window}:1h])",
        "cpu_mean": f"avg(avg_over_time(process_cpu_usage_ratio{of}[{window}]))",
        "cpu_most": f"max(max_over_time(process_cpu_usage_ratio{of}[{window}]))",
        "memory_mean": f"avg(avg_over_time(process_resident_memory_bytes{of}[{window}]))",
        "memory_most": f"max(max_over_time(process_resident_memory_bytes{of}[{window}]))",
        "storage_mean": f"avg_over_time(({size} - {free})[{window}:{STEP}])",
        "storage_most": f"max_over_time(({size} - {free})[{window}:{STEP}])",
        "storage_size": f"max_over_time({size}[{window}:{STEP}])",
        "slowest": (
            f"topk(5, sum by (method, route) (increase({duration}_sum{of}[{window}])) "
            f"/ (sum by (method, route) (increase({duration}_count{of}[{window}])) > 0))"
        ),
        # One that was shorter than a step is listed with 0.
        "alerts": " or ".join(
            [
                f"count_over_time(max by (alertname, severity) ({fired})[{window}:{STEP}])",
                f"max by (alertname, severity) (count_over_time({fired}[{window}])) * 0",
            ]
        ),
    }


def report(
    prometheus: Prometheus, expressions: dict[str, str], service: str, start: datetime, end: datetime, sla: SlaSettings
) -> str:
    """Return the template, filled."""
    found = {name: prometheus.number(text) for name, text in expressions.items() if name not in {"slowest", "alerts"}}
    slowest, alerts = (prometheus.rows(expressions[name]) for name in ("slowest", "alerts"))
    days = (end - start) / timedelta(days=1)
    requests, failed, observed = found["requests"], found["failed"], (found["observed"] or 0) / STEPS_PER_MINUTE
    words = {
        "service": service,
        "month": f"{start:%B %Y}" if start.day == 1 else "30 days",
        "start": f"{start:%Y-%m-%d %H:%M}",
        "end": f"{end:%Y-%m-%d %H:%M} UTC",
        "availability": _percent(1 - failed / requests if requests and failed is not None else None, 3),
        "downtime": _minutes(None if found["down"] is None else found["down"] / STEPS_PER_MINUTE),
        "unobserved": _minutes(max(days * DAY_MINUTES - observed, 0)),
        "failed": _count(failed),
        "mean": _milliseconds(found["mean"]),
        "p95": _milliseconds(found["p95"]),
        "requests": _count(requests),
        "per_day": _count(requests * DAY_MINUTES / observed if requests and observed >= DAY_MINUTES else None),
        "peak": UNKNOWN if found["peak"] is None else f"{found['peak']:.1f}",
        "cpu_mean": _percent(found["cpu_mean"]),
        "cpu_most": _percent(found["cpu_most"]),
        "memory_mean": _megabytes(found["memory_mean"]),
        "memory_most": _megabytes(found["memory_most"]),
        "storage_mean": _gigabytes(found["storage_mean"], found["storage_size"]),
        "storage_most": _gigabytes(found["storage_most"], found["storage_size"]),
        "slowest": "\n".join(f"- {row['method']} {row['route']}: {_milliseconds(mean)} on average" for row, mean in slowest)
        or f"- {UNKNOWN}",
        "alerts": "\n".join(
            f"- {row['alertname']} ({row.get('severity', '')}): {_minutes(lasted / STEPS_PER_MINUTE)}" for row, lasted in alerts
        )
        or "- none",
        **_promised(sla, days),
    }
    return Template(TEMPLATE.read_text()).substitute(words)


def _promised(sla: SlaSettings, days: float) -> dict[str, str]:
    allowed = None if sla.availability is None else (100 - sla.availability) / 100 * days * DAY_MINUTES
    return {
        "promised_availability": "" if sla.availability is None else f"{sla.availability:g} %",
        "allowed_downtime": "" if allowed is None else _minutes(allowed),
        "promised_mean": "" if sla.response_time_mean_ms is None else f"{sla.response_time_mean_ms:g} ms",
        "promised_p95": "" if sla.response_time_p95_ms is None else f"{sla.response_time_p95_ms:g} ms",
    }


def _month(name: str | None) -> tuple[datetime, datetime]:
    """Return where a month begins and ends; the last whole one without a name."""
    today = datetime.now(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    start = datetime.strptime(name, "%Y-%m").replace(tzinfo=UTC) if name else (today - timedelta(days=1)).replace(day=1)
    return start, (start + timedelta(days=32)).replace(day=1)


def _last_days() -> tuple[datetime, datetime]:
    now = datetime.now(UTC)
    return now - timedelta(days=30), now


def _percent(share: float | None, digits: int = 1) -> str:
    return UNKNOWN if share is None else f"{share * 100:.{digits}f} %"


def _minutes(number: float | None) -> str:
    return UNKNOWN if number is None else f"{number:.0f} min"


def _milliseconds(seconds: float | None) -> str:
    return UNKNOWN if seconds is None else f"{seconds * 1000:.1f} ms"


def _megabytes(number: float | None) -> str:
    return UNKNOWN if number is None else f"{number / 1_000_000:.0f} MB"


def _gigabytes(used: float | None, size: float | None) -> str:
    return UNKNOWN if used is None or size is None else f"{used / 1e9:.0f} of {size / 1e9:.0f} GB"


def _count(number: float | None) -> str:
    return UNKNOWN if number is None else f"{number:,.0f}"


if __name__ == "__main__":
    main()

"""What `/metrics` says, as a table for the terminal."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import inf

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

__all__ = ["Row", "Snapshot", "quantile", "table"]

Buckets = dict[float, float]
"""Cumulative counts by upper bound in seconds, as Prometheus has them."""


@dataclass(slots=True)
class Row:
    """One method and route."""

    requests: float = 0.0
    refused: float = 0.0
    """Answered 4xx."""
    failed: float = 0.0
    durations: Buckets = field(default_factory=lambda: defaultdict(float))
    first_bytes: Buckets = field(default_factory=lambda: defaultdict(float))


class Snapshot:
    """One scrape."""

    def __init__(self, text: str, at: float) -> None:
        self.at = at
        self.in_flight = 0.0
        self.sockets_open = 0.0
        self.rows: dict[tuple[str, str], Row] = defaultdict(Row)
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                self._take(sample)

    @property
    def requests(self) -> float:
        return sum(row.requests for row in self.rows.values())

    @property
    def failed(self) -> float:
        return sum(row.failed for row in self.rows.values())

    def _take(self, sample: Sample) -> None:
        labels, value = sample.labels, sample.value
        match sample.name:
            case "http_requests_in_flight":
                self.in_flight += value
            case "websocket_connections_open":
                self.sockets_open += value
            case "http_requests_total":
                self._row(labels).requests += value
                if labels["status"].startswith("4"):
                    self._row(labels).refused += value
            case "websocket_connections_total":
                self._row({"method": "WS", **labels}).requests += value
            case "request_errors_total":
                self._row({**labels, "method": "WS"} if labels["protocol"] == "websocket" else labels).failed += value
            case "http_request_duration_seconds_bucket":
                self._row(labels).durations[float(labels["le"])] += value
            case "http_stream_first_byte_seconds_bucket":
                self._row(labels).first_bytes[float(labels["le"])] += value

    def _row(self, labels: Mapping[str, str]) -> Row:
        return self.rows[labels["method"], labels["route"]]


def quantile(buckets: Buckets, share: float) -> float | None:
    """Estimate a quantile as Prometheus' `histogram_quantile` does; None without samples."""
    total = buckets.get(inf, 0.0)
    if not total:
        return None
    below, lower = 0.0, 0.0
    for bound, count in sorted(buckets.items()):
        if count >= share * total:
            # Beyond the last bound nothing is known but that bound.
            return lower if bound == inf else lower + (bound - lower) * (share * total - below) / (count - below)
        below, lower = count, bound
    return lower


def table(now: Snapshot, before: Snapshot | None, started_at: float) -> list[str]:
    """Lay out one scrape; rates are those since the one before."""
    seconds = now.at - (before.at if before else started_at)
    rate = (now.requests - (before.requests if before else 0.0)) / seconds
    share = now.failed / now.requests if now.requests else 0.0
    return [
        f"{now.requests:,.0f} requests in {now.at - started_at:.0f} s   {rate:.1f}/s   {now.failed:,.0f} failed ({share:.1%})   "
        f"{now.in_flight:.0f} in flight   {now.sockets_open:.0f} websockets open",
        "",
        f"{'':6} {'route':<38} {'requests':>8} {'/s':>6} {'4xx':>6} {'failed':>6} {'p50 ms':>8} {'p95 ms':>8}",
        *_rows(now, before, seconds),
        "* time to the first byte of a stream",
    ]


def _rows(now: Snapshot, before: Snapshot | None, seconds: float) -> Iterator[str]:
    for (method, route), row in sorted(now.rows.items(), key=lambda each: (-each[1].requests, each[0])):
        earlier = before.rows[method, route].requests if before else 0.0
        rate = (row.requests - earlier) / seconds
        yield (
            f"{method:<6} {route:<38} {row.requests:>8.0f} {rate:>6.1f} {row.refused:>6.0f} {row.failed:>6.0f}"
            f" {_shown(row, 0.5):>8} {_shown(row, 0.95):>8}"
        ).rstrip()


def _shown(row: Row, share: float) -> str:
    seconds = quantile(row.durations, share)
    if seconds is not None:
        return f"{seconds * 1_000:.1f}"
    seconds = quantile(row.first_bytes, share)
    return "" if seconds is None else f"{seconds * 1_000:.1f}*"

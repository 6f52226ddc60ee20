"""What `/metrics` says, as a table for the terminal."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import inf

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

__all__ = ["quantile", "table"]

Buckets = Mapping[float, float]
"""Cumulative counts by upper bound in seconds, as Prometheus has them."""


ELSE_ROWS = 5
"""Rows of a table besides those of the routes."""


def table(text: str, seconds: float, most_rows: int = 100) -> list[str]:
    """Lay out one scrape of a service that has had traffic for some seconds; the routes with the most requests, if need be."""
    scrape = _Scrape(text)
    requests = sum(row.requests for row in scrape.rows.values())
    failed = sum(row.failed for row in scrape.rows.values())
    rates = f"{requests:.0f} requests, {requests / seconds:.1f}/s, {failed:.0f} failed, {scrape.in_flight:.0f} in flight"
    routes = list(_rows(scrape, seconds))
    return [
        f"{rates}; {scrape.sockets:.0f} websockets ended, {scrape.sockets_open:.0f} open",
        f"{'route':<40} {'requests':>8} {'/s':>6} {'4xx':>6} {'failed':>6} {'p50 ms':>8} {'p95 ms':>8}",
        *routes[: max(most_rows - ELSE_ROWS, 0)],
        f"* time to the first byte of a stream; {len(routes)} routes in all",
        *_domain(scrape.totals),
    ]


def _domain(totals: Mapping[str, float]) -> Iterator[str]:
    """Say what the packs have counted."""

    def count(name: str) -> str:
        return f"{totals.get(name, 0):.0f}"

    yield (
        f"agents: {count('sage_handshakes_completed_total')} handshakes, {count('sage_handshakes_failed_total')} failed;"
        f" {count('sage_sessions_active')} sessions open, {count('sage_sessions_expired_total')} expired;"
        f" {count('sage_messages_processed_total')} messages, {count('sage_replay_attacks_detected_total')} replays"
    )
    yield (
        f"others: {count('auth_login_failed_total')} logins failed, {count('rate_limit_exceeded_total')} too many;"
        f" {count('textbooks_created_total')} textbooks, {count('ai_tokens_used_total')} tokens;"
        f" {count('orders_processed_total')} orders"
    )


def quantile(share: float, buckets: Buckets) -> float:
    """Estimate a quantile as Prometheus' `histogram_quantile` does; `buckets` must have samples."""
    rank = share * buckets[inf]
    below, lower = 0.0, 0.0
    for bound, count in sorted(buckets.items()):
        if count >= rank and count > below:
            # Beyond the last bound nothing is known but that bound.
            return lower if bound == inf else lower + (bound - lower) * (rank - below) / (count - below)
        below, lower = count, bound
    return lower


@dataclass(slots=True)
class _Row:
    """One method and route."""

    requests: float = 0.0
    refused: float = 0.0
    """Answered 4xx."""
    failed: float = 0.0
    durations: defaultdict[float, float] = field(default_factory=lambda: defaultdict(float))
    first_bytes: defaultdict[float, float] = field(default_factory=lambda: defaultdict(float))


class _Scrape:
    """The samples that the table needs, over all statuses."""

    def __init__(self, text: str) -> None:
        self.in_flight = 0.0
        self.sockets = 0.0
        self.sockets_open = 0.0
        self.totals: defaultdict[str, float] = defaultdict(float)
        """Of all other counters and gauges, by name."""
        self.rows: defaultdict[tuple[str, str], _Row] = defaultdict(_Row)
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                self._take(sample)

    def _take(self, sample: Sample) -> None:
        labels, value = sample.labels, sample.value
        match sample.name:
            case "http_requests_in_flight":
                self.in_flight += value
            case "websocket_connections_open":
                self.sockets_open += value
            case "websocket_connections_total":
                self.sockets += value
            case "http_requests_total":
                row = self._row(labels)
                row.requests += value
                row.refused += value if labels["status"].startswith("4") else 0
            case "request_errors_total" if labels["protocol"] == "http":
                self._row(labels).failed += value
            case "http_request_duration_seconds_bucket":
                self._row(labels).durations[float(labels["le"])] += value
            case "http_stream_first_byte_seconds_bucket":
                self._row(labels).first_bytes[float(labels["le"])] += value
            case name:
                self.totals[name] += value

    def _row(self, labels: Mapping[str, str]) -> _Row:
        return self.rows[labels["method"], labels["route"]]


def _rows(scrape: _Scrape, seconds: float) -> Iterator[str]:
    for (method, route), row in sorted(scrape.rows.items(), key=lambda each: (-each[1].requests, each[0])):
        counts = f"{row.requests:>8.0f} {row.requests / seconds:>6.1f} {row.refused:>6.0f} {row.failed:>6.0f}"
        yield f"{f'{method} {route}':<40} {counts} {_shown(row, 0.5):>8} {_shown(row, 0.95):>8}"


def _shown(row: _Row, share: float) -> str:
    for buckets, mark in ((row.durations, ""), (row.first_bytes, "*")):
        if buckets.get(inf):
            return f"{quantile(share, buckets) * 1_000:.1f}{mark}"
    return ""
